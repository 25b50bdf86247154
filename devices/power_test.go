package devices

import (
	"errors"
	"testing"
)

func TestPowerStops(t *testing.T) {
	for _, c := range []struct {
		name string
		port uint16
		size int
		data string
		want Stop // zero: the guest goes on
	}{
		{"i8042 reset", ResetPort, 1, "\xfe", Stop{StopReset, 0}},
		{"i8042 reset, second of a REP OUTS", ResetPort, 1, "\x00\xfe", Stop{StopReset, 0}},
		{"i8042, 2 bytes", ResetPort, 2, "\xfe\x00", Stop{StopReset, 0}},
		{"i8042, other commands", ResetPort, 1, "\x20\x60\xaa\xff\xd1\xf0", Stop{}},
		{"i8042 data", i8042Data, 1, "\xfe", Stop{}},
		{"i8042 data, 4 bytes do not reach the command port", i8042Data, 4, "\xfe\xfe\xfe\xfe", Stop{}},
		{"debug exit 0", debugExit, 1, "\x00", Stop{StopExit, 1}},
		{"debug exit 16", debugExit, 4, "\x10\x00\x00\x00", Stop{StopExit, 33}},
		{"debug exit 255", debugExit, 1, "\xff", Stop{StopExit, 511}},
		{"Nanos 0", nanosExit, 1, "\x00", Stop{StopExit, 0}},
		{"Nanos 42", nanosExit, 2, "\x2a\x00", Stop{StopExit, 42}},
		{"QEMU poweroff", PM1aControl, 2, "\x00\x20", Stop{StopPowerOff, 0}},
		{"SLP_EN of another type", PM1aControl, 2, "\x01\x34", Stop{StopPowerOff, 0}},
		{"SLP_EN, high byte alone", PM1aControl + 1, 1, "\x20", Stop{StopPowerOff, 0}},
		{"SLP_TYP before SLP_EN", PM1aControl, 2, "\x01\x1c", Stop{}},
		{"PM1 status and enable", PM1aEvent, 4, "\xff\xff\xff\xff", Stop{}},
		{"second of two words", PM1aControl, 2, "\x00\x00\x00\x20", Stop{StopPowerOff, 0}},
	} {
		err := NewPower().PortOut(c.port, c.size, []byte(c.data))
		var s *Stop
		if c.want == (Stop{}) {
			if err != nil {
				t.Errorf("%s: PortOut = %v; want nil", c.name, err)
			}
		} else if !errors.As(err, &s) || *s != c.want {
			t.Errorf("%s: PortOut = %v; want %v", c.name, err, &c.want)
		}
	}
	if got, want := (&Stop{StopExit, 3}).Error(), "guest ended by exit, status 3"; got != want {
		t.Errorf("Error() = %q; want %q", got, want)
	}
}

// TestPowerI8042 is a driver that looks for keyboard and mouse, in the order
// of Linux's i8042_controller_init and i8042_check_aux: whatever it waits for
// is there at once.
func TestPowerI8042(t *testing.T) {
	p := NewPower()
	out := func(port uint16, b byte) {
		t.Helper()
		if err := p.PortOut(port, 1, []byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	in := func(port uint16) byte {
		b := make([]byte, 1)
		if err := p.PortIn(port, 1, b); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	for i, c := range []struct {
		command byte
		data    int // -1: none
		answer  int // -1: none
	}{
		{0xaa, -1, 0x55},
		{0xab, -1, 0x00},
		{0x20, -1, 0x74},
		{0x60, 0x65, -1},
		{0x20, -1, 0x65},
		{0xd3, 0x5a, 0x5a},
		{0xa9, -1, 0x01},
		{0xd4, 0xf4, -1}, // to the mouse
		{0xad, -1, -1},
	} {
		out(ResetPort, c.command)
		if c.data >= 0 {
			out(i8042Data, byte(c.data))
		}
		want := byte(0x14)
		if c.answer >= 0 {
			want |= 1
		}
		if got := in(ResetPort); got != want {
			t.Errorf("step %d, command %#x: status %#x; want %#x", i, c.command, got, want)
		}
		if c.answer >= 0 {
			if got := in(i8042Data); got != byte(c.answer) {
				t.Errorf("step %d, command %#x: answer %#x; want %#x", i, c.command, got, c.answer)
			}
		}
		if got := in(ResetPort); got != 0x14 {
			t.Errorf("step %d, command %#x: status %#x when the answer is read; want 0x14", i, c.command, got)
		}
	}
	out(i8042Data, 0xed) // to the keyboard
	if got := in(ResetPort); got != 0x14 {
		t.Errorf("status after a byte to the keyboard = %#x; want 0x14: nobody answers", got)
	}
}

// TestPowerPM1: status is 0, enable and control keep what is written, SCI_EN
// is set.
func TestPowerPM1(t *testing.T) {
	p := NewPower()
	for _, c := range []struct {
		port       uint16
		size       int
		data, want string
	}{
		{PM1aEvent, 2, "", "\x00\x00"},
		{PM1aControl, 2, "", "\x01\x00"},
		{PM1aEvent, 4, "\xff\xff\x20\x03", "\x00\x00\x20\x03"},
		{PM1aEvent + 2, 2, "\x21\x00", "\x21\x00"},
		{PM1aControl, 2, "\x04\x1c", "\x05\x1c"},
		{PM1aControl, 4, "", "\x05\x1c\xff\xff"},
		{PM1aControl + 1, 1, "", "\x1c"},
		{debugExit, 1, "", "\xff"},
		{nanosExit, 4, "", "\xff\xff\xff\xff"},
	} {
		if err := p.PortOut(c.port, c.size, []byte(c.data)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, c.size)
		if err := p.PortIn(c.port, c.size, b); err != nil || string(b) != c.want {
			t.Errorf("PortIn(%#x, %d) after %q = %q, %v; want %q", c.port, c.size, c.data, b, err, c.want)
		}
	}
}
