package hostio

import (
	"cmp"
	"errors"
	"fmt"
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
	slot   slot // of ReadAt and WriteAt
}

// OpenDisk opens the image at path and locks it: exclusively, or shared with
// other readers where readOnly is set. The lock is flock(2)'s and ends with
// the descriptor, so that a killed monitor leaves none behind. cache is "none" for
// direct I/O (O_DIRECT), or "unsafe" for flushes that do nothing. block is the size in
// bytes that all requests will be multiples of, at least 512.
func OpenDisk(path string, readOnly bool, cache string, block int) (*Disk, error) {
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
		err = d.probe(block)
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
func (d *Disk) probe(block int) error {
	b := make([]byte, bounceSize)
	d.slot.bounce = b // else it could be on the stack, which is not aligned
	for d.align = 512; d.align <= maxAlign; d.align *= 2 {
		if _, err := unix.Pread(d.fd, b[d.align:][:d.align], 0); err == nil && d.align > block {
			return fmt.Errorf("direct I/O needs blocks of %d bytes there, and the guest's have %d: use cache=writeback instead of cache=none", d.align, block)
		} else if err != unix.EINVAL {
			return err
		}
	}
	return errNoDirect
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
	// After the lock, so that a VM which is ending cannot change it any more.
	var err error
	d.size, err = unix.Seek(d.fd, 0, unix.SEEK_END)
	return cmp.Or(err, unix.SetNonblock(d.fd, false)) // io_uring would answer EAGAIN instead of waiting
}

// fileTypes are those that can be opened and are no images; sockets cannot.
var fileTypes = map[uint32]string{unix.S_IFDIR: "directory", unix.S_IFIFO: "FIFO", unix.S_IFCHR: "character device"}

// Size is the capacity in bytes at the time of OpenDisk.
func (d *Disk) Size() int64 { return d.size }

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
	s := &d.slot
	for s.set(op, [][]byte{b}, off, int64(len(b))); s.left > 0 && (e == 0 || e == unix.EINTR); e = s.moved(call(d.fd, s)) {
		s.cut(d.align)
	}
	return e
}

// Close releases the lock and the descriptor.
func (d *Disk) Close() error { return unix.Close(d.fd) }
