package hypercall

import (
	"errors"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

var _ devices.PortDevice = (*Table)(nil)

func TestPorts(t *testing.T) {
	if FirstPort != 0x500 || LastPort != 0x509 {
		t.Errorf("ports = %#x-%#x; want 0x500-0x509", FirstPort, LastPort)
	}
	for n, want := range []string{"hypercall 0", "WALLTIME", "PUTS", "POLL", "BLOCK_WRITE", "BLOCK_READ", "NET_WRITE", "NET_READ", "HALT", "BATCH", "hypercall 10"} {
		if got := Call(n).String(); got != want {
			t.Errorf("Call(%d).String() = %q; want %q", n, got, want)
		}
	}
}

// TestWrongAccess: only one OUT of 32 bits is a hypercall.
func TestWrongAccess(t *testing.T) {
	r := newRig(t)
	r.put(dataAddr, 0, 0)
	for _, c := range []struct {
		port  uint16
		size  int
		bytes int
		out   bool
	}{
		{0x501, 1, 1, true}, {0x501, 2, 2, true}, // OUT of 8 and 16 bits
		{0x501, 4, 8, true},    // REP OUTSD, two at once
		{0x501, 4, 4000, true}, // and many
		{0x501, 1, 4, true},    // REP OUTSB of four bytes is not one of 32 bits
		{0x501, 2, 4, true},
		{0x501, 4, 0, true},  // a decoding that found no data
		{0x508, 1, 1, true},  // not even HALT
		{0x501, 4, 4, false}, // IN
		{0x501, 1, 1, false}, {0x500, 4, 4, false}, {0x508, 2, 2, false},
		{0x4ff, 4, 4, true}, {0x50a, 4, 4, true}, {0x601, 4, 4, true}, {0xffff, 4, 4, true}, {0, 4, 4, true}, // not its ports
	} {
		data := make([]byte, c.bytes)
		if len(data) >= 4 {
			le.PutUint32(data, dataAddr)
		}
		call := r.PortIn
		if c.out {
			call = r.PortOut
		}
		err := call(c.port, c.size, data)
		var pe *devices.PortError
		if want := (devices.PortError{Port: c.port, Size: c.size, Count: c.bytes / c.size, Out: c.out}); !errors.As(err, &pe) || *pe != want {
			t.Errorf("access %+v = %v; want a PortError that says so", c, err)
		}
		if r.u64(dataAddr) != 0 {
			t.Fatalf("access %+v made a hypercall", c)
		}
	}
}

func TestUnknownCalls(t *testing.T) {
	empty := New(Config{View: newRig(t).View, WakeFD: -1, HasBatch: true})
	for _, c := range []struct {
		name  string
		table *Table
		call  Call
		want  bool // the call exists
	}{
		{"full", newRig(t).Table, 0, false},
		{"empty", empty, 0, false},
		{"empty", empty, Walltime, true},
		{"empty", empty, BlockWrite, false},
		{"empty", empty, BlockRead, false},
		{"empty", empty, Batch, false},
		{"empty", empty, NetWrite, false},
		{"empty", empty, NetRead, false},
	} {
		data := le.AppendUint32(nil, dataAddr)
		err := c.table.PortOut(PortBase+uint16(c.call), 4, data)
		var ie *InvalidCallError
		if got := !errors.As(err, &ie); got != c.want {
			t.Errorf("call %v of the %s table = %v; want that it exists: %v", c.call, c.name, err, c.want)
		} else if !got && (ie.Call != c.call || !strings.HasPrefix(err.Error(), "no hypercall number ")) {
			t.Errorf("call %v of the %s table = %v; want an InvalidCallError with its number", c.call, c.name, err)
		}
	}
	if got, want := (&InvalidCallError{7}).Error(), "no hypercall number 7"; got != want {
		t.Errorf("InvalidCallError.Error() = %q; want %q", got, want)
	}
}

func TestState(t *testing.T) {
	r := newRig(t)
	if s, err := r.SaveState(); len(s) != 0 || err != nil {
		t.Errorf("SaveState() = %x, %v; want nothing", s, err)
	}
	if err := r.LoadState(nil); err != nil {
		t.Errorf("LoadState(nil) = %v; want nil", err)
	}
	if err := r.LoadState([]byte{1}); err == nil || err.Error() != "hypercalls: saved state has 1 bytes, need 0" {
		t.Errorf("LoadState of one byte = %v; want an error", err)
	}
}

func TestErrorTexts(t *testing.T) {
	cause := errors.New("broken pipe")
	pe := &PointerError{BlockRead, "buffer", memory.AccessError{Addr: 0x7000, Len: 512, Want: memory.Write, End: 0x10000}}
	for _, c := range []struct{ got, want string }{
		{pe.Error(), "hypercall BLOCK_READ, buffer: guest memory access at 0x7000, 512 bytes: no write permission there"},
		{(&Halt{Status: -1}).Error(), "guest halted with status -1"},
		{(&ConsoleError{cause}).Error(), "console: broken pipe"},
	} {
		if c.got != c.want {
			t.Errorf("error text = %q; want %q", c.got, c.want)
		}
	}
	var ae *memory.AccessError
	if !errors.As(error(pe), &ae) || ae.Addr != 0x7000 {
		t.Errorf("PointerError does not unwrap to its AccessError: %v", ae)
	}
	if !errors.Is(&ConsoleError{cause}, cause) {
		t.Error("ConsoleError does not unwrap to its cause")
	}
}
