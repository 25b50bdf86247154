package devices

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// uartRig is a UART with what it told the host.
type uartRig struct {
	*UART
	t     *testing.T
	out   bytes.Buffer
	edges int
	rooms int
}

func newUARTRig(t *testing.T) *uartRig {
	r := &uartRig{t: t}
	r.UART = NewUART(&r.out, func() { r.edges++ })
	r.InputRoom = func() { r.rooms++ }
	return r
}

// set writes registers: pairs of offset and value.
func (r *uartRig) set(pairs ...byte) {
	r.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if err := r.PortOut(COM1+uint16(pairs[i]), 1, pairs[i+1:i+2]); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *uartRig) get(reg uint16) byte {
	r.t.Helper()
	var b [1]byte
	if err := r.PortIn(COM1+reg, 1, b[:]); err != nil {
		r.t.Fatal(err)
	}
	return b[0]
}

// want compares a register, and the edges since the last call.
func (r *uartRig) want(what string, reg uint16, value byte, edges int) {
	r.t.Helper()
	if got := r.get(reg); got != value {
		r.t.Errorf("%s: register %d = %#x; want %#x", what, reg, got, value)
	}
	if r.edges != edges {
		r.t.Errorf("%s: %d edges; want %d", what, r.edges, edges)
	}
	r.edges = 0
}

func TestUARTRegisters(t *testing.T) {
	for _, c := range []struct {
		name string
		set  []byte
		reg  uint16
		want byte
	}{
		{"IER after reset", nil, uartIER, 0},
		{"IIR after reset", nil, uartFCR, 0x01},
		{"LSR after reset", nil, uartLSR, 0x60},
		{"MSR after reset", nil, uartMSR, 0xb0},
		{"LCR after reset", nil, uartLCR, 0},
		{"MCR after reset", nil, uartMCR, 0},
		{"IER has four bits", []byte{uartIER, 0xff}, uartIER, 0x0f},
		{"MCR has five bits", []byte{uartMCR, 0xff}, uartMCR, 0x1f},
		{"scratch", []byte{uartSCR, 0xa5}, uartSCR, 0xa5},
		{"LCR", []byte{uartLCR, 0x1b}, uartLCR, 0x1b},
		{"divisor, low", []byte{uartLCR, 0x80, uartData, 0x0c}, uartData, 0x0c},
		{"divisor, high", []byte{uartLCR, 0x80, uartIER, 0x34}, uartIER, 0x34},
		{"IER is not the divisor", []byte{uartLCR, 0x80, uartIER, 0x34, uartLCR, 0}, uartIER, 0},
		{"the divisor is kept", []byte{uartLCR, 0x80, uartData, 0x0c, uartLCR, 3, uartData, 'x', uartLCR, 0x80}, uartData, 0x0c},
		{"FIFO on", []byte{uartFCR, 0x01}, uartFCR, 0xc1},
		{"FIFO off", []byte{uartFCR, 0x01, uartFCR, 0}, uartFCR, 0x01},
		{"no 64-byte FIFO", []byte{uartLCR, 0x80, uartFCR, 0x21, uartLCR, 0}, uartFCR, 0xc1},
		{"LSR is read-only", []byte{uartLSR, 0xff}, uartLSR, 0x60},
		{"MSR is read-only", []byte{uartMSR, 0}, uartMSR, 0xb0},
		// Linux's autoconfig: RTS and OUT2 in loopback are CTS and DCD.
		{"MSR in loopback, RTS OUT2", []byte{uartMCR, 0x1a}, uartMSR, 0x90},
		{"MSR in loopback, DTR OUT1", []byte{uartMCR, 0x15}, uartMSR, 0x60},
		{"MSR in loopback, none", []byte{uartMCR, 0x10}, uartMSR, 0},
		{"loopback", []byte{uartMCR, 0x1e, uartData, 0xae}, uartData, 0xae},
		{"loopback: data ready", []byte{uartMCR, 0x1e, uartData, 0xae}, uartLSR, 0x61},
		{"loopback, no FIFO: overrun", []byte{uartMCR, 0x1e, uartData, 1, uartData, 2}, uartLSR, 0x63},
		{"overrun keeps the first", []byte{uartMCR, 0x1e, uartData, 1, uartData, 2}, uartData, 1},
		{"receiver reset", []byte{uartFCR, 1, uartMCR, 0x1e, uartData, 1, uartFCR, 3}, uartLSR, 0x60},
		{"a change of mode resets", []byte{uartFCR, 1, uartMCR, 0x1e, uartData, 1, uartFCR, 0}, uartLSR, 0x60},
		{"no change of mode does not", []byte{uartFCR, 1, uartMCR, 0x1e, uartData, 1, uartFCR, 1}, uartLSR, 0x61},
	} {
		r := newUARTRig(t)
		r.set(c.set...)
		if got := r.get(c.reg); got != c.want {
			t.Errorf("%s: %#x; want %#x", c.name, got, c.want)
		}
		if strings.Contains(c.name, "loopback") && r.out.Len() > 0 {
			t.Errorf("%s: %q went out; want nothing", c.name, r.out.Bytes())
		}
	}
}

// TestUARTTransmit: a THR that empties interrupts each time, and when it is
// enabled, as Linux's test for broken chips expects.
func TestUARTTransmit(t *testing.T) {
	r := newUARTRig(t)
	r.set(uartFCR, 1, uartData, 'a')
	r.want("nothing enabled", uartFCR, 0xc1, 0)
	for range 2 {
		r.set(uartIER, ierTHRI)
		r.want("enabled: empty", uartFCR, 0xc2, 1)
		r.want("told", uartFCR, 0xc1, 0)
		r.set(uartIER, ierTHRI)
		r.want("enabled already", uartFCR, 0xc1, 0)
		r.set(uartIER, 0)
		r.want("disabled", uartFCR, 0xc1, 0)
	}
	r.set(uartIER, ierTHRI)
	r.edges = 0
	r.set(uartData, 'b')
	r.want("empty again", uartFCR, 0xc2, 1)
	// Who does not ask why gets an edge for each byte that leaves.
	r.set(uartData, 'c', uartData, 'd')
	r.want("empty twice", uartFCR, 0xc2, 2)
	if got := r.out.String(); got != "abcd" {
		t.Errorf("output = %q; want abcd", got)
	}
}

// TestUARTPriorities: line status before data before THR, and an edge for what
// is left when one is served.
func TestUARTPriorities(t *testing.T) {
	r := newUARTRig(t)
	r.set(uartMCR, mcrLoop, uartData, 1, uartData, 2) // overrun, data, THR
	r.set(uartIER, 0x0f)
	r.want("all", uartFCR, 0x06, 1)
	r.want("LSR serves line status, data is left", uartLSR, 0x63, 1)
	r.want("data", uartFCR, 0x04, 0)
	r.want("RBR serves data, THR is left", uartData, 1, 1)
	r.want("THR", uartFCR, 0x02, 0)
	r.want("none", uartFCR, 0x01, 0)
	r.want("none is pending", uartFCR, 0x01, 0)
}

// TestUARTInput: the FIFO takes what it has room for, one edge for the lot,
// and says when there is room again.
func TestUARTInput(t *testing.T) {
	r := newUARTRig(t)
	if n := r.Input([]byte("early")); n != 0 {
		t.Errorf("Input before anybody listens = %d; want 0", n)
	}
	// A driver's start: clear the FIFOs, read everything once, listen.
	r.set(uartFCR, 1, uartFCR, 7, uartFCR, 1)
	for _, reg := range []uint16{uartLSR, uartData, uartFCR, uartMSR} {
		r.get(reg)
	}
	if r.rooms != 0 {
		t.Errorf("InputRoom was called %d times before IER; want 0", r.rooms)
	}
	r.set(uartIER, ierRDI)
	if r.rooms != 1 {
		t.Errorf("InputRoom was called %d times by IER; want 1", r.rooms)
	}
	long := []byte("0123456789abcdefghijklm")
	if n := r.Input(long); n != 16 {
		t.Fatalf("Input of 23 bytes = %d; want 16", n)
	}
	r.want("data", uartFCR, 0xc4, 1)
	if n := r.Input(long[16:]); n != 0 {
		t.Errorf("Input into a full FIFO = %d; want 0", n)
	}
	var got []byte
	for r.get(uartLSR)&1 != 0 {
		got = append(got, r.get(uartData))
		if r.rooms == 2 { // the pump's answer
			r.rooms++
			if n := r.Input(long[16:]); n != 1 {
				t.Errorf("Input with room for 1 byte = %d; want 1", n)
			}
		}
	}
	if string(got) != string(long[:17]) || r.rooms != 4 {
		t.Errorf("read %q, InputRoom called until %d; want %q, 4", got, r.rooms, long[:17])
	}
	r.want("all read", uartFCR, 0xc1, 0)
	if n := r.Input(nil); n != 0 || r.rooms != 4 {
		t.Errorf("Input(nil) = %d, %d calls of InputRoom; want 0, 4", n, r.rooms)
	}
	r.set(uartMCR, mcrLoop)
	if n := r.Input(long); n != 0 {
		t.Errorf("Input in loopback = %d; want 0", n)
	}
	r.set(uartMCR, 0)
	if r.rooms != 5 {
		t.Errorf("InputRoom was called %d times after loopback; want 5", r.rooms)
	}
	r.set(uartIER, 0, uartFCR, 0, uartIER, ierRDI)
	if n := r.Input(long); n != 1 {
		t.Errorf("Input without FIFO = %d; want 1", n)
	}
}

// TestUARTPolledInput: who polls LSR gets input without interrupts, who polls
// it to write does not.
func TestUARTPolledInput(t *testing.T) {
	r := newUARTRig(t)
	for _, b := range []byte("printk") {
		r.get(uartLSR)
		r.set(uartData, b)
		if n := r.Input([]byte("x")); n != 0 {
			t.Fatalf("Input while the guest writes = %d; want 0", n)
		}
	}
	r.get(uartLSR)
	if r.get(uartLSR); r.rooms != 1 {
		t.Fatalf("InputRoom was called %d times by polling; want 1", r.rooms)
	}
	if n := r.Input([]byte("x")); n != 1 || r.get(uartLSR) != 0x61 || r.get(uartData) != 'x' || r.edges != 0 {
		t.Errorf("Input to who polls = %d, %d edges; want 1, readable, 0 edges", n, r.edges)
	}
	r.set(uartIER, ierTHRI)
	if n := r.Input([]byte("x")); n != 0 {
		t.Errorf("Input after IER was written without RDI = %d; want 0", n)
	}
}

// TestUARTWide: REP OUTS is one write to the host; a wide access is one of a
// byte at each port.
func TestUARTWide(t *testing.T) {
	var writes []string
	u := NewUART(writerFunc(func(b []byte) (int, error) {
		writes = append(writes, string(b))
		return 0, errors.New("reader is gone")
	}), func() {})
	out := func(reg uint16, size int, data string) {
		if err := u.PortOut(COM1+reg, size, []byte(data)); err != nil {
			t.Errorf("PortOut(%d, %d, %q) = %v; want nil", reg, size, data, err)
		}
	}
	in := func(reg uint16, size, n int) string {
		b := make([]byte, n)
		if err := u.PortIn(COM1+reg, size, b); err != nil {
			t.Errorf("PortIn(%d, %d) = %v; want nil", reg, size, err)
		}
		return string(b)
	}
	out(uartData, 1, "one call")
	out(uartData, 2, "a\x05b\x00") // data, IER, twice
	out(uartMSR, 4, "\x00\x5a\xff\xff")
	if strings.Join(writes, "|") != "one call|ab" {
		t.Errorf("writes = %q; want one call, ab", writes)
	}
	for _, c := range []struct {
		reg     uint16
		size, n int
		want    string
	}{
		{uartSCR, 1, 3, "\x5a\x5a\x5a"},
		{uartSCR, 2, 4, "\x5a\xff\x5a\xff"},
		{uartMSR, 4, 4, "\xb0\x5a\xff\xff"},
		{uartIER, 1, 0, ""},
	} {
		if got := in(c.reg, c.size, c.n); got != c.want {
			t.Errorf("PortIn(%d, %d) = %q; want %q", c.reg, c.size, got, c.want)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestUARTAllocs(t *testing.T) {
	u := NewUART(writerFunc(func(b []byte) (int, error) { return len(b), nil }), func() {})
	one, many, input := []byte{0x0f}, make([]byte, 4096), []byte("input")
	step := func() {
		u.PortOut(COM1+uartIER, 1, one)
		u.PortOut(COM1, 1, many)
		u.PortIn(COM1+uartFCR, 1, one)
		u.Input(input)
		u.PortIn(COM1, 1, many)
		one[0] = 0x0f
	}
	step() // the buffer grows once
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("output, input and interrupts allocate %v times; want 0", n)
	}
}

// TestUARTPump: nothing is lost and no wake-up either, with a pump that sleeps
// whenever Input is short. The race detector watches.
func TestUARTPump(t *testing.T) {
	want := make([]byte, 20000)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	irq, room := make(chan struct{}, 1), make(chan struct{}, 1)
	signal := func(c chan struct{}) func() {
		return func() {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	u := NewUART(&bytes.Buffer{}, signal(irq))
	u.InputRoom = signal(room)
	var pump sync.WaitGroup
	pump.Go(func() {
		for b := want; len(b) > 0; {
			n := u.Input(b[:min(len(b), 21)])
			if b = b[n:]; n < 21 && len(b) > 0 {
				<-room
			}
		}
	})
	reg := func(r uint16) byte {
		var b [1]byte
		u.PortIn(COM1+r, 1, b[:])
		return b[0]
	}
	u.PortOut(COM1+uartFCR, 1, []byte{1})
	u.PortOut(COM1+uartIER, 1, []byte{ierRDI})
	var got []byte
	for len(got) < len(want) {
		<-irq
		for reg(uartFCR)&0x0f == 4 {
			for reg(uartLSR)&1 != 0 {
				got = append(got, reg(uartData))
			}
		}
	}
	pump.Wait()
	if !bytes.Equal(got, want) {
		t.Error("the guest reads other bytes than the pump has written")
	}
}
