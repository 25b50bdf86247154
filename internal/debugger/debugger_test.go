package debugger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/gdb"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/vmm"
)

// session is a VM under a debugger, which has it stand before its first instruction.
type session struct {
	t *testing.T
	*Debugger
	log bytes.Buffer
	end chan error // Run's
}

// debug runs code under a debugger. The guest has four pages of data.
func debug(t *testing.T, code []byte) *session {
	t.Helper()
	testutil.RequireKVM(t)
	s := &session{t: t, end: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	d, err := New(Config{Kernel: "/guest", KVM: testutil.KVMDevice, Log: slog.New(slog.NewTextHandler(&s.log, nil)), Kill: cancel})
	if err != nil {
		t.Fatal(err)
	}
	elf := hvtelf.Guest{Code: code, Data: make([]byte, 4*4096)}.ELF()
	vm, err := vmm.New(vmm.Config{Kernel: "guest", KernelFile: bytes.NewReader(elf), Memory: 2 << 20, Debug: d.Event})
	if err != nil {
		t.Fatal(err)
	}
	s.Debugger = d
	d.Attach(vm, true)
	if err := d.Halt(); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-d.Start()
		res, err := vm.Run(ctx)
		s.end <- err
		d.End(ctx, res, err, res.Status&0xff)
	}()
	t.Cleanup(func() {
		cancel()
		d.Detach()
		testutil.Wait(t, s.end, "the end of Run")
		vm.Close()
	})
	return s
}

// resume lets the guest go and wants it to stop with a signal.
func (s *session) resume(mode gdb.Mode, signal int) gdb.Event {
	s.t.Helper()
	if err := s.Resume([]gdb.Mode{mode}); err != nil {
		s.t.Fatal(err)
	}
	e := testutil.Wait(s.t, s.Events(), "a stop")
	if e.Signal != signal {
		s.t.Errorf("stop = %+v; want signal %d", e, signal)
	}
	return e
}

func (s *session) rip(want uint64) {
	s.t.Helper()
	if r, err := s.Registers(0); err != nil || r.RIP != want || r.RFLAGS&flagTF != 0 {
		s.t.Errorf("rip = %#x, flags %#x, %v; want %#x and no TF", r.RIP, r.RFLAGS, err, want)
	}
}

const (
	code = hvtelf.CodeAddr
	data = hvtelf.DataAddr
)

func concat(parts ...string) []byte { return []byte(strings.Join(parts, "")) }

func imm(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }

// TestBadPoints sets points where none can be, and more than there may be.
func TestBadPoints(t *testing.T) {
	s := debug(t, []byte{0x90, 0xeb, 0xfd}) // nop; jmp back
	for _, c := range []struct {
		kind       gdb.PointKind
		addr, size uint64
	}{
		{gdb.SoftwareBreak, 0, 1}, {gdb.SoftwareBreak, 2 << 20, 1}, {gdb.SoftwareBreak, 1 << 47, 1}, {gdb.SoftwareBreak, ^uint64(0), 1},
		{gdb.WatchWrite, 0, 8}, {gdb.WatchWrite, 2<<20 - 4, 8}, {gdb.WatchWrite, data, 0}, {gdb.WatchWrite, data, maxWatch + 1}, {gdb.WatchWrite, data, 1 << 63},
		{gdb.WatchAccess, ^uint64(0), 8}, {gdb.HardwareBreak, code, 1},
	} {
		err := s.SetPoint(c.kind, 0, c.addr, c.size)
		if err == nil || errors.Is(err, gdb.ErrUnsupported) != (c.kind == gdb.HardwareBreak) {
			t.Errorf("SetPoint(%d, %#x, %d) = %v; want an error", c.kind, c.addr, c.size, err)
		}
		if err := s.ClearPoint(c.kind, c.addr, c.size); err != nil {
			t.Errorf("ClearPoint(%d, %#x) of none = %v; want nil", c.kind, c.addr, err)
		}
	}
	n := 0
	for s.SetPoint(gdb.SoftwareBreak, 0, data+uint64(n), 1) == nil && n <= maxPoints {
		n++
	}
	if n != maxPoints {
		t.Errorf("%d breakpoints could be set; want %d", n, maxPoints)
	}
	b := make([]byte, 16)
	if n, err := s.ReadMemory(0, data, b); n != 16 || err != nil || !bytes.Equal(b, make([]byte, 16)) {
		t.Errorf("memory under breakpoints = % x, %d, %v; want the guest's zeros", b, n, err)
	}
	if n, err := s.ReadMemory(0, 2<<20-3, b); n != 3 || err == nil {
		t.Errorf("ReadMemory() over the end = %d, %v; want 3 and an error", n, err)
	}
	if err := s.WriteMemory(0, 2<<20-3, b); err == nil {
		t.Error("WriteMemory() over the end = nil; want an error")
	}
}

// TestOverwritten has the guest overwrite a breakpoint, in its data: the monitor notices, and keeps what the guest wrote.
func TestOverwritten(t *testing.T) {
	s := debug(t, concat("\xc6\x04\x25", imm(data), "\x77", "\x90\xeb\xfd")) // mov byte [data], 0x77; nop; jmp back
	for _, addr := range []uint64{data, data + 1, code + 8} {
		if err := s.SetPoint(gdb.SoftwareBreak, 0, addr, 1); err != nil {
			t.Fatal(err)
		}
	}
	if e := s.resume(gdb.Run, sigTrap); !e.Point || e.Kind != gdb.SoftwareBreak {
		t.Errorf("stop = %+v; want a breakpoint", e)
	}
	s.rip(code + 8)
	for _, addr := range []uint64{data, data + 1, code + 8} {
		if err := s.ClearPoint(gdb.SoftwareBreak, addr, 1); err != nil {
			t.Error(err)
		}
	}
	b := make([]byte, 2)
	if s.ReadMemory(0, data, b); b[0] != 0x77 || b[1] != 0 {
		t.Errorf("memory = % x; want 77, which the guest wrote, and 00, which it had", b)
	}
	if s.ReadMemory(0, code+8, b); b[0] != 0x90 {
		t.Errorf("text = % x; want 90, as it was", b)
	}
	if !strings.Contains(s.log.String(), "overwritten a breakpoint") {
		t.Errorf("log = %q; want a word about the breakpoint", s.log.String())
	}
	// A write of the debugger's own over a breakpoint counts for the guest when that is gone.
	s.SetPoint(gdb.SoftwareBreak, 0, data+8, 1)
	if err := s.WriteMemory(0, data+7, []byte{1, 2, 3}); err != nil {
		t.Error(err)
	}
	s.ClearPoint(gdb.SoftwareBreak, data+8, 1)
	b = make([]byte, 3)
	if s.ReadMemory(0, data+7, b); !bytes.Equal(b, []byte{1, 2, 3}) {
		t.Errorf("memory = % x; want 01 02 03", b)
	}
}

// TestWatch has accesses around and across what is watched.
func TestWatch(t *testing.T) {
	s := debug(t, concat(
		"\xc6\x04\x25", imm(data+16), "\x01", // mov byte [data+16], 1
		"\xc6\x04\x25", imm(data+0x1000), "\x01", // another page
		"\x48\xc7\x04\x25", imm(data+4), imm(0x7fffffff), // mov qword [data+4]: into the watched bytes from before
		"\x8a\x04\x25", imm(data+8), // mov al, [data+8]
		"\x8a\x04\x25", imm(data+9), // mov al, [data+9]
		"\x90\xeb\xfd"))
	if err := s.SetPoint(gdb.WatchWrite, 0, data+8, 1); err != nil {
		t.Fatal(err)
	}
	if e := s.resume(gdb.Run, sigTrap); !e.Point || e.Kind != gdb.WatchWrite || e.Addr != data+8 {
		t.Errorf("stop = %+v; want the watchpoint", e)
	}
	s.rip(code + 8 + 8 + 12)
	s.ClearPoint(gdb.WatchWrite, data+8, 1)
	if err := s.SetPoint(gdb.WatchRead, 0, data+8, 1); err != nil {
		t.Fatal(err)
	}
	s.resume(gdb.Run, sigTrap)
	s.rip(code + 8 + 8 + 12 + 7)
	// A step over an instruction that reads from the protected page is one step.
	s.resume(gdb.Step, sigTrap)
	s.rip(code + 8 + 8 + 12 + 14)
	s.ClearPoint(gdb.WatchRead, data+8, 1)
	s.resume(gdb.Step, sigTrap)
	s.rip(code + 8 + 8 + 12 + 15)
}

// TestInterrupts stops and lets go a guest that is always on its way to the monitor or in a step, many times.
func TestInterrupts(t *testing.T) {
	s := debug(t, concat(
		"\x48\x8b\x04\x25", imm(data), // mov rax, [data]
		"\xfa",         // cli: a trap
		"\x9c\x5b",     // pushf; pop rbx
		"\xf6\xc7\x01", // test bh, 1: TF
		"\x74\xf0",     // jz back
		"\x0f\x0b"))    // ud2
	if err := s.SetPoint(gdb.WatchWrite, 0, data, 8); err != nil {
		t.Fatal(err)
	}
	if err := s.SetPoint(gdb.WatchRead, 0, data+0x1000, 8); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if i%2 == 0 {
			s.SetPoint(gdb.WatchAccess, 0, data+64, 8) // the loop's read is on the same page
		} else {
			s.ClearPoint(gdb.WatchAccess, data+64, 8)
		}
		if err := s.Resume([]gdb.Mode{gdb.Run}); err != nil {
			t.Fatal(err)
		}
		s.Interrupt()
		if e := testutil.Wait(t, s.Events(), "the interrupt"); e.Signal != sigInt {
			t.Fatalf("stop %d = %+v; want an interrupt", i, e)
		}
		r, err := s.Registers(0)
		if err != nil || r.RIP < code || r.RIP > code+18 || r.RFLAGS&flagTF != 0 || r.Seg[0]&3 != 3 {
			t.Fatalf("stop %d: rip %#x, flags %#x, cs %#x, %v; want the guest's own, without TF", i, r.RIP, r.RFLAGS, r.Seg[0], err)
		}
		if i%10 == 0 {
			s.resume(gdb.Step, sigTrap)
		}
	}
}

// TestDetach takes everything out and lets the guest go on.
func TestDetach(t *testing.T) {
	s := debug(t, concat("\xff\x04\x25", imm(data), "\xeb\xf7")) // inc dword [data]; jmp back
	s.SetPoint(gdb.SoftwareBreak, 0, code, 1)
	s.SetPoint(gdb.WatchWrite, 0, data, 4)
	s.resume(gdb.Run, sigTrap)
	s.Detach()
	counter := func() (n uint32) {
		if err := s.Halt(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if _, err := s.ReadMemory(0, data, b); err != nil {
			t.Fatal(err)
		}
		s.Detach()
		return binary.LittleEndian.Uint32(b)
	}
	first := counter()
	testutil.Until(t, "the guest counts on", func() bool { return counter() > first+1000 })
	if len(s.points) != 0 {
		t.Errorf("%d points are left; want none", len(s.points))
	}
}
