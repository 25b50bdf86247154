package hostio

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// pipeBuf is what a writable pipe or terminal takes without blocking
// (PIPE_BUF, pipe(7)).
const pipeBuf = 4096

// Console writes a guest's output to a descriptor that may be a pipe nobody
// reads, or a terminal that is stopped: while it waits there, the event wakes
// it. It does not own the descriptor.
type Console struct {
	fds [2]unix.PollFd // output, event
}

// NewConsole returns a console on fd; stop interrupts a Write that waits.
func NewConsole(fd int, stop *Event) *Console {
	c := &Console{}
	c.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
	c.fds[1] = unix.PollFd{Fd: int32(stop.PollFD()), Events: unix.POLLIN}
	return c
}

// Write writes all of b, or as much as it can before the event is signalled, with
// devices.ErrInterrupted: it may go on with the rest later. It allocates nothing.
// Only one goroutine may call it.
func (c *Console) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		if _, err := unix.Poll(c.fds[:], -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return total - len(b), err
		}
		if c.fds[1].Revents != 0 {
			return total - len(b), devices.ErrInterrupted
		}
		n, err := unix.Write(int(c.fds[0].Fd), b[:min(len(b), pipeBuf)])
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return total - len(b), err
		case n <= 0:
			return total - len(b), syscall.EIO
		}
		b = b[n:]
	}
	return total, nil
}

// Pump reads fd and hands the bytes to take, which returns how many it took; if
// that was not all, room is signalled when there is room for more. It returns
// when fd ends or fails, or stop is signalled.
func Pump(fd int, stop, room *Event, take func([]byte) int) {
	fds := [...]unix.PollFd{{Fd: int32(stop.PollFD()), Events: unix.POLLIN}, {Events: unix.POLLIN}}
	buf := make([]byte, pipeBuf)
	var rest []byte
	for {
		fds[1].Fd = int32(fd)
		if len(rest) > 0 {
			fds[1].Fd = int32(room.PollFD())
		}
		if _, err := unix.Poll(fds[:], -1); err == unix.EINTR {
			continue
		} else if err != nil || fds[0].Revents != 0 {
			return
		}
		if len(rest) > 0 {
			room.Clear()
		} else {
			n, err := unix.Read(fd, buf)
			if err == unix.EINTR || err == unix.EAGAIN {
				continue
			} else if err != nil || n <= 0 {
				return
			}
			rest = buf[:n]
		}
		rest = rest[take(rest):]
	}
}
