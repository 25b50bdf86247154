package virtio

import (
	"testing"

	"github.com/uvm-monitor/uvm/internal/virtiotest"
	"github.com/uvm-monitor/uvm/memory"
)

// driver is a guest's side of one queue, with the device's.
type driver struct {
	*virtiotest.Driver
	q *Queue
}

const (
	descBase  = virtiotest.Desc
	availBase = virtiotest.Available
	usedBase  = virtiotest.UsedRing
	bufBase   = virtiotest.Buffers
	driverMem = virtiotest.MemSize
)

// newDriver makes memory and a queue of the size with the features.
func newDriver(t testing.TB, size uint16, features uint64) *driver {
	t.Helper()
	return withQueue(virtiotest.New(t, size), features)
}

// newDriverIn puts a further queue into the same memory, at base; buffers follow it.
func newDriverIn(t testing.TB, mem *memory.Memory, view *memory.View, base memory.Addr, size uint16, features uint64) *driver {
	t.Helper()
	return withQueue(virtiotest.NewIn(t, mem, view, base, size), features)
}

func withQueue(d *virtiotest.Driver, features uint64) *driver {
	d.T.Helper()
	q, err := NewQueue(d.View, d.Size, d.Base+descBase, d.Base+availBase, d.Base+usedBase, features)
	if err != nil {
		d.T.Fatal(err)
	}
	return &driver{d, q}
}
