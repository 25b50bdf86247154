package virtio

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// vsockFlags are those of all sockets.
const vsockFlags = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC

// vsockConn is the Unix socket to a host program, and the guest's connection to it.
type vsockConn struct {
	fd       int
	key      uint64 // host port << 32 | guest port
	typ      uint16 // vsockStream
	state    int
	deadline time.Time // to become vsockOpen
	line     []byte    // read so far as vsockHello
	out      []byte    // for the host program, up to vsockBuffer bytes
	readable bool      // fd may have bytes, or the end of them
	ended    bool      // the host program has been told that no more comes
	pending  uint16    // 1 << operation, for each that the guest has to be told

	guestDown, hostDown      uint32 // flags of vsockShutdown that each side is known by
	forwarded, told          uint32 // fwd_cnt: bytes that fd took; the guest's idea of it
	sent                     uint32 // bytes to the guest
	peerAlloc, peerForwarded uint32 // buf_alloc and fwd_cnt of the guest's last packet
}

// States of a connection: the host program is to send its line; the guest is to
// answer our REQUEST; open; the guest has no connection any more, but the host
// program still gets what is in out.
const vsockHello, vsockAsked, vsockOpen, vsockGone = 0, 1, 2, 3

// credit is the room at the guest's, in bytes (section 5.10.6.3).
func (c *vsockConn) credit() uint32 { return c.peerAlloc - min(c.sent-c.peerForwarded, c.peerAlloc) }

// todo is pending and, if there are bytes and room for them, vsockRW.
func (c *vsockConn) todo() uint16 {
	if c.readable && c.state == vsockOpen && c.guestDown&vsockNoReceive == 0 && c.hostDown&vsockNoSend == 0 && c.credit() > 0 {
		return c.pending | 1<<vsockRW
	}
	return c.pending
}

// watch adds fd to the epoll set.
func (v *Vsock) watch(fd int, events uint32) error {
	return unix.EpollCtl(v.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)})
}

// arm makes PollFD readable in vsockTimeout or earlier.
func (v *Vsock) arm() {
	if !v.armed {
		unix.TimerfdSettime(v.timer, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(vsockTimeout))}, nil)
		v.armed = true
	}
}

// poll handles the events of the host's side. New descriptors come after all
// of them, so that none is taken for one that was just closed.
func (v *Vsock) poll() {
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
	for i := 0; accept && i < vsockMaxConns; i++ {
		fd, _, err := unix.Accept4(v.listener, vsockFlags)
		if accept = err == nil; accept && !v.add(&vsockConn{fd: fd, typ: vsockStream, deadline: time.Now().Add(vsockTimeout)}) {
			unix.Close(fd)
		}
		if err != unix.EAGAIN {
			v.arm() // for the deadline, or to try again after EMFILE
		}
	}
}

// expire closes what has not become a connection in time.
func (v *Vsock) expire() {
	v.armed = false
	for _, c := range v.fds {
		if c.state < vsockOpen {
			if v.arm(); time.Now().After(c.deadline) {
				v.release(c)
			}
		}
	}
}

// add takes c, unless there are too many.
func (v *Vsock) add(c *vsockConn) bool {
	if len(v.fds) >= vsockMaxConns || v.watch(c.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP) != nil {
		return false
	}
	v.fds[int32(c.fd)] = c
	return true
}

// dial connects to the program that listens for the guest's key; nil if none does.
func (v *Vsock) dial(key uint64) *vsockConn {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|vsockFlags, 0)
	if err != nil {
		return nil
	}
	c := &vsockConn{fd: fd, key: key, typ: vsockStream, state: vsockOpen, pending: 1 << vsockResponse}
	if unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("%s_%d", v.path, key>>32)}) != nil || !v.add(c) {
		unix.Close(fd)
		return nil
	}
	v.conns[key] = c
	return c
}

// release ends c for the guest, and for the host program once it has what is in out.
func (v *Vsock) release(c *vsockConn) {
	if v.conns[c.key] == c {
		delete(v.conns, c.key)
	}
	if c.state, c.pending = vsockGone, 0; len(c.out) == 0 && c.fd >= 0 {
		delete(v.fds, int32(c.fd))
		unix.Close(c.fd)
		c.fd = -1
	}
}

// serve handles events of c's Unix socket.
func (v *Vsock) serve(c *vsockConn, events uint32) {
	if c.state == vsockHello {
		v.hello(c)
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		if c.deaf(); c.state != vsockOpen {
			v.release(c)
		}
	}
	c.readable = c.readable || events&(unix.EPOLLIN|unix.EPOLLRDHUP) != 0
	if len(c.out) > 0 {
		c.out = append(c.out[:0], c.write(c.out)...)
	}
	v.settle(c)
}

// hello reads the host program's line, byte by byte: what follows is the guest's.
func (v *Vsock) hello(c *vsockConn) {
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
	v.port = vsockPorts | (v.port+1)%vsockPorts
	if c.key = uint64(v.port)<<32 | uint64(port); err != nil || v.conns[c.key] != nil {
		v.release(c)
		return
	}
	c.state, c.pending, v.conns[c.key] = vsockAsked, 1<<vsockRequest, c
}

// take handles the guest's packet for c. It is false if the packet has no place
// there, or was the last.
func (v *Vsock) take(c *vsockConn, op, flags uint32, data []byte) bool {
	switch {
	case op == vsockResponse && c.state == vsockAsked:
		c.state, c.readable = vsockOpen, true
		// The socket has room for that; if its program is gone, reading will tell.
		unix.Write(c.fd, fmt.Appendf(nil, "OK %d\n", c.key>>32))
	case c.state != vsockOpen:
		return false
	case op == vsockRW && c.guestDown&vsockNoSend == 0 && len(data) <= vsockBuffer-len(c.out):
		if len(c.out) == 0 {
			data = c.write(data)
		}
		c.out = append(c.out, data...)
	case op == vsockShutdown && (c.guestDown|flags)&vsockNeither != vsockNeither:
		if c.guestDown |= flags & vsockNeither; c.guestDown == vsockNoReceive {
			unix.Shutdown(c.fd, unix.SHUT_RD)
		}
	case op == vsockCreditRequest:
		c.pending |= 1 << vsockCreditUpdate
	default:
		return op == vsockCreditUpdate
	}
	v.settle(c)
	return true
}

// write offers b to the host program and returns what is left of it.
func (c *vsockConn) write(b []byte) []byte {
	n, err := unix.Write(c.fd, b)
	if err != nil && err != unix.EAGAIN {
		c.deaf()
		return nil
	}
	c.forwarded += uint32(max(n, 0))
	return b[max(n, 0):]
}

// deaf notes that the host program takes nothing any more.
func (c *vsockConn) deaf() {
	c.out, c.hostDown, c.pending = nil, c.hostDown|vsockNoReceive, c.pending|1<<vsockShutdown
	if c.guestDown&vsockNoReceive != 0 {
		c.hostDown |= vsockNoSend // what it sends is not read any more
	}
}

// settle does what had to wait for the host program to take bytes.
func (v *Vsock) settle(c *vsockConn) {
	switch {
	case len(c.out) == 0 && c.state == vsockGone:
		v.release(c)
	case len(c.out) == 0 && c.guestDown&vsockNoSend != 0 && !c.ended:
		c.ended = true // once: it is an event
		unix.Shutdown(c.fd, unix.SHUT_WR)
	case c.state == vsockOpen && c.forwarded-c.told >= vsockBuffer/2:
		c.pending |= 1 << vsockCreditUpdate
	}
}
