package virtio

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/memory"
)

const end = driverMem // the first address after memory

// badQueues are what a driver may say of a queue and must not.
var badQueues = []struct {
	size              uint32
	desc, avail, used memory.Addr
	want              string
}{
	{0, 0, availBase, usedBase, "queue size 0 is not a power of two"},
	{3, 0, availBase, usedBase, "queue size 3 is not a power of two"},
	{16, 0, availBase, usedBase, "size 16 is above 8"},
	{1 << 16, 0, availBase, usedBase, "size 65536 is above 8"}, // 0 in 16 bits
	{1<<16 + 8, 0, availBase, usedBase, "size 65544 is above 8"},
	{1<<32 - 1, 0, availBase, usedBase, "size 4294967295 is above 8"},
	{8, 8, availBase, usedBase, "need addresses aligned to 16, 2 and 4"},
	{8, 0, availBase + 1, usedBase, "need addresses aligned to 16, 2 and 4"},
	{8, 0, availBase, usedBase + 2, "need addresses aligned to 16, 2 and 4"},
	{8, end - 112, availBase, usedBase, "descriptor table: guest memory access at 0xfff90, 128 bytes: beyond"},
	{8, 1 << 40, availBase, usedBase, "descriptor table"},
	{8, 1<<64 - 16, availBase, usedBase, "descriptor table"},
	{8, 0, end - 20, usedBase, "available ring"}, // without the event index
	{8, 0, 1<<64 - 2, usedBase, "available ring"},
	{8, 0, availBase, end, "used ring"},
	{8, 0, availBase, readOnly - 68, "used ring: guest memory access at 0xfefbc, 70 bytes: no write permission"},
	{8, 0, availBase, 1<<64 - 4, "used ring"},
}

func TestBadQueues(t *testing.T) {
	g := newGuest(t, newEcho())
	for i, c := range badQueues {
		g.negotiate(0)
		g.queues(0)
		g.set(regQueueSel, 0)
		g.set(regQueueReady, 0)
		g.setQueue(0, c.size, c.desc, c.avail, c.used)
		g.set(regStatus, statusRunning)
		g.refused(fmt.Sprintf("queue %d", i), "queue 0: ", c.want)
	}
}

// refused checks that the device has given up on the driver, says why, and works
// for one that starts again. The log is a fresh one each time.
func (g *guest) refused(what string, want ...string) {
	g.t.Helper()
	g.check(what, regStatus, statusRunning|statusNeedsReset)
	if g.get(regInterruptStatus)&interruptConfig == 0 || g.irqs.Load() == 0 {
		g.t.Errorf("%s: interrupt status %#x, %d interrupts; want a configuration change", what, g.get(regInterruptStatus), g.irqs.Load())
	}
	for _, w := range want {
		if len(g.errs) != 1 || !strings.Contains(g.errs[0].Error(), w) {
			g.t.Errorf("%s: errors %v; want one with %q", what, g.errs, w)
		}
	}
	before := g.irqs.Load()
	g.serve()
	g.set(QueueNotify, 0)
	g.set(regStatus, statusRunning)
	g.check(what+", DRIVER_OK once more", regStatus, statusRunning|statusNeedsReset)
	if g.irqs.Load() != before || len(g.errs) != len(want[:min(len(want), 1)]) {
		g.t.Errorf("%s: a device that needs a reset goes on", what)
	}
	if e, ok := g.dev.(*echo); ok {
		g.start(0)[0].echo(g)
		e.served.Store(0)
	}
	g.plug(g.dev)
	g.irqs.Store(0)
}

// lies are what a driver may put into a queue of 8 descriptors and must not.
var lies = []struct {
	name string
	lie  func(d *driver)
	want string
}{
	{"index far ahead", func(d *driver) { d.Avail += 8; d.Offer(0) }, "available index is 9 ahead, in a queue of 8 with 0 chains in flight"},
	{"index behind", func(d *driver) { d.Avail -= 2; d.Offer(0) }, "available index is 65535 ahead"},
	{"head outside", func(d *driver) { d.Offer(8) }, "descriptor 8 of a table of 8"},
	{"head far outside", func(d *driver) { d.Offer(1<<16 - 1) }, "descriptor 65535 of a table of 8"},
	{"next outside", func(d *driver) { d.Desc(0, bufBase, 1, descNext, 8); d.Offer(0) }, "descriptor 8 of a table of 8"},
	{"loop of one", func(d *driver) { d.Desc(0, bufBase, 1, descNext, 0); d.Offer(0) }, "or a loop"},
	{"loop of two", func(d *driver) { d.Desc(0, bufBase, 1, descNext, 1); d.Desc(1, bufBase, 1, descNext, 0); d.Offer(0) }, "or a loop"},
	{"loop of nothing", func(d *driver) { d.Desc(0, bufBase, 0, descNext|descWrite, 0); d.Offer(0) }, "or a loop"},
	{"readable after writable", func(d *driver) {
		d.Desc(0, bufBase, 1, descNext|descWrite, 1)
		d.Desc(1, bufBase, 1, 0, 0)
		d.Offer(0)
	}, "a readable buffer after a writable one"},
	{"buffer behind memory", func(d *driver) { d.Desc(0, end-1, 2, 0, 0); d.Offer(0) }, "buffer: guest memory access at 0xfffff, 2 bytes: beyond the end"},
	{"buffer around the end of all", func(d *driver) { d.Desc(0, 1<<64-1, 2, 0, 0); d.Offer(0) }, "buffer: guest memory"},
	{"buffer of 4 GiB", func(d *driver) { d.Desc(0, 0, 1<<32-1, descWrite, 0); d.Offer(0) }, "buffer: guest memory"},
	{"write to what is read-only", func(d *driver) { d.Desc(0, readOnly, 1, descWrite, 0); d.Offer(0) }, "no write permission"},
	{"write into what is read-only", func(d *driver) { d.Desc(0, readOnly-1, 2, descWrite, 0); d.Offer(0) }, "no write permission"},
	{"empty indirect table", func(d *driver) { d.Desc(0, bufBase, 0, descIndirect, 0); d.Offer(0) }, "indirect descriptor 0 with flags 0x4 and 0 bytes"},
	{"odd indirect table", func(d *driver) { d.Desc(0, bufBase, 17, descIndirect, 0); d.Offer(0) }, "and 17 bytes, where none is allowed"},
	{"indirect and next", func(d *driver) { d.Desc(0, bufBase, 16, descIndirect|descNext, 1); d.Offer(0) }, "with flags 0x5"},
	{"indirect table behind memory", func(d *driver) { d.Desc(0, end-16, 32, descIndirect, 0); d.Offer(0) }, "indirect table: guest memory"},
	{"indirect in indirect", func(d *driver) { d.indirect(0, 3, descIndirect); d.Offer(0) }, "indirect descriptor 2 with flags 0x4"},
	{"next outside the indirect table", func(d *driver) { d.indirect(0, 3, descNext); d.Offer(0) }, "descriptor 3 of a table of 3"},
	{"indirect table longer than the queue", func(d *driver) { d.indirect(0, 9, 0); d.Offer(0) }, "is longer than the queue's 8"},
	{"long chain before an indirect table", func(d *driver) {
		for i := range uint16(4) {
			d.Desc(i, bufBase, 1, descNext, i+1)
		}
		d.indirect(4, 5, 0)
		d.Offer(0)
	}, "is longer than the queue's 8"},
}

// indirect puts a chain of n buffers into a table that descriptor i leads to; the
// last has the flags, and a next of n.
func (d *driver) indirect(i uint16, n int, flags uint16) {
	a, b := d.Alloc(n * descSize)
	for j := range n {
		e := b[j*descSize:]
		le.PutUint64(e, uint64(bufBase))
		le.PutUint32(e[8:], 16)
		le.PutUint16(e[12:], descNext)
		if j == n-1 {
			le.PutUint16(e[12:], flags)
		}
		le.PutUint16(e[14:], uint16(j+1))
	}
	d.Desc(i, a, uint32(n*descSize), descIndirect, 0)
}

func TestLies(t *testing.T) {
	for _, c := range lies {
		g := newGuest(t, newEcho())
		for _, features := range []uint64{FeatureIndirectDesc, FeatureIndirectDesc | FeatureEventIdx} {
			d := g.start(features)[0]
			c.lie(d)
			g.serve()
			g.refused(c.name, c.want)
		}
	}
	// An indirect descriptor is an offence where it was not negotiated.
	g := newGuest(t, newEcho())
	d := g.start(0)[0]
	d.indirect(0, 1, 0)
	d.Offer(0)
	g.serve()
	g.refused("indirect without the feature", "indirect descriptor 0 with flags 0x4 and 16 bytes")
}

// TestHarmless: what is unwise of a driver but breaks nothing of the device.
func TestHarmless(t *testing.T) {
	for name, do := range map[string]func(d *driver) (used int){
		"one head twice": func(d *driver) int { d.Desc(0, bufBase, 4, descWrite, 0); d.Offer(0); d.Offer(0); return 2 },
		"a full queue of one head": func(d *driver) int {
			d.Desc(0, bufBase, 4, 0, 0)
			for range 8 {
				d.Offer(0)
			}
			return 8
		},
		"buffers over the rings": func(d *driver) int {
			d.Desc(0, 0, 128, descNext, 1)
			d.Desc(1, 0, 128, descWrite, 0)
			d.Offer(0)
			return 1
		},
		"an empty buffer at the end of memory": func(d *driver) int { d.Desc(0, end, 0, descWrite, 0); d.Offer(0); return 1 },
		"8 buffers in 8 descriptors": func(d *driver) int {
			for i := range uint16(8) {
				d.Desc(i, bufBase, 1, descNext&^(i/7), i+1)
			}
			d.Offer(0)
			return 1
		},
		"8 buffers in an indirect table": func(d *driver) int { d.indirect(7, 8, 0); d.Offer(7); return 1 },
		"3 buffers and 5 in a table": func(d *driver) int {
			for i := range uint16(3) {
				d.Desc(i, bufBase, 1, descNext, i+1)
			}
			d.indirect(3, 5, descWrite)
			d.Offer(0)
			return 1
		},
		"a table with the write flag": func(d *driver) int {
			d.indirect(0, 1, 0)
			le.PutUint16(d.q.desc[12:], descIndirect|descWrite) // is ignored, says section 2.7.5.3.2
			d.Offer(0)
			return 1
		},
	} {
		g := newGuest(t, newEcho())
		d := g.start(FeatureIndirectDesc)[0]
		want := do(d)
		g.serve()
		g.check(name, regStatus, statusRunning)
		n := 0
		for ; ; n++ {
			if _, _, ok := d.Done(); !ok {
				break
			}
		}
		if n != want || g.irqs.Load() != 1 || len(g.errs) != 0 {
			t.Errorf("%s: %d used elements, %d interrupts, errors %v; want %d, 1, none", name, n, g.irqs.Load(), g.errs, want)
		}
	}
}

// TestLog: each lie is told; how many are logged is the monitor's matter.
func TestLog(t *testing.T) {
	g := newGuest(t, newEcho())
	for range 100 {
		g.start(0)[0].Offer(8)
		g.serve()
		g.check("lie", regStatus, statusRunning|statusNeedsReset)
	}
	if len(g.errs) != 100 {
		t.Errorf("100 lies give %d errors; want 100", len(g.errs))
	}
}

// TestResetWhileServing resets, starts and reads registers while the device works.
func TestResetWhileServing(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t, newEcho())
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					g.m.Serve()
					g.get(regStatus)
					g.get(regInterruptStatus)
				}
			}
		})
	}
	for range 300 {
		d := g.start(FeatureEventIdx)
		d[0].Add([][]byte{{1}, {2}}, 2)
		d[1].Add([][]byte{{1}, {2}}, 2)
		g.set(regInterruptACK, 3)
		g.set(regStatus, 0)
		// Without a driver the device touches nothing.
		clear(g.at(usedBase, 0x100))
		g.m.Serve()
		if b := g.at(usedBase, 8); le.Uint64(b) != 0 {
			t.Fatalf("used ring is %x after the reset; want zeros", b)
		}
	}
	close(stop)
	wg.Wait()
}
