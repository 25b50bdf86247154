package virtio

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/memory"
)

// TestQueue passes one chain through.
func TestQueue(t *testing.T) {
	d := newDriver(t, 8, FeatureEventIdx)
	head, in := d.Add([][]byte{[]byte("abc"), []byte("de")}, 4)
	var c Chain
	ok, err := d.q.Pop(&c)
	if !ok || err != nil {
		t.Fatalf("Pop = %v, %v; want a chain", ok, err)
	}
	if c.Head != head || len(c.Out) != 2 || string(c.Out[0])+string(c.Out[1]) != "abcde" || len(c.In) != 1 {
		t.Errorf("Pop gives %+v; want head %d with abcde and one buffer to write", c, head)
	}
	copy(c.In[0], "1234")
	d.q.Push(c.Head, 4)
	if h, n, ok := d.Done(); h != uint32(head) || n != 4 || !ok || string(in[0]) != "1234" {
		t.Errorf("used element = %d, %d, %v with %q; want %d, 4 and 1234", h, n, ok, in[0], head)
	}
	if !d.q.interrupt() || d.q.interrupt() {
		t.Error("interrupt() was not true exactly once")
	}
	if ok, err := d.q.Pop(&c); ok || err != nil {
		t.Errorf("Pop of an empty queue = %v, %v; want false", ok, err)
	}
}

// TestUnpop gives a chain back, also across the end of the indices.
func TestUnpop(t *testing.T) {
	d := newDriver(t, 2, 0)
	var c Chain
	for i := range 1<<16 + 10 {
		d.Desc(0, bufBase, uint32(i)+1, 0, 0)
		d.Offer(0)
		for range 2 {
			if ok, err := d.q.Pop(&c); !ok || err != nil || len(c.Out[0]) != i+1 {
				t.Fatalf("Pop %d = %v, %v", i, ok, err)
			}
			d.q.Unpop()
		}
		if ok, _ := d.q.Pop(&c); !ok {
			t.Fatalf("Pop %d = false", i)
		}
		d.q.Push(c.Head, uint32(i))
		if _, n, ok := d.Done(); !ok || n != uint32(i) {
			t.Fatalf("used element %d = %d, %v", i, n, ok)
		}
	}
}

// TestNoInterrupt: without event indices the driver has a flag.
func TestNoInterrupt(t *testing.T) {
	d := newDriver(t, 8, 0)
	for _, flag := range []uint16{0, 1, 0, 1, 2} {
		memory.Store16(d.q.avail, flag)
		d.Add(nil, 1)
		var c Chain
		if ok, err := d.q.Pop(&c); !ok || err != nil {
			t.Fatalf("Pop = %v, %v", ok, err)
		}
		d.q.Push(c.Head, 0)
		if got := d.q.interrupt(); got != (flag != 1) {
			t.Errorf("interrupt() with flags %d = %v; want %v", flag, got, flag != 1)
		}
	}
}

// enable asks for an interrupt at the next used element.
func (d *driver) enable(at uint16) {
	memory.Store16(d.q.avail[4+2*int(d.Size):], at)
	memory.Fence()
}

// TestEventIndex runs driver and device against a model that counts without
// wrapping around: each interrupt that is asked for arrives and no other, and each
// chain offered to a device that has gone idle is notified.
func TestEventIndex(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	d := newDriver(t, 16, FeatureEventIdx)
	for i := range uint16(16) {
		d.Desc(i, bufBase, 1, 0, 0)
	}
	var c Chain
	var offered, pushed, looked, event int // of chains; event: the element that the driver wants to hear of
	kicked := false
	for step := range 1_000_000 {
		switch rnd.IntN(5) {
		case 0: // some chains
			before := d.Avail
			for n := rnd.IntN(16 - (offered - pushed) + 1); n > 0; n-- {
				d.Offer(uint16(offered % 16))
				offered++
			}
			kicked = d.KickNeeded(before) || kicked
		case 1: // the driver chooses an element, one that is long past, or the next
			event = max(pushed-rnd.IntN(20), 0) + rnd.IntN(20)
			d.enable(uint16(event))
		case 2: // the device, where it heard a kick, until it has nothing more to do
			for kicked {
				ok, err := d.q.Pop(&c)
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					kicked = false
				} else if rnd.IntN(8) == 0 {
					d.q.Unpop()
					break // it will look again
				} else {
					d.q.Push(c.Head, 0)
					pushed++
				}
			}
		case 3: // the end of a round
			if got, want := d.q.interrupt(), looked <= event && event < pushed; got != want {
				t.Fatalf("seed %d, step %d: interrupt() = %v after elements %d to %d, event %d; want %v", seed, step, got, looked, pushed, event, want)
			}
			looked = pushed
		}
		if !kicked && offered != pushed {
			t.Fatalf("seed %d, step %d: %d chains offered, %d done, and the device was not told", seed, step, offered, pushed)
		}
	}
	if offered < 1<<17 {
		t.Errorf("%d chains; want more than twice around the indices", offered)
	}
}

// TestWakeups runs driver and device at the same time, each going on only when the
// other has rung its bell, or has something for it before it rests. A bell that was
// not rung hangs it. They spin at their bells: what is looked for happens in the few
// nanoseconds in which one goes to rest as the other has something new.
func TestWakeups(t *testing.T) {
	const chains = 100_000
	d := newDriver(t, 4, FeatureEventIdx)
	for i := range uint16(4) {
		d.Desc(i, bufBase, 1, 0, 0)
	}
	var kick, irq, stop atomic.Bool
	served, done := make(chan int, 1), make(chan bool)
	go func() {
		var c Chain
		n := 0
		for ; !stop.Load(); runtime.Gosched() {
			if !kick.Swap(false) {
				continue
			}
			for {
				ok, err := d.q.Pop(&c)
				if err != nil {
					t.Error(err)
				}
				if !ok {
					break
				}
				d.q.Push(c.Head, 0)
				if n++; n%3 == 0 && d.q.interrupt() { // a round that ends before the queue does
					irq.Store(true)
				}
			}
			if d.q.interrupt() {
				irq.Store(true)
			}
		}
		served <- n
	}()
	go func() {
		defer close(done)
		rnd := rand.New(rand.NewPCG(1, 2))
		for offered, seen := 0, 0; seen < chains; {
			if offered < chains {
				before := d.Avail
				d.Offer(uint16(offered % 4))
				offered++
				if d.KickNeeded(before) {
					kick.Store(true)
				}
			}
			for range rnd.IntN(100) { // now the device is anywhere
				memory.Load16(d.q.used)
			}
			for wait := offered-seen == 4 || offered == chains; ; {
				if _, _, ok := d.Done(); ok {
					seen++
					wait = offered == chains && seen < chains
				} else if !wait {
					break
				} else if d.enable(d.Used); memory.Load16(d.q.used[2:]) == d.Used {
					for !irq.Swap(false) && !stop.Load() {
						runtime.Gosched()
					}
				}
				if stop.Load() {
					return
				}
			}
		}
	}()
	defer stop.Store(true)
	testutil.Wait(t, done, "the driver: a wake-up was lost")
	stop.Store(true)
	if n := testutil.Wait(t, served, "the device"); n != chains {
		t.Errorf("%d chains served; want %d", n, chains)
	}
}

// TestAllocs: passing chains through costs no memory.
func TestAllocs(t *testing.T) {
	for _, kind := range kinds {
		g := newGuest(t, kind.make())
		drivers := g.start(FeatureEventIdx | FeatureIndirectDesc)
		d := drivers[len(drivers)-1]
		kind.request(d) // from here on again and again, as it is and by a table
		g.serve()
		d.Done()
		a, table := d.Alloc(int(d.Free) * descSize)
		copy(table, d.q.desc)
		i := d.Free
		d.Desc(i, a, uint32(len(table)), descIndirect, 0)
		buf := make([]byte, 4)
		run := func() {
			d.Offer(0)
			d.Offer(i)
			d.enable(d.Used)
			g.serve()
			g.m.Read(regInterruptStatus, buf)
			g.m.Read(regStatus, buf)
			if _, _, ok := d.Done(); !ok {
				t.Fatalf("%T did not serve", g.dev)
			}
			d.Done()
		}
		irqs := g.irqs.Load()
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%T: a round allocates %v times; want 0", g.dev, n)
		}
		if got := g.irqs.Load() - irqs; got != 101 {
			t.Errorf("%T: %d interrupts in 101 rounds", g.dev, got)
		}
	}
}
