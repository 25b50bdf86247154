package devices

import "syscall"

// Errno is how host endpoints report failures: 0 is success. It is the plain
// number and not an error value, so that the hot path allocates nothing.
type Errno = syscall.Errno

// NIC is the host's end of a network device. Only one goroutine at a time
// calls ReadFrame, and one WriteFrame. A frame is an Ethernet frame without its
// checksum, behind VnetHeader bytes of header.
type NIC interface {
	// ReadFrame spreads one frame over bufs, in their order, and returns its
	// length with the header; what does not fit is lost. EAGAIN says that none
	// waits. It never blocks.
	ReadFrame(bufs [][]byte) (int, Errno)
	// WriteFrame sends the bytes of bufs as one frame, whole or not at all.
	WriteFrame(bufs [][]byte) Errno
	// VnetHeader is the length of the header in front of each frame, in both
	// directions: 12 bytes, struct virtio_net_hdr_v1 of linux/virtio_net.h, or none.
	VnetHeader() int
	// SetOffload says which frames ReadFrame may give: TUN_F_… of linux/if_tun.h, and
	// 0 for those that need no offload, as in the beginning. EINVAL says that the
	// host does not know all of them. It takes effect for frames that come from then
	// on. Without a header only 0 has a meaning.
	SetOffload(flags int) Errno
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
	// Flush returns when all that WriteAt stored before is on the disk and a loss
	// of power cannot undo it. After an error nobody knows what is there, so it
	// gives that error ever after.
	Flush() Errno
	// Size is the capacity in bytes when the disk was opened.
	Size() int64
	Close() error
}
