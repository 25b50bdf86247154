package hypercall

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/memory"
)

// walltime stores CLOCK_REALTIME in ns.
func (t *Table) walltime(_ Call, _, live []byte) error {
	le.PutUint64(live, uint64(time.Now().UnixNano()))
	return nil
}

// puts writes to the console. The call has no result, so a failure is for the
// monitor's log, but for a reader that went away: nobody will ever see what
// this guest has to say, and it ends as a process would by SIGPIPE.
func (t *Table) puts(c Call, arg, _ []byte) error {
	data, err := t.buffer(c, le.Uint64(arg[0:]), le.Uint64(arg[8:]))
	if err != nil {
		return err
	}
	if _, err := t.Console.Write(data); err != nil {
		if errors.Is(err, syscall.EPIPE) {
			return &ConsoleError{err}
		}
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			errno = syscall.EIO
		}
		t.hostError("console", 0, "write", errno)
	}
	return nil
}

// ConsoleError says that the console's reader is gone.
type ConsoleError struct{ Err error }

func (e *ConsoleError) Error() string { return "console: " + e.Err.Error() }

func (e *ConsoleError) Unwrap() error { return e.Err }

// poll waits until a NIC has a frame or the timeout is over. It is level-
// triggered. A wake-up for the monitor's own sake looks to the guest like an
// early time-out without events.
func (t *Table) poll(_ Call, arg, live []byte) error {
	ready, n := t.wait(le.Uint64(arg[0:]))
	le.PutUint64(live[pollOffReady:], ready)
	le.PutUint32(live[pollOffRet:], n)
	return nil
}

// wait polls for up to timeout ns and returns the set of ready handles and its
// size.
func (t *Table) wait(timeout uint64) (ready uint64, n uint32) {
	// Linux writes the time that is left back into ts, so that a restart after
	// EINTR does not begin anew.
	ts := unix.Timespec{Sec: int64(timeout / 1e9), Nsec: int64(timeout % 1e9)}
	for {
		_, err := unix.Ppoll(t.pollFDs, &ts, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			t.hostError("net", 0, "poll", err.(syscall.Errno))
			return 0, 0
		}
	}
	for i, h := range t.pollHandles[:len(t.pollHandles)-1] {
		if t.pollFDs[i].Revents != 0 {
			ready |= 1 << h
			n++
		}
	}
	return ready, n
}

// halt ends the guest.
func (t *Table) halt(c Call, arg, _ []byte) error {
	h := &Halt{Status: int32(le.Uint32(arg[8:]))}
	if cookie := le.Uint64(arg[0:]); cookie != 0 {
		b, err := t.View.Readable(memory.Addr(cookie), cookieSize)
		if err != nil {
			return pointerError(c, "cookie", err)
		}
		h.Frame = &TrapFrame{
			CR2: le.Uint64(b), ErrorCode: le.Uint64(b[8:]), RIP: le.Uint64(b[16:]), CS: le.Uint64(b[24:]),
			RFLAGS: le.Uint64(b[32:]), RSP: le.Uint64(b[40:]), SS: le.Uint64(b[48:]),
		}
	}
	return h
}
