package hostio

import (
	"errors"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// What uvm uses of io_uring (io_uring_setup(2), io_uring_enter(2), linux/io_uring.h).
const (
	ringOffSQEs = 0x10000000 // mmap offset; the rings are at 0

	// One mapping for both rings, no completion lost, what an entry points to is read
	// when it is submitted, and, as a sign of Linux 5.7, fast poll: it has all operations.
	ringFeatures = 1<<0 | 1<<1 | 1<<2 | 1<<5

	ringGetEvents = 1 << 0 // IORING_ENTER_GETEVENTS
	fsyncDataOnly = 1 << 0 // IORING_FSYNC_DATASYNC
)

// ringOps are the operations' opcodes.
var ringOps = [...]uint8{
	devices.DiskRead: 1, devices.DiskWrite: 2, devices.DiskFlush: 3,
	devices.DiskDiscard: 17, devices.DiskZero: 17, devices.DiskZeroFree: 17,
}

// ringParams is struct io_uring_params, sqe struct io_uring_sqe and cqe struct
// io_uring_cqe.
type (
	ringParams struct {
		sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
		_                                                                      [3]uint32
		sq                                                                     struct {
			head, tail, mask, entries, flags, dropped, array, _ uint32
			_                                                   uint64
		}
		cq struct {
			head, tail, mask, entries, overflow, cqes, flags, _ uint32
			_                                                   uint64
		}
	}
	sqe struct {
		opcode, flags uint8
		ioprio        uint16
		fd            int32
		off, addr     uint64
		len, opFlags  uint32
		userData      uint64
		_             [24]byte
	}
	cqe struct {
		userData uint64
		res      int32
		flags    uint32
	}
)

// ring is an engine that is an io_uring. The kernel writes sqHead and cqTail, we
// sqTail and cqHead.
type ring struct {
	fd, disk                       int
	rings, entries                 []byte
	sqHead, sqTail, cqHead, cqTail *uint32
	sqes                           []sqe
	cqes                           []cqe
}

// newRing makes a ring for n requests at a time.
func newRing(disk, n int) (_ engine, err error) {
	var p ringParams
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(n), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, errno
	}
	r := &ring{fd: int(fd), disk: disk}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if p.features&ringFeatures != ringFeatures {
		return nil, errors.New("this kernel's io_uring is too old")
	}
	size := max(int(p.sq.array+4*p.sqEntries), int(p.cq.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(cqe{})))
	if r.rings, err = unix.Mmap(r.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, err
	}
	if r.entries, err = unix.Mmap(r.fd, ringOffSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, err
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqHead, r.sqTail, r.cqHead, r.cqTail = word(p.sq.head), word(p.sq.tail), word(p.cq.head), word(p.cq.tail)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.entries[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.rings[p.cq.cqes])), p.cqEntries)
	for i := range p.sqEntries { // an entry's place in the queue is its number
		*word(p.sq.array + 4*i) = i
	}
	return r, nil
}

// start fills an entry. There is room: entries are as many as tags, and a tag has
// one.
func (r *ring) start(tag int, s *slot) {
	tail := *r.sqTail
	e := &r.sqes[tail&uint32(len(r.sqes)-1)]
	*e = sqe{opcode: ringOps[s.op], fd: int32(r.disk), off: uint64(s.off), userData: uint64(tag)}
	switch s.op {
	case devices.DiskRead, devices.DiskWrite:
		e.addr, e.len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(s.part)))), uint32(len(s.part))
	case devices.DiskFlush:
		e.off, e.opFlags = 0, fsyncDataOnly
	default:
		e.addr, e.len = uint64(s.left), fallocateModes[s.op]
	}
	atomic.StoreUint32(r.sqTail, tail+1)
}

func (r *ring) reap(wait bool) (tag, res int) {
	for {
		head := *r.cqHead
		if head != atomic.LoadUint32(r.cqTail) {
			c := &r.cqes[head&uint32(len(r.cqes)-1)]
			tag, res = int(c.userData), int(c.res)
			atomic.StoreUint32(r.cqHead, head+1)
			return tag, res
		}
		begin, least, flags := *r.sqTail-atomic.LoadUint32(r.sqHead), uintptr(0), uintptr(0)
		if wait {
			least, flags = 1, ringGetEvents
		} else if begin == 0 {
			return -1, 0
		}
		_, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(begin), least, flags, 0, 0)
		switch e {
		case 0, unix.EINTR:
		case unix.EAGAIN, unix.EBUSY: // the kernel is short of memory, or has completions to deliver
			unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, 1)
		default: // nothing that we hand over makes it fail
			if begin > 0 { // take the last one back
				tail := *r.sqTail - 1
				atomic.StoreUint32(r.sqTail, tail)
				return int(r.sqes[tail&uint32(len(r.sqes)-1)].userData), -int(e)
			}
			unix.Poll(nil, 1)
		}
	}
}

func (r *ring) pollFD() int { return r.fd }

func (r *ring) Close() error {
	err := unix.Close(r.fd)
	for _, m := range [...][]byte{r.rings, r.entries} {
		if m != nil {
			err = errors.Join(err, unix.Munmap(m))
		}
	}
	return err
}

// call makes a slot's next system call at once, for the pool.
func call(fd int, s *slot) (res int) {
	var n uintptr
	var e syscall.Errno
	switch s.op {
	case devices.DiskRead, devices.DiskWrite:
		nr := uintptr(unix.SYS_PREADV)
		if s.op == devices.DiskWrite {
			nr = unix.SYS_PWRITEV
		}
		n, _, e = unix.Syscall6(nr, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(s.part))), uintptr(len(s.part)), uintptr(s.off), 0, 0)
	case devices.DiskFlush:
		e = errno(unix.Fdatasync(fd))
	default:
		e = errno(unix.Fallocate(fd, fallocateModes[s.op], s.off, s.left))
	}
	if e != 0 {
		return -int(e)
	}
	return int(n)
}
