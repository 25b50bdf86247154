package virtio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// RNG is the entropy device (section 5.4): the host kernel's getrandom(2) writes
// into the guest's buffers.
type RNG struct {
	Base
	q *Queue
	c Chain
}

// NewRNG returns the device.
func NewRNG() *RNG { return &RNG{} }

// Info is that of an entropy source with its requestq.
func (d *RNG) Info() Info { return Info{Type: 4, Queues: []uint16{64}} }

// Start begins.
func (d *RNG) Start(_ uint64, q []*Queue) { d.q = q[0] }

// Serve puts up to 256 bytes into each chain, which is what getrandom(2) gives
// whole and without a wait, and all that the standard asks for.
func (d *RNG) Serve() error {
	for {
		ok, err := d.q.Pop(&d.c)
		if !ok || err != nil {
			return err
		}
		if len(d.c.Out) > 0 || len(d.c.In) == 0 {
			return errors.New("rng: a chain has readable buffers, or no writable one")
		}
		b := d.c.In[0]
		n, err := unix.Getrandom(b[:min(len(b), 256)], 0)
		if err != nil {
			return fmt.Errorf("rng: getrandom: %w", err)
		}
		d.q.Push(d.c.Head, uint32(n))
	}
}

// Reset forgets the driver.
func (d *RNG) Reset() { *d = RNG{} }
