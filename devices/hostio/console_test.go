package hostio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

func newEvent(t testing.TB) *Event {
	t.Helper()
	e, err := NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// pipe returns both ends of a pipe; flags as for pipe2.
func pipe(t testing.TB, flags int) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|flags); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

type result struct {
	n   int
	err error
}

// write calls c.Write on a thread of its own and returns that thread's id once
// the kernel has it in poll.
func write(t *testing.T, c *Console, b []byte) <-chan result {
	t.Helper()
	tids, done := make(chan int, 1), make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids <- unix.Gettid()
		n, err := c.Write(b)
		done <- result{n, err}
	}()
	testutil.UntilInSyscall(t, <-tids, unix.SYS_POLL, unix.SYS_PPOLL)
	return done
}

// TestConsoleWake interrupts a guest whose output nobody reads, and goes on when
// somebody does.
func TestConsoleWake(t *testing.T) {
	for _, flags := range []int{0, unix.O_NONBLOCK} {
		r, w := pipe(t, flags)
		e := newEvent(t)
		b := make([]byte, 1<<20)
		done := write(t, NewConsole(w, e), b)
		e.Signal()
		res := testutil.Wait(t, done, "Write after Signal")
		if res.n == 0 || res.n >= len(b) || res.err != devices.ErrInterrupted {
			t.Errorf("Write = %d, %v after Signal; want a part of %d, %v", res.n, res.err, len(b), devices.ErrInterrupted)
		}
		e.Clear()
		done = write(t, NewConsole(w, e), b[res.n:])
		for left := len(b); left > 0; {
			n, err := unix.Read(r, make([]byte, left))
			if err == unix.EAGAIN {
				runtime.Gosched()
			} else if err != nil {
				t.Fatal(err)
			}
			left -= max(n, 0)
		}
		if again := testutil.Wait(t, done, "Write of the rest"); again.n != len(b)-res.n || again.err != nil {
			t.Errorf("Write = %d, %v after Clear; want %d, nil", again.n, again.err, len(b)-res.n)
		}
	}
}

// TestConsoleFullPipe leaves room for a byte in a pipe that blocks: a write of
// more would hang in the kernel, out of the event's reach.
func TestConsoleFullPipe(t *testing.T) {
	r, w := pipe(t, unix.O_NONBLOCK)
	page := make([]byte, 4096)
	for {
		if _, err := unix.Write(w, page); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(w, false); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Read(r, page[:1]); err != nil {
		t.Fatal(err)
	}
	e := newEvent(t)
	done := write(t, NewConsole(w, e), page)
	e.Signal()
	if r := testutil.Wait(t, done, "Write after Signal"); r.n != 0 || r.err != devices.ErrInterrupted {
		t.Errorf("Write = %d, %v; want 0, %v", r.n, r.err, devices.ErrInterrupted)
	}
}

// TestConsoleStopped: with the event signalled nothing is written any more, and
// Clear ends that.
func TestConsoleStopped(t *testing.T) {
	r, w := pipe(t, unix.O_NONBLOCK)
	e := newEvent(t)
	c := NewConsole(w, e)
	e.Signal()
	if n, err := c.Write([]byte("lost")); n != 0 || err != devices.ErrInterrupted {
		t.Errorf("Write with the event signalled = %d, %v; want 0, %v", n, err, devices.ErrInterrupted)
	}
	e.Clear()
	if n, err := c.Write([]byte("kept")); n != 4 || err != nil {
		t.Errorf("Write = %d, %v; want 4, nil", n, err)
	}
	b := make([]byte, 16)
	if n, err := unix.Read(r, b); string(b[:max(n, 0)]) != "kept" {
		t.Errorf("the pipe holds %q, %v; want kept", b[:max(n, 0)], err)
	}
}

// TestConsoleLarge: more than the pipe holds, read at the same time.
func TestConsoleLarge(t *testing.T) {
	testutil.Watchdog(t)
	for _, flags := range []int{0, unix.O_NONBLOCK} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(int(w.Fd()), flags != 0); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 300_001)
		for i := range want {
			want[i] = byte(i ^ i>>8)
		}
		got := make(chan []byte, 1)
		go func() {
			b, err := io.ReadAll(r)
			if err != nil {
				t.Error(err)
			}
			got <- b
		}()
		n, err := NewConsole(int(w.Fd()), newEvent(t)).Write(want)
		if n != len(want) || err != nil {
			t.Errorf("Write = %d, %v; want %d, nil", n, err, len(want))
		}
		w.Close()
		if b := testutil.Wait(t, got, "reader"); !bytes.Equal(b, want) {
			t.Errorf("the reader got %d bytes; want the %d that were written", len(b), len(want))
		}
		r.Close()
	}
}

func TestConsoleErrors(t *testing.T) {
	testutil.Watchdog(t)
	e := newEvent(t)
	r, w := pipe(t, 0)
	unix.Close(r)
	if n, err := NewConsole(w, e).Write([]byte("x")); n != 0 || !errors.Is(err, unix.EPIPE) {
		t.Errorf("Write to a pipe without a reader = %d, %v; want 0, EPIPE", n, err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if n, err := NewConsole(int(full.Fd()), e).Write([]byte("x")); n != 0 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Write to /dev/full = %d, %v; want 0, ENOSPC", n, err)
	}
	const noFD = 1 << 20 // above any limit that tests run with
	if n, err := NewConsole(noFD, e).Write([]byte("x")); n != 0 || !errors.Is(err, unix.EBADF) {
		t.Errorf("Write to a descriptor that is not open = %d, %v; want 0, EBADF", n, err)
	}
	if n, err := NewConsole(noFD, e).Write(nil); n != 0 || err != nil {
		t.Errorf("Write(nil) = %d, %v; want 0, nil", n, err)
	}
}

// TestConsoleReaderLeaves closes the reading end while Write waits.
func TestConsoleReaderLeaves(t *testing.T) {
	r, w := pipe(t, 0)
	b := make([]byte, 1<<20)
	done := write(t, NewConsole(w, newEvent(t)), b)
	unix.Close(r)
	if r := testutil.Wait(t, done, "Write after close"); r.n >= len(b) || !errors.Is(r.err, unix.EPIPE) {
		t.Errorf("Write = %d, %v; want less than %d, EPIPE", r.n, r.err, len(b))
	}
}

func TestConsoleAllocs(t *testing.T) {
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c := NewConsole(int(null.Fd()), newEvent(t))
	b := make([]byte, 10_000)
	if n := testing.AllocsPerRun(100, func() {
		if n, err := c.Write(b); n != len(b) || err != nil {
			t.Error(n, err)
		}
	}); n != 0 {
		t.Errorf("Write allocates %v times; want 0", n)
	}
}

// signalled asks the kernel whether the event is readable.
func signalled(t *testing.T, fd int) bool {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 1 && p[0].Revents == unix.POLLIN
	}
}

func TestEvent(t *testing.T) {
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	e := newEvent(t)
	for i, c := range []struct {
		op   string
		do   func()
		want bool
	}{
		{"nothing", func() {}, false},
		{"Clear", e.Clear, false}, // must not block
		{"Signal", e.Signal, true},
		{"Signal", e.Signal, true},
		{"Clear", e.Clear, false}, // takes both back
		{"a full counter", func() {
			if _, err := unix.Write(e.PollFD(), []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"Signal", e.Signal, true}, // must not block
		{"Clear", e.Clear, false},
	} {
		c.do()
		if got := signalled(t, e.PollFD()); got != c.want {
			t.Errorf("step %d, %s: signalled = %v; want %v", i, c.op, got, c.want)
		}
	}
	if flags, err := unix.FcntlInt(uintptr(e.PollFD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags = %#x, %v; want FD_CLOEXEC", flags, err)
	}
	if n := testing.AllocsPerRun(100, e.Signal); n != 0 {
		t.Errorf("Signal allocates %v times; want 0", n)
	}
}
