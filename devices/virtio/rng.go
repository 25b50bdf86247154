package virtio

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// RNG is the entropy device (section 5.4): the host kernel's getrandom(2) writes
// into the guest's buffers.
type RNG struct {
	q *Queue
	c Chain
}

// NewRNG returns the device.
func NewRNG() *RNG { return &RNG{} }

// Type is 4, the entropy source.
func (d *RNG) Type() uint32 { return 4 }

// Features is none.
func (d *RNG) Features() uint64 { return 0 }

// Queues is requestq.
func (d *RNG) Queues() []uint16 { return []uint16{64} }

// Config is empty.
func (d *RNG) Config() []byte { return nil }

// Start begins.
func (d *RNG) Start(_ uint64, q []*Queue) { d.q = q[0] }

// Serve puts up to 256 bytes into each chain, which is what getrandom(2) gives
// whole and without a wait, and all that the standard asks for.
func (d *RNG) Serve() error {
	for d.q != nil {
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
	return nil
}

// PollFD is none.
func (d *RNG) PollFD() int { return -1 }

// Reset forgets the driver.
func (d *RNG) Reset() { *d = RNG{} }

// Close has nothing to give back.
func (d *RNG) Close() error { return nil }

// SaveState is empty.
func (d *RNG) SaveState() ([]byte, error) { return nil, nil }

// LoadState accepts what SaveState returns.
func (d *RNG) LoadState(state []byte) error {
	if len(state) != 0 {
		return fmt.Errorf("rng: saved state has %d bytes, need 0", len(state))
	}
	return nil
}
