package vmm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// largeText is text of a 4 KiB page, two pages of 2 MiB, and a 4 KiB page.
const largeText, largeTextSize = 2<<20 - 0x1000, 4<<20 + 0x2000

// withLargeText builds a guest with that text and code at an address in it.
func (g *guest) withLargeText(t *testing.T, at uint64, code ...byte) *VM {
	t.Helper()
	cfg := g.config()
	execOnly(&cfg)
	cfg.Memory = 8 << 20
	cfg.KernelFile = bytes.NewReader(withSegments(g.elf(), []loader.Segment{segmentAt(largeText, largeTextSize, "rx")}))
	vm := newVM(t, cfg)
	if err := vm.mem.Protect(largeText, largeTextSize, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	b, err := vm.mem.At(memory.Addr(at), uint64(len(code)))
	if err != nil {
		t.Fatal(err)
	}
	copy(b, code)
	if err := vm.mem.Protect(largeText, largeTextSize, memory.Read); err != nil {
		t.Fatal(err)
	}
	return vm
}

// TestExecOnlyLargeText executes and reads keyed text on pages of both sizes.
func TestExecOnlyLargeText(t *testing.T) {
	requireKeys(t)
	for _, at := range []uint64{largeText, 2 << 20, 4<<20 - 4, 4<<20 + 0x1234, 6 << 20} {
		g := guest{ring: RingSealed}
		g.pointAt(at)
		g.callRBX() // ret
		insn := g.loadByte()
		g.halt(0)
		vm := g.withLargeText(t, at, 0xc3)
		_, err := runVM(t, vm)
		var e *GuestError
		const code = codePresent | codeUser | codeKey
		if !errors.As(err, &e) || e.Kind != FaultTranslation || e.Code != code || e.RIP != insn || e.Addr != at || e.Key != keyText {
			t.Errorf("text at %#x: Run() = %v; want kind %q, error code %#x, rip %#x, key 15", at, err, FaultTranslation, code, insn)
		}
		// The entry of 2 MiB has the key itself; that of a table has none.
		b, err := vm.mem.At(gpaPD+memory.Addr(at>>21*8), 8)
		if err != nil {
			t.Fatal(err)
		}
		large, key := at >= 2<<20 && at < 6<<20, uint64(0)
		if large {
			key = keyText
		}
		if pde := le.Uint64(b); pde&entLarge != 0 != large || pde>>pteKey&15 != key || pde>>63 != 0 {
			t.Errorf("directory entry of %#x = %#x; want a large page: %t, with key %d, executable", at, pde, large, key)
		}
	}
}

// TestExecOnlyLargeTextTraps has the monitor read an instruction there, for the
// guest and for the report.
func TestExecOnlyLargeTextTraps(t *testing.T) {
	requireKeys(t)
	const at = 4<<20 - 1 // across two large pages
	g := guest{ring: RingSealed}
	g.pointAt(at)
	g.callRBX()
	g.halt(3)
	vm := g.withLargeText(t, at, 0xfa, 0xfb, 0xc3) // cli; sti; ret
	if res, err := runVM(t, vm); err != nil || res.Status != 3 || vm.Traps() != 2 {
		t.Errorf("Run() = %+v, %v, %d traps; want status 3 after 2", res, err, vm.Traps())
	}
	vm = g.withLargeText(t, at, 0x0f, 0x0b) // ud2
	_, err := runVM(t, vm)
	var e *GuestError
	if !errors.As(err, &e) || e.Vector != vecUD || e.RIP != at || !bytes.HasPrefix(e.Insn, []byte{0x0f, 0x0b}) {
		t.Errorf("Run() = %v; want vector 6, rip %#x, bytes 0f 0b", err, at)
	}
}
