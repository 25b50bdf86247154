package virtio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/uvm-monitor/uvm/memory"
)

// MMIOSize is the size of a device's region of guest-physical addresses, in bytes.
const MMIOSize = 0x1000

// Registers of virtio-mmio, version 2 (section 4.2.2): offsets in the region.
// QueueNotify is the doorbell, for the hypervisor to catch the 4-byte writes there.
const (
	regMagic, regVersion, regDeviceID, regVendorID = 0x000, 0x004, 0x008, 0x00c
	regDeviceFeatures, regDeviceFeaturesSel        = 0x010, 0x014
	regDriverFeatures, regDriverFeaturesSel        = 0x020, 0x024
	regQueueSel, regQueueNumMax, regQueueNum       = 0x030, 0x034, 0x038
	regQueueReady, QueueNotify                     = 0x044, 0x050
	regInterruptStatus, regInterruptACK, regStatus = 0x060, 0x064, 0x070
	regQueueDesc, regQueueDriver, regQueueDevice   = 0x080, 0x090, 0x0a0 // low words; the high ones follow
	regSHMLen, regSHMBase                          = 0x0b0, 0x0b8        // the same
	regConfig                                      = 0x100
)

// Device status (section 2.1), and what of it the driver sets.
const (
	statusAcknowledge, statusDriver, statusDriverOK  = 1, 2, 4
	statusFeaturesOK, statusNeedsReset, statusFailed = 8, 64, 128

	driverBits = statusAcknowledge | statusDriver | statusDriverOK | statusFeaturesOK | statusFailed
)

// Bits of InterruptStatus.
const interruptQueue, interruptConfig = 1, 2

// MMIO is the transport of one device. Any goroutine may call its methods.
type MMIO struct {
	dev       Device
	info      Info // with the transport's features
	view      *memory.View
	irq, wake func()
	log       func(error)

	isr atomic.Uint32 // InterruptStatus: a handler in the guest does not wait for the device

	mu  sync.Mutex // held while the device works; protects what follows
	reg registers
	q   []*Queue // from DRIVER_OK to the reset or the driver's first offence

	frozen bool
}

// registers is what the driver wrote.
type registers struct {
	words
	queues []queueWords
}

// words and queueWords are laid out as in a saved state, which alone uses the
// fields of their first lines.
type words struct {
	Type, ISR                              uint32
	Status, DeviceSel, DriverSel, QueueSel uint32
	Features                               uint64
}

type queueWords struct {
	Cursor           cursor
	Max, Size, Ready uint32
	Addr             [3]memory.Addr // descriptor table, available ring, used ring
}

// NewMMIO returns the transport of dev, in the state after a reset. The guest's
// queues and buffers are checked against view. irq interrupts the guest by an edge;
// wake rings the doorbell that Work listens to; log hears of a driver's offences, and
// the guest decides how many there are. None of them may block or call back.
func NewMMIO(dev Device, view *memory.View, irq, wake func(), log func(error)) *MMIO {
	m := &MMIO{dev: dev, info: dev.Info(), view: view, irq: irq, wake: wake, log: log}
	m.info.Features |= FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1
	m.reg = m.fresh()
	return m
}

// fresh is the registers after a reset.
func (m *MMIO) fresh() (r registers) {
	for _, size := range m.info.Queues {
		r.queues = append(r.queues, queueWords{Max: uint32(size)})
	}
	return r
}

// queue is the one that QueueSel selects. One that does not exist has size 0, and
// what is written to it is lost.
func (r *registers) queue() *queueWords {
	if r.QueueSel < uint32(len(r.queues)) {
		return &r.queues[r.QueueSel]
	}
	return &queueWords{}
}

// word is the i-th 32-bit word of x; there are two.
func word(x uint64, i uint32) uint32 { return uint32(x >> (32 * uint64(i))) }

func setWord(x uint64, i, v uint32) uint64 {
	shift := 32 * uint64(i)
	return x&^(0xffff_ffff<<shift) | uint64(v)<<shift
}

// Read answers a vCPU's read of len(b) bytes at offset off of the region. Registers
// are read as aligned words, Config in any way; all else is 0.
func (m *MMIO) Read(off uint64, b []byte) {
	clear(b)
	if off == regInterruptStatus && len(b) == 4 {
		le.PutUint32(b, m.isr.Load())
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if off >= regConfig {
		if off -= regConfig; off < uint64(len(m.info.Config)) {
			copy(b, m.info.Config[off:])
		}
	} else if len(b) == 4 && off%4 == 0 {
		const none = 0xffff_ffff // there is no shared memory
		// ConfigGeneration stays 0, because Config does not change.
		le.PutUint32(b, [regConfig]uint32{
			regMagic:          0x74726976, // "virt"
			regVersion:        2,
			regDeviceID:       m.info.Type,
			regVendorID:       0x214d5655, // "UVM!"
			regDeviceFeatures: word(m.info.Features, m.reg.DeviceSel),
			regQueueNumMax:    m.reg.queue().Max,
			regQueueReady:     m.reg.queue().Ready,
			regStatus:         m.reg.Status,
			regSHMLen:         none, regSHMLen + 4: none, regSHMBase: none, regSHMBase + 4: none,
		}[off])
	}
}

// Write takes a vCPU's write at offset off of the region. What is not an aligned
// word in a register that can be written now is ignored.
func (m *MMIO) Write(off uint64, b []byte) {
	if len(b) != 4 {
		return
	}
	v := le.Uint32(b)
	if off == regInterruptACK {
		m.isr.And(^v)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, q := &m.reg, m.reg.queue()
	open := q.Ready == 0 && r.Status&statusDriverOK == 0
	switch off {
	case regDeviceFeaturesSel:
		r.DeviceSel = v
	case regDriverFeaturesSel:
		r.DriverSel = v
	case regDriverFeatures:
		if r.Status&statusFeaturesOK == 0 {
			r.Features = setWord(r.Features, r.DriverSel, v)
		}
	case regQueueSel:
		r.QueueSel = v
	case regQueueNum:
		if open {
			q.Size = v
		}
	case regQueueDesc, regQueueDesc + 4, regQueueDriver, regQueueDriver + 4, regQueueDevice, regQueueDevice + 4:
		if a := &q.Addr[(off-regQueueDesc)/0x10]; open {
			*a = memory.Addr(setWord(uint64(*a), uint32(off/4%2), v))
		}
	case regQueueReady:
		if open {
			q.Ready = v & 1
		} else if v&1 == 0 { // the driver takes its memory back
			q.Ready = 0
			if i := r.QueueSel; i < uint32(len(m.q)) && m.q[i] != nil {
				m.dev.Drain()
				m.q[i].stopped = true
				m.wake() // for what Drain has completed
			}
		}
	case QueueNotify: // one that the hypervisor did not catch
		m.wake()
	case regStatus:
		m.setStatus(v)
	}
}

// setStatus follows section 3.1: 0 is a reset, and otherwise bits are only added.
func (m *MMIO) setStatus(v uint32) {
	if v == 0 {
		m.dev.Reset() // first: the registers tell the driver when its memory is its own
		m.reg, m.q = m.fresh(), nil
		m.isr.Store(0)
		return
	}
	r := &m.reg
	added := v &^ r.Status & driverBits
	if !m.acceptable(r.Features) {
		added &^= statusFeaturesOK
	}
	r.Status |= added
	if added&statusDriverOK == 0 {
		return
	}
	q, err := m.build(r)
	if err != nil {
		m.fail(err)
		return
	}
	m.q = q
	m.dev.Start(r.Features, q)
	m.wake() // for buffers that were there before the device was
}

func (m *MMIO) acceptable(features uint64) bool {
	return features&FeatureVersion1 != 0 && features&^m.info.Features == 0
}

// build makes the queues that the registers say, nil for those that are not ready.
func (m *MMIO) build(r *registers) ([]*Queue, error) {
	if r.Status&statusFeaturesOK == 0 {
		return nil, errors.New("DRIVER_OK without FEATURES_OK")
	}
	queues := make([]*Queue, len(r.queues))
	for i := range queues {
		c := &r.queues[i]
		if c.Ready == 0 {
			continue
		}
		if c.Size > c.Max {
			return nil, fmt.Errorf("queue %d: size %d is above %d", i, c.Size, c.Max)
		}
		q, err := NewQueue(m.view, uint16(c.Size), c.Addr[0], c.Addr[1], c.Addr[2], r.Features)
		if err != nil {
			return nil, fmt.Errorf("queue %d: %w", i, err)
		}
		q.cursor, queues[i] = c.Cursor, q
	}
	return queues, nil
}

// fail ends the service of a driver that broke the rules, until it resets the
// device (section 2.1.2).
func (m *MMIO) fail(err error) {
	m.dev.Drain()
	m.reg.Status |= statusNeedsReset
	m.q = nil
	m.log(err)
	m.interrupt(interruptConfig)
}

// Freeze has the device do nothing, with nothing in flight, until it is called with
// false.
func (m *MMIO) Freeze(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen = on; on {
		m.dev.Drain()
	}
	m.wake() // for what came meanwhile
}

// interrupt raises an edge each time: where the bit is set already, the handler may
// be between its look at the rings and its acknowledgement.
func (m *MMIO) interrupt(bit uint32) {
	m.isr.Or(bit)
	m.irq()
}
