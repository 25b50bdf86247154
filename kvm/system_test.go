package kvm

import (
	"errors"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

func TestOpenErrors(t *testing.T) {
	testutil.CheckFDs(t)
	for _, c := range []struct {
		path, op string
		err      syscall.Errno
	}{
		{"/nonexistent/kvm", "open /nonexistent/kvm", syscall.ENOENT},
		{"/dev", "open /dev", syscall.EISDIR},
		{"/dev/null", "KVM_GET_API_VERSION", syscall.ENOTTY},
	} {
		s, err := Open(c.path)
		var op *OpError
		if s != nil || !errors.As(err, &op) || op.Op != c.op || op.Err != c.err {
			t.Errorf("Open(%q) = %v, %v; want OpError %s: %v", c.path, s, err, c.op, c.err)
		}
	}
}

func TestCheck(t *testing.T) {
	testutil.RequireKVM(t)
	s, err := Open(testutil.KVMDevice)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const capImmediateExit, capNRMemslots = 136, 10
	if n, err := s.Check(capImmediateExit); n != 1 || err != nil {
		t.Errorf("Check(CapImmediateExit) = %d, %v; want 1: Kick depends on it", n, err)
	}
	if n, err := s.Check(capNRMemslots); n < 32 || err != nil {
		t.Errorf("Check(CapNRMemslots) = %d, %v; want at least 32", n, err)
	}
	if n, err := s.Check(0xffffff); n != 0 || err != nil {
		t.Errorf("Check(0xffffff) = %d, %v; want 0: there is no such capability", n, err)
	}
}

// TestRefusals makes each operation fail and looks for its name and errno.
func TestRefusals(t *testing.T) {
	testutil.CheckFDs(t)
	g := newGuest(t)
	closed := &guest{sys: &System{fd: -1}, vm: &VM{fd: -1}, VCPU: &VCPU{fd: -1}}
	for _, c := range []struct {
		name string
		err  func() error
		op   string
		want syscall.Errno
	}{
		{"second vCPU 0", func() error { _, err := g.vm.CreateVCPU(0); return err }, "KVM_CREATE_VCPU", syscall.EEXIST},
		{"vCPU -1", func() error { _, err := g.vm.CreateVCPU(-1); return err }, "KVM_CREATE_VCPU", syscall.EINVAL},
		{"slot at an odd address", func() error { return g.vm.SetMemory(1, 0x10001, g.mem) }, "KVM_SET_USER_MEMORY_REGION", syscall.EINVAL},
		{"slot of an odd size", func() error { return g.vm.SetMemory(1, 0x10000, g.mem[:4097]) }, "KVM_SET_USER_MEMORY_REGION", syscall.EINVAL},
		{"slot over another", func() error { return g.vm.SetMemory(1, 0x1000, g.mem) }, "KVM_SET_USER_MEMORY_REGION", syscall.EEXIST},
		{"slot that is not there", func() error { return g.vm.SetMemory(5, 0, nil) }, "KVM_SET_USER_MEMORY_REGION", syscall.EINVAL},

		{"Check", func() error { _, err := closed.sys.Check(0); return err }, "KVM_CHECK_EXTENSION", syscall.EBADF},
		{"SupportedCPUID", func() error { _, err := closed.sys.SupportedCPUID(); return err }, "KVM_GET_SUPPORTED_CPUID", syscall.EBADF},
		{"CreateVM", func() error { _, err := closed.sys.CreateVM(); return err }, "KVM_CREATE_VM", syscall.EBADF},
		{"Regs", func() error { _, err := closed.Regs(); return err }, "KVM_GET_REGS", syscall.EBADF},
		{"SetRegs", func() error { return closed.SetRegs(&Regs{}) }, "KVM_SET_REGS", syscall.EBADF},
		{"Sregs", func() error { _, err := closed.Sregs(); return err }, "KVM_GET_SREGS", syscall.EBADF},
		{"SetSregs", func() error { return closed.SetSregs(&Sregs{}) }, "KVM_SET_SREGS", syscall.EBADF},
		{"SetCPUID", func() error { return closed.SetCPUID(&CPUID{}) }, "KVM_SET_CPUID2", syscall.EBADF},
		{"TSCKHz", func() error { _, err := closed.TSCKHz(); return err }, "KVM_GET_TSC_KHZ", syscall.EBADF},
		{"mapRun", func() error { _, err := mapRun(-1, 4096); return err }, "mmap of kvm_run", syscall.EBADF},
	} {
		var op *OpError
		if err := c.err(); !errors.As(err, &op) || op.Op != c.op || op.Err != c.want {
			t.Errorf("%s = %v; want %s: %v", c.name, err, c.op, c.want)
		}
	}
	if errno := closed.Run(); errno != syscall.EBADF {
		t.Errorf("Run() on no descriptor = %v; want EBADF", errno)
	}
	if err := g.vm.SetMemory(0, 0, nil); err != nil {
		t.Errorf("SetMemory(0, 0, nil), which deletes the slot = %v; want nil", err)
	}
}
