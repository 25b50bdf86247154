package virtio

import (
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// live says that the driver runs and has kept to the rules.
func (r *registers) live() bool {
	return r.Status&(statusDriverOK|statusNeedsReset) == statusDriverOK
}

// Serve is one round: the device handles what there is, and the driver is
// interrupted if it wants to be. Another round is due when the descriptor fd is readable,
// and after timeout ms, unless they are -1.
func (m *MMIO) Serve() (timeout, fd int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen || !m.reg.live() {
		return -1, -1
	}
	for _, q := range m.q {
		q.begin()
	}
	if err := m.dev.Serve(); err != nil {
		m.fail(err)
		return -1, -1
	}
	wanted := false
	timeout = -1
	for _, q := range m.q {
		wanted = q.interrupt() || wanted
		switch {
		case q == nil:
		case q.more:
			timeout = 0
		case q.wait > 0: // rounded up; no timeout, -1, is the largest uint
			timeout = int(min(uint(timeout), uint(q.wait/time.Millisecond)+1, math.MaxInt32))
		}
	}
	if wanted {
		m.interrupt(interruptQueue)
	}
	return timeout, m.dev.PollFD()
}

// Work serves the device until the descriptor stop is readable. kick is the
// doorbell, an eventfd, which it reads; both stay open until the vCPUs have stopped.
// It starts with a round, for what came before it, and sleeps in the kernel while
// there is nothing to do. A network card keeps the goroutine's thread, which ends with
// the goroutine.
func (m *MMIO) Work(kick, stop int) {
	if m.info.Type == typeNet {
		runtime.LockOSThread()
		batch()
	}
	fds := []unix.PollFd{{Fd: int32(stop), Events: unix.POLLIN}, {Fd: int32(kick), Events: unix.POLLIN}, {Events: unix.POLLIN}}
	count := make([]byte, 8)
	for dead := -1; ; {
		timeout, fd := m.Serve()
		if fd == dead {
			fd = -1
		}
		fds[2].Fd = int32(fd)
		if _, err := unix.Poll(fds, timeout); err == unix.EINTR {
			continue
		} else if err != nil || fds[0].Revents != 0 || fds[1].Revents&^unix.POLLIN != 0 {
			return
		}
		if fds[1].Revents != 0 {
			unix.Read(kick, count)
		}
		if r := fds[2].Revents; r != 0 && r&unix.POLLIN == 0 {
			dead = fd // it would be reported for ever
		}
	}
}

// batch has the calling thread wait for its turn where it shares a CPU with a vCPU
// that runs: one that takes the CPU at each doorbell, as the kernel has it by default,
// finds a single frame each time. The vCPU waits for none of them. A policy that
// somebody chose stays, as does the nice value. Failure only costs speed.
func batch() {
	if a, err := unix.SchedGetAttr(0, 0); err == nil && a.Policy == unix.SCHED_NORMAL {
		a.Policy = unix.SCHED_BATCH
		unix.SchedSetAttr(0, a, 0)
	}
}
