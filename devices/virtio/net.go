package virtio

import (
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/uvm-monitor/uvm/devices"
)

const (
	typeNet       = 1
	netQueueSize  = 512 // what a TAP holds itself (Linux, TUN_READQ_SIZE)
	netHeaderSize = 12  // struct virtio_net_hdr (section 5.1.6)
	netLinkUp     = 1

	// An Ethernet header, and what drivers have room for (section 5.1.6.3.1).
	minFrame, maxFrame = 14, 65550

	// readv(2) takes 1,024 slices: this many, those of one chain more, and Net.frame.
	maxSlices = 1023 - netQueueSize
)

// Net is a network device (section 5.1) with one pair of queues, on a NIC. A
// frame that cannot be passed on is dropped and counted, as by any network card.
type Net struct {
	Base
	// RxLimit holds the frames to the guest to a rate, TxLimit those from it; they are
	// set before Work, and nil for none. What has to wait stays with its sender.
	RxLimit, TxLimit *devices.Limiter

	nic      devices.NIC
	features uint64
	config   [12]byte // struct virtio_net_config up to mtu

	rx, tx         *Queue
	sent, received offloads // negotiated
	hdr            int      // length of the NIC's header, which is laid out as the driver's
	header         [netHeaderSize]byte
	out            Buffers // reused: the frame that is sent, with the NIC's header
	c              Chain

	// A frame may need dozens of chains: those that are popped and not used are held.
	held             []heldChain
	bufs             Buffers // of held, for the next frame with the NIC's header
	room, most, goal int     // bytes of bufs; length of held; bytes that hold aims at
	frame, late      []byte  // what bufs have no room for; a frame that waits for more chains
	poll             int     // the NIC's PollFD while its next frame can be taken, or -1

	rxDropped, txDropped atomic.Uint64
}

type heldChain struct {
	head       uint16
	bufs, size int // of Net.bufs: slices, bytes
}

// NewNet returns a device on nic with an address, and where mtu is not 0 the
// largest payload of a frame, 68 to 65535 bytes. It offers what offloads nic has.
func NewNet(nic devices.NIC, mac [6]byte, mtu int) *Net {
	n := &Net{nic: nic, hdr: nic.VnetHeader(), poll: -1, goal: 1, features: netMAC | netStatus, frame: make([]byte, netHeaderSize+maxFrame+1)}
	copy(n.config[:], mac[:])
	le.PutUint16(n.config[6:], netLinkUp)
	le.PutUint16(n.config[10:], uint16(mtu))
	if mtu != 0 {
		n.features |= netMTU
	}
	// A host that gives frames of a kind also takes them.
	have := offloads(0)
	for _, o := range netOffloads {
		if n.hdr > 0 && nic.SetOffload(int(have|o.flags)) == 0 {
			have, n.features = have|o.flags, n.features|netMergeable|o.sent|o.received
		}
	}
	nic.SetOffload(0)
	return n
}

// Dropped is how many frames to the guest (rx) and from it (tx) were lost here,
// failed reads of the NIC included. Any goroutine may ask.
func (n *Net) Dropped() (rx, tx uint64) { return n.rxDropped.Load(), n.txDropped.Load() }

// Info is that of a network card with receiveq1 and transmitq1. The configuration
// space has address, status and MTU.
func (n *Net) Info() Info {
	return Info{Type: typeNet, Features: n.features, Queues: []uint16{netQueueSize, netQueueSize}, Config: n.config[:]}
}

// Start begins, with the NIC's offloads as negotiated. One that refuses, such as a
// deleted one, gives plain frames, which every driver takes.
func (n *Net) Start(features uint64, q []*Queue) {
	n.rx, n.tx, n.most = q[0], q[1], 1
	if features&netMergeable != 0 && n.rx != nil {
		n.most = int(n.rx.size)
	}
	for _, o := range netOffloads { // none goes without checksums (section 5.1.3.1)
		if features&netOffloads[0].sent != 0 && features&o.sent != 0 {
			n.sent |= o.flags
		}
		if features&netOffloads[0].received != 0 && features&o.received == o.received {
			n.received |= o.flags
		}
	}
	n.nic.SetOffload(int(n.received))
}

// Serve sends what the guest has, and receives as far as it has buffers.
func (n *Net) Serve() error {
	if err := n.send(); err != nil {
		return err
	}
	return n.receive()
}

func (n *Net) send() error {
	for n.tx.within(n.TxLimit) {
		ok, err := n.tx.Pop(&n.c)
		if !ok || err != nil {
			return err
		}
		size := int(n.c.Out.Len()) - netHeaderSize
		if size < 0 {
			return fmt.Errorf("net: a chain to send has %d bytes, less than a header", size+netHeaderSize)
		}
		n.TxLimit.Take(uint64(size), 1)
		n.c.Out.CopyTo(n.header[:])
		n.out = append(append(n.out[:0], n.header[:n.hdr]), n.c.Out.Skip(netHeaderSize)...)
		if size < minFrame || size > maxFrame || !n.sent.cover(&n.header) || !inside(&n.header, size) || n.nic.WriteFrame(n.out) != 0 {
			n.txDropped.Add(1)
		}
		n.tx.Push(n.c.Head, 0)
	}
	return nil
}

func (n *Net) receive() error {
	for n.poll = -1; ; {
		if err := n.hold(); err != nil || len(n.held) == 0 || len(n.late) > n.room && n.mayHold() || !n.rx.within(n.RxLimit) {
			return err
		}
		got, errno := len(n.late), devices.Errno(0)
		if got > 0 {
			n.bufs.CopyFrom(n.late)
		} else {
			all := append(n.bufs, n.frame[min(n.room, len(n.frame)-1):])
			n.bufs = all[:len(n.bufs)]
			if got, errno = n.nic.ReadFrame(all); errno == 0 {
				n.RxLimit.Take(uint64(max(got-n.hdr, 0)), 1)
			}
		}
		if errno == syscall.EAGAIN {
			n.poll = n.nic.PollFD()
			return nil
		}
		if errno == 0 && got > n.room && got < len(n.frame) && n.mayHold() {
			n.bufs.CopyTo(n.frame)
			n.late, n.goal = n.frame[:got], got
			continue
		}
		n.late, n.goal = nil, max(got, n.goal-n.goal/16)
		if errno == 0 && got <= n.room && n.deliver(got) {
			continue
		}
		n.rxDropped.Add(1)
		// A round ends, also if no frame takes a chain. A NIC that was deleted is
		// readable for ever: the driver's next notification has it tried again.
		if n.rx.left -= chainBytes; errno != 0 || n.rx.left <= 0 {
			n.rx.more = errno == 0
			return nil
		}
	}
}

func (n *Net) mayHold() bool { return len(n.held) < n.most && len(n.bufs) < maxSlices }

// hold takes chains until a frame like those before has room: each one that is held
// costs every read its share. A longer frame is late and costs a copy.
func (n *Net) hold() error {
	for n.room < n.goal && n.mayHold() {
		if ok, err := n.rx.Pop(&n.c); !ok || err != nil {
			return err
		}
		in := n.c.In
		if in.Len() < netHeaderSize {
			return fmt.Errorf("net: a chain to receive has %d bytes, less than a header", in.Len())
		}
		if n.hdr == 0 {
			in.CopyFrom([]byte{10: 1, 11: 0}) // one buffer, no offload
			in = in.Skip(netHeaderSize)
		}
		size := int(in.Len())
		n.held, n.bufs, n.room = append(n.held, heldChain{n.c.Head, len(in), size}), append(n.bufs, in...), n.room+size
	}
	return nil
}

// deliver gives the driver the first got bytes of bufs, unless they need what it has
// not negotiated: the NIC may have had them since before.
func (n *Net) deliver(got int) bool {
	var h [netHeaderSize]byte
	if n.bufs.CopyTo(h[:n.hdr]); !n.received.cover(&h) {
		return false
	}
	chains, bufs, size := 0, 0, 0
	for ; size < got; chains++ {
		c := n.held[chains]
		n.rx.put(c.head, uint32(min(c.size, got-size)+netHeaderSize-n.hdr))
		size, bufs = size+c.size, bufs+c.bufs
	}
	le.PutUint16(h[10:], uint16(chains)) // num_buffers
	n.bufs.CopyFrom(h[:n.hdr])
	n.rx.publish()
	n.held, n.bufs, n.room = slices.Delete(n.held, 0, chains), slices.Delete(n.bufs, 0, bufs), n.room-size
	return true
}

// PollFD is the NIC's while a frame can be taken.
func (n *Net) PollFD() int { return n.poll }

// Drain gives the chains back that are held.
func (n *Net) Drain() {
	for range n.held {
		n.rx.Unpop()
	}
	n.held, n.bufs, n.room = n.held[:0], n.bufs[:0], 0
}

// Reset forgets the driver, and has the NIC give plain frames.
func (n *Net) Reset() {
	n.Drain()
	n.rx, n.tx, n.sent, n.received, n.late, n.poll = nil, nil, 0, 0, nil, -1
	n.nic.SetOffload(0)
}

// Close closes the NIC.
func (n *Net) Close() error { return n.nic.Close() }
