package virtio

import (
	"slices"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

// async is a device that takes all chains at once and completes them when it is
// told to, by their heads: it writes the head's number into the chain.
type async struct {
	Base
	q       *Queue
	chains  map[uint16]*Chain
	due     []uint16 // for the next Serve
	stuck   bool     // Drain does nothing
	drained int
}

func (d *async) Info() Info                 { return Info{Type: 63, Queues: []uint16{8}} }
func (d *async) Start(_ uint64, q []*Queue) { d.q, d.chains = q[0], map[uint16]*Chain{} }
func (d *async) Reset()                     { *d = async{} }

func (d *async) Serve() error {
	for _, head := range d.due {
		d.complete(head)
	}
	d.due = nil
	for {
		c := new(Chain)
		if ok, err := d.q.Pop(c); !ok || err != nil {
			return err
		}
		d.chains[c.Head] = c
	}
}

func (d *async) complete(head uint16) {
	c := d.chains[head]
	delete(d.chains, head)
	d.q.Push(head, uint32(c.In.CopyFrom([]byte{byte(head)})))
}

func (d *async) Drain() {
	d.drained++
	for head := range d.chains {
		if !d.stuck {
			d.complete(head)
		}
	}
}

// newAsync starts the device and gives it chains with the heads 0 to n-1.
func newAsync(t *testing.T, n int) (*async, *guest, *driver) {
	dev := &async{}
	g := newGuest(t, dev)
	d := g.start(FeatureEventIdx)[0]
	for i := range n {
		d.Desc(uint16(i), bufBase+memory.Addr(i), 1, descWrite, 0)
		d.Offer(uint16(i))
	}
	g.serve()
	if len(dev.chains) != n {
		t.Fatalf("%d chains in flight; want %d", len(dev.chains), n)
	}
	return dev, g, d
}

// heads are the used elements.
func heads(d *driver) (all []uint32) {
	for {
		head, n, ok := d.Done()
		if !ok {
			return all
		}
		if b := d.At(bufBase+memory.Addr(head), 1); n != 1 || b[0] != byte(head) {
			d.T.Errorf("chain %d: %d bytes written, %x; want its head", head, n, b)
		}
		all = append(all, head)
	}
}

// TestInFlight completes chains in another order, in several rounds, while further
// ones come.
func TestInFlight(t *testing.T) {
	dev, g, d := newAsync(t, 8)
	if got := heads(d); got != nil || g.irqs.Load() != 0 {
		t.Errorf("used elements %v, %d interrupts before anything is done", got, g.irqs.Load())
	}
	var got []uint32
	for i, due := range [][]uint16{{5, 2}, {7}, {0, 1}, {5, 3, 4}, {6, 2}} {
		dev.due = due
		d.enable(d.Used)
		g.serve()
		got = append(got, heads(d)...)
		if n := g.irqs.Load(); n != int32(i+1) {
			t.Errorf("%d interrupts after round %d; want %d", n, i, i+1)
		}
		if i == 0 { // they come back
			d.Offer(5)
			d.Offer(2)
			g.serve()
		}
	}
	if want := []uint32{5, 2, 7, 0, 1, 5, 3, 4, 6, 2}; !slices.Equal(got, want) || len(dev.chains) != 0 || dev.q.inFlight != 0 {
		t.Errorf("used elements %v with %d in flight; want %v and none", got, dev.q.inFlight, want)
	}
	g.check("all done", regStatus, statusRunning)
}

// TestInFlightBound: a driver that offers what it cannot have, since the device still
// has it, breaks the rules; else it could make the device keep any number of chains.
func TestInFlightBound(t *testing.T) {
	_, g, d := newAsync(t, 8)
	d.Offer(0)
	g.serve()
	g.check("a ninth chain of eight", regStatus, statusRunning|statusNeedsReset)
	if len(g.errs) != 1 || !strings.Contains(g.errs[0].Error(), "available index is 1 ahead, in a queue of 8 with 8 chains in flight") {
		t.Errorf("errors %v; want one of the index", g.errs)
	}
	for in := range uint16(9) {
		dev, g, d := newAsync(t, int(in))
		for range 9 - in {
			d.Offer(7)
		}
		g.serve()
		if got := heads(d); len(got) != int(in) || len(dev.chains) != 0 || len(g.errs) != 1 {
			t.Errorf("%d chains in flight and %d more: %v done, errors %v; want those in flight and one", in, 9-in, got, g.errs)
		}
	}
}

// TestInFlightSaved: a saved state has no chains in flight, and loses none.
func TestInFlightSaved(t *testing.T) {
	dev, g, d := newAsync(t, 5)
	state, err := g.m.SaveState()
	if err != nil || len(dev.chains) != 0 {
		t.Fatalf("SaveState() = %v with %d chains in flight; want none", err, len(dev.chains))
	}
	if g.wakes.Load() == 0 {
		t.Error("the worker is not woken to interrupt the driver")
	}
	g.serve()
	if n := g.irqs.Load(); n != 1 {
		t.Errorf("%d interrupts after SaveState; want 1", n)
	}
	g.irqs.Store(0)
	g.plug(&async{})
	if err := g.m.LoadState(state); err != nil {
		t.Fatal(err)
	}
	g.serve()
	if n := g.irqs.Load(); n != 1 {
		t.Errorf("%d interrupts after LoadState; want 1", n)
	}
	if got := heads(d); len(got) != 5 {
		t.Errorf("used elements %v; want 5", got)
	}

	dev, g, _ = newAsync(t, 2)
	dev.stuck = true
	if _, err := g.m.SaveState(); err == nil || !strings.Contains(err.Error(), "keeps 2 chains of queue 0 in flight") {
		t.Errorf("SaveState of a device that does not drain = %v; want an error", err)
	}
}

// TestInFlightTakenBack: what the driver takes back is complete before, and what is
// completed afterwards goes nowhere.
func TestInFlightTakenBack(t *testing.T) {
	dev, g, d := newAsync(t, 3)
	g.set(regQueueSel, 0)
	g.set(regQueueReady, 0)
	if got := heads(d); len(got) != 3 || dev.drained != 1 {
		t.Errorf("used elements %v after %d drains; want 3 after 1", got, dev.drained)
	}
	g.set(regQueueReady, 0)
	if dev.drained != 2 || dev.q.inFlight != 0 {
		t.Errorf("%d drains, %d in flight; want 2 and 0", dev.drained, dev.q.inFlight)
	}
	g.set(regStatus, 0)
	if dev.q != nil {
		t.Error("the device keeps its queue after a reset")
	}
}

// TestUnpopMany gives several chains back, in the way of a device that needs a few
// of them for one message.
func TestUnpopMany(t *testing.T) {
	d := newDriver(t, 4, 0)
	for i := range uint16(4) {
		d.Desc(i, bufBase, 1, descWrite, 0)
		d.Offer(i)
	}
	var c [4]Chain
	for i := range c {
		if ok, err := d.q.Pop(&c[i]); !ok || err != nil {
			t.Fatalf("Pop %d = %v, %v", i, ok, err)
		}
	}
	d.q.Unpop()
	d.q.Unpop()
	d.q.Push(c[1].Head, 1)
	d.q.Push(c[0].Head, 1)
	if ok, err := d.q.Pop(&c[0]); !ok || err != nil || c[0].Head != 2 || d.q.inFlight != 1 {
		t.Errorf("Pop after two Unpops = %v, %v with head %d and %d in flight; want 2 and 1", ok, err, c[0].Head, d.q.inFlight)
	}
}
