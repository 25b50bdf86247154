package netring

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/memory"
)

// TestPointers: an entry reaches no memory that the hypercall would not.
func TestPointers(t *testing.T) {
	for _, tt := range []struct {
		name string
		op   uint32
		ptr  uint64
		n    uint32
		ok   bool
	}{
		{"write nothing at the end", opWrite, memSize, 0, true},
		{"write the last byte", opWrite, memSize - 1, 1, true},
		{"write beyond the end", opWrite, memSize - 1, 2, false},
		{"write nothing beyond the end", opWrite, memSize + 1, 0, false},
		{"write the monitor's", opWrite, 0, 1, false},
		{"write up to the guest's", opWrite, textAddr - 1, 2, false},
		{"write 4 GiB", opWrite, dataAddr, 1<<32 - 1, false},
		{"write around the end of addresses", opWrite, 1<<64 - 1, 2, false},
		{"write the ring itself", opWrite, memSize + 2<<20, 64, false},
		{"read into read-only memory", opRead, textAddr, 1, false},
		{"read into its end", opRead, dataAddr - 1, 64, false},
		{"read to the end", opRead, dataAddr, memSize - dataAddr, true},
		{"read beyond it", opRead, dataAddr, memSize - dataAddr + 1, false},
		{"read to nowhere", opRead, 1 << 63, 64, false},
		{"read around", opRead, 1<<64 - 8, 1 << 31, false},
	} {
		g := newGuest(t)
		g.nic.in = bytes.Repeat([]byte{0xa5}, memSize)
		g.add(tt.op, hNIC, tt.ptr, tt.n, 7)
		g.add(opWrite, hNIC, dataAddr, 1, 8)
		before := bytes.Clone(g.mem.Host())
		err := g.r.serve()
		if tt.ok {
			if err != nil {
				t.Errorf("%s: serve() = %v; want nil", tt.name, err)
			}
			continue
		}
		call := hypercall.NetWrite + hypercall.Call(tt.op-opWrite)
		want := hypercall.PointerError{Call: call, What: "buffer of entry 0", AccessError: memory.AccessError{Addr: memory.Addr(tt.ptr), Len: uint64(tt.n), Want: memory.Read, End: memSize}}
		if tt.op == opRead {
			want.Want = memory.Write
		}
		var pe *hypercall.PointerError
		if !errors.As(err, &pe) || *pe != want {
			t.Errorf("%s: serve() = %v; want %v", tt.name, err, &want)
		}
		if n := g.nic.reads.Load() + g.nic.writes.Load(); n != 0 || g.r.commits != 0 || !bytes.Equal(before, g.mem.Host()) {
			t.Errorf("%s: %d frames, %d commits; want none, and memory as it was", tt.name, n, g.r.commits)
		}
	}
}

// TestTails: what no guest that has 1024 slots can have made ends it.
func TestTails(t *testing.T) {
	for _, tail := range []uint32{slots + 1, 2 * slots, 1 << 31, 1<<32 - slots, 1<<32 - 1} {
		g := newGuest(t)
		g.r.word(offEntryTail).Store(tail)
		var te *TailError
		if err := g.r.serve(); !errors.As(err, &te) || *te != (TailError{0, tail}) || !strings.Contains(err.Error(), "slots") {
			t.Errorf("serve() with tail %d = %v; want a TailError", tail, err)
		}
	}
	g := newGuest(t)
	g.r.word(offEntryTail).Store(slots) // full of operation 0
	g.tail = slots
	g.served()
	g.r.word(offEntryTail).Store(slots - 1) // backwards
	if err := g.r.serve(); err == nil {
		t.Error("serve() with a tail that went back = nil; want an error")
	}
}

// TestOwnIndices: what the guest writes over the monitor's indices is its own affair.
func TestOwnIndices(t *testing.T) {
	g := newGuest(t)
	for i := range uint32(5) {
		for _, off := range []int{offEntryHead, offCommitTail, offNeedsKick} {
			g.r.word(off).Store(0xdeadbeef + i)
		}
		g.add(opRead, hNIC, dataAddr, 64, i)
		g.served()
		g.wantCommit(i, resultOK, 0)
	}
	if n := g.nic.reads.Load(); n != 5 {
		t.Errorf("%d reads; want 5", n)
	}
}

// TestEntryChanges: an entry is copied once, before anything is decided by it.
func TestEntryChanges(t *testing.T) {
	g := newGuest(t)
	g.nic.in = []byte("frame")
	g.nic.during = func() {
		e := g.r.mem[offEntries:]
		le.PutUint32(e[0:], opWrite)
		le.PutUint32(e[4:], hLast)
		le.PutUint64(e[8:], 0)
		le.PutUint32(e[16:], 1<<32-1)
		le.PutUint32(e[20:], 99)
		g.r.word(offEntryTail).Store(g.tail + 5) // entries for the next round, not for this one
	}
	g.add(opRead, hNIC, dataAddr, 64, 7)
	g.served()
	g.wantCommit(7, resultOK, 5)
	if g.nic.writes.Load() != 0 || g.r.head != 1 {
		t.Errorf("%d writes, head %d; want none and 1", g.nic.writes.Load(), g.r.head)
	}
}

// TestHostileGuest scribbles over the whole ring while the monitor works with it, and rings
// without end. Whatever comes of it, the ring ends when it is told to, and memory that the
// guest cannot write is as before.
func TestHostileGuest(t *testing.T) {
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	for seed := range uint64(20) {
		g := newGuest(t)
		g.nic.keep, g.nic.in = false, bytes.Repeat([]byte{0x5a}, 2000)
		low := bytes.Clone(g.mem.Host()[:dataAddr])
		ended := g.start()
		rnd := rand.New(rand.NewPCG(seed, 1))
		for i := range 3000 {
			switch rnd.IntN(8) {
			case 0:
				g.r.word(rnd.IntN(ringSize/4) * 4).Store(rnd.Uint32())
			case 1:
				g.r.word(offNeedsKick).Store(rnd.Uint32N(2))
			case 2:
				g.r.word(offEntryHead).Store(rnd.Uint32())
			case 3:
				g.r.doorbell.Signal()
			default:
				// Mostly good ones, or the first that is not ends it all.
				g.add(rnd.Uint32N(3), hNIC, dataAddr+rnd.Uint64N(0x1000), rnd.Uint32N(2000), uint32(i))
				g.ring()
			}
		}
		if err := ended(); err != nil {
			var te *TailError
			var pe *hypercall.PointerError
			if !errors.As(err, &te) && !errors.As(err, &pe) {
				t.Errorf("seed %d: the ring failed with %v; want a TailError or a PointerError", seed, err)
			}
		}
		if !bytes.Equal(low, g.mem.Host()[:dataAddr]) {
			t.Errorf("seed %d: the ring wrote where the guest cannot", seed)
		}
	}
}

// TestBeside: the vCPU makes hypercalls on the same NICs, and fails on the host's side, while
// the ring works. Each end of a NIC has one user at a time.
func TestBeside(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t)
	g.nic.keep, g.nic.err = false, 5
	g.nic.during = func() { time.Sleep(time.Microsecond) } // long enough to meet the other
	table := hypercall.New(*g.calls)
	ended := g.start()
	const rounds = 500
	var vcpu sync.WaitGroup
	vcpu.Go(func() {
		eax := make([]byte, 4)
		arg := g.mem.Host()[dataAddr:]
		le.PutUint64(arg, hNIC)
		le.PutUint64(arg[8:], dataAddr+0x1000)
		le.PutUint64(arg[16:], 64)
		le.PutUint32(eax, dataAddr)
		for i := range rounds {
			if err := table.PortOut(hypercall.PortBase+uint16(hypercall.NetWrite)+uint16(i%2), 4, eax); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range uint32(rounds) {
		for g.tail-g.r.word(offEntryHead).Load() >= slots {
			g.ring()
			runtime.Gosched()
		}
		g.add(opWrite+i%2, hNIC, dataAddr+0x3000, 64, i)
		g.ring()
	}
	vcpu.Wait()
	if err := ended(); err != nil {
		t.Errorf("the ring failed with %v; want nil", err)
	}
	if r, w := g.nic.reads.Load(), g.nic.writes.Load(); r != rounds || w != rounds || len(g.errs) != 2*rounds {
		t.Errorf("%d reads, %d writes, %d failures told; want %d, %[4]d and twice that", r, w, len(g.errs), rounds)
	}
}

// TestWakeUps: a guest that rings only when it has to waits for none of its reads in vain.
func TestWakeUps(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t)
	g.nic.in = []byte("x")
	ended := g.start()
	slept := 0
	for i := range uint32(1000) {
		if i%50 == 0 { // until it sleeps, or is about to
			testutil.Until(t, "the ring wants the doorbell", func() bool { return g.r.word(offNeedsKick).Load() == 1 })
			slept++
		}
		g.add(opRead, hNIC, dataAddr, 64, i)
		g.ring()
		for g.r.word(offCommitTail).Load() == g.com {
			runtime.Gosched()
		}
		g.wantCommit(i, resultOK, 1)
	}
	if err := ended(); err != nil || slept != 20 {
		t.Errorf("the ring failed with %v, slept %d times; want nil and 20", err, slept)
	}
}

// TestStop: a stop ends the ring where it sleeps, where a guest never lets it, and where it
// does not ring; what was in the ring before is carried out.
func TestStop(t *testing.T) {
	testutil.Watchdog(t)
	testutil.CheckThreads(t, 20, func() {
		g := newGuest(t)
		ended := g.start()
		testutil.Until(t, "the ring wants the doorbell", func() bool { return g.r.word(offNeedsKick).Load() == 1 })
		for range 100 { // without ringing
			g.add(opWrite, hNIC, dataAddr, 60, 0)
		}
		if err := ended(); err != nil || g.nic.writes.Load() != 100 {
			t.Errorf("a stop = %v with %d writes; want nil with 100", err, g.nic.writes.Load())
		}
	})
	// What comes while the ring works for the last time is not lost, either.
	last := newGuest(t)
	last.nic.during = func() {
		last.nic.during = nil
		last.add(opWrite, hNIC, dataAddr, 60, 0)
		last.r.stop.Store(true)
	}
	last.add(opWrite, hNIC, dataAddr, 60, 0)
	ended := last.start()
	testutil.Until(t, "a stop in a round", func() bool { return last.r.stop.Load() })
	if err := ended(); err != nil || last.nic.writes.Load() != 2 {
		t.Errorf("a stop in a round = %v with %d writes; want nil with 2", err, last.nic.writes.Load())
	}
	g := newGuest(t)
	g.nic.keep = false
	var enough atomic.Bool
	ended = g.start()
	var flood sync.WaitGroup
	flood.Go(func() {
		for !enough.Load() {
			g.add(opWrite, hNIC, dataAddr, 60, 0)
			g.r.doorbell.Signal()
			for g.tail-g.r.word(offEntryHead).Load() >= slots && !enough.Load() {
				runtime.Gosched()
			}
		}
	})
	testutil.Until(t, "the flood runs", func() bool { return g.nic.writes.Load() > 5000 })
	if err := ended(); err != nil {
		t.Errorf("a stop in a flood = %v; want nil", err)
	}
	enough.Store(true)
	flood.Wait()
}

// TestLimits: a write waits until its limit lets it go, and the reads behind it with it; a read
// over the limit finds no frame. What is over the limit when the ring stops is lost.
func TestLimits(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t)
	var clock atomic.Int64
	now := func() time.Time { return time.Unix(0, clock.Load()) }
	tx := devices.NewLimiter(devices.Limit{Ops: 1000, Burst: 10 * time.Millisecond}, now) // 10 at once
	rx := devices.NewLimiter(devices.Limit{Bytes: 100, Burst: time.Second}, now)
	g.calls.Limits[hNIC] = [2]*devices.Limiter{tx, rx}
	g.nic.in = make([]byte, 101)
	ended := g.start()
	for i := range uint32(3) {
		g.add(opRead, hNIC, dataAddr, 200, i)
	}
	for range 20 {
		g.add(opWrite, hNIC, dataAddr, 60, 0)
	}
	g.add(opRead, hLast, dataAddr, 200, 9)
	g.r.doorbell.Signal()
	// The bucket holds 10 and may owe one more.
	testutil.Until(t, "as many writes as the bucket holds", func() bool { return g.nic.writes.Load() == 11 })
	g.wantCommit(0, resultOK, 101)
	g.wantCommit(1, resultAgain, 0)
	g.wantCommit(2, resultAgain, 0)
	for range 1000 { // that the guest rings makes it no faster
		g.r.doorbell.Signal()
	}
	if n := g.r.word(offCommitTail).Load(); n != 3 || g.nic.writes.Load() != 11 {
		t.Errorf("%d commits, %d writes in no time; want 3 and 11", n, g.nic.writes.Load())
	}
	clock.Add(5 * int64(time.Millisecond))
	g.r.doorbell.Signal()
	testutil.Until(t, "five more", func() bool { return g.nic.writes.Load() == 16 })
	if err := ended(); err != nil || g.nic.writes.Load() != 16 {
		t.Errorf("a stop = %v with %d writes; want nil with 16", err, g.nic.writes.Load())
	}
	g.wantCommit(9, resultOK, 0)
}

// TestFreeze: a frozen ring carries nothing out, wherever the freeze met it, and goes on.
func TestFreeze(t *testing.T) {
	testutil.Watchdog(t)
	for name, limit := range map[string]devices.Limit{"free": {}, "limited": {Ops: 100000, Burst: time.Microsecond}} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			g.nic.keep = false
			g.calls.Limits[hNIC][0] = devices.NewLimiter(limit, time.Now)
			ended := g.start()
			for i := range uint32(200) {
				g.add(opWrite, hNIC, dataAddr, 60, 0)
				g.add(opRead, hLast, dataAddr, 60, i)
				g.ring()
				g.r.Freeze(true)
				state, err := g.r.SaveState()
				writes := g.nic.writes.Load()
				g.add(opWrite, hNIC, dataAddr, 60, 0)
				g.r.doorbell.Signal()
				if i%20 == 0 {
					time.Sleep(time.Millisecond) // for what should not happen
				}
				again, _ := g.r.SaveState()
				le.PutUint32(again[8:], le.Uint32(state[8:])) // the guest's tail and entry
				copy(again[8+offEntries:8+offCommits], state[8+offEntries:])
				if err != nil || !bytes.Equal(state, again) || g.nic.writes.Load() != writes {
					t.Fatalf("a frozen ring moved: error %v, %d writes; want %d", err, g.nic.writes.Load(), writes)
				}
				// What the state says is done is done, and no more. Every third entry is a read.
				if done := int64(le.Uint32(state)); writes != done-(done+1)/3 {
					t.Fatalf("%d writes with %d entries carried out; want %d", writes, done, done-(done+1)/3)
				}
				g.r.Freeze(false)
			}
			testutil.Until(t, "all writes", func() bool { g.ring(); return g.nic.writes.Load() == 400 })
			if err := ended(); err != nil {
				t.Errorf("the ring failed with %v; want nil", err)
			}
		})
	}
}

// TestFail: a guest that breaks the rules ends the ring's work, once.
func TestFail(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t)
	failed := make(chan error, 2)
	stop := g.r.Start(func(err error) { failed <- err })
	g.add(opRead, hNIC, textAddr, 64, 0)
	g.r.doorbell.Signal()
	var pe *hypercall.PointerError
	if err := testutil.Wait(t, failed, "fail"); !errors.As(err, &pe) {
		t.Errorf("fail(%v); want a *PointerError", err)
	}
	g.add(opWrite, hNIC, dataAddr, 64, 0)
	stop()
	if len(failed) > 0 || g.nic.writes.Load() != 0 {
		t.Errorf("%d more failures, %d writes after the end; want 0", len(failed), g.nic.writes.Load())
	}
}
