package devices

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

// legacy returns the three devices on one bus, as a machine has them, with a
// clock that stands still.
func legacy(t testing.TB) (*PortBus, *UART, [3]Saver) {
	t.Helper()
	uart := NewUART(io.Discard, func() {})
	cmos := NewCMOS(func() time.Time { return time.Unix(1e9, 0) })
	power := NewPower()
	bus := &PortBus{}
	err := errors.Join(bus.Add(COM1, COM1+7, uart), bus.Add(CMOSPort, CMOSPort+1, cmos))
	for _, r := range PowerPorts {
		err = errors.Join(err, bus.Add(r[0], r[1], power))
	}
	if err != nil {
		t.Fatal(err)
	}
	return bus, uart, [3]Saver{uart, cmos, power}
}

var legacyPorts = []uint16{COM1, COM1 + 1, COM1 + 2, COM1 + 3, COM1 + 4, COM1 + 5, COM1 + 6, COM1 + 7,
	CMOSPort, CMOSPort + 1, i8042Data, ResetPort, debugExit, nanosExit,
	PM1aEvent, PM1aEvent + 1, PM1aEvent + 2, PM1aEvent + 3, PM1aControl, PM1aControl + 1}

// legacyScript does what data says: 4 bytes of operation, port, size and
// count, and a byte to write or to type. It returns all that the guest heard.
func legacyScript(t *testing.T, bus *PortBus, uart *UART, data []byte) []byte {
	var heard []byte
	for ; len(data) >= 4; data = data[4:] {
		port, size := legacyPorts[int(data[1])%len(legacyPorts)], 1<<(data[2]%3)
		items := bytes.Repeat(data[3:4], size*int(data[2]>>2%20))
		var err error
		switch data[0] % 3 {
		case 0:
			err = bus.Access(port, size, items, true)
		case 1:
			err = bus.Access(port, size, items, false)
			heard = append(heard, items...)
		case 2:
			n := uart.Input(items)
			if n < 0 || n > len(items) || n > 16 {
				t.Fatalf("Input of %d bytes = %d; want up to that and 16", len(items), n)
			}
			heard = append(heard, byte(n))
		}
		var s *Stop
		if err != nil && !errors.As(err, &s) {
			t.Fatalf("operation % x = %v; want nil or a Stop", data[:4], err)
		}
	}
	return heard
}

// FuzzLegacy: nothing that a guest does panics, and devices from saved states
// answer as the saved ones do.
func FuzzLegacy(f *testing.F) {
	f.Add([]byte{0, 2, 4, 1, 0, 1, 4, 1, 2, 0, 64, 'x'}, []byte{1, 5, 4, 0, 1, 0, 64, 0, 1, 2, 4, 0})                // input
	f.Add([]byte{0, 4, 4, 0x1e, 0, 0, 80, 'y', 0, 1, 4, 15}, []byte{1, 2, 4, 0, 1, 5, 4, 0, 1, 2, 4, 0, 1, 2, 4, 0}) // loopback, overrun
	f.Add([]byte{0, 11, 4, 0x60, 0, 8, 4, 0x40, 0, 16, 4, 1}, []byte{0, 10, 4, 9, 0, 11, 4, 0x20, 1, 10, 4, 0, 1, 9, 4, 0})
	f.Fuzz(func(t *testing.T, before, after []byte) {
		bus, uart, devs := legacy(t)
		legacyScript(t, bus, uart, before)
		bus2, uart2, devs2 := legacy(t)
		for i, d := range devs {
			state, err := d.SaveState()
			if err != nil {
				t.Fatal(err)
			}
			if err := devs2[i].LoadState(state); err != nil {
				t.Fatalf("LoadState(SaveState()) = %v; want nil", err)
			}
			if again, _ := devs2[i].SaveState(); !bytes.Equal(again, state) {
				t.Fatalf("SaveState after LoadState = % x; want % x", again, state)
			}
		}
		if got, want := legacyScript(t, bus2, uart2, after), legacyScript(t, bus, uart, after); !bytes.Equal(got, want) {
			t.Fatalf("after LoadState the guest hears % x; want % x", got, want)
		}
	})
}

// FuzzLegacyState: a state from elsewhere is refused and changes nothing, or
// the device works with it.
func FuzzLegacyState(f *testing.F) {
	_, _, devs := legacy(f)
	for i, d := range devs {
		state, _ := d.SaveState()
		f.Add(byte(i), state, []byte{1, 0, 4, 0})
	}
	f.Fuzz(func(t *testing.T, which byte, state, script []byte) {
		bus, uart, devs := legacy(t)
		d := devs[int(which)%len(devs)]
		before, _ := d.SaveState()
		if err := d.LoadState(state); err != nil {
			if after, _ := d.SaveState(); !bytes.Equal(before, after) {
				t.Errorf("LoadState = %v and left % x; want % x as before", err, after, before)
			}
		}
		legacyScript(t, bus, uart, script)
	})
}

func TestLegacyBadState(t *testing.T) {
	_, _, devs := legacy(t)
	uart, cmos, power := devs[0], devs[1], devs[2]
	for _, c := range []struct {
		dev  Saver
		bad  map[int]byte // what to change in a good state
		want string
	}{
		{uart, map[int]byte{uartIER: 0x10}, "uart: byte 1 of the saved state is 0x10, need only bits of 0xf"},
		{cmos, map[int]byte{0: 0x80}, "cmos: byte 0 of the saved state is 0x80, need only bits of 0x7f"},
		{power, map[int]byte{powerFull: 2}, "power: byte 0 of the saved state is 0x2, need only bits of 0x1"},
		{uart, map[int]byte{uartN: 2}, "uart: saved receiver has 2 bytes, need up to 1"},
		{uart, map[int]byte{uartN: 17, uartFCR: 1}, "uart: saved receiver has 17 bytes, need up to 16"},
	} {
		d := c.dev
		good, _ := d.SaveState()
		bad := bytes.Clone(good)
		for at, b := range c.bad {
			bad[at] = b
		}
		if err := d.LoadState(bad); err == nil || err.Error() != c.want {
			t.Errorf("LoadState = %v; want %q", err, c.want)
		}
		for _, n := range []int{0, len(good) - 1, len(good) + 1} {
			if err := d.LoadState(make([]byte, n)); err == nil {
				t.Errorf("LoadState of %d bytes = nil; want an error, %d are needed", n, len(good))
			}
		}
		if after, _ := d.SaveState(); !bytes.Equal(after, good) {
			t.Errorf("refused states leave % x; want % x as before", after, good)
		}
	}
}

// TestUARTLoadStateEdge: a cause that was pending interrupts the restored
// guest.
func TestUARTLoadStateEdge(t *testing.T) {
	r := newUARTRig(t)
	r.set(uartFCR, 1, uartIER, ierRDI)
	r.Input([]byte("in"))
	state, _ := r.SaveState()
	fresh := newUARTRig(t)
	if err := fresh.LoadState(state); err != nil || fresh.edges != 1 {
		t.Errorf("LoadState = %v, %d edges; want nil, 1", err, fresh.edges)
	}
	fresh.want("restored", uartData, 'i', 1)
	fresh.want("restored", uartData, 'n', 0)
}

func TestLegacyAllocs(t *testing.T) {
	bus, _, _ := legacy(t)
	b := make([]byte, 64)
	if n := testing.AllocsPerRun(100, func() {
		for _, port := range legacyPorts {
			b[0] = 0
			if port != debugExit && port != nanosExit {
				bus.Access(port, 1, b[:1], true)
			}
			bus.Access(port, 1, b, false)
		}
	}); n != 0 {
		t.Errorf("a write and a read of each port allocate %v times; want 0", n)
	}
}
