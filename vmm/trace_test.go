package vmm

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// traceOf runs vm and returns its events as short words.
func traceOf(t *testing.T, vm *VM) (got []string) {
	t.Helper()
	var mu sync.Mutex
	vm.Trace(func(e *Event) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case e.VCPU < 0:
			got = append(got, "irq "+e.Device)
		case e.Trap:
			got = append(got, fmt.Sprintf("trap %d at %#x", e.IO.Port, e.RIP))
		case e.Call != nil:
			got = append(got, fmt.Sprintf("%v %d", hypercall.Call(e.IO.Port-hypercall.PortBase), le.Uint64(e.Call[8:])))
		case e.IO.Size > 0:
			got = append(got, fmt.Sprintf("port %#x out %v % x", e.IO.Port, e.IO.Out, e.IO.Data))
		case e.MMIO.Len > 0:
			got = append(got, fmt.Sprintf("mmio %#x write %v % x %s", e.MMIO.Addr, e.MMIO.Write, e.MMIO.Data, e.Device))
		default:
			got = append(got, "exit "+e.Reason.String())
		}
		if e.Start <= 0 || e.Took < 0 || e.View == nil && e.VCPU >= 0 {
			t.Errorf("event %+v; want times and a view", e)
		}
	})
	if _, err := runVM(t, vm); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestTrace looks at the events of an hvt guest, of each kind.
func TestTrace(t *testing.T) { bothRings(t, testTrace) }

func testTrace(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.mark('x')
	g.print("hello")
	cli := g.emit(0xfa) // cli
	g.call(hypercall.Walltime, g.store(le64s(0, 99)))
	g.halt(7)
	want := []string{"port 0x3f0 out true 78", "PUTS 5"}
	if ring == RingSealed {
		want = append(want, fmt.Sprintf("trap 13 at %#x", cli))
	}
	want = append(want, "WALLTIME 0", "HALT 7") // WALLTIME's structure is shorter; what is behind it is nobody's
	if got := traceOf(t, newVM(t, g.config())); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events = %q; want %q", got, want)
	}
}

// TestTracePC has ports, registers, and what is not there; values are those after the
// access. A write to the doorbell of a device that has none interrupts nobody.
func TestTracePC(t *testing.T) {
	testutil.RequireKVM(t)
	var g pcGuest
	g.emit(0x66, 0xba, 0xfd, 0x03, 0xec)                                  // mov dx, 0x3fd; in al, dx
	g.emit(append([]byte{0xa1}, imm32(uint32(virtioAddr(0)))...)...)      // mov eax, [magic]
	g.emit(append([]byte{0xa3}, imm32(uint32(virtioAddr(0))+0x14)...)...) // mov [device features sel], eax
	g.emit(append([]byte{0xa1}, imm32(uint32(virtioAddr(1)))...)...)      // mov eax, [nothing]
	g.emit(0x66, 0xba, 0xf8, 0x03, 0xb0, 'k', 0xee)                       // mov dx, 0x3f8; mov al, 'k'; out dx, al
	g.poweroff()
	cfg := g.pcConfig()
	cfg.Virtio, cfg.Console = []VirtioDevice{rngDevice}, io.Discard
	vm := newVM(t, cfg)
	want := []string{
		"port 0x3fd out false 60", "mmio 0xd0000000 write false 76 69 72 74 rng", "mmio 0xd0000014 write true 76 69 72 74 rng",
		"mmio 0xd0001000 write false ff ff ff ff ", "port 0x3f8 out true 6b", "port 0x604 out true 00 20",
	}
	if got := traceOf(t, vm); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events = %q; want %q", got, want)
	}
	if v := vm.Stats().VCPUs[0]; v.Exits["IO"] != 3 || v.Exits["MMIO"] != 3 {
		t.Errorf("exits = %v; want 3 IO, 3 MMIO", v.Exits)
	}
	if s := vm.Stats().Virtio; len(s) != 1 || s[0].Name != "rng" || s[0].Interrupts != 0 {
		t.Errorf("virtio = %+v; want a source of random numbers", s)
	}
	vm.pc.virtio[0].mmio.Write(0x070, []byte{4, 0, 0, 0}) // DRIVER_OK without the steps before it: needs a reset
	if s := vm.Stats().Virtio; s[0].Interrupts != 1 {
		t.Errorf("virtio = %+v; want 1 interrupt", s)
	}
}

// TestTraceOnOff traces a part of a guest's life, and allocates nothing in it.
func TestTraceOnOff(t *testing.T) {
	testutil.RequireKVM(t)
	var g guest
	loopGuest(&g, func() { g.call(hypercall.Walltime, g.store(le64s(0))) })
	vm := newVM(t, g.config())
	repeat(t, vm, 1000)
	events, errs := 0, 0
	vm.Trace(func(e *Event) {
		events++
		if e.Err != nil && e.Err != devices.ErrInterrupted {
			errs++
		}
	})
	once := func() {
		enter(t, vm)
		if err := vm.observed(vm.vcpu, nil); err != nil {
			t.Error(err)
		}
	}
	if n := testing.AllocsPerRun(100, once); n != 0 {
		t.Errorf("an exit with a trace allocates %v times; want 0", n)
	}
	if !vm.observing.Load() || events != 101 || errs != 0 {
		t.Errorf("%d events, %d with errors, observing %v; want 101, 0, true", events, errs, vm.observing.Load())
	}
	vm.Trace(nil)
	if once(); vm.observing.Load() || events != 101 {
		t.Errorf("%d events, observing %v after Trace(nil); want 101, false", events, vm.observing.Load())
	}
}
