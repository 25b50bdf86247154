package vmm

import (
	"context"
	"sync/atomic"
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

// countedRing counts how often it is started and stopped.
type countedRing struct {
	NetRing
	starts, stops atomic.Int32
}

func (r *countedRing) Start(fail func(error)) func() {
	stop := r.NetRing.Start(fail)
	r.starts.Add(1)
	return func() { stop(); r.stops.Add(1) }
}

// TestPauseNetRing: the ring carries nothing while the guest stands still, and goes on
// with what the guest had in it.
func TestPauseNetRing(t *testing.T) {
	testutil.Watchdog(t)
	netNS(t)
	makeTap(t, "uvm0", 1500)
	g := guest{devices: oneNet}
	buf := g.store(make([]byte, 64))
	g.mark('!')
	for i := range uint32(3) {
		g.entry(i, 2, 1, uint64(buf), 64)
		g.out(ringPort, 0)
		g.poll(50e6)
	}
	g.await(ringBase+68, 3)
	g.halt(0)
	cfg := g.config()
	withRing("uvm0")(&cfg)
	ringing := &countedRing{NetRing: cfg.NetRing}
	cfg.NetRing = ringing
	vm := newVM(t, cfg)
	done := runAside(context.Background(), vm)
	testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
	for range 10 {
		pause(t, vm)
		if starts, stops := ringing.starts.Load(), ringing.stops.Load(); starts != stops {
			t.Errorf("the ring of a paused VM was started %d times and stopped %d times; want as many", starts, stops)
		}
		resume(t, vm)
	}
	if o := testutil.Wait(t, done, "Run"); o.err != nil || o.res.Status != 0 {
		t.Errorf("Run() = %+v, %v; want status 0", o.res, o.err)
	}
	if starts, stops := ringing.starts.Load(), ringing.stops.Load(); starts < 11 || stops < starts {
		t.Errorf("the ring was started %d times and stopped %d times; want 11 and at least as many", starts, stops)
	}
}
