package devices

import (
	"testing"
	"time"
)

func cmosRead(t *testing.T, c *CMOS, reg byte) byte {
	t.Helper()
	b := []byte{reg}
	if err := c.PortOut(CMOSPort, 1, b); err != nil {
		t.Fatal(err)
	}
	if err := c.PortIn(CMOSPort+1, 1, b); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

func TestCMOSClock(t *testing.T) {
	for _, c := range []struct {
		now  time.Time
		want map[byte]byte
	}{
		{time.Date(2026, 11, 21, 10, 52, 6, 999, time.UTC), // a Saturday
			map[byte]byte{0: 0x06, 2: 0x52, 4: 0x10, 6: 7, 7: 0x21, 8: 0x11, 9: 0x26, CMOSCentury: 0x20, 0x0a: 0x26, 0x0b: 2, 0x0c: 0, 0x0d: 0x80}},
		{time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC),
			map[byte]byte{0: 0x59, 2: 0x59, 4: 0x23, 6: 6, 7: 0x31, 8: 0x12, 9: 0x99, CMOSCentury: 0x19}},
		{time.Date(2000, 1, 2, 1, 0, 0, 0, time.FixedZone("", 3600)), // a Sunday, midnight in UTC
			map[byte]byte{0: 0, 2: 0, 4: 0, 6: 1, 7: 2, 8: 1, 9: 0, CMOSCentury: 0x20}},
	} {
		d := NewCMOS(func() time.Time { return c.now })
		for reg, want := range c.want {
			if got := cmosRead(t, d, reg); got != want {
				t.Errorf("%v: register %#x = %#x; want %#x", c.now, reg, got, want)
			}
			// The guest's clock is the host's whatever the guest writes.
			d.PortOut(CMOSPort+1, 1, []byte{0xff})
			if got := cmosRead(t, d, reg); got != want {
				t.Errorf("%v: register %#x = %#x after a write; want %#x", c.now, reg, got, want)
			}
		}
	}
}

// TestCMOSMoment: what is read after register A, or after the seconds, belongs
// to one moment.
func TestCMOSMoment(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 59, 59, 0, time.UTC)
	for _, first := range []byte{0, 0x0a} {
		clock := now
		c := NewCMOS(func() time.Time { return clock })
		cmosRead(t, c, first)
		clock = clock.Add(time.Second)
		if m, h := cmosRead(t, c, 2), cmosRead(t, c, 4); m != 0x59 || h != 0x10 {
			t.Errorf("after register %#x, a second later: %x:%x; want 10:59 as before", first, h, m)
		}
		cmosRead(t, c, first)
		if m, h := cmosRead(t, c, 2), cmosRead(t, c, 4); m != 0 || h != 0x11 {
			t.Errorf("after register %#x again: %x:%x; want 11:00", first, h, m)
		}
	}
}

func TestCMOSRAM(t *testing.T) {
	c := NewCMOS(time.Now)
	kept := func(reg byte) bool { return reg == 1 || reg == 3 || reg == 5 || reg >= 0x0e && reg != CMOSCentury }
	for reg := range byte(128) {
		// Both ports in one wide access; bit 7 is no part of the selector.
		if err := c.PortOut(CMOSPort, 2, []byte{reg | 0x80, ^reg}); err != nil {
			t.Fatal(err)
		}
	}
	for reg := range byte(128) {
		if got := cmosRead(t, c, reg); kept(reg) && got != ^reg {
			t.Errorf("register %#x = %#x; want %#x as written", reg, got, ^reg)
		}
	}
	wide := []byte{0, 0, 0, 0}
	if err := c.PortIn(CMOSPort, 4, wide); err != nil || [4]byte(wide) != [4]byte{0xff, 0x80, 0xff, 0xff} {
		t.Errorf("4 bytes from %#x = % x, %v; want ff, register 0x7f, ff ff", CMOSPort, wide, err)
	}
	rep := make([]byte, 3)
	if err := c.PortIn(CMOSPort+1, 1, rep); err != nil || string(rep) != "\x80\x80\x80" {
		t.Errorf("3 times register 0x7f = % x, %v; want 80 80 80", rep, err)
	}
}
