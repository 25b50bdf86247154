package netring

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/memory"
)

// The memory of the tests' guest:
//
//	0x0000 nothing   0x1000 read-only   0x2000 read-write to the end
const (
	textAddr = 0x1000
	dataAddr = 0x2000
	memSize  = 0x20000
)

// Handles of the tests' NICs.
const hNIC, hLast = 1, 63

// fakeNIC gives out in and keeps what is written. It finds out when two goroutines use one end.
type fakeNIC struct {
	devices.NIC
	t               testing.TB
	in              []byte
	err             syscall.Errno
	during          func() // called inside a read or write, if there
	inRead, inWrite atomic.Int32
	reads, writes   atomic.Int64
	out             [][]byte // of writes, if keep
	keep            bool
}

func (n *fakeNIC) PollFD() int { return -1 }

func (n *fakeNIC) ReadFrame(bufs [][]byte) (int, syscall.Errno) {
	if n.inRead.Add(1) != 1 {
		n.t.Error("two goroutines read at the same time")
	}
	defer n.inRead.Add(-1)
	n.reads.Add(1)
	if n.during != nil {
		n.during()
	}
	if n.err != 0 {
		return 0, n.err
	}
	return copy(bufs[0], n.in), 0
}

func (n *fakeNIC) WriteFrame(bufs [][]byte) syscall.Errno {
	if n.inWrite.Add(1) != 1 {
		n.t.Error("two goroutines write at the same time")
	}
	defer n.inWrite.Add(-1)
	n.writes.Add(1)
	if n.during != nil {
		n.during()
	}
	if n.keep {
		n.out = append(n.out, append([]byte(nil), bufs[0]...))
	}
	return n.err
}

// hostErr is a call of HostError.
type hostErr struct {
	dev    string
	handle int
	op     string
	err    syscall.Errno
}

// guest is a guest with a ring and two NICs.
type guest struct {
	t     testing.TB
	r     *Ring
	mem   *memory.Memory
	calls *hypercall.Config
	nic   *fakeNIC
	errs  []hostErr
	tail  uint32 // entries made
	com   uint32 // commits taken
}

func newGuest(t testing.TB) *guest {
	t.Helper()
	g := &guest{t: t, nic: &fakeNIC{t: t, keep: true}}
	var err error
	if g.mem, err = memory.New(memSize); err != nil {
		t.Fatal(err)
	}
	view := memory.NewView(g.mem)
	if err := view.Grant(textAddr, dataAddr, memory.Read); err != nil {
		t.Fatal(err)
	}
	if err := view.Grant(dataAddr, memSize, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	g.calls = &hypercall.Config{View: view, HostError: func(dev string, handle int, op string, err syscall.Errno) {
		g.errs = append(g.errs, hostErr{dev, handle, op, err})
	}}
	g.calls.NICs[hNIC], g.calls.NICs[hLast] = g.nic, &fakeNIC{t: t}
	g.r = New()
	if _, _, err := g.r.Attach(g.calls); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.r.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
		g.mem.Close()
	})
	return g
}

// put stores an entry in the next slot, without the tail.
func (g *guest) put(op, handle uint32, ptr uint64, n, id uint32) {
	e := g.r.mem[offEntries+g.tail%slots*entrySize:]
	le.PutUint32(e, op)
	le.PutUint32(e[4:], handle)
	le.PutUint64(e[8:], ptr)
	le.PutUint32(e[16:], n)
	le.PutUint32(e[20:], id)
	g.tail++
}

// add makes an entry.
func (g *guest) add(op, handle uint32, ptr uint64, n, id uint32) {
	g.put(op, handle, ptr, n, id)
	g.r.word(offEntryTail).Store(g.tail)
}

// ring rings the doorbell, if the monitor wants it.
func (g *guest) ring() {
	if g.r.word(offNeedsKick).Load() != 0 {
		g.r.doorbell.Signal()
	}
}

// commit is the next commit, which must be there.
func (g *guest) commit() (id, result, n uint32) {
	g.t.Helper()
	if made := g.r.word(offCommitTail).Load(); made == g.com {
		g.t.Fatalf("there are %d commits; want one more", made)
	}
	c := g.r.mem[offCommits+g.com%slots*commitSize:]
	g.com++
	return le.Uint32(c), le.Uint32(c[4:]), le.Uint32(c[8:])
}

func (g *guest) wantCommit(id, result, n uint32) {
	g.t.Helper()
	if i, r, l := g.commit(); i != id || r != result || l != n {
		g.t.Errorf("commit = id %d, result %d, %d bytes; want %d, %d, %d", i, r, l, id, result, n)
	}
}

// served is a round that must go well.
func (g *guest) served() {
	g.t.Helper()
	if err := g.r.serve(); err != nil {
		g.t.Fatalf("serve() = %v; want nil", err)
	}
	if head := g.r.word(offEntryHead).Load(); head != g.tail {
		g.t.Fatalf("head = %d after a round; want the tail, %d", head, g.tail)
	}
}

// start starts the ring. ended waits for it and returns what it failed with.
func (g *guest) start() (ended func() error) {
	var mu sync.Mutex
	var failure error
	stop := g.r.Start(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if failure != nil || err == nil {
			g.t.Errorf("fail(%v) after fail(%v); want one call with an error", err, failure)
		}
		failure = err
	})
	return func() error {
		stop()
		mu.Lock()
		defer mu.Unlock()
		return failure
	}
}
