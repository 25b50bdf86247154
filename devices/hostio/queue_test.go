package hostio

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

const queueSize = 64

// engines are what a queue can run on.
var engines = map[string]func(fd, n int) (engine, error){"io_uring": newRing, "threads": newPool}

// openQueue opens a disk of size bytes with a queue on an engine.
func openQueue(t testing.TB, size int64, newEngine func(fd, n int) (engine, error)) (*Disk, *queue) {
	t.Helper()
	return openQueueCache(t, size, newEngine, "")
}

func openQueueCache(t testing.TB, size int64, newEngine func(fd, n int) (engine, error), cache string) (*Disk, *queue) {
	t.Helper()
	testutil.CheckFDs(t)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDisk(path, false, cache, 512)
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEngine(d.fd, queueSize)
	if err != nil {
		t.Fatalf("no engine: %v (io_uring needs /proc/sys/kernel/io_uring_disabled to be 0)", err)
	}
	q := &queue{disk: d, slots: make([]slot, queueSize), engine: e}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		d.Close()
	})
	return d, q
}

// one does a single request.
func (q *queue) one(t testing.TB, op devices.DiskOp, bufs [][]byte, off, n int64) syscall.Errno {
	t.Helper()
	q.Do(3, op, bufs, off, n)
	tag, e := q.Done(true)
	if tag != 3 {
		t.Fatalf("Done(true) = %d; want 3", tag)
	}
	return e
}

// cutUp cuts b at random.
func cutUp(rng *rand.Rand, b []byte) (bufs [][]byte) {
	for len(b) > 0 && len(bufs) < 100 {
		n := rng.IntN(len(b) + 1)
		bufs, b = append(bufs, b[:n]), b[n:]
	}
	return append(bufs, b)
}

func TestQueue(t *testing.T) {
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) { testQueue(t, newEngine) })
	}
}

// testQueue compares a queue that is always full with a model. Requests in flight
// never overlap.
func testQueue(t *testing.T, newEngine func(fd, n int) (engine, error)) {
	const (
		part = 1 << 17 // of the disk, one for each tag
		size = queueSize * part
	)
	d, q := openQueue(t, size, newEngine)
	model := make([]byte, size)
	type request struct {
		op     devices.DiskOp
		data   []byte
		off, n int64
	}
	var flying [queueSize]request
	rng := rand.New(rand.NewPCG(1, 2))
	begin := func(tag int) {
		r := request{op: devices.DiskOp(rng.IntN(6)), off: int64(tag*part + rng.IntN(part/2)), n: int64(1 + rng.IntN(part/2))}
		var bufs [][]byte
		switch r.op {
		case devices.DiskFlush:
			r.n = 0
		case devices.DiskDiscard: // whose effect is open
			r.op = devices.DiskZeroFree
		case devices.DiskRead:
			r.data = make([]byte, r.n)
			bufs = cutUp(rng, r.data)
		case devices.DiskWrite:
			r.data = make([]byte, r.n)
			for i := range r.data {
				r.data[i] = byte(rng.Uint32())
			}
			bufs = cutUp(rng, r.data)
		}
		flying[tag] = r
		q.Do(tag, r.op, bufs, r.off, r.n)
	}
	for tag := range flying {
		begin(tag)
	}
	left := queueSize
	for i := 0; left > 0; i++ {
		tag, e := q.Done(true)
		if tag < 0 || e != 0 {
			t.Fatalf("Done = %d, %v; want a tag", tag, e)
		}
		r := &flying[tag]
		switch want := model[r.off:][:r.n]; r.op {
		case devices.DiskRead:
			if !bytes.Equal(r.data, want) {
				t.Fatalf("read of %d bytes at %d gives other bytes than were written", r.n, r.off)
			}
		case devices.DiskWrite:
			copy(want, r.data)
		default:
			clear(want)
		}
		if i < 2000 {
			begin(tag)
		} else {
			left--
		}
	}
	if tag, e := q.Done(false); tag != -1 || e != 0 {
		t.Errorf("Done(false) with nothing in flight = %d, %v; want -1, 0", tag, e)
	}
	got := make([]byte, size)
	if e := d.ReadAt(got, 0); e != 0 || !bytes.Equal(got, model) {
		t.Errorf("the disk has other bytes than were written (%v)", e)
	}
}

// TestQueueLarge moves more than one system call does, and more than there is.
func TestQueueLarge(t *testing.T) {
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			const size = 5*maxIO/2 + 512
			d, q := openQueue(t, size, newEngine)
			rng := rand.New(rand.NewPCG(1, 3))
			data, back := make([]byte, size), make([]byte, size)
			for i := range data {
				data[i] = byte(i * 7 >> 3)
			}
			if e := q.one(t, devices.DiskWrite, cutUp(rng, data), 0, size); e != 0 {
				t.Errorf("write = %v; want 0", e)
			}
			if e := q.one(t, devices.DiskRead, cutUp(rng, back), 0, size); e != 0 || !bytes.Equal(back, data) {
				t.Errorf("read = %v, or other bytes; want what was written", e)
			}
			// The file is cut short under the guest's feet.
			if err := unix.Ftruncate(d.fd, size-1000); err != nil {
				t.Fatal(err)
			}
			for _, off := range []int64{0, size - 512} {
				if e := q.one(t, devices.DiskRead, [][]byte{back[off:]}, off, size-off); e != unix.EIO {
					t.Errorf("read at %d of a file that was cut short = %v; want EIO", off, e)
				}
			}
		})
	}
}

// TestQueuePoll: PollFD becomes readable when something is complete.
func TestQueuePoll(t *testing.T) {
	for name, newEngine := range engines {
		t.Run(name, func(t *testing.T) {
			_, q := openQueue(t, 1<<20, newEngine)
			for range 100 {
				q.Do(7, devices.DiskFlush, nil, 0, 0)
				tag, e := q.Done(false)
				for tag < 0 {
					if n, err := unix.Poll([]unix.PollFd{{Fd: int32(q.PollFD()), Events: unix.POLLIN}}, 10000); n == 0 || err != nil && err != unix.EINTR {
						t.Fatalf("poll = %d, %v; want a flush in 10 s", n, err)
					}
					tag, e = q.Done(false)
				}
				if tag != 7 || e != 0 {
					t.Fatalf("Done = %d, %v; want 7, 0", tag, e)
				}
			}
		})
	}
}

// scripted is an engine with prepared results.
type scripted struct {
	results []int
	started []slot
	tag     int // the last one
}

func (s *scripted) start(tag int, r *slot) {
	s.tag = tag
	c := *r
	c.part = append([]unix.Iovec{}, r.part...)
	s.started = append(s.started, c)
}
func (s *scripted) reap(bool) (int, int) {
	r := s.results[0]
	s.results = s.results[1:]
	return s.tag, r
}
func (s *scripted) pollFD() int  { return -1 }
func (s *scripted) Close() error { return nil }

// TestQueueResults: what each result of a system call leads to.
func TestQueueResults(t *testing.T) {
	const intr, again, cancelled, nosup, eio, nospc = -int(unix.EINTR), -int(unix.EAGAIN), -int(unix.ECANCELED), -int(unix.EOPNOTSUPP), -int(unix.EIO), -int(unix.ENOSPC)
	for _, tt := range []struct {
		name    string
		op      devices.DiskOp
		results []int
		want    syscall.Errno
		calls   []int64 // offset and length of each
	}{
		{"whole", devices.DiskRead, []int{1000}, 0, []int64{50, 1000}},
		{"again", devices.DiskWrite, []int{intr, again, cancelled, 1000}, 0, []int64{50, 1000, 50, 1000, 50, 1000, 50, 1000}},
		{"pieces", devices.DiskWrite, []int{100, 299, 1, 600}, 0, []int64{50, 1000, 150, 900, 449, 601, 450, 600}},
		{"end of file", devices.DiskRead, []int{100, 0}, unix.EIO, []int64{50, 1000, 150, 900}},
		{"error in the middle", devices.DiskWrite, []int{100, nospc}, unix.ENOSPC, []int64{50, 1000, 150, 900}},
		{"flush", devices.DiskFlush, []int{intr, 0}, 0, nil},
		{"discard", devices.DiskDiscard, []int{0}, 0, nil},
		{"discard that the file system cannot do", devices.DiskDiscard, []int{nosup}, 0, nil},
		{"discard that fails", devices.DiskDiscard, []int{eio}, unix.EIO, nil},
		{"zeroes", devices.DiskZero, []int{0}, 0, nil},
		{"zeroes by writing", devices.DiskZero, []int{nosup, 400, 600}, 0, []int64{50, 1000, 450, 600}},
		{"zeroes by writing fails", devices.DiskZeroFree, []int{nosup, nospc}, unix.ENOSPC, []int64{50, 1000}},
	} {
		s := &scripted{results: tt.results}
		q := &queue{disk: &Disk{}, slots: make([]slot, 1), engine: s}
		var bufs [][]byte
		if tt.op <= devices.DiskWrite {
			bufs = [][]byte{make([]byte, 100), {}, make([]byte, 300), make([]byte, 600)}
		}
		q.Do(0, tt.op, bufs, 50, 1000)
		if tag, e := q.Done(true); tag != 0 || e != tt.want || len(s.results) != 0 {
			t.Errorf("%s: Done = %d, %v with %d results left; want 0, %v and none", tt.name, tag, e, len(s.results), tt.want)
		}
		var calls []int64
		for _, c := range s.started {
			if c.op > devices.DiskWrite {
				continue
			}
			n := int64(0)
			for _, v := range c.part {
				n += int64(v.Len)
			}
			calls = append(calls, c.off, n)
		}
		if !slices.Equal(calls, tt.calls) {
			t.Errorf("%s: calls at and of %v; want %v", tt.name, calls, tt.calls)
		}
	}
}

// TestQueueFlushFails: a flush that has failed fails for ever.
func TestQueueFlushFails(t *testing.T) {
	s := &scripted{results: []int{-int(unix.EIO), 0}}
	q := &queue{disk: &Disk{}, slots: make([]slot, 1), engine: s}
	for range 2 {
		q.Do(0, devices.DiskFlush, nil, 0, 0)
		if _, e := q.Done(true); e != unix.EIO {
			t.Errorf("flush = %v; want EIO, now and later", e)
		}
	}
}

// TestQueueFlushOrder: one flush at a time, in their order.
func TestQueueFlushOrder(t *testing.T) {
	s := &scripted{results: []int{0, -int(unix.EIO), 0}}
	q := &queue{disk: &Disk{}, slots: make([]slot, 3), engine: s}
	for tag := range 3 {
		q.Do(tag, devices.DiskFlush, nil, 0, 0)
	}
	for tag, want := range []syscall.Errno{0, unix.EIO, unix.EIO} {
		if n := len(s.started); n != tag+1 {
			t.Errorf("%d flushes have begun when %d are complete; want one more", n, tag)
		}
		if got, e := q.Done(true); got != tag || e != want {
			t.Errorf("Done = %d, %v; want %d, %v", got, e, tag, want)
		}
	}
}

func TestQueueAllocs(t *testing.T) {
	for name, newEngine := range engines {
		_, q := openQueue(t, 1<<20, newEngine)
		bufs := [][]byte{make([]byte, 4096), make([]byte, 512)}
		if n := testing.AllocsPerRun(100, func() {
			q.Do(0, devices.DiskWrite, bufs, 0, 4608)
			q.Do(1, devices.DiskRead, bufs, 8192, 4608)
			q.Done(true)
			q.Done(true)
		}); n != 0 {
			t.Errorf("%s: a write and a read allocate %v times; want 0", name, n)
		}
	}
}
