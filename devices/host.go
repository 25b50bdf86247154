package devices

import (
	"io"
	"syscall"
)

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

// Disk is the host's end of a block device. One goroutine at a time uses it.
type Disk interface {
	// ReadAt fills b from byte offset off, WriteAt stores b there: all of it
	// or an error. The range lies inside the disk.
	ReadAt(b []byte, off int64) Errno
	WriteAt(b []byte, off int64) Errno
	// Size is the capacity in bytes when the disk was opened.
	Size() int64
	// Queue starts to carry out up to n requests at a time.
	Queue(n int) (DiskQueue, error)
	Close() error
}

// DiskOp is what a DiskQueue does with a range of its disk.
type DiskOp uint8

// Operations. After a discard the range reads as zeroes or as before. Zeroing keeps the
// range's place on the disk, ZeroFree may give it up.
const (
	DiskRead DiskOp = iota
	DiskWrite
	DiskFlush
	DiskDiscard
	DiskZero
	DiskZeroFree
)

// DiskQueue carries out requests on a disk, many at a time, and completes them in any
// order. One goroutine at a time uses it.
type DiskQueue interface {
	// Do takes a request for n bytes at byte offset off; the range lies inside the
	// disk. bufs are those n bytes for a read or write, and their memory belongs to
	// the request until Done returns its tag, which is below the queue's size and not
	// in use. It allocates nothing once the queue has warmed up.
	Do(tag int, op DiskOp, bufs [][]byte, off, n int64)
	// A flush is done when all that was done before it began is on the disk and a loss of
	// power cannot undo it. After one that failed nobody knows what is there, so all later ones
	// give its error.
	//
	// Done has the kernel begin what Do has taken, and returns the tag of a request
	// that is complete: all of it, or with an error. If there is none it waits, or
	// returns -1.
	Done(wait bool) (tag int, e Errno)
	// PollFD is readable when a request is complete.
	PollFD() int
	// Close is for a queue that has no request.
	Close() error
}

// Meter stands between devices and the host's ends of them and counts. Its methods
// are called while a VM is built, but for Stats.
type Meter interface {
	NIC(name string, n NIC) NIC
	Disk(name string, d Disk) Disk
	Console(name string, w io.Writer) io.Writer
	Stats() []DeviceStats // from any goroutine
}

// NoMeter is a Meter that does not count.
type NoMeter struct{}

// NIC returns n.
func (NoMeter) NIC(_ string, n NIC) NIC { return n }

// Disk returns d.
func (NoMeter) Disk(_ string, d Disk) Disk { return d }

// Console returns w.
func (NoMeter) Console(_ string, w io.Writer) io.Writer { return w }

// Stats returns nothing.
func (NoMeter) Stats() []DeviceStats { return nil }

// DeviceStats is what a Meter has counted of one device.
type DeviceStats struct {
	Name string             `json:"name"` // as messages call it
	Kind string             `json:"kind"` // net, disk or console
	Ops  map[string]OpStats `json:"ops"`  // rx and tx of a net; write of a console; read, write, flush, discard, zero and zero-free of a disk
}

// OpStats is one kind of operation. Bucket i of Latency has those that took less than
// 2^i ns and not less than half of that, the last one all that took longer; empty ones
// at the end are left out.
type OpStats struct {
	Count   uint64   `json:"count"` // frames or requests, also those that failed
	Bytes   uint64   `json:"bytes"` // of those that did not
	Errors  uint64   `json:"errors"`
	Latency []uint64 `json:"latency_log2_ns,omitempty"`
}

// LatencyBuckets is the largest length of OpStats.Latency.
const LatencyBuckets = 36
