package devices

import (
	"bytes"
	"fmt"
)

// StopReason is a way in which a PC ends.
type StopReason string

// Reasons to stop.
const (
	StopReset    StopReason = "reset"    // what reboots a PC
	StopPowerOff StopReason = "poweroff" // ACPI S5
	StopExit     StopReason = "exit"     // with a status that the guest chose
)

// Stop is how a guest that ends itself reaches the run loop.
type Stop struct {
	Reason StopReason
	Status int // 0 unless Reason is StopExit
}

func (s *Stop) Error() string {
	return fmt.Sprintf("guest ended by %s, status %d", s.Reason, s.Status)
}

// Ports of Power.
const (
	i8042Data   = 0x60
	ResetPort   = 0x64 // the i8042's command port; the FADT's reset register
	ResetValue  = 0xfe // resets there
	debugExit   = 0xf4 // QEMU's isa-debug-exit
	nanosExit   = 0x501
	PM1aEvent   = 0x600 // ACPI 6.4 section 4.8.3.1: status (2 bytes), enable (2 bytes)
	PM1aControl = 0x604 // section 4.8.3.2, 2 bytes: 0x2000 (SLP_EN) powers off, as in QEMU
)

// PowerPorts are the ranges, first and last, that Power is for.
var PowerPorts = [...][2]uint16{{i8042Data, i8042Data}, {ResetPort, ResetPort}, {debugExit, debugExit},
	{nanosExit, nanosExit}, {PM1aEvent, PM1aControl + 1}}

// i8042Answers are those that never change: test of the mouse port (nothing
// there), self-test (passed), test of the keyboard port (passed).
var i8042Answers = map[byte]byte{0xa9: 0x01, 0xaa: 0x55, 0xab: 0x00}

// Power is every way in which a guest ends itself: PortOut returns a *Stop
// then. It has the i8042 without keyboard and mouse, with answers to what a
// driver asks while it looks for these, so that none waits in vain; two exit
// ports; and ACPI's PM1a registers, which report no event and know one sleep
// state, S5. eachByte says what wide accesses do.
type Power struct{ state [10]byte }

// What is where in the state: whether the i8042's answer is unread (1), the
// answer, the command that waits for its byte, the control byte, which
// controls nothing; PM1 status, enable and control, 2 bytes each.
const powerFull, powerAnswer, powerCommand, powerControl, powerPM1 = 0, 1, 2, 3, 4

// powerBits are those that a place can have.
var powerBits = []byte{1, 0xff, 0xff, 0xff, 0, 0}

// NewPower returns the devices after a reset: both ports of the i8042 off,
// keyboard codes translated; SCI_EN: ACPI mode is on from the start.
func NewPower() *Power { return &Power{[10]byte{powerControl: 0x74, powerPM1 + 4: 1}} }

// PortOut writes registers. The error is nil or a *Stop.
func (p *Power) PortOut(port uint16, size int, data []byte) error {
	return eachByte(port, size, data, p.write)
}

// PortIn reads registers.
func (p *Power) PortIn(port uint16, size int, data []byte) error {
	return eachByte(port, size, data, p.read)
}

func (p *Power) write(port uint16, b *byte) error {
	s, v := p.state[:], *b
	switch port {
	case ResetPort:
		s[powerCommand] = v
		if answer, ok := i8042Answers[v]; ok {
			s[powerFull], s[powerAnswer] = 1, answer
		}
		switch v {
		case 0x20:
			s[powerFull], s[powerAnswer] = 1, s[powerControl]
		case ResetValue:
			return &Stop{Reason: StopReset}
		}
	case i8042Data: // without a command it is for the keyboard, which is not there
		switch s[powerCommand] {
		case 0x60:
			s[powerControl] = v
		case 0xd3: // mouse loopback, answered as by the keyboard: there is no mouse
			s[powerFull], s[powerAnswer] = 1, v
		}
		s[powerCommand] = 0
	case debugExit:
		return &Stop{StopExit, int(v)<<1 | 1}
	case nanosExit:
		return &Stop{StopExit, int(v)}
	case PM1aEvent + 2, PM1aEvent + 3, PM1aControl, PM1aControl + 1:
		s[powerPM1+port-PM1aEvent] = v
		s[powerPM1+4] |= 1                        // SCI_EN
		if port == PM1aControl+1 && v&0x20 != 0 { // SLP_EN
			return &Stop{Reason: StopPowerOff}
		}
	}
	return nil
}

func (p *Power) read(port uint16, b *byte) error {
	s, pm1 := p.state[:], port-PM1aEvent
	switch {
	case port == i8042Data:
		*b, s[powerFull] = s[powerAnswer], 0
	case port == ResetPort:
		*b = 0x14 | s[powerFull] // the self-test was passed, the keyboard is not locked
	case pm1 < 6:
		*b = s[powerPM1+pm1]
	default:
		*b = 0xff
	}
	return nil
}

// SaveState returns the registers, 10 bytes.
func (p *Power) SaveState() ([]byte, error) { return bytes.Clone(p.state[:]), nil }

// LoadState takes what SaveState returned.
func (p *Power) LoadState(state []byte) error {
	return LoadState("power", p.state[:], state, powerBits)
}
