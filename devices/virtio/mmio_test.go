package virtio

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

// TestRegisters reads every offset of the register block of a fresh device in
// every width.
func TestRegisters(t *testing.T) {
	g := newGuest(t, newEcho())
	want := map[uint64]uint32{
		0x000: 0x74726976, 0x004: 2, 0x008: 63, 0x00c: 0x214d5655, 0x010: 1<<3 | 1<<28 | 1<<29, 0x034: 8,
		0x0b0: 0xffff_ffff, 0x0b4: 0xffff_ffff, 0x0b8: 0xffff_ffff, 0x0bc: 0xffff_ffff,
	}
	for off := range uint64(regConfig) {
		for _, width := range []int{0, 1, 2, 3, 4, 5, 8} {
			b := bytes.Repeat([]byte{0xee}, width)
			g.m.Read(off, b)
			w := make([]byte, width)
			if width == 4 {
				le.PutUint32(w, want[off])
			}
			if !bytes.Equal(b, w) {
				t.Errorf("Read(%#x) of %d bytes = %x; want %x", off, width, b, w)
			}
		}
	}
	for _, off := range []uint64{MMIOSize, 1 << 32, 1<<64 - 1, 1<<64 - 4} {
		g.check("beyond the region", off, 0)
		g.set(off, 1)
	}
}

// TestSelectors: what is not there reads as 0, and writes to it are lost.
func TestSelectors(t *testing.T) {
	g := newGuest(t, newEcho())
	for sel, want := range map[uint32]uint32{0: 1<<3 | 1<<28 | 1<<29, 1: 1 | 1<<(40-32), 2: 0, 3: 0, 1 << 27: 0, 1<<27 + 1: 0, 1<<32 - 1: 0} {
		g.set(regDeviceFeaturesSel, sel)
		g.check(fmt.Sprint("DeviceFeaturesSel ", sel), regDeviceFeatures, want)
	}
	for sel, want := range map[uint32]uint32{0: 8, 1: 32, 2: 0, 1 << 16: 0, 1<<32 - 1: 0} {
		g.set(regQueueSel, sel)
		g.check(fmt.Sprint("QueueSel ", sel), regQueueNumMax, want)
		g.set(regQueueReady, 1)
		ready := uint32(1)
		if want == 0 {
			ready = 0
		}
		g.check(fmt.Sprint("QueueSel ", sel), regQueueReady, ready)
	}
	g.set(regDriverFeaturesSel, 1<<27) // 32 times that is 0 in 32 bits
	g.set(regDriverFeatures, 0xffff_ffff)
	if g.m.reg.Features != 0 {
		t.Errorf("features are %#x after a write to words that do not exist; want 0", g.m.reg.Features)
	}
}

// TestWidths: a write that is not an aligned word changes nothing.
func TestWidths(t *testing.T) {
	g := newGuest(t, newEcho())
	before, err := g.m.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	for off := range uint64(MMIOSize) {
		for _, width := range []int{0, 1, 2, 3, 4, 5, 8, 16} {
			if width != 4 || off%4 != 0 || off >= regConfig {
				g.m.Write(off, bytes.Repeat([]byte{1}, width))
			}
		}
	}
	if after, err := g.m.SaveState(); err != nil || !bytes.Equal(before, after) {
		t.Errorf("state after writes of odd widths = %x, %v; want %x", after, err, before)
	}
}

// TestConfig reads the configuration space in all widths, at all places.
func TestConfig(t *testing.T) {
	dev := newEcho()
	g := newGuest(t, dev)
	space := append(append([]byte{}, dev.config...), make([]byte, 64)...)
	for off := range uint64(40) {
		for _, width := range []int{1, 2, 3, 4, 8} {
			b := bytes.Repeat([]byte{0xee}, width)
			g.m.Read(regConfig+off, b)
			if w := space[off : off+uint64(width)]; !bytes.Equal(b, w) {
				t.Errorf("Read(Config+%d) of %d bytes = %x; want %x", off, width, b, w)
			}
		}
	}
}

func TestFeatures(t *testing.T) {
	for _, c := range []struct {
		features uint64
		ok       bool
	}{
		{FeatureVersion1, true},
		{FeatureVersion1 | FeatureEventIdx | FeatureIndirectDesc | 1<<3 | 1<<40, true},
		{0, false}, {FeatureEventIdx, false}, // no VERSION_1: a legacy driver
		{FeatureVersion1 | 1, false}, {FeatureVersion1 | 1<<34, false}, {1<<64 - 1, false}, // never offered
	} {
		g := newGuest(t, newEcho())
		g.negotiate(0)
		g.set(regStatus, 0)
		for i := range uint32(2) {
			g.set(regDriverFeaturesSel, i)
			g.set(regDriverFeatures, word(c.features, i))
		}
		g.set(regStatus, statusAcknowledge|statusDriver|statusFeaturesOK)
		want := uint32(statusAcknowledge | statusDriver)
		if c.ok {
			want |= statusFeaturesOK
		}
		g.check(fmt.Sprintf("features %#x", c.features), regStatus, want)
		g.set(regDriverFeatures, 0) // too late once they are accepted
		if kept := g.m.reg.Features == c.features; kept != c.ok && c.features>>32 != 0 {
			t.Errorf("features %#x: kept %v after the driver changed its mind; want %v", c.features, kept, c.ok)
		}
		g.set(regStatus, want|statusDriverOK)
		if c.ok {
			g.check("DRIVER_OK", regStatus, want|statusDriverOK)
		} else {
			g.check("DRIVER_OK", regStatus, want|statusDriverOK|statusNeedsReset)
			g.check("DRIVER_OK", regInterruptStatus, interruptConfig)
		}
	}
}

// TestStatus: bits are added one way or another and leave with 0 only; some
// are not the driver's.
func TestStatus(t *testing.T) {
	g := newGuest(t, newEcho())
	g.start(0)
	for _, v := range []uint32{statusAcknowledge, statusDriver, 1<<32 - 1 - statusFailed, statusNeedsReset | 0xffff_ff00, statusRunning} {
		g.set(regStatus, v)
		g.check(fmt.Sprintf("Status ← %#x", v), regStatus, statusRunning)
	}
	g.set(regStatus, statusFailed)
	g.check("FAILED", regStatus, statusRunning|statusFailed)
	g.set(regStatus, 0)
	g.check("reset", regStatus, 0)
	if g.irqs.Load() != 0 || len(g.errs) != 0 {
		t.Errorf("%d interrupts, errors %v; want none", g.irqs.Load(), g.errs)
	}
}

// TestQueueLocked: a queue's registers are what they were when it became ready.
func TestQueueLocked(t *testing.T) {
	g := newGuest(t, newEcho())
	g.negotiate(0)
	g.setQueue(1, 16, 0x1_2345_6780, 0x2_0000_0002, 0x3_0000_0004)
	want := queueWords{Max: 32, Size: 16, Ready: 1, Addr: [3]memory.Addr{0x1_2345_6780, 0x2_0000_0002, 0x3_0000_0004}}
	if got := g.m.reg.queues[1]; got != want {
		t.Fatalf("queue 1 = %+v; want %+v", got, want)
	}
	g.setQueue(1, 8, 0x10, 0x20, 0x30)
	if got := g.m.reg.queues[1]; got != want {
		t.Errorf("queue 1 after writes while it is ready = %+v; want %+v", got, want)
	}
	g.set(regQueueReady, 0)
	g.check("QueueReady ← 0", regQueueReady, 0)
	g.setQueue(1, 8, 0x1000, 0x2000, 0x3000)
	want = queueWords{Max: 32, Size: 8, Ready: 1, Addr: [3]memory.Addr{0x1000, 0x2000, 0x3000}}
	if got := g.m.reg.queues[1]; got != want {
		t.Errorf("queue 1 set up again = %+v; want %+v", got, want)
	}
	g.set(regStatus, statusRunning)
	g.check("start", regStatus, statusRunning)
	g.setQueue(0, 8, 0x4000, 0x5000, 0x6000) // was not ready: too late
	if got := g.m.reg.queues[0]; got != (queueWords{Max: 8}) {
		t.Errorf("queue 0 after writes behind DRIVER_OK = %+v; want none", got)
	}
	g.serve() // with a nil queue
	g.check("serve", regStatus, statusRunning)
}

// TestEcho goes the whole way, several times over.
func TestEcho(t *testing.T) {
	g := newGuest(t, newEcho())
	for i, features := range []uint64{0, FeatureEventIdx, FeatureIndirectDesc | FeatureEventIdx, 1<<3 | 1<<40} {
		drivers := g.start(features)
		for _, d := range drivers {
			d.echo(g)
		}
		g.set(regInterruptACK, interruptConfig) // not that one
		g.check("wrong ACK", regInterruptStatus, interruptQueue)
		g.set(regInterruptACK, interruptQueue)
		g.check("ACK", regInterruptStatus, 0)
		if got := g.irqs.Load(); got != int32(2*(i+1)) {
			t.Errorf("round %d: %d interrupts; want %d", i, got, 2*(i+1))
		}
	}
	if len(g.errs) != 0 {
		t.Errorf("errors %v; want none", g.errs)
	}
}

// TestOneInterrupt: one round gives one interrupt, however many queues and chains;
// one without any gives none.
func TestOneInterrupt(t *testing.T) {
	g := newGuest(t, newEcho())
	for i := range 2 {
		d := g.start(0)
		for range 2 {
			d[0].Add([][]byte{{1}}, 1)
			d[1].Add([][]byte{{1}}, 1)
		}
		for range 3 {
			g.serve()
		}
		if got := g.irqs.Load(); got != int32(i+1) {
			t.Errorf("driver %d: %d interrupts; want %d", i, got, i+1)
		}
	}
}

// echo passes a chain through queue d.
func (d *driver) echo(g *guest) {
	d.T.Helper()
	head, in := d.Add([][]byte{[]byte("ab"), []byte("cde")}, 3, 4)
	g.serve()
	h, n, ok := d.Done()
	if !ok || h != uint32(head) || n != 5 || string(in[0])+string(in[1][:2]) != "abcde" {
		d.T.Fatalf("used element = %d, %d, %v with %q, %q; want %d, 5 with abcde", h, n, ok, in[0], in[1], head)
	}
}

// TestQueueStop: a driver that writes 0 to QueueReady takes the queue's memory
// back, also from a device that runs.
func TestQueueStop(t *testing.T) {
	for _, features := range []uint64{0, FeatureEventIdx} {
		dev := newEcho()
		g := newGuest(t, dev)
		d := g.start(features)
		d[0].echo(g)
		d[0].Add([][]byte{{1}}, 1)
		g.set(regQueueSel, 0)
		g.set(regQueueReady, 0)
		g.check("stopped", regQueueReady, 0)
		clear(g.at(usedBase, 0x1000))
		g.serve()
		dev.q[0].Push(0, 1)
		if used := g.at(usedBase, 0x1000); !bytes.Equal(used, make([]byte, 0x1000)) {
			t.Error("the device writes to a queue that was stopped")
		}
		g.set(regQueueReady, 1)
		g.check("until the reset", regQueueReady, 0)
		d[1].echo(g)
		g.check("the other queue", regStatus, statusRunning)
		g.start(features)[0].echo(g)
	}
}

// TestReset: nothing of a driver survives.
func TestReset(t *testing.T) {
	dev := newEcho()
	g := newGuest(t, dev)
	fresh, _ := g.m.SaveState()
	d := g.start(FeatureEventIdx)
	d[0].echo(g)
	d[0].Add([][]byte{{1}}, 1)
	g.set(regDeviceFeaturesSel, 1)
	g.set(regStatus, 0)
	if got, _ := g.m.SaveState(); !bytes.Equal(got, fresh) {
		t.Errorf("state after a reset = %x; want %x", got, fresh)
	}
	before := append([]byte{}, g.at(0, driverMem)...)
	g.serve()
	if !bytes.Equal(before, g.at(0, driverMem)) || dev.q != nil {
		t.Error("the device works after a reset")
	}
}

// TestNotifyEarly: nothing is served before DRIVER_OK, whoever rings.
func TestNotifyEarly(t *testing.T) {
	dev := newEcho()
	g := newGuest(t, dev)
	g.negotiate(0)
	d := g.queues(0)
	d[0].Add([][]byte{{1}}, 1)
	for _, q := range []uint32{0, 1, 2, 1<<32 - 1} {
		g.set(QueueNotify, q)
		g.serve()
	}
	if dev.served.Load() != 0 || g.irqs.Load() != 0 {
		t.Errorf("%d rounds, %d interrupts before DRIVER_OK; want none", dev.served.Load(), g.irqs.Load())
	}
	g.set(regStatus, statusRunning)
	g.serve()
	if _, n, ok := d[0].Done(); !ok || n != 1 {
		t.Errorf("used element after DRIVER_OK = %d, %v; want 1 byte", n, ok)
	}
}
