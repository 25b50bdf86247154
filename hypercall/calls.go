package hypercall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
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
	data, err := t.buffer(c, "buffer", le.Uint64(arg[0:]), le.Uint64(arg[8:]))
	if err != nil {
		return err
	}
	n, err := t.Console.Write(data[min(t.written, len(data)):])
	if err == devices.ErrInterrupted {
		t.written += n
		return err
	}
	if t.written = 0; err != nil {
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
// triggered. After a wake-up for the monitor's own sake it goes on with the time that
// was left.
func (t *Table) poll(_ Call, arg, live []byte) error {
	if !t.polling {
		t.left = le.Uint64(arg[0:])
	}
	ready, n := t.wait()
	if t.polling = n == 0 && t.pollFDs[len(t.pollFDs)-1].Revents != 0; t.polling {
		return devices.ErrInterrupted
	}
	le.PutUint64(live[pollOffReady:], ready)
	le.PutUint32(live[pollOffRet:], n)
	return nil
}

// wait polls for up to the time that is left and returns the set of ready handles and
// its size. A NIC that may not be read yet has nothing ready.
func (t *Table) wait() (ready uint64, n uint32) {
	nics := t.pollHandles[:len(t.pollHandles)-1]
	for done := false; !done; {
		slice := t.left
		for i, h := range nics {
			if l := t.Limits[h][NetRead&1]; l != nil {
				t.pollFDs[i].Fd = int32(t.NICs[h].PollFD())
				if d := l.Wait(); d > 0 {
					t.pollFDs[i].Fd, slice = -1, min(slice, uint64(d))
				}
			}
		}
		ts := unix.Timespec{Sec: int64(slice / 1e9), Nsec: int64(slice % 1e9)}
		events, err := unix.Ppoll(t.pollFDs, &ts, nil)
		if err != nil && err != unix.EINTR {
			t.hostError("net", 0, "poll", err.(syscall.Errno))
			t.pollFDs[len(t.pollFDs)-1].Revents = 0
			return 0, 0
		}
		// Linux writes the time that is left back into ts.
		t.left -= slice - uint64(ts.Nano())
		done = err == nil && (events > 0 || t.left == 0)
	}
	for i, h := range nics {
		if t.pollFDs[i].Revents != 0 {
			ready |= 1 << h
			n++
		}
	}
	return ready, n
}

// pay has the guest wait until its limiter lets it go on, and takes n bytes. If the VM is
// to stop it goes on at once, and owes them.
func (t *Table) pay(l *devices.Limiter, n uint64) {
	for d := l.Wait(); d > 0; d = l.Wait() {
		ts := unix.NsecToTimespec(int64(d))
		if events, _ := unix.Ppoll(t.pollFDs[len(t.pollFDs)-1:], &ts, nil); events > 0 {
			break
		}
	}
	l.Take(n, 1)
}

// halt ends the guest.
func (t *Table) halt(c Call, arg, _ []byte) error {
	h := &Halt{Status: int32(le.Uint32(arg[8:]))}
	if cookie := le.Uint64(arg[0:]); cookie != 0 {
		b, err := t.buffer(c, "cookie", cookie, cookieSize)
		if err != nil {
			return err
		}
		h.Frame = new(TrapFrame)
		binary.Decode(b, le, h.Frame) // fails for too few bytes only
	}
	return h
}

// block is BLOCK_WRITE and BLOCK_READ.
func (t *Table) block(c Call, arg, live []byte) error {
	handle, offset, n, ret := le.Uint64(arg[0:]), le.Uint64(arg[8:]), le.Uint64(arg[24:]), live[blockOffRet:]
	var d devices.Disk
	if handle < MaxHandles {
		d = t.Disks[handle]
	}
	// Solo5's tender refuses an offset at the very end even for an empty
	// request, and does not look at alignment; both are kept.
	if d == nil || n > math.MaxInt64 || offset >= uint64(d.Size()) || n > uint64(d.Size())-offset {
		le.PutUint32(ret, resultInval)
		return nil
	}
	buf, err := t.buffer(c, "buffer", le.Uint64(arg[16:]), n)
	if err != nil {
		return err
	}
	t.pay(t.Limits[handle][c&1], n)
	if c == BlockWrite {
		t.done(ret, "disk", handle, "write", d.WriteAt(buf, int64(offset)))
	} else {
		t.done(ret, "disk", handle, "read", d.ReadAt(buf, int64(offset)))
	}
	return nil
}

// batch is a number of block and net calls in one (docs/abi.md, "Batches"): single calls
// in their order, up to the first that is not OK.
func (t *Table) batch(c Call, arg, live []byte) error {
	n, done, ret := le.Uint64(arg[batchOffDone:]), uint64(0), uint32(resultInval)
	if n <= batchMax {
		there, err := t.View.Access(memory.Addr(le.Uint64(arg[0:])), n*requestSize, memory.ReadWrite)
		if err != nil {
			return pointerError(c, "requests", err)
		}
		// All of them now: a request may read over those behind it.
		requests := t.requests[:copy(t.requests[:], there)]
		ret = resultOK
		for moved := uint64(0); ret == resultOK && done < n && moved < batchBytes; {
			r := requests[done*requestSize:][:requestSize]
			op, run, result := le.Uint64(r[requestOffCall:]), (*Table).block, blockOffRet
			if op >= uint64(NetWrite) {
				run, result = (*Table).net, netOffRet
			}
			if op < uint64(BlockWrite) || op > uint64(NetRead) || !t.exists[op] {
				ret = resultInval
				break
			}
			if err := run(t, Call(op), r, r); err != nil {
				return &PointerError{c, fmt.Sprintf("buffer of request %d", done), err.(*PointerError).AccessError}
			}
			if ret = le.Uint32(r[result:]); ret == resultOK {
				done, moved = done+1, moved+le.Uint64(r[result-8:]) // the length
			}
		}
		copy(there, requests)
	}
	le.PutUint64(live[batchOffDone:], done)
	le.PutUint32(live[batchOffRet:], ret)
	return nil
}

// net is NET_WRITE and NET_READ, one frame.
func (t *Table) net(c Call, arg, live []byte) (err error) {
	handle, ret := le.Uint64(arg[0:]), live[netOffRet:]
	if handle >= MaxHandles || t.NICs[handle] == nil {
		le.PutUint32(ret, resultInval)
		return nil
	}
	if t.frame[0], err = t.buffer(c, "buffer", le.Uint64(arg[8:]), le.Uint64(arg[netOffLen:])); err != nil {
		return err
	}
	limit := t.Limits[handle][c&1]
	if c == NetWrite {
		t.pay(limit, uint64(len(t.frame[0])))
		t.done(ret, "net", handle, "write", t.NICs[handle].WriteFrame(t.frame[:]))
		return nil
	}
	n, errno := 0, syscall.EAGAIN
	if limit.Wait() <= 0 {
		n, errno = t.NICs[handle].ReadFrame(t.frame[:])
	}
	if errno == syscall.EAGAIN {
		le.PutUint32(ret, resultAgain)
		return nil
	}
	if errno == 0 {
		limit.Take(uint64(n), 1)
		le.PutUint64(live[netOffLen:], uint64(n))
	}
	t.done(ret, "net", handle, "read", errno)
	return nil
}

// done gives the result. The buffer may have overlapped the structure, which is
// the guest's own affair: the result is written last.
func (t *Table) done(ret []byte, dev string, handle uint64, op string, errno syscall.Errno) {
	if errno != 0 {
		t.hostError(dev, int(handle), op, errno)
		le.PutUint32(ret, resultError)
		return
	}
	le.PutUint32(ret, resultOK)
}
