package virtio

import (
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

// driver is a guest's side of one queue, for tests: the queue's parts lie at the
// start of its memory, buffers above bufBase.
type driver struct {
	t     testing.TB
	mem   *memory.Memory
	view  *memory.View
	q     *Queue
	size  uint16
	avail uint16 // the driver's index
	used  uint16 // how far it has looked
	free  uint16 // next descriptor; tests do not wrap around
	top   memory.Addr
}

const (
	descBase  memory.Addr = 0x0000
	availBase memory.Addr = 0x4000
	usedBase  memory.Addr = 0x5000
	bufBase   memory.Addr = 0x8000
	driverMem             = 1 << 20
)

// newDriver makes memory and a queue of the size with the features.
func newDriver(t testing.TB, size uint16, features uint64) *driver {
	t.Helper()
	mem, err := memory.New(driverMem)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	view := memory.NewView(mem)
	if err := view.Grant(0, driverMem, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	return newDriverIn(t, mem, view, 0, size, features)
}

// newDriverIn puts a further queue into the same memory, at base; buffers follow it.
func newDriverIn(t testing.TB, mem *memory.Memory, view *memory.View, base memory.Addr, size uint16, features uint64) *driver {
	t.Helper()
	q, err := newQueue(view, size, base+descBase, base+availBase, base+usedBase, features)
	if err != nil {
		t.Fatal(err)
	}
	return &driver{t: t, mem: mem, view: view, q: q, size: size, top: base + bufBase}
}

func (d *driver) at(a memory.Addr, n uint64) []byte {
	d.t.Helper()
	b, err := d.mem.At(a, n)
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// alloc returns a fresh buffer of guest memory.
func (d *driver) alloc(n int) (memory.Addr, []byte) {
	d.t.Helper()
	a := d.top
	d.top += memory.Addr(n+15) &^ 15
	return a, d.at(a, uint64(n))
}

// desc writes descriptor i.
func (d *driver) desc(i uint16, a memory.Addr, n uint32, flags, next uint16) {
	b := d.q.desc[int(i)*descSize:]
	le.PutUint64(b, uint64(a))
	le.PutUint32(b[8:], n)
	le.PutUint16(b[12:], flags)
	le.PutUint16(b[14:], next)
}

// offer makes the chain at head available.
func (d *driver) offer(head uint16) {
	le.PutUint16(d.q.avail[4+2*int(d.avail&(d.size-1)):], head)
	d.avail++
	memory.Store16(d.q.avail[2:], d.avail)
}

// add offers a chain with the bytes of out to read and room for in bytes to
// write, and returns its head and the buffers to look at afterwards.
func (d *driver) add(out [][]byte, in ...int) (head uint16, bufs [][]byte) {
	d.t.Helper()
	head = d.free
	n := len(out) + len(in)
	put := func(size int, flags uint16) []byte {
		a, b := d.alloc(size)
		n--
		if n > 0 {
			flags |= descNext
		}
		d.desc(d.free, a, uint32(size), flags, d.free+1)
		d.free++
		return b
	}
	for _, o := range out {
		copy(put(len(o), 0), o)
	}
	for _, size := range in {
		bufs = append(bufs, put(size, descWrite))
	}
	d.offer(head)
	return head, bufs
}

// done returns the next used element.
func (d *driver) done() (head, written uint32, ok bool) {
	if memory.Load16(d.q.used[2:]) == d.used {
		return 0, 0, false
	}
	e := d.q.used[4+usedElemSize*int(d.used&(d.size-1)):]
	d.used++
	return le.Uint32(e), le.Uint32(e[4:]), true
}
