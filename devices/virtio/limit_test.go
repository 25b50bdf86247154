package virtio

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// testClock is a limiter's clock that stands still.
type testClock struct{ t time.Time }

func (c *testClock) limiter(l devices.Limit) *devices.Limiter {
	return devices.NewLimiter(l, func() time.Time { return c.t })
}

// TestBlkLimitCost: what each kind of request costs, in operations and bytes.
func TestBlkLimitCost(t *testing.T) {
	for _, c := range []struct {
		name      string
		out       [][]byte
		in        []int
		bytes     time.Duration // 1e9 in a second
		readOnly  bool
		wantError bool
	}{
		{"read", [][]byte{blkHeader(blkIn, 1)}, []int{512, 512, 1}, 1024, false, false},
		{"write", [][]byte{blkHeader(blkOut, 1), make([]byte, 512)}, []int{1}, 512, false, false},
		{"flush", [][]byte{blkHeader(blkSync, 0)}, []int{1}, 0, false, false},
		{"name", [][]byte{blkHeader(blkGetID, 0)}, []int{20, 1}, 0, false, false},
		{"discard", [][]byte{blkHeader(blkDiscardKind, 0), blkSegment(0, 8, 0)}, []int{1}, 0, false, false},
		// The host's file system may have to write them.
		{"zeroes", [][]byte{blkHeader(blkZeroesKind, 0), blkSegment(0, 8, 0)}, []int{1}, 4096, false, false},
		{"zeroes with unmap", [][]byte{blkHeader(blkZeroesKind, 0), blkSegment(0, 8, 1)}, []int{1}, 4096, false, false},
		{"write to a disk that may be read", [][]byte{blkHeader(blkOut, 1), make([]byte, 512)}, []int{1}, 0, true, true},
		{"read past the end", [][]byte{blkHeader(blkIn, 8)}, []int{512, 1}, 0, false, true},
		{"nothing known", [][]byte{blkHeader(99, 0)}, []int{1}, 0, false, true},
	} {
		for _, ops := range []bool{false, true} {
			clock := &testClock{time.Unix(0, 0)}
			limit, want := devices.Limit{Bytes: 1e9, Burst: 1}, c.bytes*time.Nanosecond-1
			if ops {
				limit, want = devices.Limit{Ops: 1, Burst: 1}, time.Second-1
			}
			r := newBlkRig(t, newFakeDisk(t, 4096), c.readOnly, 0)
			r.b.Limit = clock.limiter(limit)
			if status, _, _ := r.request(c.out, c.in...); status != blkOK != c.wantError {
				t.Errorf("%s: status %d", c.name, status)
			}
			if got := max(r.b.Limit.Wait(), 0); got != max(want, 0) {
				t.Errorf("%s, operations %v: the next request waits %v; want %v", c.name, ops, got, max(want, 0))
			}
		}
	}
}

// TestBlkLimit: requests beyond the rate stay in the queue, in their order, and none is
// lost. Those in flight complete meanwhile.
func TestBlkLimit(t *testing.T) {
	clock := &testClock{time.Unix(0, 0)}
	disk := newFakeDisk(t, 64<<10)
	disk.hold = true
	b, err := NewBlk(disk, false, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Limit = clock.limiter(devices.Limit{Bytes: 1 << 20, Ops: 1000, Burst: time.Millisecond})
	g := newGuest(t, b)
	d := g.start(FeatureEventIdx)[0]
	const n = 20
	for i := range n {
		data := bytes.Repeat([]byte{byte(i)}, 512)
		d.Add([][]byte{blkHeader(blkOut, uint64(i)), data}, 1)
	}
	started, ticks := 0, 0
	for ; started < n && ticks < 100; ticks++ {
		timeout, _ := g.m.Serve()
		now := len(disk.queue.all)
		switch {
		case now > started+2: // a burst of 1 ms has one operation, and one more
			t.Fatalf("%d requests began within a millisecond; want up to 2", now-started)
		case now < n && timeout != 1 && timeout != 2:
			t.Fatalf("Serve() = timeout %d with %d of %d requests begun; want 1 or 2 ms", timeout, now, n)
		}
		if again, _ := g.m.Serve(); again != timeout && now < n || len(disk.queue.all) != now {
			t.Fatalf("a second round begins %d requests, timeout %d; want none, %d", len(disk.queue.all)-now, again, timeout)
		}
		started, clock.t = now, clock.t.Add(time.Millisecond)
	}
	if started != n || ticks < n-2 {
		t.Errorf("%d of %d requests began in %d ms; want all, in %d or more", started, n, ticks, n-2)
	}
	if timeout, fd := g.m.Serve(); timeout != -1 || fd != disk.queue.PollFD() {
		t.Errorf("Serve() = %d, %d with all in flight; want -1 and the disk's descriptor", timeout, fd)
	}
	for i, r := range disk.queue.all {
		if r.off != int64(i)*sectorSize {
			t.Errorf("request %d is at %d; want the order of the queue", i, r.off)
		}
	}
	disk.hold = false
	g.serve()
	for i := range n {
		if _, _, ok := d.Done(); !ok {
			t.Fatalf("request %d is not done", i)
		}
		if got := disk.data[i*sectorSize]; got != byte(i) {
			t.Errorf("sector %d begins with %d; want %d", i, got, i)
		}
	}
}

// TestNetLimitSend: frames beyond the rate stay in the queue, and go out in their order.
func TestNetLimitSend(t *testing.T) {
	clock := &testClock{time.Unix(0, 0)}
	r := newNetRig(t, 0)
	r.n.TxLimit = clock.limiter(devices.Limit{Bytes: 60_000, Burst: 1}) // a frame in a millisecond
	for i := range 5 {
		r.tx.Add([][]byte{make([]byte, netHeaderSize), ethernet(60, byte(i))})
	}
	for i := range 5 {
		r.serve()
		if len(r.nic.out) != i+1 || r.nic.out[i][59] != byte(i) {
			t.Fatalf("after %d ms: %d frames went out; want %d, in their order", i, len(r.nic.out), i+1)
		}
		if wait, want := r.tx.q.wait, time.Millisecond-1; wait != want || r.tx.q.more {
			t.Errorf("frame %d: the queue waits %v, more at once: %v; want %v, false", i, wait, r.tx.q.more, want)
		}
		clock.t = clock.t.Add(time.Millisecond)
	}
	r.dropped("after all", 0, 0)
	// The other direction has no limit.
	r.rx.Add(nil, 1526)
	r.nic.in = [][]byte{ethernet(60, 9)}
	r.serve()
	if _, _, ok := r.rx.Done(); !ok {
		t.Error("a frame to the guest waits; want a limit for those from it only")
	}
}

// TestNetLimitReceive: beyond the rate the NIC is neither read nor waited for.
func TestNetLimitReceive(t *testing.T) {
	for _, hdr := range []int{0, netHeaderSize} {
		clock := &testClock{time.Unix(0, 0)}
		r := newNetRig(t, hdr)
		r.n.RxLimit = clock.limiter(devices.Limit{Bytes: 60_000, Ops: 1e6, Burst: 1})
		for i := range 4 {
			r.rx.Add(nil, 1526)
			r.nic.in = append(r.nic.in, ethernet(60, byte(i)))
		}
		for i := range 3 {
			r.serve()
			if r.nic.reads != i+1 || r.n.PollFD() != -1 || r.rx.q.wait != time.Millisecond-1 {
				t.Errorf("header %d, after %d ms: %d reads, PollFD %d, the queue waits %v; want %d, -1, %v",
					hdr, i, r.nic.reads, r.n.PollFD(), r.rx.q.wait, i+1, time.Millisecond-1)
			}
			if _, used, ok := r.rx.Done(); !ok || used != netHeaderSize+60 {
				t.Errorf("frame %d: %d bytes, %v; want %d", i, used, ok, netHeaderSize+60)
			}
			clock.t = clock.t.Add(time.Millisecond)
		}
		// The driver is gone meanwhile, and comes back.
		r.restart()
		r.rx.Add(nil, 1526)
		r.rx.Add(nil, 1526)
		r.serve()
		if _, _, ok := r.rx.Done(); !ok || r.nic.reads != 4 {
			t.Error("the last frame does not reach the next driver")
		}
		clock.t = clock.t.Add(time.Second)
		r.serve()
		if r.n.PollFD() != 123 || r.rx.q.wait > 0 {
			t.Errorf("PollFD() = %d, the queue waits %v, with nothing to read; want the NIC's, 0", r.n.PollFD(), r.rx.q.wait)
		}
		// Only the other queue is there.
		r.n.Reset()
		r.n.Start(FeatureVersion1, []*Queue{nil, r.tx.q})
		if err := r.n.Serve(); err != nil {
			t.Error(err)
		}
	}
}

// TestLimitWithoutQueue: a driver that enables nothing meets no limiter.
func TestLimitWithoutQueue(t *testing.T) {
	clock := &testClock{time.Unix(0, 0)}
	r := newNetRig(t, 0)
	r.n.TxLimit = clock.limiter(devices.Limit{Ops: 1, Burst: 1})
	r.n.TxLimit.Wait()
	r.n.TxLimit.Take(0, 9)
	r.n.Reset()
	r.n.Start(FeatureVersion1, []*Queue{nil, nil})
	if err := r.n.Serve(); err != nil {
		t.Error(err)
	}
}

// counted counts a disk's rounds.
type counted struct {
	*Blk
	rounds atomic.Int32
}

func (c *counted) Serve() error {
	c.rounds.Add(1)
	return c.Blk.Serve()
}

// TestWorkLimit: the worker sleeps until the next request may begin, and does it with few
// rounds. It can be reset and stopped at once meanwhile.
func TestWorkLimit(t *testing.T) {
	testutil.CheckFDs(t)
	disk := newFakeDisk(t, 4096)
	dev := &counted{Blk: blkOf(0)}
	dev.disk, dev.capacity = disk, 8
	dev.io, _ = disk.Queue(blkQueueSize)
	const rate, n = 50, 6 // a request every 20 ms
	dev.Limit = devices.NewLimiter(devices.Limit{Ops: rate, Burst: 1}, time.Now)
	g := newGuest(t, dev)
	w := g.work(t)
	d := g.start(0)[0]
	w.idle()
	rounds, start := dev.rounds.Load(), time.Now()
	for range n {
		d.Add([][]byte{blkHeader(blkIn, 0)}, 512, 1)
	}
	signal(t, w.kick)
	for range n {
		d.waitUsed()
	}
	if took, least := time.Since(start), (n-1)*time.Second/rate; took < least {
		t.Errorf("%d requests took %v; want %v at least", n, took, least)
	}
	if got := dev.rounds.Load() - rounds; got > 3*n {
		t.Errorf("%d rounds for %d requests; want about one for each", got, n)
	}

	// An hour of debt.
	g.m.mu.Lock()
	dev.Limit.Take(0, 3600*rate)
	g.m.mu.Unlock()
	w.idle()
	rounds = dev.rounds.Load()
	d.Add([][]byte{blkHeader(blkIn, 0)}, 512, 1)
	signal(t, w.kick)
	testutil.Until(t, "the doorbell to be heard", func() bool { return dev.rounds.Load() > rounds })
	w.idle()
	if _, _, ok := d.Done(); ok {
		t.Error("a request went through an hour too early")
	}
	g.set(regStatus, 0)
	g.check("after the reset", regStatus, 0)
	g.start(0)
	w.end()
	unix.Read(w.stop, make([]byte, 8))
}

// TestTimeout: of all queues, the one whose turn comes first counts.
func TestTimeout(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		waits []time.Duration
		more  bool
		want  int
	}{
		{[]time.Duration{0, 0}, false, -1}, {[]time.Duration{-ms, -5 * ms}, false, -1}, {[]time.Duration{0, 5 * ms}, false, 6},
		{[]time.Duration{9 * ms, 5*ms - 1}, false, 5}, {[]time.Duration{1, 0}, false, 1}, {[]time.Duration{9 * ms, 0}, true, 0},
		{[]time.Duration{1 << 61, 0}, false, 1<<31 - 1}, {[]time.Duration{1 << 61, 3 * ms}, false, 4},
	} {
		g := newGuest(t, waiting{newEcho(), c.waits, c.more})
		g.start(0)
		if got, _ := g.m.Serve(); got != c.want {
			t.Errorf("Serve() with queues that wait %v, more at once %v = %d; want %d", c.waits, c.more, got, c.want)
		}
	}
}

// waiting is an echo whose queues have to wait.
type waiting struct {
	*echo
	waits []time.Duration
	more  bool
}

func (d waiting) Serve() error {
	for i, w := range d.waits {
		d.q[i].wait = w
	}
	d.q[1].more = d.more
	return nil
}

// TestLimitAllocs: a limit does not allocate.
func TestLimitAllocs(t *testing.T) {
	r := newBlkRig(t, newFakeDisk(t, 4096), false, 0)
	r.disk.calls = nil
	r.b.Limit = devices.NewLimiter(devices.Limit{Bytes: 1 << 40, Ops: 1 << 40}, time.Now)
	head, _ := r.Add([][]byte{blkHeader(blkOut, 1), make([]byte, 512)}, 1)
	if n := testing.AllocsPerRun(100, func() {
		r.Offer(head)
		if err := r.rounds(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a write under a limit allocates %v times; want 0", n)
	}
	net := newNetRig(t, netHeaderSize)
	net.n.nic = &quietNIC{fakeNIC{hdr: 12}}
	net.n.TxLimit, net.n.RxLimit = r.b.Limit, r.b.Limit
	rx, _ := net.rx.Add(nil, 1526)
	tx, _ := net.tx.Add([][]byte{make([]byte, 12), ethernet(60, 1)})
	if n := testing.AllocsPerRun(100, func() {
		net.rx.Offer(rx)
		net.tx.Offer(tx)
		net.serve()
	}); n != 0 {
		t.Errorf("frames under a limit allocate %v times; want 0", n)
	}
}
