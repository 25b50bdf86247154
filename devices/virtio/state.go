package virtio

import (
	"encoding/binary"
	"fmt"
)

// SaveState returns the registers (words), each queue's (queueWords), and what the
// device returns; little-endian, without padding.
func (m *MMIO) SaveState() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	device, err := m.dev.SaveState()
	if err != nil {
		return nil, err
	}
	m.reg.Type, m.reg.ISR = m.dev.Type(), m.isr.Load()
	for i, q := range m.q {
		if c := &m.reg.queues[i]; q != nil {
			c.Next, c.UsedIdx, c.Signalled = q.next, q.usedIdx, q.signalled
		}
	}
	b, _ := binary.Append(nil, le, m.reg.words) // fails for types without a size only
	b, _ = binary.Append(b, le, m.reg.queues)
	return append(b, device...), nil
}

// LoadState puts a fresh transport and its device into a saved state. The guest's
// memory is that of the saved guest before Work or Serve is called.
func (m *MMIO) LoadState(state []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.fresh()
	n, err := binary.Decode(state, le, &r.words)
	if err == nil {
		state = state[n:]
		n, err = binary.Decode(state, le, r.queues)
	}
	if err == nil {
		err = m.check(&r)
	}
	var queues []*Queue
	if err == nil && r.live() {
		queues, err = m.build(&r)
	}
	if err == nil {
		err = m.dev.LoadState(state[n:])
	}
	if err != nil {
		return fmt.Errorf("virtio-mmio: saved state: %w", err)
	}
	m.reg, m.q = r, queues
	m.isr.Store(r.ISR)
	if !r.live() {
		return nil
	}
	for i, q := range queues {
		if c := &r.queues[i]; q != nil {
			q.next, q.usedIdx, q.signalled = c.Next, c.UsedIdx, c.Signalled
		}
	}
	m.dev.Start(r.Features, queues)
	m.wake()
	return nil
}

// check finds what no driver could have brought about.
func (m *MMIO) check(r *registers) error {
	if r.Type != m.dev.Type() || r.ISR > interruptQueue|interruptConfig || r.Status&^(driverBits|statusNeedsReset) != 0 ||
		r.Status&statusFeaturesOK != 0 && !m.acceptable(r.Features) {
		return fmt.Errorf("device type %d, interrupt status %#x, status %#x, features %#x", r.Type, r.ISR, r.Status, r.Features)
	}
	for i, max := range m.dev.Queues() {
		if c := &r.queues[i]; c.Max != uint32(max) || c.Ready > 1 {
			return fmt.Errorf("queue %d with a largest size of %d, ready %d", i, c.Max, c.Ready)
		}
	}
	return nil
}
