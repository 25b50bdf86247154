package hypercall

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/memory"
)

func TestWalltime(t *testing.T) {
	r := newRig(t)
	before := time.Now().UnixNano()
	r.ok(Walltime, dataAddr, dataAddr, 8)
	if got := int64(r.u64(dataAddr)); got < before || got > time.Now().UnixNano() {
		t.Errorf("WALLTIME = %d ns; want between %d and now", got, before)
	}
}

func TestPuts(t *testing.T) {
	r := newRig(t)
	copy(r.mem.Host()[textAddr:], "hello")
	for _, c := range []struct {
		ptr, len uint64
		want     string
	}{
		{textAddr, 5, "hello"},
		{textAddr + 1, 3, "ell"},
		{textAddr, 0, ""},
		{0, 0, ""}, // a pointer to nothing, for nothing
		{textAddr, 0x2000, "hello" + string(make([]byte, 0x2000-5))},
	} {
		r.console.got = nil
		r.put(bootAddr, c.ptr, c.len) // read-only memory does for a call without result
		r.ok(Puts, bootAddr)
		if string(r.console.got) != c.want {
			t.Errorf("PUTS(%#x, %d) wrote %d bytes; want %d: %.20q", c.ptr, c.len, len(r.console.got), len(c.want), c.want)
		}
	}
	r.hostErrs()
}

func TestPutsErrors(t *testing.T) {
	r := newRig(t)
	r.put(dataAddr, textAddr, 5)
	for _, c := range []struct {
		err  error
		want syscall.Errno // told to HostError; 0 = the guest ends
	}{
		{syscall.ENOSPC, syscall.ENOSPC},
		{io.ErrShortWrite, syscall.EIO},
		{syscall.EPIPE, 0},
	} {
		r.console.err = c.err
		err := r.call(Puts, dataAddr)
		if c.want != 0 {
			if err != nil {
				t.Errorf("PUTS with %v = %v; want nil: the call has no result", c.err, err)
			}
			r.hostErrs(hostErr{"console", 0, "write", c.want})
			continue
		}
		var ce *ConsoleError
		if !errors.As(err, &ce) || !errors.Is(err, c.err) {
			t.Errorf("PUTS with %v = %v; want a ConsoleError", c.err, err)
		}
		r.hostErrs()
	}
	// Nobody has to listen.
	r.HostError, r.console.err = nil, syscall.EIO
	if err := r.call(Puts, dataAddr); err != nil {
		t.Errorf("PUTS without HostError = %v; want nil", err)
	}
}

func TestHalt(t *testing.T) {
	r := newRig(t)
	for i := range uint64(7) {
		r.put(heapAddr+i*8, 100+i)
	}
	frame := TrapFrame{CR2: 100, ErrorCode: 101, RIP: 102, CS: 103, RFLAGS: 104, RSP: 105, SS: 106}
	const top = memSize - cookieSize
	copy(r.mem.Host()[top:], r.mem.Host()[heapAddr:heapAddr+56])
	copy(r.mem.Host()[textAddr:], r.mem.Host()[heapAddr:heapAddr+56])
	for _, c := range []struct {
		cookie, status uint64
		want           int32
		frame          bool
	}{
		{0, 0, 0, false},
		{0, 255, 255, false},
		{0, 1<<32 - 1, -1, false},
		{0, 1 << 32, 0, false}, // only 32 bits count
		{0, 1 << 31, -1 << 31, false},
		{heapAddr, 255, 255, true},
		{textAddr, 255, 255, true}, // read-only does
		{top, 1, 1, true},          // ends with memory
	} {
		r.put(bootAddr, c.cookie, c.status)
		err := r.call(HaltCall, bootAddr)
		var h *Halt
		if !errors.As(err, &h) || h.Status != c.want || (h.Frame != nil) != c.frame || c.frame && *h.Frame != frame {
			t.Errorf("HALT(cookie %#x, status %#x) = %#v; want status %d, frame %v", c.cookie, c.status, err, c.want, c.frame)
		}
	}
	for _, cookie := range []uint64{1, top + 1, memSize - 1, memSize, holeAddr - 1, textAddr - 1, gapAddr - cookieSize + 1, 1<<64 - 1, 1<<64 - cookieSize} {
		r.put(dataAddr, cookie, 0)
		r.refused(HaltCall, dataAddr, "cookie", cookie, cookieSize, memory.Read)
	}
}
