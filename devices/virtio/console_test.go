package virtio

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// writeSizes is an output that notes how much it was given at a time.
type writeSizes struct {
	bytes.Buffer
	n []int
}

func (s *writeSizes) Write(b []byte) (int, error) {
	s.n = append(s.n, len(b))
	return s.Buffer.Write(b)
}

func TestConsoleTransmit(t *testing.T) {
	out := &writeSizes{}
	g := newGuest(t, NewConsole(out, -1))
	tx := g.start(FeatureEventIdx)[1]
	tx.Add([][]byte{[]byte("one "), []byte("two ")})
	tx.Desc(tx.Free, bufBase, 0, 0, 0) // an empty line
	tx.Offer(tx.Free)
	tx.Free++
	tx.Add([][]byte{[]byte("three")})
	g.serve()
	if out.String() != "one two three" {
		t.Errorf("output = %q; want one two three", out)
	}
	for i := range 3 {
		if _, n, ok := tx.Done(); !ok || n != 0 {
			t.Errorf("used element %d = %d, %v; want 0 bytes", i, n, ok)
		}
	}
	if g.irqs.Load() != 1 { // the driver's event index is 0: it wants the first only
		t.Errorf("%d interrupts; want 1", g.irqs.Load())
	}
}

// TestConsoleLong: a chain far longer than a round's share comes out whole, in
// pieces, between which the lock is free; also over a saved state.
func TestConsoleLong(t *testing.T) {
	out := &writeSizes{}
	g := newGuest(t, NewConsole(out, -1))
	tx := g.start(0)[1]
	long := g.at(0x40000, 0x30001)
	for i := range long {
		long[i] = byte(i ^ i>>8)
	}
	tx.Desc(0, 0x40000, uint32(len(long)), descNext, 1)
	tx.Desc(1, 0x40000, 5, descNext, 2)
	tx.Desc(2, 0x40000, maxTransfer, 0, 0)
	tx.Offer(0)
	rounds := 0
	for timeout := 0; timeout == 0; rounds++ {
		if _, _, ok := tx.Done(); ok {
			t.Fatal("the chain is returned before its end")
		}
		timeout, _ = g.m.Serve()
		state, err := g.m.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		g.plug(NewConsole(out, -1))
		if err := g.m.LoadState(state); err != nil {
			t.Fatal(err)
		}
	}
	want := string(long) + string(long[:5]) + string(long[:maxTransfer])
	if out.String() != want || rounds != 7 {
		t.Errorf("output of %d bytes in %d rounds, equal %v; want %d in 7", out.Len(), rounds, out.String() == want, len(want))
	}
	for _, n := range out.n {
		if n > maxTransfer {
			t.Errorf("a write of %d bytes; want %d at most", n, maxTransfer)
		}
	}
	if _, _, ok := tx.Done(); !ok {
		t.Error("the chain is not returned")
	}
}

// TestConsoleRefused: output that fails is lost, and the guest goes on.
func TestConsoleRefused(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	g := newGuest(t, NewConsole(w, -1))
	tx := g.start(0)[1]
	tx.Add([][]byte{[]byte("lost")})
	tx.Add([][]byte{[]byte("lost")})
	g.serve()
	g.check("output fails", regStatus, statusRunning)
	for range 2 {
		if _, _, ok := tx.Done(); !ok {
			t.Error("a chain is not returned")
		}
	}
}

// TestConsoleStopped: input is not polled for when its queue is stopped.
func TestConsoleStopped(t *testing.T) {
	r, w := newPipe(t)
	defer unix.Close(r)
	defer unix.Close(w)
	g := newGuest(t, NewConsole(io.Discard, r))
	g.start(0)[0].Add(nil, 1)
	if _, fd := g.m.Serve(); fd != r {
		t.Errorf("Serve() = descriptor %d with a buffer; want %d", fd, r)
	}
	g.set(regQueueSel, 0)
	g.set(regQueueReady, 0)
	if _, fd := g.m.Serve(); fd != -1 {
		t.Errorf("Serve() = descriptor %d with the queue stopped; want -1", fd)
	}
}

func TestConsoleReceive(t *testing.T) {
	testutil.Watchdog(t) // the pipe blocks
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dev := NewConsole(io.Discard, int(r.Fd()))
	g := newGuest(t, dev)
	rx := g.start(0)[0]
	w.WriteString("abcdefgh")
	g.serve()
	if fd := dev.PollFD(); fd != -1 {
		t.Errorf("PollFD() without a buffer = %d; want -1", fd)
	}
	_, in1 := rx.Add(nil, 3)
	_, in2 := rx.Add(nil, 16, 16)
	rx.Add(nil, 4)
	_, fd := g.m.Serve()
	if fd != dev.in {
		t.Errorf("Serve() = descriptor %d with a buffer and no input; want %d", fd, dev.in)
	}
	for i, want := range []string{"abc", "defgh"} {
		_, n, ok := rx.Done()
		if got := [][]byte{in1[0], in2[0]}[i]; !ok || string(got[:n]) != want {
			t.Errorf("input %d = %q, %v; want %q", i, got[:n], ok, want)
		}
	}
	if _, _, ok := rx.Done(); ok {
		t.Error("a buffer is returned without input")
	}
	// A reset forgets the buffer, not the input.
	w.WriteString("later")
	rx = g.start(0)[0]
	_, in := rx.Add(nil, 100)
	g.serve()
	if _, n, _ := rx.Done(); string(in[0][:n]) != "later" {
		t.Errorf("input after a reset = %q; want later", in[0][:n])
	}
	// The last buffer is used: what waits is not polled for.
	rx.Add(nil, 1)
	if _, fd := g.m.Serve(); fd != dev.in {
		t.Errorf("Serve() = descriptor %d with a buffer; want %d", fd, dev.in)
	}
	w.WriteString("xyz")
	if _, fd := g.m.Serve(); fd != -1 {
		t.Errorf("Serve() = descriptor %d without a buffer; want -1", fd)
	}
	rx.Done()
	// The end of the input is for good.
	w.WriteString("end")
	w.Close()
	_, in = rx.Add(nil, 100)
	rx.Add(nil, 100)
	_, fd = g.m.Serve()
	if _, n, _ := rx.Done(); string(in[0][:n]) != "yzend" || fd != -1 {
		t.Errorf("input at the end = %q, descriptor %d; want yzend, -1", in[0][:n], fd)
	}
	g.serve()
	g.check("after the end", regStatus, statusRunning)
}

// TestConsoleWork: input arrives through Work; its end, before and after buffers
// are there, leaves Work asleep.
func TestConsoleWork(t *testing.T) {
	testutil.CheckFDs(t)
	r, wr := newPipe(t)
	defer unix.Close(r)
	g := newGuest(t, NewConsole(io.Discard, r))
	w := g.work(t)
	rx := g.start(0)[0]
	_, in := rx.Add(nil, 8)
	rx.Add(nil, 8)
	signal(t, w.kick)
	w.idle()
	if _, err := unix.Write(wr, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n := rx.waitUsed(); n != 1 || in[0][0] != 'x' {
		t.Errorf("input = %q; want x", in[0][:n])
	}
	unix.Close(wr)
	testutil.Until(t, "the end of the input", func() bool {
		g.m.mu.Lock()
		defer g.m.mu.Unlock()
		return g.dev.(*Console).in == -1
	})
	w.idle()
}

func TestConsoleLies(t *testing.T) {
	for name, c := range map[string]struct {
		queue int
		lie   func(d *driver)
		want  string
	}{
		"writable output":   {1, func(d *driver) { d.Add([][]byte{{1}}, 1) }, "to transmit has writable buffers"},
		"readable input":    {0, func(d *driver) { d.Add([][]byte{{1}}, 1) }, "to receive has readable buffers"},
		"no room for input": {0, func(d *driver) { d.Desc(0, 0, 0, descWrite, 0); d.Offer(0) }, "or no writable one"},
	} {
		null, err := os.Open("/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		out := &strings.Builder{}
		g := newGuest(t, NewConsole(out, int(null.Fd())))
		c.lie(g.start(0)[c.queue])
		g.serve()
		g.refused(name, c.want)
		g.start(0)[1].Add([][]byte{[]byte("again")})
		g.serve()
		if out.String() != "again" {
			t.Errorf("%s, then a reset: output %q; want again", name, out)
		}
		null.Close()
	}
}

// TestConsoleFlood: input without end is taken as far as there are buffers.
func TestConsoleFlood(t *testing.T) {
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	g := newGuest(t, NewConsole(io.Discard, int(zero.Fd())))
	rx := g.start(0)[0]
	for i := range uint16(64) {
		rx.Desc(i, bufBase, 900<<10, descWrite, 0)
		rx.Offer(i)
	}
	g.serve()
	for i := range 64 {
		if _, n, ok := rx.Done(); !ok || n != maxTransfer {
			t.Errorf("buffer %d = %d bytes, %v; want %d", i, n, ok, maxTransfer)
		}
	}
}
