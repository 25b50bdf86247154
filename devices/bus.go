package devices

import (
	"errors"
	"fmt"
)

// Saver is the part of every device that makes snapshots possible.
type Saver interface {
	// SaveState returns all that the device remembers of its guest.
	SaveState() ([]byte, error)
	// LoadState puts a device fresh from its constructor into a saved state.
	// The bytes are checked; an error leaves the device as it was.
	LoadState(state []byte) error
}

// ErrInterrupted says that a wait was cut short for the monitor's own sake. The access, or
// the rest of the write, is not carried out yet.
var ErrInterrupted = errors.New("interrupted")

// PortDevice answers accesses to I/O ports. Only the vCPU's goroutine calls
// PortOut and PortIn. An error ends the VM.
type PortDevice interface {
	Saver
	// PortOut takes what the guest wrote: len(data)/size items of size bytes
	// (1, 2 or 4). More than one item comes from OUTS with REP. data is
	// borrowed until the call returns. After ErrInterrupted the same access comes once
	// more, before any other, for the device to go on where it was.
	PortOut(port uint16, size int, data []byte) error
	// PortIn fills data in with what the guest reads.
	PortIn(port uint16, size int, data []byte) error
}

// PortError is an access to a port that nothing answers, or of a kind that the
// device there does not understand.
type PortError struct {
	Port  uint16
	Size  int // bytes of one item
	Count int // items
	Out   bool
}

func (e *PortError) Error() string {
	op := "IN from"
	if e.Out {
		op = "OUT to"
	}
	s := fmt.Sprintf("%d-byte %s port %#x", e.Size, op, e.Port)
	if e.Count != 1 {
		s += fmt.Sprintf(", repeated %d times", e.Count)
	}
	return s
}

// NewPortError describes the access that a PortDevice method was called with.
func NewPortError(port uint16, size int, data []byte, out bool) *PortError {
	return &PortError{Port: port, Size: size, Count: len(data) / max(size, 1), Out: out}
}

// PortBus finds the device of a port. It is filled before the VM runs and
// only read afterwards.
type PortBus struct{ ranges []portRange }

type portRange struct {
	first, last uint16
	dev         PortDevice
}

// Add gives the ports first to last to dev. Two devices cannot share a port.
func (b *PortBus) Add(first, last uint16, dev PortDevice) error {
	if first > last {
		return fmt.Errorf("ports %#x-%#x: the range ends before it starts", first, last)
	}
	for _, r := range b.ranges {
		if first <= r.last && r.first <= last {
			return fmt.Errorf("ports %#x-%#x: %#x-%#x are taken", first, last, r.first, r.last)
		}
	}
	b.ranges = append(b.ranges, portRange{first, last, dev})
	return nil
}

// Access hands a write, out, or a read to the device of the port. It allocates nothing
// unless it fails.
func (b *PortBus) Access(port uint16, size int, data []byte, out bool) error {
	switch dev := b.find(port); {
	case dev == nil:
		return NewPortError(port, size, data, out)
	case out:
		return dev.PortOut(port, size, data)
	default:
		return dev.PortIn(port, size, data)
	}
}

// find is a linear search: a machine has a handful of ranges, and the busiest
// is added first.
func (b *PortBus) find(port uint16) PortDevice {
	for i := range b.ranges {
		if r := &b.ranges[i]; r.first <= port && port <= r.last {
			return r.dev
		}
	}
	return nil
}
