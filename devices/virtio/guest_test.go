package virtio

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/memory"
)

// guest is a driver of a device behind its transport.
type guest struct {
	t     testing.TB
	mem   *memory.Memory
	view  *memory.View
	dev   Device
	m     *MMIO
	irqs  atomic.Int32 // edges
	wakes atomic.Int32
	kick  atomic.Int32 // the doorbell, 0 without a worker
	mu    sync.Mutex
	errs  []error // what the transport logged
}

// readOnly is a page that the guest cannot write; below it each queue has 64 KiB.
const readOnly memory.Addr = driverMem - memory.PageSize

func newGuest(t testing.TB, dev Device) *guest {
	t.Helper()
	mem, err := memory.New(driverMem)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	g := &guest{t: t, mem: mem, view: memory.NewView(mem)}
	if err := errors.Join(g.view.Grant(0, readOnly, memory.ReadWrite), g.view.Grant(readOnly, driverMem, memory.Read)); err != nil {
		t.Fatal(err)
	}
	return g.plug(dev)
}

// plug gives the guest's memory another device.
func (g *guest) plug(dev Device) *guest {
	g.dev, g.errs = dev, nil
	g.m = NewMMIO(dev, g.view, func() { g.irqs.Add(1) }, g.wake, func(err error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.errs = append(g.errs, err)
	})
	return g
}

func (g *guest) wake() {
	g.wakes.Add(1)
	if fd := g.kick.Load(); fd != 0 {
		unix.Write(int(fd), []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

func (g *guest) set(off uint64, v uint32) { g.m.Write(off, le.AppendUint32(nil, v)) }

func (g *guest) get(off uint64) uint32 {
	b := [4]byte{0xff, 0xff, 0xff, 0xff}
	g.m.Read(off, b[:])
	return le.Uint32(b[:])
}

// check compares a register.
func (g *guest) check(what string, off uint64, want uint32) {
	g.t.Helper()
	if got := g.get(off); got != want {
		g.t.Errorf("%s: register %#x = %#x; want %#x", what, off, got, want)
	}
}

// negotiate resets the device and gets to FEATURES_OK.
func (g *guest) negotiate(features uint64) {
	for _, v := range []uint32{0, statusAcknowledge, statusAcknowledge | statusDriver} {
		g.set(regStatus, v)
	}
	for i := range uint32(2) {
		g.set(regDriverFeaturesSel, i)
		g.set(regDriverFeatures, word(features|FeatureVersion1, i))
	}
	g.set(regStatus, statusAcknowledge|statusDriver|statusFeaturesOK)
}

// setQueue writes the registers of queue i and makes it ready.
func (g *guest) setQueue(i, size uint32, desc, avail, used memory.Addr) {
	g.set(regQueueSel, i)
	g.set(regQueueNum, size)
	for j, a := range []memory.Addr{desc, avail, used} {
		g.set(regQueueDesc+uint64(j)*0x10, uint32(a))
		g.set(regQueueDesc+uint64(j)*0x10+4, uint32(a>>32))
	}
	g.set(regQueueReady, 1)
}

// queues clears memory and sets all queues up, at their largest size.
func (g *guest) queues(features uint64) (drivers []*driver) {
	g.t.Helper()
	clear(g.at(0, uint64(readOnly)))
	for i, size := range g.dev.Info().Queues {
		base := memory.Addr(i) << 16
		drivers = append(drivers, newDriverIn(g.t, g.mem, g.view, base, size, features))
		g.setQueue(uint32(i), uint32(size), base+descBase, base+availBase, base+usedBase)
	}
	return drivers
}

func (g *guest) at(a memory.Addr, n uint64) []byte {
	g.t.Helper()
	b, err := g.mem.At(a, n)
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

const statusRunning = statusAcknowledge | statusDriver | statusFeaturesOK | statusDriverOK

// start takes the device from anything to DRIVER_OK.
func (g *guest) start(features uint64) []*driver {
	g.t.Helper()
	g.negotiate(features)
	d := g.queues(features)
	g.set(regStatus, statusRunning)
	g.check("after the start", regStatus, statusRunning)
	return d
}

// serve has the device work until it has no more to do.
func (g *guest) serve() {
	for timeout := 0; timeout == 0; {
		timeout, _ = g.m.Serve()
	}
}

// echo copies what a chain has to read into what it has to write, on two queues.
type echo struct {
	q      []*Queue
	c      Chain
	count  byte // chains, its state
	fd     int
	config []byte
	served atomic.Int32
}

func newEcho() *echo {
	return &echo{fd: -1, config: []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}}
}

func (d *echo) Info() Info {
	return Info{Type: 63, Features: 1<<3 | 1<<40, Queues: []uint16{8, 32}, Config: d.config}
}
func (d *echo) Drain()                     {}
func (d *echo) Start(_ uint64, q []*Queue) { d.q = q }
func (d *echo) PollFD() int                { return d.fd }
func (d *echo) Reset()                     { d.q, d.count = nil, 0 }
func (d *echo) Close() error               { return nil }
func (d *echo) SaveState() ([]byte, error) { return []byte{d.count}, nil }
func (d *echo) LoadState(state []byte) error {
	if len(state) != 1 {
		return errors.New("echo: need 1 byte")
	}
	d.count = state[0]
	return nil
}

func (d *echo) Serve() error {
	d.served.Add(1)
	for _, q := range d.q {
		for q != nil {
			ok, err := q.Pop(&d.c)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			d.count++
			q.Push(d.c.Head, copyChain(&d.c))
		}
	}
	return nil
}

// copyChain fills In with Out as far as both go.
func copyChain(c *Chain) (n uint32) {
	out, i := c.Out, 0
	for _, in := range c.In {
		for len(in) > 0 && len(out) > 0 {
			k := copy(in, out[0][i:])
			in, i, n = in[k:], i+k, n+uint32(k)
			if i == len(out[0]) {
				out, i = out[1:], 0
			}
		}
	}
	return n
}
