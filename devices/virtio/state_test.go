package virtio

import (
	"bytes"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// kinds are devices that need nothing of the host, each with a request that it
// serves on its last queue.
var kinds = []struct {
	make    func() Device
	request func(d *driver)
}{
	{func() Device { return newEcho() }, func(d *driver) { d.Add([][]byte{{1}}, 1) }},
	{func() Device { return NewRNG() }, func(d *driver) { d.Add(nil, 16) }},
	{func() Device { return NewConsole(io.Discard, -1) }, func(d *driver) { d.Add([][]byte{{1}}) }},
	{func() Device { return blkOf(4096) },
		func(d *driver) { d.Add([][]byte{make([]byte, 16)}, 512, 1) }},
	{func() Device { return NewNet(&sinkNIC{}, [6]byte{2}, 1500) }, func(d *driver) { d.Add([][]byte{make([]byte, 60)}) }},
}

// sinkNIC takes every frame and has none.
type sinkNIC struct{ fakeNIC }

func (*sinkNIC) ReadFrame([][]byte) (int, devices.Errno) { return 0, syscall.EAGAIN }
func (*sinkNIC) WriteFrame([][]byte) devices.Errno       { return 0 }
func (*sinkNIC) PollFD() int                             { return -1 }

// reload moves the guest's device into a fresh one and compares the states.
func (g *guest) reload(fresh Device) {
	g.t.Helper()
	state, err := g.m.SaveState()
	if err != nil {
		g.t.Fatal(err)
	}
	g.plug(fresh)
	if err := g.m.LoadState(state); err != nil {
		g.t.Fatalf("LoadState(SaveState()) = %v", err)
	}
	if again, err := g.m.SaveState(); err != nil || !bytes.Equal(again, state) {
		g.t.Fatalf("state after LoadState = %x, %v; want %x", again, err, state)
	}
}

// TestState moves a device in every stage of its life, and goes on.
func TestState(t *testing.T) {
	g := newGuest(t, newEcho())
	g.reload(newEcho())
	g.set(regDeviceFeaturesSel, 1)
	g.set(regQueueSel, 7)
	g.negotiate(FeatureEventIdx | 1<<3)
	g.reload(newEcho())
	d := g.queues(FeatureEventIdx)
	g.reload(newEcho())
	g.set(regStatus, statusRunning)
	d[0].echo(g)
	d[1].Add([][]byte{{1}}, 1) // in flight
	d[1].Add([][]byte{{1}}, 1)
	g.reload(newEcho())
	if g.dev.(*echo).count != 1 {
		t.Errorf("device's state = %d; want 1", g.dev.(*echo).count)
	}
	g.serve()
	if _, n, ok := d[1].Done(); !ok || n != 1 {
		t.Errorf("chain in flight = %d, %v; want 1", n, ok)
	}
	g.check("queue and interrupt", regInterruptStatus, interruptQueue)
	g.reload(newEcho())
	g.check("queue and interrupt", regInterruptStatus, interruptQueue)
	g.set(regQueueSel, 0)
	g.set(regQueueReady, 0)
	g.reload(newEcho())
	g.serve()
	d[1].Avail += 100
	d[1].Offer(0)
	g.serve()
	g.check("lie", regStatus, statusRunning|statusNeedsReset)
	g.reload(newEcho())
	g.serve()
	g.check("lie, reloaded", regStatus, statusRunning|statusNeedsReset)
	g.start(0)[0].echo(g)
}

// TestBadState changes each field of a saved state to what cannot be.
func TestBadState(t *testing.T) {
	g := newGuest(t, newEcho())
	g.start(FeatureEventIdx)[0].echo(g)
	good, err := g.m.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	const queue = 32 // the first queue's words; 42 bytes each
	if len(good) != queue+2*42+13+1 {
		t.Fatalf("state has %d bytes; want %d", len(good), queue+2*42+13+1)
	}
	for _, c := range []struct {
		name string
		at   int
		b    []byte
		want string
	}{
		{"type", 0, []byte{4}, "device type 4"},
		{"interrupt status", 4, []byte{4}, "interrupt status 0x4"},
		{"status", 8, []byte{1 << 4}, "status 0x10"},
		{"status", 9, []byte{1}, "status 0x10f"},
		{"status", 8, []byte{7}, "DRIVER_OK without FEATURES_OK"},
		{"features", 24, []byte{1}, "features 0x120000001"},
		{"features", 28, []byte{0}, "features 0x20000000"},
		{"largest size", queue + 6, []byte{16}, "queue 0 with a largest size of 16"},
		{"size", queue + 10, []byte{16}, "queue 0: size 16 is above 8"},
		{"size", queue + 10, []byte{7}, "queue size 7 is not a power of two"},
		{"ready", queue + 14, []byte{2}, "ready 2"},
		{"descriptors", queue + 18, []byte{1}, "need addresses aligned"},
		{"available ring", queue + 33, []byte{1}, "available ring: guest memory"},
		{"configuration", queue + 2*42 + 12, []byte{0}, "configuration space 01 02 03 04 05 06 07 08 09 0a 0b 0c 00, need 01"},
		{"used ring", queue + 41, []byte{0x80}, "used ring: guest memory"},
	} {
		state := bytes.Clone(good)
		copy(state[c.at:], c.b)
		g.badState(c.name, state, c.want)
	}
	for _, n := range []int{0, 1, 31, 32, 33, len(good) - 2, len(good) - 1} {
		g.badState("short", good[:n], "saved state")
	}
	g.badState("long", append(bytes.Clone(good), 0), "echo: need 1 byte")
}

func (g *guest) badState(name string, state []byte, want string) {
	g.t.Helper()
	dev := newEcho()
	g.plug(dev)
	before, _ := g.m.SaveState()
	err := g.m.LoadState(state)
	if err == nil || !strings.HasPrefix(err.Error(), "virtio-mmio: saved state: ") || !strings.Contains(err.Error(), want) {
		g.t.Errorf("%s: LoadState = %v; want an error with %q", name, err, want)
	}
	if after, _ := g.m.SaveState(); !bytes.Equal(before, after) || dev.q != nil {
		g.t.Errorf("%s: LoadState changed the device: %x; want %x", name, after, before)
	}
}

// TestOtherDevice: a state is for a device that is the same to its guest.
func TestOtherDevice(t *testing.T) {
	disk := func(size int) Device { return blkOf(size) }
	nic := func(mac byte, mtu int) Device { return NewNet(&sinkNIC{}, [6]byte{mac}, mtu) }
	for _, c := range []struct {
		saved, other Device
		ok           bool
	}{
		{disk(4096), disk(4096), true}, {disk(4096), disk(4608), false}, {disk(4096), nic(2, 1500), false},
		{nic(2, 1500), nic(2, 1500), true}, {nic(2, 1500), nic(4, 1500), false}, {nic(2, 1500), nic(2, 1400), false}, {nic(2, 1500), nic(2, 0), false},
	} {
		g := newGuest(t, c.saved)
		g.start(0)
		state, err := g.m.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		if err := g.plug(c.other).m.LoadState(state); (err == nil) != c.ok {
			t.Errorf("LoadState of %+v into %+v = %v; want success: %v", c.saved.Info(), c.other.Info(), err, c.ok)
		}
	}
}

// TestDeviceStates: the devices check theirs.
func TestDeviceStates(t *testing.T) {
	for _, kind := range kinds {
		dev := kind.make()
		state, err := dev.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.LoadState(append(state, 1)); err == nil {
			t.Errorf("%T: LoadState of a byte too many = nil; want an error", dev)
		}
		if again, _ := dev.SaveState(); !bytes.Equal(again, state) {
			t.Errorf("%T: LoadState changed the device: %x; want %x", dev, again, state)
		}
		if err := dev.LoadState(state); err != nil {
			t.Errorf("%T: LoadState(SaveState()) = %v", dev, err)
		}
	}
}
