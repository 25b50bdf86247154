package kvm

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestOut runs an OUT of each size and an IN whose answer comes back.
func TestOut(t *testing.T) {
	g := newGuest(t,
		0x66, 0xb8, 0x44, 0x33, 0x22, 0x11, // mov eax, 0x11223344
		0xba, 0x08, 0x05, // mov dx, 0x508
		0xee,       // out dx, al
		0xef,       // out dx, ax
		0x66, 0xef, // out dx, eax
		0xec,       // in al, dx
		0x66, 0xed, // in eax, dx
		0x66, 0xef, // out dx, eax
		0xe6, 0x80, // out 0x80, al
		0xf4, // hlt
	)
	for i, want := range []struct {
		out  bool
		port uint16
		data []byte // of an IN: the answer
	}{
		{true, 0x508, []byte{0x44}},
		{true, 0x508, []byte{0x44, 0x33}},
		{true, 0x508, []byte{0x44, 0x33, 0x22, 0x11}},
		{false, 0x508, []byte{0x55}},
		{false, 0x508, []byte{1, 2, 3, 4}},
		{true, 0x508, []byte{1, 2, 3, 4}},
		{true, 0x80, []byte{1}},
	} {
		g.runTo(t, ExitIO)
		io := g.IO()
		if io.Port != want.port || io.Out != want.out || io.Size != len(want.data) || io.Count != 1 || len(io.Data) != len(want.data) {
			t.Fatalf("IO() of exit %d = %+v; want port %#x, out %v, one item of %d bytes", i, io, want.port, want.out, len(want.data))
		}
		if !io.Out {
			copy(io.Data, want.data)
		} else if !bytes.Equal(io.Data, want.data) {
			t.Errorf("IO().Data of exit %d = %x; want %x", i, io.Data, want.data)
		}
	}
	g.runTo(t, ExitHLT)
}

// TestRepOut leaves it open in how many pieces a string arrives.
func TestRepOut(t *testing.T) {
	g := newGuest(t,
		0xba, 0xf0, 0x03, // mov dx, 0x3f0
		0xbe, 0x00, 0x20, // mov si, 0x2000
		0xb9, 0x05, 0x00, // mov cx, 5
		0xfc,       // cld
		0xf3, 0x6e, // rep outsb
		0xf4, // hlt
	)
	copy(g.mem[dataAddr:], "hello")
	var got []byte
	for len(got) < 5 {
		g.runTo(t, ExitIO)
		io := g.IO()
		if io.Port != 0x3f0 || !io.Out || io.Size != 1 || io.Count != len(io.Data) || io.Count == 0 {
			t.Fatalf("IO() = %+v; want items of 1 byte to port 0x3f0", io)
		}
		got = append(got, io.Data...)
	}
	if string(got) != "hello" {
		t.Errorf("rep outsb wrote %q; want %q", got, "hello")
	}
	g.runTo(t, ExitHLT)
}

func TestMMIO(t *testing.T) {
	g := newGuest(t,
		0xb8, 0xcd, 0xab, // mov ax, 0xabcd
		0xa3, 0x00, 0x90, // mov [0x9000], ax
		0xa0, 0x03, 0x90, // mov al, [0x9003]
		0xe6, 0x80, // out 0x80, al
	)
	g.runTo(t, ExitMMIO)
	if m := g.MMIO(); m.Addr != mmioAddr || !m.Write || m.Len != 2 || !bytes.Equal(m.Data, []byte{0xcd, 0xab}) {
		t.Errorf("MMIO() of the store = %+v; want a write of cd ab to 0x9000", m)
	}
	g.runTo(t, ExitMMIO)
	m := g.MMIO()
	if m.Addr != mmioAddr+3 || m.Write || m.Len != 1 || len(m.Data) != 1 {
		t.Fatalf("MMIO() of the load = %+v; want a read of one byte at 0x9003", m)
	}
	m.Data[0] = 0x77
	g.runTo(t, ExitIO)
	if io := g.IO(); !bytes.Equal(io.Data, []byte{0x77}) {
		t.Errorf("the guest read %x; want 77", io.Data)
	}
}

// TestHostFault has the guest touch memory that the host cannot give it.
// Hardware virtualisation answers EFAULT, KVM's instruction emulator, which runs
// ring 0 where there is none, takes the address for a device's.
func TestHostFault(t *testing.T) {
	g := newGuest(t, 0xa0, 0x00, 0x20) // mov al, [0x2000]
	if err := unix.Mprotect(g.mem[dataAddr:dataAddr+4096], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	errno := syscall.EINTR
	for errno == syscall.EINTR {
		errno = g.Run()
	}
	switch {
	case errno == syscall.EFAULT:
	case errno == 0 && g.Reason() == ExitMMIO && g.MMIO().Addr == dataAddr:
	default:
		t.Fatalf("Run() = %v, reason %v; want EFAULT or an MMIO exit at 0x2000", errno, g.Reason())
	}
	if gpa, ok := g.MemoryFault(); ok && gpa&^0xfff != dataAddr {
		t.Errorf("MemoryFault() = %#x; want the page 0x2000", gpa)
	}
}

func TestCPUID(t *testing.T) {
	g := newGuest(t,
		0x66, 0x31, 0xc0, // xor eax, eax
		0x0f, 0xa2, // cpuid
		0x66, 0x89, 0xd8, // mov eax, ebx
		0x66, 0xe7, 0x80, // out 0x80, eax
	)
	c, err := g.sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range c.Entries() {
		if e := &c.Entries()[i]; e.Function == 0 {
			e.EBX = 0x216d7675
			n++
		}
	}
	if n != 1 {
		t.Fatalf("SupportedCPUID() has leaf 0 %d times among %d; want once", n, len(c.Entries()))
	}
	if err := g.SetCPUID(c); err != nil {
		t.Fatal(err)
	}
	g.runTo(t, ExitIO)
	if io := g.IO(); string(io.Data) != "uvm!" {
		t.Errorf("leaf 0 gives the guest EBX %q; want %q", io.Data, "uvm!")
	}
}

func TestRegisters(t *testing.T) {
	g := newGuest(t)
	want := Regs{RAX: 1, RBX: 2, RCX: 3, RDX: 4, RSI: 5, RDI: 6, RSP: 7, RBP: 8, R8: 9, R9: 10, R10: 11, R11: 12,
		R12: 13, R13: 14, R14: 15, R15: 1<<64 - 1, RIP: codeAddr, RFLAGS: 2}
	if err := g.SetRegs(&want); err != nil {
		t.Fatal(err)
	}
	if got, err := g.Regs(); got != want || err != nil {
		t.Errorf("Regs() = %+v, %v; want %+v", got, err, want)
	}
	s, err := g.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	s.GDT, s.CR2, s.ES.Base = DTable{Base: 0x5000, Limit: 0x17}, 0x1234567, 0x40
	if err := g.SetSregs(&s); err != nil {
		t.Fatal(err)
	}
	if got, err := g.Sregs(); got != s || err != nil {
		t.Errorf("Sregs() = %+v, %v; want %+v", got, err, s)
	}
	if khz, err := g.TSCKHz(); err == nil && khz == 0 {
		t.Errorf("TSCKHz() = 0, nil; want a frequency or EIO")
	}
}

// TestRunAllocs pins the hot path: an exit costs no garbage.
func TestRunAllocs(t *testing.T) {
	g := newGuest(t,
		0xe6, 0x80, // out 0x80, al
		0xeb, 0xfc, // jmp -4
	)
	sum := 0
	if n := testing.AllocsPerRun(100, func() {
		if g.Run() == 0 && g.Reason() == ExitIO {
			sum += g.IO().Count
		}
	}); n != 0 {
		t.Errorf("Run and IO allocate %v times; want 0", n)
	}
	if sum == 0 {
		t.Error("no OUT among 100 runs; want some")
	}
}

// TestPulse takes no memory, as devices use it for each batch of requests, and tells where
// there is nothing to interrupt.
func TestPulse(t *testing.T) {
	g := newGuest(t, 0xf4) // hlt
	if err := g.vm.Pulse(5); !errors.Is(err, unix.ENXIO) || !strings.Contains(err.Error(), "KVM_IRQ_LINE") {
		t.Errorf("Pulse(5) of a VM without an IOAPIC = %v; want ENXIO of KVM_IRQ_LINE", err)
	}
	vm, err := g.sys.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if err := vm.CreatePC(); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { err = vm.Pulse(5) }); n != 0 || err != nil {
		t.Errorf("Pulse(5) = %v with %v allocations; want nil with 0", err, n)
	}
}

// TestDescriptors gives back all that it takes, threads too.
func TestDescriptors(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.CheckFDs(t)
	testutil.CheckThreads(t, 20, func() {
		g, err := makeGuest([]byte{0xe6, 0x80}) // out 0x80, al
		if err != nil {
			t.Fatal(err)
		}
		g.runTo(t, ExitIO)
		if err := g.close(); err != nil {
			t.Fatal(err)
		}
	})
}
