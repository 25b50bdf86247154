package vmm

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// elfNative is the finished file with uvm's own note. key is the protection key
// of the data segment; the note allows keys if it is not 0.
func (g *guest) elfNative(key uint32) []byte {
	n := loader.Native{Version: 1, Flags: loader.NativeSealed}
	if key != 0 {
		n.Flags |= loader.NativeKeys
	}
	file := hvtelf.Guest{Code: g.code, Data: g.data, Devices: g.devices, Native: &n}.ELF()
	const dataFlags = 64 + 56 + 4 // p_flags of the second program header
	perm := uint32(6)
	if g.readOnly {
		perm = 4
	}
	le.PutUint32(file[dataFlags:], perm|key<<20)
	return file
}

// withNote gives a configuration g's file with the note.
func (g *guest) withNote(key uint32) func(*Config) {
	return func(c *Config) { c.KernelFile = bytes.NewReader(g.elfNative(key)) }
}

// TestTraps counts a sealed guest's exceptions, and only those: hypercalls and
// boot marks are none.
func TestTraps(t *testing.T) {
	for _, tt := range []struct {
		name string
		emit func(*guest)
		ring Ring
		want uint64
	}{
		{"hypercalls", func(g *guest) { g.print("x"); g.mark('m'); g.print("y") }, RingSealed, 0},
		// mov ecx, FS base; xor eax, eax; xor edx, edx; wrmsr
		{"wrmsr", func(g *guest) { g.emit(0xb9, 0x00, 0x01, 0x00, 0xc0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30) }, RingSealed, 1},
		{"cli, sti", func(g *guest) { g.emit(0xfa, 0xfb) }, RingSealed, 2},
		{"ring 0", func(g *guest) { g.emit(0xfa) }, Ring0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: tt.ring}
			tt.emit(&g)
			g.halt(0)
			vm := newVM(t, g.config())
			if n := vm.Traps(); n != 0 {
				t.Errorf("Traps() before Run = %d; want 0", n)
			}
			if res, err := runVM(t, vm); err != nil || res.Status != 0 {
				t.Fatalf("Run() = %+v, %v; want status 0", res, err)
			}
			if n := vm.Traps(); n != tt.want {
				t.Errorf("Traps() = %d; want %d", n, tt.want)
			}
		})
	}
}

// TestNativeNote runs a file with uvm's note in both rings.
func TestNativeNote(t *testing.T) {
	bothRings(t, func(t *testing.T, ring Ring) {
		g := guest{ring: ring}
		g.print("native")
		g.halt(0)
		if out := runGuest(t, &g, g.withNote(0)); string(out) != "native" {
			t.Errorf("output = %q; want %q", out, "native")
		}
	})
}

// TestNativeGuests runs the sample guests, which carry the note: what they
// promise holds, and they run in ring 0 as well.
func TestNativeGuests(t *testing.T) {
	testutil.RequireKVM(t)
	dir := sampleGuests(t)
	for _, tt := range []struct {
		guest string
		args  []string
	}{
		{"hello", []string{"one", "two"}},
		{"args", nil},
		{"clock", nil},
		{"compute", []string{"int", "1000"}},
		{"marks", nil},
	} {
		t.Run(tt.guest, func(t *testing.T) {
			path := filepath.Join(dir, tt.guest+".hvt")
			img, err := loader.Open(path, nil, "")
			if err != nil {
				t.Fatal(err)
			}
			img.Close()
			if img.Native == nil || img.Native.Flags&loader.NativeSealed == 0 {
				t.Fatalf("Native = %+v; want a note that says sealed", img.Native)
			}
			bothRings(t, func(t *testing.T, ring Ring) {
				vm := newVM(t, Config{Kernel: path, Args: tt.args, Memory: 4 << 20, Ring: ring, TSSAvailable: inLab})
				if res, err := runVM(t, vm); err != nil || res.Status != 0 {
					t.Fatalf("Run() = %+v, %v; want status 0", res, err)
				}
				if n := vm.Traps(); n != 0 {
					t.Errorf("Traps() = %d; want 0", n)
				}
			})
		})
	}
}

// BenchmarkTrap is a privileged instruction of a sealed guest (cli), carried out,
// beside the cheapest hypercall. The figures are for comparison only.
func BenchmarkTrap(b *testing.B) {
	testutil.RequireKVM(b)
	for _, bb := range []struct {
		name string
		emit func(g *guest)
	}{
		{"cli", func(g *guest) { g.emit(0xfa) }},
		{"walltime", func(g *guest) { g.call(hypercall.Walltime, g.store(le64s(0))) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			g := guest{ring: RingSealed}
			loopGuest(&g, func() { bb.emit(&g) })
			vm := newVM(b, g.config())
			repeat(b, vm, b.N+1)
			enter(b, vm)
			b.ResetTimer()
			for range b.N {
				if err := vm.exit(vm.vcpu); err != nil {
					b.Fatal(err)
				}
				enter(b, vm)
			}
		})
	}
}
