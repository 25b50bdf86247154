package devices

import "syscall"

// Errno is how host endpoints report failures: 0 is success. It is the plain
// number and not an error value, so that the hot path allocates nothing.
type Errno = syscall.Errno

// NIC is the host's end of a network device. Only one goroutine at a time
// calls ReadFrame, and one WriteFrame.
type NIC interface {
	// ReadFrame fills b with one Ethernet frame without its checksum and
	// returns its length; what does not fit into b is lost. EAGAIN says that
	// none waits. It never blocks.
	ReadFrame(b []byte) (int, Errno)
	// WriteFrame sends b as one frame, whole or not at all.
	WriteFrame(b []byte) Errno
	// PollFD becomes readable (poll(2), POLLIN) when a frame waits.
	PollFD() int
	// MTU is the largest payload of a frame in bytes, without the Ethernet
	// header.
	MTU() int
	Close() error
}

// Disk is the host's end of a block device. Methods may be called from any
// goroutine.
type Disk interface {
	// ReadAt fills b from byte offset off, WriteAt stores b there: all of it
	// or an error. The range lies inside the disk.
	ReadAt(b []byte, off int64) Errno
	WriteAt(b []byte, off int64) Errno
	// Size is the capacity in bytes when the disk was opened.
	Size() int64
	Close() error
}
