package kvmprobe

import (
	"cmp"
	"syscall"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
	"github.com/uvm-monitor/uvm/vmm"
)

// Debugging says which of KVM's debug exits really come from ring 0. KVM accepts
// requests for all of them everywhere.
type Debugging struct {
	Step  bool // single step
	Soft  bool // INT3
	Hard  bool // debug registers: execution
	Watch bool // debug registers: writes, and reads or writes
}

// Debug tries each kind of debug exit once, in a VM of its own with a few
// instructions of real mode.
func Debug(path string) (d Debugging, err error) {
	sys, err := kvm.Open(path)
	if err != nil {
		return d, &vmm.HostError{What: "KVM", Err: err}
	}
	defer sys.Close()
	if d, err = debug(sys); err != nil {
		return d, &vmm.HostError{What: "KVM", Err: err}
	}
	return d, nil
}

func debug(sys *kvm.System) (d Debugging, err error) {
	const code, data, size = 0x1000, 0x2000, 0x10000
	mem, err := memory.New(size)
	if err != nil {
		return d, err
	}
	defer mem.Close()
	vm, err := sys.CreateVM()
	if err != nil {
		return d, err
	}
	defer vm.Close()
	v, err := vm.CreateVCPU(0)
	if err != nil {
		return d, err
	}
	defer v.Close()
	if err := vm.SetMemory(0, 0, mem.Host()); err != nil {
		return d, err
	}
	sregs, err := v.Sregs()
	if err != nil {
		return d, err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	sregs.DS.Base, sregs.DS.Selector, sregs.SS.Base, sregs.SS.Selector = 0, 0, 0, 0
	// Whatever comes to the guest ends it: real mode's vectors all lead to a HLT.
	for i := range mem.Host() {
		mem.Host()[i] = 0xf4
	}
	for at := range 256 {
		copy(mem.Host()[at*4:], "\x00\x30\x00\x00")
	}
	const dr7Enable, dr7Write4 = 1 << 1, 0xd << 16
	for _, c := range []struct {
		works   *bool
		control uint32
		dr0     uint64
		dr7     uint64
		code    string
		pc      uint64 // where the exit has to be
	}{
		{&d.Step, kvm.DebugStep, 0, 0, "\x90\x90\xf4", code + 1}, // nop; nop; hlt
		{&d.Soft, kvm.DebugSoft, 0, 0, "\xcc\xf4", code},         // int3; hlt
		{&d.Hard, kvm.DebugHard, code + 1, dr7Enable, "\x90\x90\xf4", code + 1},
		{&d.Watch, kvm.DebugHard, data, dr7Enable | dr7Write4, "\xa2\x00\x20\x90\xf4", code + 3}, // mov [0x2000], al; nop; hlt
	} {
		regs := [8]uint64{0: c.dr0, 7: c.dr7}
		err := cmp.Or(
			v.SetAll(&kvm.Regs{RIP: code, RSP: 0x8000, RFLAGS: 2}, &sregs),
			v.SetGuestDebug(kvm.DebugEnable|c.control, regs),
			mem.Put(code, []byte(c.code)))
		if err != nil {
			return d, err
		}
		errno := v.Run()
		for errno == syscall.EINTR { // a signal of the Go runtime's
			errno = v.Run()
		}
		*c.works = errno == 0 && v.Reason() == kvm.ExitDebug && v.Debug().PC == c.pc
	}
	return d, nil
}
