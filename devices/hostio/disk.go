package hostio

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// Disk is a raw image: a regular file or a block device.
type Disk struct {
	fd     int
	size   int64
	ro     bool
	unsafe bool // a flush does nothing
	align  int  // what direct I/O asks of addresses, offsets and lengths, in bytes; 0: it is not used

	mu     sync.Mutex
	failed syscall.Errno // what the first failed flush gave; under mu
	slot   slot          // of ReadAt and WriteAt; under mu
}

// OpenDisk opens the image at path and locks it: exclusively, or shared with
// other readers where readOnly is set. The lock is flock(2)'s and ends with
// the descriptor, so that a killed monitor leaves none behind. cache is "none" for
// direct I/O (O_DIRECT), or "unsafe" for flushes that do nothing.
func OpenDisk(path string, readOnly bool, cache string) (*Disk, error) {
	op, flags, lock := "open for writing", unix.O_RDWR, unix.LOCK_EX
	if readOnly {
		op, flags, lock = "open", unix.O_RDONLY, unix.LOCK_SH
	}
	direct := cache == "none"
	if direct {
		flags |= unix.O_DIRECT
	}
	// O_NONBLOCK keeps the open of a FIFO from hanging.
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == unix.EINVAL && direct {
		err = errNoDirect
	}
	if err != nil {
		return nil, &Error{path, op, err}
	}
	d := &Disk{fd: fd, ro: readOnly, unsafe: cache == "unsafe"}
	if err = d.check(lock); err == nil && direct {
		err = d.probe()
	}
	if err != nil {
		unix.Close(fd)
		return nil, &Error{path, "open", err}
	}
	return d, nil
}

var errNoDirect = errors.New("this file system has no direct I/O: use cache=writeback instead of cache=none")

// probe finds out what direct I/O asks for by trying it, which works with kernels and file
// systems that do not tell (statx(2), STATX_DIOALIGN).
func (d *Disk) probe() error {
	b := make([]byte, bounceSize)
	d.slot.bounce = b // else it could be on the stack, which is not aligned
	for d.align = 512; ; d.align = maxAlign {
		if _, err := unix.Pread(d.fd, b[d.align%maxAlign:][:d.align], 0); err != unix.EINVAL {
			return err
		} else if d.align == maxAlign {
			return errNoDirect
		}
	}
}

// ErrDiskBusy says that somebody holds the image's lock.
var ErrDiskBusy = errors.New("in use by another VM, or by another disk of this one")

func (d *Disk) check(lock int) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFBLK {
		return fmt.Errorf("is a %s, need a regular file or a block device", fileTypes[t])
	}
	if err := unix.Flock(d.fd, lock|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return ErrDiskBusy
	} else if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	// io_uring would answer EAGAIN instead of waiting for the disk.
	if err := unix.SetNonblock(d.fd, false); err != nil {
		return err
	}
	// After the lock, so that a VM which is ending cannot change it any more.
	var err error
	d.size, err = unix.Seek(d.fd, 0, unix.SEEK_END)
	return err
}

// fileTypes are those that can be opened and are no images; sockets cannot.
var fileTypes = map[uint32]string{unix.S_IFDIR: "directory", unix.S_IFIFO: "FIFO", unix.S_IFCHR: "character device"}

// Size is the capacity in bytes at the time of OpenDisk.
func (d *Disk) Size() int64 { return d.size }

// Align is what offsets and lengths have to be multiples of, in bytes.
func (d *Disk) Align() int { return max(d.align, 1) }

// ReadAt fills b. A file that was cut short meanwhile gives EIO.
func (d *Disk) ReadAt(b []byte, off int64) syscall.Errno {
	return d.transfer(call, devices.DiskRead, b, off)
}

// WriteAt stores b. EROFS where the disk is read-only.
func (d *Disk) WriteAt(b []byte, off int64) syscall.Errno {
	if d.ro {
		return syscall.EROFS
	}
	return d.transfer(call, devices.DiskWrite, b, off)
}

func (d *Disk) transfer(call func(int, *slot) int, op devices.DiskOp, b []byte, off int64) (e syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.slot
	for s.set(op, [][]byte{b}, off, int64(len(b))); s.left > 0 && e == 0; {
		s.cut(d.align)
		if e = s.moved(call(d.fd, s)); e == unix.EINTR {
			e = 0
		}
	}
	return e
}

// Flush returns when all that was stored before is on the disk (fdatasync(2)).
// Once it has failed it always fails, with the same error: the kernel reports a
// lost page once, forgets it, and would call the next flush a success.
func (d *Disk) Flush() syscall.Errno { return d.flush(unix.Fdatasync) }

func (d *Disk) flush(call func(int) error) syscall.Errno {
	d.mu.Lock() // else another flush could run between a failure and its record
	defer d.mu.Unlock()
	for d.failed == 0 && !d.unsafe {
		err := call(d.fd)
		if err == unix.EINTR {
			continue
		}
		d.failed = errno(err)
		break
	}
	return d.failed
}

// flushed notes how a flush ended and returns what its caller is told.
func (d *Disk) flushed(e syscall.Errno) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == 0 {
		d.failed = e
	}
	return d.failed
}

// Close releases the lock and the descriptor.
func (d *Disk) Close() error { return unix.Close(d.fd) }
