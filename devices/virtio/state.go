package virtio

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// SaveState waits for the chains in flight and returns the registers (words), each
// queue's (queueWords), the configuration space, and what the device returns;
// little-endian, without padding.
func (m *MMIO) SaveState() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dev.Drain()
	m.wake() // for what it has completed
	device, err := m.dev.SaveState()
	if err != nil {
		return nil, err
	}
	m.reg.Type, m.reg.ISR = m.info.Type, m.isr.Load()
	for i, q := range m.q {
		if q != nil && q.inFlight != 0 {
			return nil, fmt.Errorf("virtio-mmio: the device keeps %d chains of queue %d in flight", q.inFlight, i)
		} else if q != nil {
			m.reg.queues[i].Cursor = q.cursor
		}
	}
	b, _ := binary.Append(nil, le, m.reg.words) // fails for types without a size only
	b, _ = binary.Append(b, le, m.reg.queues)
	return append(append(b, m.info.Config...), device...), nil
}

// LoadState puts a fresh transport and its device into a saved state. The guest's
// memory is that of the saved guest before Work or Serve is called.
func (m *MMIO) LoadState(state []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, queues, err := m.load(state)
	if err != nil {
		return fmt.Errorf("virtio-mmio: saved state: %w", err)
	}
	m.reg, m.q = r, queues
	m.isr.Store(r.ISR)
	if queues != nil {
		m.dev.Start(r.Features, queues)
		m.wake()
	}
	return nil
}

// load checks the parts of a saved state; the device's is the last.
func (m *MMIO) load(state []byte) (r registers, queues []*Queue, err error) {
	r = m.fresh()
	for _, part := range []any{&r.words, r.queues} {
		n, err := binary.Decode(state, le, part)
		if err != nil {
			return r, nil, err
		}
		state = state[n:]
	}
	if err := m.check(&r); err != nil {
		return r, nil, err
	}
	device, ok := bytes.CutPrefix(state, m.info.Config)
	if !ok {
		return r, nil, fmt.Errorf("configuration space % x, need % x", state[:min(len(state), len(m.info.Config))], m.info.Config)
	}
	if r.live() {
		if queues, err = m.build(&r); err != nil {
			return r, nil, err
		}
	}
	return r, queues, m.dev.LoadState(device)
}

// check finds what no driver could have brought about.
func (m *MMIO) check(r *registers) error {
	if r.Type != m.info.Type || r.ISR > interruptQueue|interruptConfig || r.Status&^(driverBits|statusNeedsReset) != 0 ||
		r.Status&statusFeaturesOK != 0 && !m.acceptable(r.Features) {
		return fmt.Errorf("device type %d, interrupt status %#x, status %#x, features %#x", r.Type, r.ISR, r.Status, r.Features)
	}
	for i, max := range m.info.Queues {
		if c := &r.queues[i]; c.Max != uint32(max) || c.Ready > 1 {
			return fmt.Errorf("queue %d with a largest size of %d, ready %d", i, c.Max, c.Ready)
		}
	}
	return nil
}
