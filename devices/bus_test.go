package devices

import (
	"errors"
	"strings"
	"testing"
)

// fakeDevice records the last access.
type fakeDevice struct {
	Saver
	port uint16
	size int
	data string
	out  bool
	err  error
}

func (d *fakeDevice) PortOut(port uint16, size int, data []byte) error {
	d.port, d.size, d.data, d.out = port, size, string(data), true
	return d.err
}

func (d *fakeDevice) PortIn(port uint16, size int, data []byte) error {
	d.port, d.size, d.out = port, size, false
	copy(data, "answer")
	return d.err
}

func TestBusAdd(t *testing.T) {
	type rng struct{ first, last uint16 }
	for _, c := range []struct {
		before []rng
		add    rng
		want   string // "" for success
	}{
		{nil, rng{0, 0xffff}, ""},
		{nil, rng{0, 0}, ""},
		{nil, rng{0xffff, 0xffff}, ""},
		{nil, rng{2, 1}, "ports 0x2-0x1: the range ends before it starts"},
		{nil, rng{0xffff, 0}, "ports 0xffff-0x0: the range ends before it starts"},
		{[]rng{{0x500, 0x508}}, rng{0x509, 0x509}, ""},
		{[]rng{{0x500, 0x508}}, rng{0x4ff, 0x4ff}, ""},
		{[]rng{{0x500, 0x508}}, rng{0x508, 0x600}, "ports 0x508-0x600: 0x500-0x508 are taken"},
		{[]rng{{0x500, 0x508}}, rng{0x400, 0x500}, "ports 0x400-0x500: 0x500-0x508 are taken"},
		{[]rng{{0x500, 0x508}}, rng{0x502, 0x503}, "ports 0x502-0x503: 0x500-0x508 are taken"},
		{[]rng{{0x500, 0x508}}, rng{0, 0xffff}, "ports 0x0-0xffff: 0x500-0x508 are taken"},
		{[]rng{{0x500, 0x508}}, rng{0x500, 0x508}, "ports 0x500-0x508: 0x500-0x508 are taken"},
		{[]rng{{0x500, 0x508}, {0x3f0, 0x3f0}}, rng{0x3f0, 0x3f0}, "ports 0x3f0-0x3f0: 0x3f0-0x3f0 are taken"},
	} {
		var b PortBus
		for _, r := range c.before {
			if err := b.Add(r.first, r.last, &fakeDevice{}); err != nil {
				t.Fatal(err)
			}
		}
		dev := &fakeDevice{}
		switch err := b.Add(c.add.first, c.add.last, dev); {
		case c.want == "" && err != nil, c.want != "" && (err == nil || err.Error() != c.want):
			t.Errorf("Add(%#x, %#x) after %v = %v; want %q", c.add.first, c.add.last, c.before, err, c.want)
		case c.want == "":
			for _, port := range []uint16{c.add.first, c.add.last} {
				if b.find(port) != dev {
					t.Errorf("port %#x after Add(%#x, %#x) is not the device's", port, c.add.first, c.add.last)
				}
			}
		default: // and the refused device got nothing
			for port := range 1 << 16 {
				if b.find(uint16(port)) == dev {
					t.Fatalf("port %#x is the device's after a refused Add(%#x, %#x)", port, c.add.first, c.add.last)
				}
			}
		}
	}
}

func TestBusDispatch(t *testing.T) {
	var b PortBus
	low, high := &fakeDevice{}, &fakeDevice{}
	for _, r := range []portRange{{0x500, 0x508, high}, {0x3f0, 0x3f0, low}} {
		if err := b.Add(r.first, r.last, r.dev); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		port uint16
		dev  *fakeDevice
	}{{0x500, high}, {0x504, high}, {0x508, high}, {0x3f0, low}, {0x4ff, nil}, {0x509, nil}, {0x3ef, nil}, {0x3f1, nil}, {0, nil}, {0xffff, nil}} {
		*low, *high = fakeDevice{}, fakeDevice{}
		in := make([]byte, 4)
		outErr, inErr := b.Access(c.port, 2, []byte("data"), true), error(nil)
		if c.dev != nil {
			if c.dev.port != c.port || c.dev.size != 2 || c.dev.data != "data" || !c.dev.out || outErr != nil {
				t.Errorf("Out(%#x) = %v, the device saw %+v; want the access as made", c.port, outErr, c.dev)
			}
			if inErr = b.Access(c.port, 4, in, false); inErr != nil || string(in) != "answ" || c.dev.out {
				t.Errorf("In(%#x) = %v, %q; want the device's answer", c.port, inErr, in)
			}
			continue
		}
		inErr = b.Access(c.port, 4, in, false)
		var oe, ie *PortError
		if !errors.As(outErr, &oe) || *oe != (PortError{Port: c.port, Size: 2, Count: 2, Out: true}) {
			t.Errorf("Out(%#x) = %v; want a PortError that says so", c.port, outErr)
		}
		if !errors.As(inErr, &ie) || *ie != (PortError{Port: c.port, Size: 4, Count: 1}) {
			t.Errorf("In(%#x) = %v; want a PortError that says so", c.port, inErr)
		}
		if strings.Trim(string(in), "\x00") != "" {
			t.Errorf("In(%#x) gave the guest %q; want nothing", c.port, in)
		}
		if low.port != 0 || high.port != 0 {
			t.Errorf("an access to port %#x reached a device", c.port)
		}
	}
	high.err = errors.New("stop")
	if err := b.Access(0x500, 4, nil, true); err != high.err {
		t.Errorf("Out(0x500) = %v; want the device's own error", err)
	}
	if err := b.Access(0x500, 4, nil, false); err != high.err {
		t.Errorf("In(0x500) = %v; want the device's own error", err)
	}
}

func TestBusAllocs(t *testing.T) {
	var b PortBus
	timer := NewBootTimer()
	if err := b.Add(MarkPort, MarkPort, timer); err != nil {
		t.Fatal(err)
	}
	data := []byte{1}
	if n := testing.AllocsPerRun(100, func() {
		if err := b.Access(MarkPort, 1, data, true); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("Out allocates %v times; want 0", n)
	}
}

func TestPortErrorText(t *testing.T) {
	for _, c := range []struct {
		size int
		data []byte
		out  bool
		want string
	}{
		{4, make([]byte, 4), true, "4-byte OUT to port 0x3f8"},
		{1, make([]byte, 1), false, "1-byte IN from port 0x3f8"},
		{2, make([]byte, 6), true, "2-byte OUT to port 0x3f8, repeated 3 times"},
		{4, nil, true, "4-byte OUT to port 0x3f8, repeated 0 times"},
		{0, []byte{1}, true, "0-byte OUT to port 0x3f8"}, // no kernel says so; it must not divide by it
	} {
		if got := NewPortError(0x3f8, c.size, c.data, c.out).Error(); got != c.want {
			t.Errorf("NewPortError(0x3f8, %d, %d bytes, %v).Error() = %q; want %q", c.size, len(c.data), c.out, got, c.want)
		}
	}
}
