package vmm

import (
	"io"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// loopGuest repeats what emit emits as often as rcx says at entry, and halts.
func loopGuest(g *guest, emit func()) {
	loop := g.here()
	emit()
	g.emit(0x48, 0xff, 0xc9) // dec rcx
	g.jumpBack(0x75, loop)   // jnz loop
	g.halt(0)
}

// repeat sets how often the guest of loopGuest does its work.
func repeat(t testing.TB, vm *VM, n int) {
	t.Helper()
	regs, err := vm.vcpu.Regs()
	if err != nil {
		t.Fatal(err)
	}
	regs.RCX = uint64(n)
	if err := vm.vcpu.SetRegs(&regs); err != nil {
		t.Fatal(err)
	}
}

// enter runs the guest up to its next exit, and no further.
func enter(t testing.TB, vm *VM) {
	errno := vm.vcpu.Run()
	for errno == syscall.EINTR { // a signal of the Go runtime's
		errno = vm.vcpu.Run()
	}
	if errno != 0 {
		t.Fatalf("KVM_RUN = %v; want an exit", errno)
	}
}

// devNull is a console that takes the path of a descriptor.
func devNull(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestHotPathAllocatesNothing pins exit, bus, hypercall and back at no
// allocation for every call that a guest makes often.
func TestHotPathAllocatesNothing(t *testing.T) { bothRings(t, testHotPathAllocatesNothing) }

func testHotPathAllocatesNothing(t *testing.T, ring Ring) {
	testutil.RequireKVM(t)
	netNS(t) // which also locks the goroutine to its thread
	makeTap(t, "uvm0", 1500)
	for _, tt := range []struct {
		name    string
		console io.Writer
		emit    func(g *guest)
	}{
		{"WALLTIME", nil, func(g *guest) { g.call(hypercall.Walltime, g.store(le64s(0))) }},
		{"PUTS to a file", devNull(t), func(g *guest) { g.print("hello\n") }},
		{"PUTS to nothing", nil, func(g *guest) { g.print("hello\n") }},
		{"POLL", nil, func(g *guest) { g.poll(0) }},
		{"POLL that waits", nil, func(g *guest) { g.poll(1000) }},
		{"BLOCK_WRITE", nil, func(g *guest) { g.call(hypercall.BlockWrite, g.store(le64s(1, 512, dataAddr, 512, 0))) }},
		{"BLOCK_READ", nil, func(g *guest) { g.call(hypercall.BlockRead, g.store(le64s(1, 512, dataAddr+4096, 512, 0))) }},
		{"BLOCK_READ past the end", nil, func(g *guest) { g.call(hypercall.BlockRead, g.store(le64s(1, 1<<40, dataAddr, 512, 0))) }},
		{"BLOCK_READ of a bad handle", nil, func(g *guest) { g.call(hypercall.BlockRead, g.store(le64s(99, 0, dataAddr, 512, 0))) }},
		{"NET_WRITE", nil, func(g *guest) { g.call(hypercall.NetWrite, g.store(le64s(2, dataAddr+4096, 64, 0))) }},
		{"NET_READ of nothing", nil, func(g *guest) { g.call(hypercall.NetRead, g.store(le64s(2, dataAddr+4096, 1514, 0))) }},
		{"BATCH", nil, func(g *guest) {
			requests := g.store(le64s(1, 512, dataAddr, 512, 0, 4, 2, dataAddr+4096, 64, 0, 0, 6))
			g.call(hypercall.Batch, g.store(le64s(uint64(requests), 2, 0)))
		}},
		{"mark", nil, func(g *guest) { g.mark('x') }},
	} {
		g := guest{ring: ring, devices: append(oneDisk[:1:1], oneNet...)}
		loopGuest(&g, func() { tt.emit(&g) })
		cfg := g.config()
		g.withNote(0)(&cfg)
		cfg.Console, cfg.Disks, cfg.Nets = tt.console, []Disk{{Path: image(t, 4096)}}, []Net{{TAP: "uvm0"}}
		vm := newVM(t, cfg)
		const runs = 300
		repeat(t, vm, 2*runs) // AllocsPerRun adds one to warm up
		got := testing.AllocsPerRun(runs, func() {
			enter(t, vm)
			if err := vm.exit(vm.vcpu); err != nil {
				t.Errorf("%s: exit() = %v; want nil", tt.name, err)
			}
		})
		if got != 0 {
			t.Errorf("%s: allocations per exit = %v; want 0", tt.name, got)
		}
		vm.Close() // the interface is free for the next
	}
}

// BenchmarkExit measures round trips through the monitor. The added cost of an
// exit is the difference to `bare`, which only calls KVM_RUN for the same guest
// and the same exit. KVM's own part is a hundred times larger and not steady,
// so that `added` looks at the clock in between: what it tells includes one
// reading of the clock, and WALLTIME's own.
func BenchmarkExit(b *testing.B) {
	testutil.RequireKVM(b)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	walltime := func(g *guest) { g.call(hypercall.Walltime, g.store(le64s(0))) }
	report := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/exit")
		b.ReportMetric(0, "ns/op")
	}
	build := func(b *testing.B, exits int, emit func(g *guest)) *VM {
		var g guest
		loopGuest(&g, func() { emit(&g) })
		cfg := g.config()
		cfg.Console = devNull(b)
		vm := newVM(b, cfg)
		repeat(b, vm, exits+1) // one more than is measured: the first entry is slow
		enter(b, vm)
		return vm
	}
	b.Run("bare", func(b *testing.B) {
		vm := build(b, b.N, walltime)
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			enter(b, vm)
		}
		report(b)
	})
	for _, bb := range []struct {
		name string
		emit func(g *guest)
	}{
		{"walltime", walltime},
		{"poll0", func(g *guest) { g.poll(0) }},
		{"puts", func(g *guest) { g.print("hello, world\n") }},
		{"mark", func(g *guest) { g.mark('x') }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			vm := build(b, b.N, bb.emit)
			b.ReportAllocs()
			b.ResetTimer()
			if res, err := vm.loop(vm.vcpu); err != nil {
				b.Fatalf("loop() = %+v, %v; want status 0", res, err)
			}
			report(b)
		})
	}
	b.Run("added", func(b *testing.B) {
		var kvm, added time.Duration
		vm := build(b, b.N, walltime)
		b.ReportAllocs()
		b.ResetTimer()
		start := time.Now()
		for range b.N {
			enter(b, vm)
			middle := time.Now()
			if err := vm.exit(vm.vcpu); err != nil {
				b.Fatal(err)
			}
			end := time.Now()
			kvm, added = kvm+middle.Sub(start), added+end.Sub(middle)
			start = end
		}
		b.ReportMetric(float64(kvm.Nanoseconds())/float64(b.N), "kvm-ns/exit")
		b.ReportMetric(float64(added.Nanoseconds())/float64(b.N), "added-ns/exit")
		b.ReportMetric(0, "ns/op")
	})
}

// BenchmarkLife measures a VM from New to Close with a guest that halts at
// once.
func BenchmarkLife(b *testing.B) {
	testutil.RequireKVM(b)
	var g guest
	g.halt(0)
	cfg := g.config()
	for range b.N {
		vm, err := New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := vm.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := vm.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
