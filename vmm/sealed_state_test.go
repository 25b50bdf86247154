package vmm

import (
	"bytes"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/kvm"
)

var _ devices.Saver = (*sealed)(nil)

// TestSealedState saves a state with a different value in each field, and checks
// where each byte lies.
func TestSealedState(t *testing.T) {
	s := trapRig(t)
	s.gdt, s.idt = kvm.DTable{Base: 0x0807060504030201, Limit: 0x1a19}, kvm.DTable{Base: 0x100f0e0d0c0b0a09, Limit: 0x1c1b}
	s.tss, s.tr = kvm.DTable{Base: 0x1817161514131211, Limit: 0x1e1d}, 0x201f
	s.cr2, s.traps = 0x2827262524232221, 0x302f2e2d2c2b2a29
	b, err := s.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 48)
	for i := range want {
		want[i] = byte(i + 1)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("SaveState() = % x; want % x", b, want)
	}
	other := trapRig(t)
	if err := other.LoadState(b); err != nil {
		t.Fatalf("LoadState() = %v; want nil", err)
	}
	if again, err := other.SaveState(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("SaveState() after LoadState() = % x, %v; want % x", again, err, b)
	}
	// An error leaves all as it was.
	for _, bad := range [][]byte{nil, b[:47], append(bytes.Clone(b), 0), make([]byte, 72)} {
		if err := other.LoadState(bad); err == nil {
			t.Errorf("LoadState(%d bytes) = nil; want an error", len(bad))
		}
		if again, _ := other.SaveState(); !bytes.Equal(again, b) {
			t.Errorf("LoadState(%d bytes) changed the state to % x", len(bad), again)
		}
	}
}

// FuzzSealedState loads anything, and has the guest take an exception with it.
func FuzzSealedState(f *testing.F) {
	s := trapRig(f)
	b, err := s.SaveState()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(bytes.Repeat([]byte{0xff}, len(b)))
	f.Add(le64s(rigData, rigData, rigData, 0xffff_ffff_ffff_ffff, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s.LoadState(b) != nil {
			return
		}
		low := bytes.Clone(s.vm.mem.Host()[:rigData])
		err := s.deliver(&trapFrame{vector: vecUD, rip: rigText, rsp: 0x180000, regs: new(kvm.Regs)})
		if err != nil && err.Error() == "" {
			t.Errorf("deliver() = %#v; want a report", err)
		}
		if !bytes.Equal(s.vm.mem.Host()[:rigData], low) {
			t.Error("deliver() changed memory that the guest may not write")
		}
	})
}
