package control

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Hold gets hold of the VM's process, for Kill and WaitGone. The error is ErrGone if the VM is not there any more.
func (c *Client) Hold() error {
	if c.pid <= 0 {
		return fmt.Errorf("VM %v: its process is in another PID namespace", c.entry)
	}
	fd, err := unix.PidfdOpen(c.pid, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH {
		return c.wrap(ErrGone)
	} else if err != nil {
		return fmt.Errorf("VM %v: pidfd_open: %w", c.entry, err)
	}
	c.process = os.NewFile(uintptr(fd), "process")
	// If the process that listens has this number now, it had it when the descriptor was made. One whose queue is
	// full does listen.
	f, peer, err := dial(c.entry.dir, c.entry.file(), 0)
	if err == nil {
		f.Close()
	}
	if errors.Is(err, ErrGone) || err == nil && int(peer.Pid) != c.pid {
		return c.wrap(ErrGone)
	}
	return nil
}

// Kill ends the VM's process by SIGKILL. Hold comes first: it is why no other process can be meant, which has got the
// number since.
func (c *Client) Kill() error {
	if err := unix.PidfdSendSignal(int(c.process.Fd()), unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("VM %v: kill: %w", c.entry, err)
	}
	return nil
}

// WaitGone waits until the VM's process has ended, and says whether it has. Hold comes first.
func (c *Client) WaitGone(timeout time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(c.process.Fd()), Events: unix.POLLIN}}
	for deadline := time.Now().Add(timeout); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline).Milliseconds())))
		if err != unix.EINTR {
			return n > 0
		}
	}
}
