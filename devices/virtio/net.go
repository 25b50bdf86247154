package virtio

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/uvm-monitor/uvm/devices"
)

// Features of a network device (section 5.1.3).
const (
	netMTU    = 1 << 3
	netMAC    = 1 << 5
	netStatus = 1 << 16

	netQueueSize  = 256
	netHeaderSize = 12 // struct virtio_net_hdr (section 5.1.6)
	netLinkUp     = 1

	minFrame = 14    // an Ethernet header
	maxFrame = 65550 // the largest that a driver has room for (section 5.1.6.3.1)
)

// No offload is negotiated, so that the header says nothing: of a frame to the
// host all of it is 0, of one to the guest all but num_buffers.
var (
	txHeader [netHeaderSize]byte
	rxHeader = [netHeaderSize]byte{10: 1}
)

// Net is a network device (section 5.1) with one pair of queues, on a NIC. A
// frame that cannot be passed on is dropped and counted, as by any network card.
type Net struct {
	Base
	nic      devices.NIC
	features uint64
	config   [12]byte // struct virtio_net_config up to mtu

	rx, tx *Queue
	c      Chain
	bufs   [][]byte                // reused: a frame's, with the NIC's header
	spare  [netHeaderSize + 1]byte // the NIC's header, and a byte to tell frames that are too long
	ready  bool                    // rx has a buffer for the NIC's next frame

	rxDropped, txDropped atomic.Uint64
}

// NewNet returns a device on nic with an address, and where mtu is not 0 the
// largest payload of a frame, 68 to 65535 bytes.
func NewNet(nic devices.NIC, mac [6]byte, mtu int) *Net {
	n := &Net{nic: nic, features: netMAC | netStatus}
	copy(n.config[:], mac[:])
	le.PutUint16(n.config[6:], netLinkUp)
	le.PutUint16(n.config[10:], uint16(mtu))
	if mtu != 0 {
		n.features |= netMTU
	}
	return n
}

// Dropped is how many frames to the guest (rx) and from it (tx) were lost here,
// failed reads of the NIC included. Any goroutine may ask.
func (n *Net) Dropped() (rx, tx uint64) { return n.rxDropped.Load(), n.txDropped.Load() }

// Info is that of a network card with receiveq1 and transmitq1. The configuration
// space has address, status and MTU.
func (n *Net) Info() Info {
	return Info{Type: 1, Features: n.features, Queues: []uint16{netQueueSize, netQueueSize}, Config: n.config[:]}
}

// Start begins.
func (n *Net) Start(_ uint64, q []*Queue) { n.rx, n.tx = q[0], q[1] }

// Serve sends what the guest has, and receives as far as it has buffers.
func (n *Net) Serve() error {
	if err := n.send(); err != nil {
		return err
	}
	return n.receive()
}

func (n *Net) send() error {
	for {
		ok, err := n.tx.Pop(&n.c)
		if !ok || err != nil {
			return err
		}
		size := n.c.Out.Len()
		if size < netHeaderSize {
			return fmt.Errorf("net: a chain to send has %d bytes, less than a header", size)
		}
		size -= netHeaderSize
		n.bufs = append(append(n.bufs[:0], txHeader[:n.nic.VnetHeader()]), n.c.Out.Skip(netHeaderSize)...)
		if size < minFrame || size > maxFrame || n.nic.WriteFrame(n.bufs) != 0 {
			n.txDropped.Add(1)
		}
		n.tx.Push(n.c.Head, 0)
	}
}

func (n *Net) receive() error {
	n.ready = false
	for {
		ok, err := n.rx.Pop(&n.c)
		if !ok || err != nil {
			return err
		}
		room, hdr := n.c.In.Len(), n.nic.VnetHeader()
		if room < netHeaderSize {
			return fmt.Errorf("net: a chain to receive has %d bytes, less than a header", room)
		}
		n.c.In.CopyFrom(rxHeader[:])
		n.bufs = append(append(n.bufs[:0], n.spare[:hdr]), n.c.In.Skip(netHeaderSize)...)
		n.bufs = append(n.bufs, n.spare[netHeaderSize:])
		got, errno := n.nic.ReadFrame(n.bufs)
		written := uint64(got-hdr) + netHeaderSize
		if errno == 0 && written <= room {
			n.rx.Push(n.c.Head, uint32(written))
			continue
		}
		n.rx.Unpop()
		if errno == syscall.EAGAIN {
			n.ready = true
			return nil
		}
		n.rxDropped.Add(1)
		if errno != 0 {
			// A NIC that was deleted is readable for ever. The driver's next
			// notification has it tried again.
			return nil
		}
	}
}

// PollFD is the NIC's while a frame can be taken.
func (n *Net) PollFD() int {
	if n.ready {
		return n.nic.PollFD()
	}
	return -1
}

// Reset forgets the driver.
func (n *Net) Reset() { n.rx, n.tx, n.c, n.bufs, n.ready = nil, nil, Chain{}, nil, false }

// Close closes the NIC.
func (n *Net) Close() error { return n.nic.Close() }
