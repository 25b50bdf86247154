package vmm

import (
	"context"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestPausePC stops a PC with two vCPUs, one of which waits to be started, and its
// devices: what the guest asks of them meanwhile comes afterwards.
func TestPausePC(t *testing.T) {
	testutil.Watchdog(t)
	testutil.RequireKVM(t)
	var g pcGuest
	g.emit(0xb0, '!', 0x66, 0xba, 0xf0, 0x03, 0xee) // mov al, '!'; mov dx, 0x3f0; out dx, al
	g.emit(0xeb, 0xfe)                              // jmp .
	cfg := g.pcConfig()
	cfg.CPUs, cfg.Virtio, cfg.Disks = 2, []VirtioDevice{rngDevice}, []Disk{{Path: image(t, 1<<20)}}
	vm := newVM(t, cfg)
	done := runAside(context.Background(), vm)
	testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
	for range 5 {
		pause(t, vm)
		if timeout, fd := vm.pc.virtio[0].mmio.Serve(); timeout != -1 || fd != -1 {
			t.Errorf("Serve() of a paused device = %d, %d; want -1, -1", timeout, fd)
		}
		if err := vm.Inspect(func(m *Machine) error {
			if len(m.VCPUs) != 2 || !m.PC || m.Sealed {
				t.Errorf("Inspect() shows %d vCPUs, PC %v, sealed %v; want 2, true, false", len(m.VCPUs), m.PC, m.Sealed)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		resume(t, vm)
	}
	pause(t, vm)
	vm.stop(errEnough)
	if o := testutil.Wait(t, done, "Run"); o.err != errEnough {
		t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, errEnough)
	}
}
