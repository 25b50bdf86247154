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

// Device is what one kind of device adds to the transport. The transport calls
// its methods one at a time.
type Device interface {
	devices.Saver

	// Type is the device type (section 5).
	Type() uint32
	// Features are the device's own feature bits that it offers.
	Features() uint64
	// Queues are the largest sizes of its queues, powers of two up to MaxQueueSize.
	Queues() []uint16
	// Config is the configuration space, the same in all of the device's life; what
	// the guest writes there is ignored.
	Config() []byte

	// Start begins: the driver has set DRIVER_OK. features is what was negotiated,
	// q has a queue for each of Queues, nil where the driver did not enable it. It
	// forgets nothing that LoadState has loaded just before.
	Start(features uint64, q []*Queue)
	// Serve handles the chains that are available and what the host has, and does
	// not wait for more. The transport interrupts the driver afterwards. An error is
	// a driver that broke the rules: the device needs a reset.
	//
	// A vCPU that wants a register waits for Serve, so a call has bounds. Pop sees
	// to the number of chains. What a device does for one chain, which the guest can
	// make as long as its memory many times over, is the device's matter: it moves at
	// most maxTransfer bytes, and where more remains it sets the queue's more and is
	// called again after the vCPUs had their turn.
	Serve() error
	// PollFD is the descriptor that Serve is called for while it is readable; -1
	// while there is nothing to wait for, such as when no buffer is available. It is
	// asked after each Serve. One that only hangs up (POLLHUP, POLLERR) is served
	// once more and then left alone.
	PollFD() int
	// Reset forgets the driver: the state after the constructor.
	Reset()
	// Close gives the host's resources back.
	Close() error
}
