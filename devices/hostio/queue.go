package hostio

import (
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
	iov  []unix.Iovec // what is left; empty for zeroes
	off  int64
	left int64
	part []unix.Iovec // the next system call's share, up to maxIO bytes

	bounced bool
	bounce  []byte // bounceSize bytes, aligned, once they were needed
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
	// flushes are the tags of flushes. Only the first has begun: the kernel tells a
	// lost page to one of those that run together, and the others succeed.
	flushes []int
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
	s.op, s.zero, s.off, s.left, s.iov = op, false, off, n, appendIovecs(s.iov[:0], bufs)
}

// begin starts the next system call of a request.
func (q *queue) begin(tag int) {
	s := &q.slots[tag]
	if s.op <= devices.DiskWrite {
		s.cut(q.disk.align)
	}
	q.start(tag, s)
}

// cut takes the first maxIO bytes of what is left for part, or where direct I/O needs
// aligned buffers and these are not, a copy of fewer.
func (s *slot) cut(align int) {
	s.part, s.bounced = s.part[:0], false
	room := uint64(min(s.left, maxIO))
	for i := 0; room > 0; i++ {
		var v unix.Iovec
		if s.zero {
			v = iovec(zeroes())
		} else {
			v = s.iov[i]
		}
		v.Len = min(v.Len, room)
		room -= v.Len
		s.part = append(s.part, v)
		s.bounced = s.bounced || align > 0 && !s.zero && (misaligned(v, align) != 0 || v.Len%uint64(align) != 0)
	}
	if !s.bounced {
		return
	}
	if s.bounce == nil {
		s.bounce = make([]byte, bounceSize)
	}
	b := s.bounce[:min(s.left, bounceSize)]
	if s.op == devices.DiskWrite {
		copyIovecs(s.iov, b, false)
	}
	s.part = appendIovecs(s.part[:0], [][]byte{b})
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
	if res < 0 {
		e = syscall.Errno(-res)
	}
	switch {
	case e == unix.EINTR || e == unix.EAGAIN || e == unix.ECANCELED: // a thread of ours has ended
		return 0, false
	case s.op == devices.DiskFlush:
		if q.flushes = slices.Delete(q.flushes, 0, 1); len(q.flushes) > 0 {
			q.begin(q.flushes[0])
		}
		return q.disk.flushed(e), true
	case e == unix.EOPNOTSUPP && s.op == devices.DiskDiscard:
		return 0, true
	case e == unix.EOPNOTSUPP && s.op > devices.DiskDiscard:
		s.op, s.zero = devices.DiskWrite, true
		return 0, false
	case e != 0 || s.op > devices.DiskFlush:
		return e, true
	}
	e = s.moved(res)
	return e, e != 0 || s.left == 0
}

// moved notes the result of a read's or write's system call.
func (s *slot) moved(res int) syscall.Errno {
	if res < 0 {
		return syscall.Errno(-res)
	} else if res == 0 && s.left > 0 { // the file was cut short
		return unix.EIO
	}
	if s.bounced && s.op == devices.DiskRead {
		copyIovecs(s.iov, s.bounce[:res], true)
	}
	s.off, s.left = s.off+int64(res), s.left-int64(res)
	n, gone := uint64(res), 0
	for gone < len(s.iov) && n >= s.iov[gone].Len {
		n -= s.iov[gone].Len
		gone++
	}
	if s.iov = slices.Delete(s.iov, 0, gone); len(s.iov) > 0 {
		skip(&s.iov[0], n)
	}
	return 0
}

// poolThreads is how many system calls a pool makes at a time.
const poolThreads = 4

// pool is an engine of goroutines, whose system calls block.
type pool struct {
	work chan job
	done chan [2]int // tag and result
	wake *Event
	wg   sync.WaitGroup
}

type job struct {
	tag int
	s   *slot
}

func newPool(fd, n int) (engine, error) {
	wake, err := NewEvent()
	if err != nil {
		return nil, err
	}
	p := &pool{work: make(chan job, n), done: make(chan [2]int, n), wake: wake}
	for range poolThreads {
		p.wg.Go(func() {
			for j := range p.work {
				p.done <- [2]int{j.tag, call(fd, j.s)}
				p.wake.Signal()
			}
		})
	}
	return p, nil
}

func (p *pool) start(tag int, s *slot) { p.work <- job{tag, s} }

func (p *pool) reap(wait bool) (tag, res int) {
	if wait {
		d := <-p.done
		return d[0], d[1]
	}
	p.wake.Clear() // before the look, so that none is missed
	select {
	case d := <-p.done:
		return d[0], d[1]
	default:
		return -1, 0
	}
}

func (p *pool) pollFD() int { return p.wake.PollFD() }

func (p *pool) Close() error {
	close(p.work)
	p.wg.Wait()
	return p.wake.Close()
}
