package virtio_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/internal/virtiotest"
	"github.com/uvm-monitor/uvm/memory"
)

// subject is a device with its worker and the guest that torments it.
type subject struct {
	t       *testing.T
	rng     *rand.Rand
	name    string
	m       *virtio.MMIO
	kick    int
	info    virtio.Info
	drivers []*virtiotest.Driver
	offer   func(s *subject, q int) // a good chain on queue q
	host    func(s *subject)        // traffic from the host's side
	prove   func(s *subject)        // a clean driver can use the device

	irqs, offences atomic.Int64
	resets         int
	quiet          bool // between a reset and the next start the pattern is in its memory
}

// The memory of a queue: virtiotest's layout with buffers of bufRoom bytes.
const (
	queueRoom = 0x10000
	bufRoom   = 0x2000
)

// pattern lies where a device has nothing to write.
var pattern = bytes.Repeat([]byte{0xa5}, bufRoom)

// parts are what a driver has in memory.
func parts(d *virtiotest.Driver) [4][]byte {
	return [4][]byte{d.Table(), d.AvailRing(), d.UsedRing(), d.At(d.Base+virtiotest.Buffers, bufRoom)}
}

func (s *subject) set(off uint64, v uint32) {
	b := [4]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
	s.m.Write(off, b[:])
}

func (s *subject) get(off uint64) uint32 {
	var b [4]byte
	s.m.Read(off, b[:])
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func (s *subject) ring() { unix.Write(s.kick, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// Registers and a status of virtio-mmio, section 4.2.2.
const (
	regQueueSel, regQueueReady, regNotify, regISR, regACK, regStatus = 0x30, 0x44, 0x50, 0x60, 0x64, 0x70

	driverOK = 15
)

// start is a driver's initialisation, of which only the first n writes happen.
func (s *subject) start(n int) {
	s.untouched()
	for _, d := range s.drivers {
		d.Avail, d.Used, d.Free, d.Top = 0, 0, 0, d.Base+virtiotest.Buffers
		for _, p := range parts(d) {
			clear(p)
		}
	}
	features := uint32(s.info.Features) | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	if s.rng.IntN(2) == 0 {
		features &= s.rng.Uint32()
	}
	virtiotest.Start(func(off uint64, b []byte) {
		if n--; n >= 0 {
			s.m.Write(off, b)
		}
	}, features, s.drivers...)
}

// reset takes the memory back: from here on the device must leave it alone.
func (s *subject) reset() {
	s.set(regStatus, 0)
	for _, d := range s.drivers {
		for _, p := range parts(d) {
			copy(p, pattern)
		}
	}
	s.resets++
	s.quiet = true
	if s.get(regStatus) != 0 || s.get(regISR) != 0 {
		s.t.Errorf("%s, reset %d: status %#x, interrupts %#x; want 0, 0", s.name, s.resets, s.get(regStatus), s.get(regISR))
	}
}

// untouched checks that.
func (s *subject) untouched() {
	if !s.quiet {
		return
	}
	s.quiet = false
	for i, d := range s.drivers {
		for j, p := range parts(d) {
			if !bytes.Equal(p, pattern[:len(p)]) {
				s.t.Fatalf("%s: after reset %d the device writes to part %d of queue %d", s.name, s.resets, j, i)
			}
		}
	}
}

// torment is some of what a driver may and may not do, at random; it ends anywhere.
func (s *subject) torment() {
	r := s.rng
	if r.IntN(8) == 0 { // an initialisation that stops half-way
		s.start(r.IntN(40))
	} else {
		s.start(1000)
	}
	for range r.IntN(4) {
		q := r.IntN(len(s.drivers))
		d := s.drivers[q]
		switch r.IntN(12) {
		case 0: // garbage for descriptors
			for i := range d.Size {
				d.Desc(i, memory.Addr(r.Uint64()>>(44+r.IntN(20))), r.Uint32N(1<<r.IntN(32)), uint16(r.IntN(8)), uint16(r.IntN(int(d.Size)+1)))
			}
			d.Offer(uint16(r.Uint32()))
		case 1: // a jump of the index, also far
			d.Avail += uint16(r.Uint32()) >> r.IntN(16)
			d.Offer(0)
		case 2: // a queue is taken back
			s.set(regQueueSel, uint32(q))
			s.set(regQueueReady, 0)
		case 3: // any register
			s.set(uint64(r.IntN(0x40))*4, r.Uint32()>>r.IntN(32))
			s.set(regACK, 3)
		case 4:
			s.host(s)
		default:
			s.offer(s, q)
		}
		if r.IntN(3) > 0 {
			s.ring()
		}
		switch r.IntN(8) { // what the worker does meanwhile
		case 0, 1, 2:
			s.m.Serve()
		case 3:
			for seen, i := s.irqs.Load(), 0; i < 100 && seen == s.irqs.Load(); i++ {
				runtime.Gosched()
			}
		}
	}
}

// work starts the device's worker.
func (s *subject) work(wg *sync.WaitGroup, stop int) {
	wg.Go(func() { s.m.Work(s.kick, stop) })
}

// newSubject is a device in memory of its own.
func newSubject(t *testing.T, name string, seed uint64, dev virtio.Device) *subject {
	mem, err := memory.New(virtiotest.MemSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	view := memory.NewView(mem)
	if err := view.Grant(0, virtiotest.MemSize, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	s := &subject{t: t, name: name, rng: rand.New(rand.NewPCG(seed, 7)), info: dev.Info(), kick: eventfd(t)}
	for i := range s.info.Queues {
		s.drivers = append(s.drivers, virtiotest.NewIn(t, mem, view, memory.Addr(i)*queueRoom, 16))
	}
	s.m = virtio.NewMMIO(dev, view, func() { s.irqs.Add(1) }, s.ring, func(error) { s.offences.Add(1) })
	return s
}

func eventfd(t *testing.T) int {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// used waits until the device has returned a chain.
func (s *subject) used(q int) (head, n uint32) {
	s.t.Helper()
	s.ring()
	for i := 0; i < 100; i++ {
		if h, n, ok := s.drivers[q].Done(); ok {
			return h, n
		}
		runtime.Gosched()
	}
	testutil.Until(s.t, s.name+" returns a chain", func() (ok bool) {
		head, n, ok = s.drivers[q].Done()
		return ok
	})
	return head, n
}

// TestResets resets a network card and two disks, one of them slow, at random points
// of what drivers do right and wrong, while their workers run and the host has traffic.
// UVM_TEST_RESETS is how often, all together; docs/testing.md has the long run.
func TestResets(t *testing.T) {
	testutil.CheckFDs(t)
	total := 30_000
	if v := os.Getenv("UVM_TEST_RESETS"); v != "" {
		var err error
		if total, err = strconv.Atoi(v); err != nil {
			t.Fatalf("UVM_TEST_RESETS=%q: want a number", v)
		}
	} else {
		testutil.Watchdog(t)
	}
	before := runtime.NumGoroutine()
	rng := rand.New(rand.NewPCG(1, 2))
	net, closeNet := netSubject(t)
	disk, closeDisk := diskSubject(t)
	slow, closeSlow := slowSubject(t)
	all := []*subject{net, disk, slow}
	var wg sync.WaitGroup
	stop := eventfd(t)
	for _, s := range all {
		s.work(&wg, stop)
	}
	const batch = 3000
	type usage struct{ goroutines, fds, heap int }
	var first usage
	for done := 0; done < total; {
		for range batch {
			s := all[rng.IntN(len(all))]
			s.torment()
			s.reset()
			done++
		}
		for _, s := range all {
			s.start(1000)
			if got := s.get(regStatus); got != driverOK {
				t.Fatalf("%s after %d resets: a clean start ends with status %#x; want %#x", s.name, s.resets, got, driverOK)
			}
			s.prove(s)
			s.reset()
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := usage{runtime.NumGoroutine(), len(testutil.FDs(t)), int(m.HeapAlloc)}
		if first == (usage{}) {
			first = now
		}
		if now.goroutines > first.goroutines || now.fds > first.fds || now.heap > first.heap+1<<20 {
			t.Fatalf("after %d resets there are %+v; want what there was after %d: %+v", done, now, batch, first)
		}
		if t.Failed() {
			break
		}
	}
	unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	wg.Wait()
	for _, s := range all {
		s.untouched()
		t.Logf("%s: %d resets, %d interrupts, %d offences", s.name, s.resets, s.irqs.Load(), s.offences.Load())
		if s.irqs.Load() == 0 || s.offences.Load() == 0 {
			t.Errorf("%s: no interrupt or no offence: the driver did not get through", s.name)
		}
	}
	closeNet()
	closeDisk()
	closeSlow()
	testutil.Until(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}
