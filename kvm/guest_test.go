package kvm

import (
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// Where the tests' guests lie. They run in real mode, in 16-bit code with all
// segments at 0, which every KVM can do without tables.
const (
	codeAddr = 0x1000
	dataAddr = 0x2000
	memSize  = 0x4000
	mmioAddr = 0x9000 // no memory there
)

// guest is a VM with one vCPU and its memory.
type guest struct {
	*VCPU
	vm  *VM
	sys *System
	mem []byte

	// interrupted counts the EINTR that owner got without a Kick.
	interrupted atomic.Int64
}

// newGuest makes a guest that starts with code, and closes it after the test.
func newGuest(t testing.TB, code ...byte) *guest {
	t.Helper()
	testutil.RequireKVM(t)
	g, err := makeGuest(code)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func makeGuest(code []byte) (g *guest, err error) {
	g = &guest{}
	if g.mem, err = unix.Mmap(-1, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, err
	}
	copy(g.mem[codeAddr:], code)
	if g.sys, err = Open(testutil.KVMDevice); err != nil {
		return nil, err
	}
	if g.vm, err = g.sys.CreateVM(); err != nil {
		return nil, err
	}
	if err = g.vm.SetMemory(0, 0, g.mem); err != nil {
		return nil, err
	}
	if g.VCPU, err = g.vm.CreateVCPU(0); err != nil {
		return nil, err
	}
	s, err := g.Sregs()
	if err != nil {
		return nil, err
	}
	s.CS.Base, s.CS.Selector = 0, 0
	if err = g.SetSregs(&s); err != nil {
		return nil, err
	}
	return g, g.SetRegs(&Regs{RIP: codeAddr, RFLAGS: 2})
}

func (g *guest) close() error {
	err := g.VCPU.Close()
	for _, e := range []error{g.vm.Close(), g.sys.Close(), unix.Munmap(g.mem)} {
		if err == nil {
			err = e
		}
	}
	return err
}

// runTo runs the guest to an exit that must have the given reason. The Go
// runtime preempts goroutines by signal, so EINTR without a Kick is allowed.
func (g *guest) runTo(t testing.TB, want ExitReason) {
	t.Helper()
	errno := syscall.EINTR
	for errno == syscall.EINTR {
		errno = g.Run()
	}
	if errno != 0 {
		t.Fatalf("Run() = %v; want 0", errno)
	}
	if got := g.Reason(); got != want {
		suberror, insn := g.InternalError()
		t.Fatalf("Reason() = %v; want %v (suberror %d, % x)", got, want, suberror, insn)
	}
}

// counter is a guest that counts at dataAddr for ever:
//
//	ff 06 00 20    inc word ptr [0x2000]
//	eb fa          jmp -6
var counter = []byte{0xff, 0x06, 0x00, 0x20, 0xeb, 0xfa}

// spinning waits until counter runs.
func (g *guest) spinning(t testing.TB) {
	t.Helper()
	first := g.mem[dataAddr]
	testutil.Until(t, "guest counts", func() bool { return g.mem[dataAddr] != first })
}
