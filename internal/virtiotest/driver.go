// Package virtiotest is the driver's side of a virtqueue, for tests of devices. It
// knows the layout that virtio 1.2, section 2.7, lays down, and none of our code
// but the guest's memory.
package virtiotest

import (
	"encoding/binary"
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

var le = binary.LittleEndian

// Where a queue's parts lie, from its base, and the size of a driver's memory.
const (
	Desc      memory.Addr = 0x0000
	Available memory.Addr = 0x4000
	UsedRing  memory.Addr = 0x5000
	Buffers   memory.Addr = 0x8000
	MemSize               = 1 << 20
)

// Flags of a descriptor (section 2.7.5).
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Driver is a guest's side of one queue.
type Driver struct {
	T    testing.TB
	Mem  *memory.Memory
	View *memory.View
	Base memory.Addr
	Size uint16

	Avail uint16      // the driver's index
	Used  uint16      // how far it has looked
	Free  uint16      // next descriptor; tests do not wrap around
	Top   memory.Addr // of the buffers so far
}

// New makes memory and the driver of a queue of the size.
func New(t testing.TB, size uint16) *Driver {
	t.Helper()
	mem, err := memory.New(MemSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	view := memory.NewView(mem)
	if err := view.Grant(0, MemSize, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	return NewIn(t, mem, view, 0, size)
}

// NewIn puts a further queue into the same memory, at base; buffers follow it.
func NewIn(t testing.TB, mem *memory.Memory, view *memory.View, base memory.Addr, size uint16) *Driver {
	return &Driver{T: t, Mem: mem, View: view, Base: base, Size: size, Top: base + Buffers}
}

// At is the guest's memory at a.
func (d *Driver) At(a memory.Addr, n uint64) []byte {
	d.T.Helper()
	b, err := d.Mem.At(a, n)
	if err != nil {
		d.T.Fatal(err)
	}
	return b
}

// Table, AvailRing and UsedRing are the queue's parts, with the event fields.
func (d *Driver) Table() []byte     { return d.At(d.Base+Desc, uint64(d.Size)*16) }
func (d *Driver) AvailRing() []byte { return d.At(d.Base+Available, 6+uint64(d.Size)*2) }
func (d *Driver) UsedRing() []byte  { return d.At(d.Base+UsedRing, 6+uint64(d.Size)*8) }

// Alloc returns a fresh buffer of guest memory.
func (d *Driver) Alloc(n int) (memory.Addr, []byte) {
	d.T.Helper()
	a := d.Top
	d.Top += memory.Addr(n+15) &^ 15
	return a, d.At(a, uint64(n))
}

// Desc writes descriptor i.
func (d *Driver) Desc(i uint16, a memory.Addr, n uint32, flags, next uint16) {
	b := d.Table()[int(i)*16:]
	le.PutUint64(b, uint64(a))
	le.PutUint32(b[8:], n)
	le.PutUint16(b[12:], flags)
	le.PutUint16(b[14:], next)
}

// Offer makes the chain at head available.
func (d *Driver) Offer(head uint16) {
	ring := d.AvailRing()
	le.PutUint16(ring[4+2*int(d.Avail&(d.Size-1)):], head)
	d.Avail++
	memory.Store16(ring[2:], d.Avail)
}

// Add offers a chain with the bytes of out to read and room for in bytes to
// write, and returns its head and the buffers to look at afterwards.
func (d *Driver) Add(out [][]byte, in ...int) (head uint16, bufs [][]byte) {
	d.T.Helper()
	head = d.Free
	n := len(out) + len(in)
	put := func(size int, flags uint16) []byte {
		a, b := d.Alloc(size)
		n--
		if n > 0 {
			flags |= Next
		}
		d.Desc(d.Free, a, uint32(size), flags, d.Free+1)
		d.Free++
		return b
	}
	for _, o := range out {
		copy(put(len(o), 0), o)
	}
	for _, size := range in {
		bufs = append(bufs, put(size, Write))
	}
	d.Offer(head)
	return head, bufs
}

// Done returns the next used element.
func (d *Driver) Done() (head, written uint32, ok bool) {
	ring := d.UsedRing()
	if memory.Load16(ring[2:]) == d.Used {
		return 0, 0, false
	}
	e := ring[4+8*int(d.Used&(d.Size-1)):]
	d.Used++
	return le.Uint32(e), le.Uint32(e[4:]), true
}

// KickNeeded says whether a driver that has offered chains since its index was
// before has to notify the device, with event indices (section 2.7.10).
func (d *Driver) KickNeeded(before uint16) bool {
	memory.Fence()
	event := memory.Load16(d.UsedRing()[4+8*int(d.Size):])
	return d.Avail-event-1 < d.Avail-before
}

// Start takes a device behind virtio-mmio (section 4.2.2) from anything to DRIVER_OK,
// with the features below bit 32 and VIRTIO_F_VERSION_1, and a queue for each
// driver, in their order. write is a vCPU's write to the device's region.
func Start(write func(off uint64, b []byte), features uint32, drivers ...*Driver) {
	set := func(off uint64, v uint32) { write(off, le.AppendUint32(nil, v)) }
	const status, driverFeatures, featuresSel, queueSel, queueNum, queueReady, queueDesc = 0x70, 0x20, 0x24, 0x30, 0x38, 0x44, 0x80
	for _, v := range []uint32{0, 1, 3} { // ACKNOWLEDGE, DRIVER
		set(status, v)
	}
	for i, v := range []uint32{features, 1} {
		set(featuresSel, uint32(i))
		set(driverFeatures, v)
	}
	set(status, 11) // FEATURES_OK
	for i, d := range drivers {
		set(queueSel, uint32(i))
		set(queueNum, uint32(d.Size))
		for j, a := range []memory.Addr{Desc, Available, UsedRing} {
			set(queueDesc+uint64(j)*0x10, uint32(d.Base+a))
			set(queueDesc+uint64(j)*0x10+4, uint32((d.Base+a)>>32))
		}
		set(queueReady, 1)
	}
	set(status, 15) // DRIVER_OK
}
