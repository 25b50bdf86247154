package hostio

import (
	"cmp"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// maxIO is what one system call moves at most, in bytes: one that finds everything in
// the page cache copies it then and there.
const maxIO = 1 << 20

// Of direct I/O: maxAlign is the strictest alignment, and bounceSize what a request with
// buffers that are not aligned moves at a time, in bytes. The memory allocator aligns
// what is as large.
const (
	maxAlign   = 4096
	bounceSize = 64 << 10
)

// fallocateModes of the operations that have one (fallocate(2)).
var fallocateModes = [...]uint32{
	devices.DiskDiscard:  unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE,
	devices.DiskZero:     unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_ZERO_RANGE,
	devices.DiskZeroFree: unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE,
}

// zeroes is what is written where the file system cannot zero a range by itself.
var zeroes = sync.OnceValue(func() []byte { return make([]byte, bounceSize) })

// slot is a request of a queue.
type slot struct {
	op   devices.DiskOp
	zero bool         // a write of zeroes
	iov  []unix.Iovec // from index at what is left; empty for zeroes
	at   int
	off  int64
	left int64
	part []unix.Iovec // the next system call's share, up to maxIO bytes

	tag, res int    // of a pool's
	bounce   []byte // what part is where s.iov is not aligned, up to bounceSize bytes
}

// engine has the kernel carry out a slot's next system call.
type engine interface {
	start(tag int, s *slot)
	// reap begins what was started and returns a result as system calls of Linux do:
	// negative errors. Without one it waits, or returns a tag of -1.
	reap(wait bool) (tag, res int)
	pollFD() int
	Close() error
}

// queue is a disk's devices.DiskQueue.
type queue struct {
	disk  *Disk
	slots []slot
	// flushes are the tags of flushes, and failed what the first that failed gave. Only
	// the first tag has begun: the kernel tells a lost page once, to one of those that run
	// together, forgets it, and would call the others and the next ones a success.
	flushes []int
	failed  syscall.Errno
	engine
}

// Queue uses io_uring, or where that is not allowed a few threads.
func (d *Disk) Queue(n int) (_ devices.DiskQueue, err error) {
	q := &queue{disk: d, slots: make([]slot, n)}
	if q.engine, err = newRing(d.fd, n); err != nil {
		q.engine, err = newPool(d.fd, n)
	}
	return q, err
}

func (q *queue) PollFD() int { return q.pollFD() }

func (q *queue) Do(tag int, op devices.DiskOp, bufs [][]byte, off, n int64) {
	if op == devices.DiskFlush && q.disk.unsafe {
		op = devices.DiskRead // of nothing
	}
	q.slots[tag].set(op, bufs, off, n)
	if op == devices.DiskFlush {
		if q.flushes = append(q.flushes, tag); len(q.flushes) > 1 {
			return
		}
	}
	q.begin(tag)
}

func (s *slot) set(op devices.DiskOp, bufs [][]byte, off, n int64) {
	s.op, s.zero, s.off, s.left, s.at, s.iov = op, false, off, n, 0, appendIovecs(s.iov[:0], bufs)
}

// begin starts the next system call of a request.
func (q *queue) begin(tag int) {
	s := &q.slots[tag]
	s.tag = tag
	if s.op <= devices.DiskWrite {
		s.cut(q.disk.align)
	}
	q.start(tag, s)
}

// cut takes the first maxIO bytes of what is left for part, or where direct I/O needs
// aligned buffers and these are not, a copy of fewer.
func (s *slot) cut(align int) {
	s.part, s.bounce = s.part[:0], s.bounce[:0]
	room, skewed := uint64(min(s.left, maxIO)), false
	for i := s.at; room > 0; i++ {
		var v unix.Iovec
		if s.zero {
			v = iovec(zeroes())
		} else {
			v = s.iov[i]
			skewed = skewed || misaligned(v, align)
		}
		v.Len = min(v.Len, room)
		room -= v.Len
		s.part = append(s.part, v)
	}
	if skewed {
		s.bounce = slices.Grow(s.bounce, bounceSize)[:min(s.left, bounceSize)]
		for i, n := s.at, 0; n < len(s.bounce); i++ {
			n += copy(s.bounce[n:], bytesOf(s.iov[i])) // of use for a write
		}
		s.part = append(s.part[:0], iovec(s.bounce))
	}
}

// Done follows up on what system calls left over.
func (q *queue) Done(wait bool) (int, syscall.Errno) {
	for {
		tag, res := q.reap(wait)
		if tag < 0 {
			return -1, 0
		}
		if e, done := q.finish(&q.slots[tag], res); done {
			return tag, e
		}
		q.begin(tag)
	}
}

// finish takes the result of a request's system call, and says whether that was the
// last one.
func (q *queue) finish(s *slot, res int) (e syscall.Errno, done bool) {
	switch e = syscall.Errno(max(0, -res)); {
	case e == unix.EINTR || e == unix.EAGAIN || e == unix.ECANCELED: // a thread of ours has ended
		return 0, false
	case s.op == devices.DiskFlush:
		if q.flushes = slices.Delete(q.flushes, 0, 1); len(q.flushes) > 0 {
			q.begin(q.flushes[0])
		}
		q.failed = cmp.Or(q.failed, e)
		return q.failed, true
	case e == unix.EOPNOTSUPP && s.op == devices.DiskDiscard:
		return 0, true
	case e == unix.EOPNOTSUPP && s.op > devices.DiskDiscard:
		s.op, s.zero = devices.DiskWrite, true
		return 0, false
	case s.op > devices.DiskFlush:
		return e, true
	}
	e = s.moved(res)
	return e, e != 0 || s.left == 0
}

// moved notes the result of a read's or write's system call.
func (s *slot) moved(res int) syscall.Errno {
	if res < 0 || res == 0 && s.left > 0 { // the file was cut short
		return cmp.Or(syscall.Errno(-res), unix.EIO)
	}
	for i, n := s.at, 0; s.op == devices.DiskRead && n < min(res, len(s.bounce)); i++ {
		n += copy(bytesOf(s.iov[i]), s.bounce[n:res])
	}
	s.off, s.left = s.off+int64(res), s.left-int64(res)
	for n := uint64(res); s.at < len(s.iov); s.at++ {
		if n < s.iov[s.at].Len {
			skip(&s.iov[s.at], n)
			break
		}
		n -= s.iov[s.at].Len
	}
	return 0
}

// poolThreads is how many system calls a pool makes at a time.
const poolThreads = 4

// pool is an engine of goroutines, whose system calls block.
type pool struct {
	work, done chan *slot
	wake       *Event
	wg         sync.WaitGroup
}

func newPool(fd, n int) (engine, error) {
	wake, err := NewEvent()
	if err != nil {
		return nil, err
	}
	p := &pool{work: make(chan *slot, n), done: make(chan *slot, n), wake: wake}
	for range poolThreads {
		p.wg.Go(func() {
			for s := range p.work {
				s.res = call(fd, s)
				p.done <- s
				p.wake.Signal()
			}
		})
	}
	return p, nil
}

func (p *pool) start(_ int, s *slot) { p.work <- s }

func (p *pool) reap(wait bool) (tag, res int) {
	if !wait {
		p.wake.Clear() // before the look, so that none is missed
		if len(p.done) == 0 {
			return -1, 0
		}
	}
	s := <-p.done
	return s.tag, s.res
}

func (p *pool) pollFD() int { return p.wake.PollFD() }

func (p *pool) Close() error {
	close(p.work)
	p.wg.Wait()
	return p.wake.Close()
}
