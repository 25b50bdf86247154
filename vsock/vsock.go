// Package vsock is virtio's socket device (virtio 1.2, section 5.10) for a PC:
// stream sockets between the guest and Unix sockets of the host, in the way of
// Firecracker's. The host needs no vhost_vsock. docs/vsock.md is for its users.
//
// It is no part of the monitor's core: a program that wants it gives it to its VM,
//
//	vmm.Config{Virtio: []vmm.VirtioDevice{{Name: "vsock", New: func() (virtio.Device, error) {
//		return vsock.New(3, "/run/vm.sock")
//	}}}}
//
// and closes the VM in the end, which removes the socket file. The rules for the
// code are the core's.
package vsock

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
)

var le = binary.LittleEndian

// Bounds on what the guest and host programs can make the device keep and do.
const (
	bufferSize = 64 << 10 // buf_alloc: a connection's bytes for a host program that does not read them
	maxConns   = 1024
	maxResets  = 64                       // answers to packets without a connection
	turn       = 8                        // packets for the guest before it is the next connection's turn
	timeout    = 2 * time.Second          // for a connection to come about; at most twice that
	maxPath    = 107 - len("_4294967295") // sun_path has 108 bytes with its NUL
	firstPort  = 1 << 30                  // host programs' ports are firstPort to 2*firstPort-1
)

// A packet is a header of 11 words and a payload (section 5.10.6): CIDs of source
// and destination in two words each, their ports, the payload's bytes, type and
// operation in one word, flags, buf_alloc, fwd_cnt.
const (
	headerSize = 44
	hostCID    = 2
	typeStream = 1 // the only type of socket here

	opRequest, opResponse, opReset, opShutdown        = 1, 2, 3, 4
	opRW, opCreditUpdate, opCreditRequest             = 5, 6, 7
	noReceive, noSend, neither                 uint32 = 1, 2, 3 // flags of opShutdown
)

// Device is the socket device. A program that connects to the Unix socket path and
// sends "CONNECT port\n" reaches the guest's port, and reads "OK hostport\n"
// first. The guest reaches what listens on the Unix socket path_N as CID 2, port N.
//
// All descriptors are in one epoll set, edge-triggered: what an event said is
// remembered until the descriptor says EAGAIN, and a connection that waits for
// the guest's buffers or credit wakes nobody up. None of them blocks, so that no
// call is interrupted.
type Device struct {
	virtio.Base
	cid                    uint64
	path                   string
	file                   unix.Stat_t // the socket file that we made; Ino 0 if none
	epoll, timer, listener int         // descriptors, -1 if not open
	armed                  bool        // timer will make epoll readable
	port                   uint32      // of the last host program's connection
	conns                  map[uint64]*conn
	fds                    map[int32]*conn // conns, and those that the guest does not know yet or any more

	rx, tx, event *virtio.Queue
	chain         virtio.Chain
	packet        [headerSize + bufferSize]byte
	events        [64]unix.EpollEvent
	resets        []*conn // no connections: keys and types of packets that an RST is to answer
	restored      bool    // the guest has to hear that its connections are gone
}

// New makes the device of guest cid, 3 to 2^32-2, and listens on the Unix
// socket path, which Close removes. The file must not exist; its mode is 0600.
func New(cid uint64, path string) (*Device, error) {
	if cid <= hostCID || cid >= 1<<32-1 {
		return nil, fmt.Errorf("guest CID %d is reserved, use 3 to 4294967294", cid)
	}
	if path == "" || path[0] == '@' || len(path) > maxPath || strings.Contains(path, "\x00") {
		return nil, fmt.Errorf("socket %q: need a path of 1 to %d bytes that does not start with @", path, maxPath)
	}
	v := &Device{cid: cid, path: path, epoll: -1, timer: -1, listener: -1, port: firstPort, conns: map[uint64]*conn{}, fds: map[int32]*conn{}}
	for _, step := range []func() error{
		func() (err error) { v.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); return },
		func() (err error) { v.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC); return },
		func() (err error) {
			v.listener, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|socketFlags, 0)
			return
		},
		func() error { return unix.Fchmod(v.listener, 0o600) }, // the file gets it
		func() error { return unix.Bind(v.listener, &unix.SockaddrUnix{Name: path}) },
		func() error { return unix.Lstat(path, &v.file) },
		func() error { return unix.Listen(v.listener, 128) },
		func() error { return v.watch(v.timer, unix.EPOLLIN) },
		func() error { return v.watch(v.listener, unix.EPOLLIN) },
	} {
		if err := step(); err != nil {
			v.Close()
			if err == unix.EADDRINUSE {
				err = fmt.Errorf("%w: another uvm listens there, or one was killed and left it (rm %s)", unix.EEXIST, path)
			}
			return nil, fmt.Errorf("socket %s: %w", path, err)
		}
	}
	return v, nil
}

// Info is that of a socket device with VIRTIO_VSOCK_F_STREAM, its queues rx, tx and
// event, and the guest's CID.
func (v *Device) Info() virtio.Info {
	return virtio.Info{Type: 19, Features: 1, Queues: []uint16{256, 256, 16}, Config: le.AppendUint64(nil, v.cid)}
}

// Start has the device use the queues. It does nothing without rx and tx.
func (v *Device) Start(_ uint64, q []*virtio.Queue) { v.rx, v.tx, v.event = q[0], q[1], q[2] }

// PollFD is the epoll set.
func (v *Device) PollFD() int {
	if v.rx == nil || v.tx == nil {
		return -1
	}
	return v.epoll
}

// Serve moves packets both ways until there are no more, or Pop ends the round.
func (v *Device) Serve() error {
	if v.rx == nil || v.tx == nil {
		return nil
	}
	v.poll()
	for {
		sent, err := v.transmit()
		received, err2 := v.receive()
		if err := cmp.Or(v.announce(), err, err2); err != nil || sent+received == 0 {
			return err
		}
	}
}

// announce tells a restored guest that its connections are gone (section 5.10.6.7).
func (v *Device) announce() error {
	if !v.restored || v.event == nil {
		return nil
	}
	ok, err := v.event.Pop(&v.chain)
	if ok && err == nil {
		v.restored = false
		v.event.Push(v.chain.Head, uint32(v.chain.In.CopyFrom(make([]byte, 4)))) // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
	}
	return err
}

// transmit takes the guest's packets, but none while there may be no place for
// the answer (section 5.10.6.1).
func (v *Device) transmit() (n int, err error) {
	for ; len(v.resets) < maxResets; n++ {
		if ok, err := v.tx.Pop(&v.chain); !ok || err != nil {
			return n, err
		}
		size := v.chain.Out.CopyTo(v.packet[:])
		if size < headerSize {
			return n, fmt.Errorf("vsock: a packet of %d bytes, shorter than its header", size)
		}
		v.dispatch(uint32(size - headerSize))
		v.tx.Push(v.chain.Head, 0)
	}
	return n, nil
}

// dispatch finds the connection of the guest's packet, which has so many bytes
// after its header. What has no place in a connection is answered with an RST,
// and that is the connection's end.
func (v *Device) dispatch(size uint32) {
	var h [headerSize / 4]uint32
	for i := range h {
		h[i] = le.Uint32(v.packet[4*i:])
	}
	if h[0] != uint32(v.cid) || h[2] != hostCID || h[1]|h[3] != 0 {
		return // nobody has that address
	}
	key, typ, op := uint64(h[5])<<32|uint64(h[4]), uint16(h[7]), h[7]>>16
	c := v.conns[key]
	if typ != typeStream {
		c = nil
	} else if c == nil && op == opRequest {
		c, op = v.dial(key), opCreditUpdate
	}
	if c != nil {
		c.peerAlloc, c.peerForwarded = h[9], h[10]
		if h[6] <= size && v.take(c, op, h[8], v.packet[headerSize:][:h[6]]) {
			return
		}
		v.release(c)
	}
	if op != opReset {
		v.resets = append(v.resets, &conn{key: key, typ: typ})
	}
}

// receive gives the guest packets while it has buffers. Resets come first: a
// connection with the same ports may follow.
func (v *Device) receive() (n int, err error) {
	for ; len(v.resets) > 0; n++ {
		if ok, err := v.send(v.resets[0], opReset); !ok {
			return n, err
		}
		v.resets = append(v.resets[:0], v.resets[1:]...)
	}
	for _, c := range v.conns {
		for i := 0; i < turn && c.todo() != 0; i++ {
			if ok, err := v.send(c, bits.TrailingZeros16(c.todo())); !ok {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// send gives the guest one packet, and is not ok without a buffer for it.
func (v *Device) send(c *conn, op int) (ok bool, err error) {
	if ok, err := v.rx.Pop(&v.chain); !ok || err != nil {
		return false, err
	}
	room := int(v.chain.In.Len()) - headerSize
	if room <= 0 {
		return false, fmt.Errorf("vsock: a receive buffer of %d bytes, need more than the header's %d", room+headerSize, headerSize)
	}
	n, flags := 0, uint32(0)
	if op == opRW {
		n, err = unix.Read(c.fd, v.packet[headerSize:][:min(room, bufferSize, int(c.credit()))])
		if err == unix.EAGAIN {
			c.readable = false
			v.rx.Unpop()
			return true, nil
		}
		if n <= 0 {
			n, op, c.hostDown = 0, opShutdown, c.hostDown|noSend
		}
		if c.sent += uint32(n); c.credit() == 0 {
			c.pending |= 1 << opCreditRequest
		}
	}
	if op == opShutdown {
		flags = c.hostDown
	}
	c.pending &^= 1 << op
	c.told = c.forwarded
	for i, x := range [...]uint32{hostCID, 0, uint32(v.cid), 0, uint32(c.key >> 32), uint32(c.key), uint32(n),
		uint32(c.typ) | uint32(op)<<16, flags, bufferSize, c.forwarded} {
		le.PutUint32(v.packet[4*i:], x)
	}
	v.rx.Push(v.chain.Head, uint32(v.chain.In.CopyFrom(v.packet[:headerSize+n])))
	return true, nil
}

// Reset closes all connections. Host programs that wait to be accepted go on waiting.
func (v *Device) Reset() {
	for _, c := range v.fds {
		c.out = nil
		v.release(c)
	}
	v.rx, v.tx, v.event, v.resets, v.restored = nil, nil, nil, nil, false
}

// Close also removes the socket file, unless it is another's by now.
func (v *Device) Close() error {
	v.Reset()
	var st unix.Stat_t
	if v.file.Ino != 0 && unix.Lstat(v.path, &st) == nil && st.Dev == v.file.Dev && st.Ino == v.file.Ino {
		unix.Unlink(v.path)
	}
	for _, fd := range []int{v.epoll, v.timer, v.listener} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	v.epoll, v.timer, v.listener, v.file.Ino = -1, -1, -1, 0
	return nil
}

// SaveState is the last host port, 4 bytes. Connections have host programs at
// their other ends and cannot be saved.
func (v *Device) SaveState() ([]byte, error) { return le.AppendUint32(nil, v.port), nil }

// LoadState goes on after the saved port, as the guest may remember connections
// with those before, and has the guest told that they are gone.
func (v *Device) LoadState(state []byte) error {
	if len(state) != 4 || le.Uint32(state)/firstPort != 1 {
		return fmt.Errorf("vsock: saved state % x is not a port of 4 bytes from %d to %d", state, firstPort, 2*firstPort-1)
	}
	v.port, v.restored = le.Uint32(state), true
	return nil
}
