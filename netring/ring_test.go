package netring

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
)

// TestWrite: frames leave in the order of their entries, and nothing is committed.
func TestWrite(t *testing.T) {
	g := newGuest(t)
	for i := range uint32(3) {
		at := dataAddr + uint64(i)*0x100
		copy(g.mem.Host()[at:], fmt.Sprintf("frame %d", i))
		g.add(opWrite, hNIC, at, 7, i)
	}
	copy(g.mem.Host()[textAddr:], "constant") // what can be read can be sent
	g.add(opWrite, hNIC, textAddr, 8, 3)
	g.served()
	if got := fmt.Sprintf("%q", g.nic.out); got != `["frame 0" "frame 1" "frame 2" "constant"]` {
		t.Errorf("the NIC was given %s", got)
	}
	if n := g.r.word(offCommitTail).Load(); n != 0 {
		t.Errorf("%d commits after writes; want 0", n)
	}
}

// TestRead: each read has a commit with its id and the results of NET_READ.
func TestRead(t *testing.T) {
	g := newGuest(t)
	g.nic.in = []byte("a frame from the host")
	for i, tt := range []struct {
		handle uint32
		room   uint32
		err    syscall.Errno
		result uint32
		n      uint32
	}{
		{hNIC, 100, 0, resultOK, 21},
		{hNIC, 10, 0, resultOK, 10},
		{hNIC, 0, 0, resultOK, 0},
		{hNIC, 100, syscall.EAGAIN, resultAgain, 0},
		{hNIC, 100, syscall.EIO, resultError, 0},
		{0, 100, 0, resultInval, 0},
		{2, 100, 0, resultInval, 0},
		{64, 100, 0, resultInval, 0},
		{1<<32 - 1, 1<<32 - 1, 0, resultInval, 0}, // the pointer is not looked at
	} {
		g.nic.err, g.errs = tt.err, nil
		id := uint32(1000 + i)
		clear(g.mem.Host()[dataAddr:])
		g.add(opRead, tt.handle, dataAddr, tt.room, id)
		g.served()
		g.wantCommit(id, tt.result, tt.n)
		if got := g.mem.Host()[dataAddr:][:100]; !bytes.Equal(bytes.TrimRight(got, "\x00"), g.nic.in[:tt.n]) {
			t.Errorf("read %d left %q; want %q", i, bytes.TrimRight(got, "\x00"), g.nic.in[:tt.n])
		}
		want := []hostErr{{"net", hNIC, "read", syscall.EIO}}
		if tt.err != syscall.EIO {
			want = nil
		}
		if !slices.Equal(g.errs, want) {
			t.Errorf("read %d told HostError %v; want %v", i, g.errs, want)
		}
	}
}

// TestWriteFails: the guest is not told, the host's log is.
func TestWriteFails(t *testing.T) {
	g := newGuest(t)
	for _, err := range []syscall.Errno{syscall.EIO, syscall.EAGAIN} {
		g.nic.err, g.errs = err, nil
		g.add(opWrite, hNIC, dataAddr, 60, 0)
		g.add(opWrite, 7, 1<<63, 60, 0) // no such NIC: passed over
		g.served()
		if want := []hostErr{{"net", hNIC, "write", err}}; !slices.Equal(g.errs, want) {
			t.Errorf("a write that fails told HostError %v; want %v", g.errs, want)
		}
	}
}

// TestOtherOperations are passed over, whatever else they say.
func TestOtherOperations(t *testing.T) {
	g := newGuest(t)
	for _, op := range []uint32{0, 3, 0x100, 0x10001, 1<<32 - 1} {
		g.add(op, hNIC, 1<<64-1, 1<<32-1, 1)
	}
	g.add(opWrite, hNIC, dataAddr, 5, 2)
	g.served()
	if r, w := g.nic.reads.Load(), g.nic.writes.Load(); r != 0 || w != 1 || g.r.commits != 0 {
		t.Errorf("%d reads, %d writes, %d commits; want 0, 1, 0", r, w, g.r.commits)
	}
}

// TestWrap goes twice around the ring and over the end of the indices.
func TestWrap(t *testing.T) {
	g := newGuest(t)
	state, err := g.r.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	const start = 1<<32 - slots
	le.PutUint32(state, start)
	le.PutUint32(state[4:], start)
	if err := g.r.LoadState(state); err != nil {
		t.Fatal(err)
	}
	g.tail, g.com = start, start
	g.r.word(offEntryTail).Store(start)
	g.r.word(offCommitTail).Store(start)
	for i := uint32(0); i < 2*slots; {
		burst := min(1+i%7*200, 2*slots-i, slots)
		for range burst {
			g.nic.in = fmt.Append(g.nic.in[:0], i)
			g.put(opRead, hNIC, dataAddr+uint64(i%8)*64, 64, i)
			i++
		}
		g.r.word(offEntryTail).Store(g.tail)
		g.served()
		for j := i - burst; j < i; j++ {
			g.wantCommit(j, resultOK, uint32(len(g.nic.in)))
		}
	}
	if g.tail != slots || g.r.commits != slots {
		t.Errorf("%d entries and %d commits; want %d of each", g.tail, g.r.commits, slots)
	}
}

// TestState: a saved ring goes on in another one; what is wrong leaves a ring as it was.
func TestState(t *testing.T) {
	g := newGuest(t)
	g.add(opRead, hNIC, dataAddr, 64, 5)
	g.served()
	g.add(opWrite, hNIC, dataAddr, 64, 6) // not carried out yet
	state, err := g.r.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	h := newGuest(t)
	for _, n := range []int{0, 7, 8, len(state) - 1, len(state) + 1} {
		if err := h.r.LoadState(make([]byte, n)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("need %d", len(state))) {
			t.Errorf("LoadState of %d bytes = %v; want an error with %d", n, err, len(state))
		}
	}
	if h.r.head != 0 || h.r.commits != 0 {
		t.Errorf("head %d, commits %d after a failed LoadState; want 0", h.r.head, h.r.commits)
	}
	if err := h.r.LoadState(state); err != nil {
		t.Fatal(err)
	}
	h.tail = g.tail
	h.served()
	if w := h.nic.writes.Load(); w != 1 || h.r.commits != 1 {
		t.Errorf("%d writes, %d commits after LoadState; want 1 and 1", w, h.r.commits)
	}
	h.wantCommit(5, resultOK, 0)
	if again, err := g.r.SaveState(); err != nil || !bytes.Equal(again, state) {
		t.Errorf("SaveState() changed; error %v", err)
	}
}

// TestAttach: a ring is one VM's, and the guest gets whole pages of zeroes.
func TestAttach(t *testing.T) {
	g := newGuest(t)
	if _, _, err := g.r.Attach(new(hypercall.Config)); err == nil {
		t.Error("Attach a second time = nil; want an error")
	}
	if n := len(g.r.guest.Host()); n != 13*4096 || !bytes.Equal(g.r.guest.Host(), make([]byte, n)) {
		t.Errorf("the ring's memory has %d bytes; want 13 pages of zeroes", n)
	}
	if g.calls.NICs[2] != nil || g.calls.NICs[hNIC].PollFD() != -1 {
		t.Error("Attach changed more than how NICs are shared")
	}
	r, calls := New(), new(hypercall.Config) // without anything that it could share
	if _, _, err := r.Attach(calls); err != nil || calls.HostError != nil {
		t.Errorf("Attach() = %v, HostError set: %v; want neither", err, calls.HostError != nil)
	}
	r.Close()
}

// TestAllocs: entries cost no garbage.
func TestAllocs(t *testing.T) {
	g := newGuest(t)
	g.nic.in, g.nic.keep, g.errs = make([]byte, 1514), false, make([]hostErr, 0, 1000)
	for _, err := range []syscall.Errno{0, syscall.EAGAIN, syscall.EIO} {
		g.nic.err = err
		if n := testing.AllocsPerRun(100, func() {
			g.add(opWrite, hNIC, dataAddr, 1514, 1)
			g.add(opRead, hNIC, dataAddr, 1514, 2)
			g.add(opRead, 9, dataAddr, 1514, 3)
			g.add(9, 9, dataAddr, 1514, 4)
			g.served()
		}); n != 0 {
			t.Errorf("a round with result %v allocates %v times; want 0", err, n)
		}
	}
}
