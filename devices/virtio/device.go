// Package virtio is the devices of the PC-like machine: one transport,
// virtio-mmio version 2, and a file for each kind of device. Sections named in
// comments are those of the OASIS standard "Virtual I/O Device (VIRTIO) Version 1.2".
//
// The vCPUs reach a device through MMIO.Read and MMIO.Write, which are short. All
// work on queues is done by the device's own goroutine, MMIO.Work, which sleeps
// in the kernel until the guest rings the doorbell or the host has something. A
// lock of the transport's lets one of them in at a time.
package virtio

import "github.com/uvm-monitor/uvm/devices"

// Features of the transport and the queues (section 6).
const (
	FeatureIndirectDesc = 1 << 28
	FeatureEventIdx     = 1 << 29
	FeatureVersion1     = 1 << 32
)

// maxTransfer bounds what a device moves for one chain in one Serve, in bytes.
const maxTransfer = 64 << 10

// Info is what a device tells its driver of itself, the same in all of its life.
type Info struct {
	Type     uint32   // section 5
	Features uint64   // the device's own feature bits that it offers
	Queues   []uint16 // the largest sizes of its queues, powers of two up to MaxQueueSize
	Config   []byte   // the configuration space; what the guest writes there is ignored
}

// Device is what one kind of device adds to the transport. The transport calls
// its methods one at a time.
type Device interface {
	// Saver's methods are for what the device remembers beside Info and the queues'
	// indices, which the transport saves and compares.
	devices.Saver

	Info() Info
	// Start begins: the driver has set DRIVER_OK. features is what was negotiated,
	// q has a queue for each of Info's, nil where the driver did not enable it. It
	// forgets nothing that LoadState has loaded just before.
	Start(features uint64, q []*Queue)
	// Serve handles the chains that are available and what the host has, and does
	// not wait for more. The transport interrupts the driver afterwards. An error is
	// a driver that broke the rules: the device needs a reset.
	//
	// It may leave chains in flight: Pop hands out several, and Push returns them in
	// any order, in this call or a later one, which PollFD brings about.
	//
	// A vCPU that wants a register waits for Serve, so a call has bounds. Pop sees
	// to the number of chains. What a device does for one chain, which the guest can
	// make as long as its memory many times over, is the device's matter: it moves
	// some ten KiB, and where more remains it calls the queue's Again.
	Serve() error
	// PollFD is the descriptor that Serve is called for while it is readable; -1
	// while there is nothing to wait for, such as when no buffer is available. It is
	// asked after each Serve. One that only hangs up (POLLHUP, POLLERR) is served
	// once more and then left alone.
	PollFD() int
	// Drain waits for the chains that are in flight, if any, and pushes them: the
	// guest's memory is about to be saved, its driver takes a queue back, or has
	// broken the rules and is not served any more. It takes no further ones.
	Drain()
	// Reset forgets the driver: the state after the constructor. When it returns,
	// nothing on the host touches the guest's memory any more.
	Reset()
	// Close gives the host's resources back, after Work has returned. It too leaves
	// nothing that touches the guest's memory, which goes next.
	Close() error
}

// Base is embedded by devices that have nothing to wait for, no chain in flight
// between two calls, nothing to save and nothing to close; they override what is not so.
type Base struct{}

// PollFD is none.
func (Base) PollFD() int { return -1 }

// Drain has nothing to do.
func (Base) Drain() {}

// Close has nothing to give back.
func (Base) Close() error { return nil }

// SaveState is empty.
func (Base) SaveState() ([]byte, error) { return nil, nil }

// LoadState accepts what SaveState returns.
func (Base) LoadState(state []byte) error {
	return devices.LoadState("device", nil, state, nil)
}
