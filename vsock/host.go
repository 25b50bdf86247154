package vsock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// socketFlags are those of all sockets.
const socketFlags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC

// conn is the Unix socket to a host program, and the guest's connection to it.
type conn struct {
	fd       int
	key      uint64 // host port << 32 | guest port
	typ      uint16 // typeStream
	state    int
	deadline time.Time // to become stateOpen
	line     []byte    // read so far as stateHello
	out      []byte    // for the host program, up to bufferSize bytes
	readable bool      // fd may have bytes, or the end of them
	ended    bool      // the host program has been told that no more comes
	pending  uint16    // 1 << operation, for each that the guest has to be told

	guestDown, hostDown      uint32 // flags of opShutdown that each side is known by
	forwarded, told          uint32 // fwd_cnt: bytes that fd took; the guest's idea of it
	sent                     uint32 // bytes to the guest
	peerAlloc, peerForwarded uint32 // buf_alloc and fwd_cnt of the guest's last packet
}

// States of a connection: the host program is to send its line; the guest is to
// answer our REQUEST; open; the guest has no connection any more, but the host
// program still gets what is in out.
const stateHello, stateAsked, stateOpen, stateGone = 0, 1, 2, 3

// credit is the room at the guest's, in bytes (section 5.10.6.3).
func (c *conn) credit() uint32 { return c.peerAlloc - min(c.sent-c.peerForwarded, c.peerAlloc) }

// todo is pending and, if there are bytes and room for them, opRW.
func (c *conn) todo() uint16 {
	if c.readable && c.state == stateOpen && c.guestDown&noReceive == 0 && c.hostDown&noSend == 0 && c.credit() > 0 {
		return c.pending | 1<<opRW
	}
	return c.pending
}

// watch adds fd to the epoll set.
func (v *Device) watch(fd int, events uint32) error {
	return unix.EpollCtl(v.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)})
}

// arm makes PollFD readable in timeout or earlier.
func (v *Device) arm() {
	if !v.armed {
		unix.TimerfdSettime(v.timer, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(timeout))}, nil)
		v.armed = true
	}
}

// poll handles the events of the host's side. New descriptors come after all
// of them, so that none is taken for one that was just closed.
func (v *Device) poll() {
	n, _ := unix.EpollWait(v.epoll, v.events[:], 0)
	accept := false
	for _, e := range v.events[:max(n, 0)] {
		if c := v.fds[e.Fd]; c != nil {
			v.serve(c, e.Events)
			continue
		}
		if accept = true; int(e.Fd) == v.timer {
			v.expire()
		}
	}
	for i := 0; accept && i < maxConns; i++ {
		fd, _, err := unix.Accept4(v.listener, socketFlags)
		if accept = err == nil; accept && !v.add(&conn{fd: fd, typ: typeStream, deadline: time.Now().Add(timeout)}) {
			unix.Close(fd)
		}
		if err != unix.EAGAIN {
			v.arm() // for the deadline, or to try again after EMFILE
		}
	}
}

// expire closes what has not become a connection in time.
func (v *Device) expire() {
	v.armed = false
	for _, c := range v.fds {
		if c.state < stateOpen {
			if v.arm(); time.Now().After(c.deadline) {
				v.release(c)
			}
		}
	}
}

// add takes c, unless there are too many.
func (v *Device) add(c *conn) bool {
	if len(v.fds) >= maxConns || v.watch(c.fd, unix.EPOLLIN|unix.EPOLLOUT) != nil {
		return false
	}
	v.fds[int32(c.fd)] = c
	return true
}

// dial connects to the program that listens for the guest's key; nil if none does.
func (v *Device) dial(key uint64) *conn {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|socketFlags, 0)
	if err != nil {
		return nil
	}
	c := &conn{fd: fd, key: key, typ: typeStream, state: stateOpen, pending: 1 << opResponse}
	if unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("%s_%d", v.path, key>>32)}) != nil || !v.add(c) {
		unix.Close(fd)
		return nil
	}
	v.conns[key] = c
	return c
}

// release ends c for the guest, and for the host program once it has what is in out.
func (v *Device) release(c *conn) {
	if v.conns[c.key] == c {
		delete(v.conns, c.key)
	}
	if c.state, c.pending = stateGone, 0; len(c.out) == 0 && c.fd >= 0 {
		delete(v.fds, int32(c.fd))
		unix.Close(c.fd)
		c.fd = -1
	}
}

// serve handles events of c's Unix socket.
func (v *Device) serve(c *conn, events uint32) {
	if c.state == stateHello {
		v.hello(c)
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		if c.deaf(); c.state != stateOpen {
			v.release(c)
		}
	}
	c.readable = events&unix.EPOLLIN != 0 // an event says all that is so now
	if len(c.out) > 0 {
		c.out = append(c.out[:0], c.write(c.out)...)
	}
	v.settle(c)
}

// hello reads the host program's line, byte by byte: what follows is the guest's.
func (v *Device) hello(c *conn) {
	b := v.packet[:1]
	for b[0] = 0; b[0] != '\n' && len(c.line) < len("CONNECT 4294967295\n"); c.line = append(c.line, b[0]) {
		if n, err := unix.Read(c.fd, b); err == unix.EAGAIN {
			return
		} else if n != 1 {
			v.release(c)
			return
		}
	}
	var port uint32
	_, err := fmt.Sscanf(string(c.line), "CONNECT %d\n", &port)
	v.port = firstPort | (v.port+1)%firstPort
	if c.key = uint64(v.port)<<32 | uint64(port); err != nil || v.conns[c.key] != nil {
		v.release(c)
		return
	}
	c.state, c.pending, v.conns[c.key] = stateAsked, 1<<opRequest, c
}

// take handles the guest's packet for c. It is false if the packet has no place
// there, or was the last.
func (v *Device) take(c *conn, op, flags uint32, data []byte) bool {
	switch {
	case op == opResponse && c.state == stateAsked:
		c.state = stateOpen
		// The socket has room for that; if its program is gone, reading will tell.
		unix.Write(c.fd, fmt.Appendf(nil, "OK %d\n", c.key>>32))
	case c.state != stateOpen:
		return false
	case op == opRW && c.guestDown&noSend == 0 && len(data) <= bufferSize-len(c.out):
		if len(c.out) == 0 {
			data = c.write(data)
		}
		c.out = append(c.out, data...)
	case op == opShutdown && (c.guestDown|flags)&neither != neither:
		if c.guestDown |= flags & neither; c.guestDown == noReceive {
			unix.Shutdown(c.fd, unix.SHUT_RD)
		}
	case op == opCreditRequest:
		c.pending |= 1 << opCreditUpdate
	default:
		return op == opCreditUpdate
	}
	v.settle(c)
	return true
}

// write offers b to the host program and returns what is left of it.
func (c *conn) write(b []byte) []byte {
	n, err := unix.Write(c.fd, b)
	if err != nil && err != unix.EAGAIN {
		c.deaf()
		return nil
	}
	c.forwarded += uint32(max(n, 0))
	return b[max(n, 0):]
}

// deaf notes that the host program takes nothing any more.
func (c *conn) deaf() {
	c.out, c.hostDown, c.pending = nil, c.hostDown|noReceive, c.pending|1<<opShutdown
	if c.guestDown&noReceive != 0 {
		c.hostDown |= noSend // what it sends is not read any more
	}
}

// settle does what had to wait for the host program to take bytes.
func (v *Device) settle(c *conn) {
	switch {
	case len(c.out) == 0 && c.state == stateGone:
		v.release(c)
	case len(c.out) == 0 && c.guestDown&noSend != 0 && !c.ended:
		c.ended = true // once: it is an event
		unix.Shutdown(c.fd, unix.SHUT_WR)
	case c.state == stateOpen && c.forwarded-c.told >= bufferSize/2:
		c.pending |= 1 << opCreditUpdate
	}
}
