package devices

import (
	"bytes"
	"time"
)

// CMOSPort selects a register of the CMOS; the port after it is the register.
const CMOSPort = 0x70

// CMOSCentury is the register that has the hundreds of the year; the FADT says
// so.
const CMOSCentury = 0x32

// CMOS is a PC's real-time clock (Motorola MC146818) with its RAM: 128
// registers. The clock tells the host's time, UTC, in BCD and 24 hours, and
// cannot be set; it has no alarm, no interrupt, and is never updating. Other
// registers keep what is written.
//
// A read of register A or of the seconds takes the time, and the other
// registers tell of that moment: what is read after "no update in progress"
// belongs together, as with the real one.
//
// Bit 7 of the selector, which masks NMIs, does nothing, and the selector
// reads all ones. eachByte says what wide accesses do.
type CMOS struct {
	clock func() time.Time
	state [1 + 128]byte // selector and registers
}

// NewCMOS returns a CMOS with empty RAM. clock is time.Now except in tests.
func NewCMOS(clock func() time.Time) *CMOS {
	c := &CMOS{clock: clock}
	c.update()
	return c
}

// update fills in the registers that the guest does not write.
func (c *CMOS) update() {
	t, r := c.clock().UTC(), c.state[1:]
	for _, f := range [...][2]int{{0, t.Second()}, {2, t.Minute()}, {4, t.Hour()}, {6, int(t.Weekday()) + 1}, {7, t.Day()},
		{8, int(t.Month())}, {9, t.Year() % 100}, {CMOSCentury, t.Year() / 100}} {
		r[f[0]] = byte(f[1]/10<<4 | f[1]%10)
	}
	copy(r[0x0a:], "\x26\x02\x00\x80") // 32,768 Hz, not updating; BCD, 24 hours; no interrupt; valid
}

// PortOut selects a register or writes the one selected.
func (c *CMOS) PortOut(port uint16, size int, data []byte) error {
	return eachByte(port, size, data, func(port uint16, b *byte) error {
		switch port {
		case CMOSPort:
			c.state[0] = *b & 0x7f
		case CMOSPort + 1:
			c.state[1+c.state[0]] = *b
			c.update()
		}
		return nil
	})
}

// PortIn reads the selected register.
func (c *CMOS) PortIn(port uint16, size int, data []byte) error {
	return eachByte(port, size, data, func(port uint16, b *byte) error {
		*b = 0xff
		if port == CMOSPort+1 {
			if r := c.state[0]; r == 0 || r == 0x0a {
				c.update()
			}
			*b = c.state[1+c.state[0]]
		}
		return nil
	})
}

// SaveState returns the selector and the registers, 129 bytes.
func (c *CMOS) SaveState() ([]byte, error) { return bytes.Clone(c.state[:]), nil }

// LoadState takes what SaveState returned.
func (c *CMOS) LoadState(state []byte) error {
	return LoadState("cmos", c.state[:], state, []byte{0x7f})
}
