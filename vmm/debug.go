package vmm

import "github.com/uvm-monitor/uvm/kvm"

// DebugEvent is an exception of a sealed guest's, before anything is done about it, or a
// debug exit of KVM's, for which only VCPU, Vector and Exit are set.
type DebugEvent struct {
	VCPU       *kvm.VCPU
	Vector     uint8  // 1 = #DB, 3 = #BP, 14 = #PF …
	Code, Addr uint64 // error code; what CR2 holds
	Exit       kvm.DebugExit

	// The guest's registers, which may be changed. What VCPU returns are not the guest's.
	Regs  *Regs
	Sregs *Sregs
}

// DebugAction says what becomes of a DebugEvent; it is a set of the bits below, 0 = as
// without a debugger.
type DebugAction uint8

// The bits of a DebugAction.
const (
	DebugHandled DebugAction = 1 << iota // the guest goes on with Regs and Sregs and does not notice
	DebugPause                           // the VM is about to be paused: Pause waits for that
)

// debug asks the debugger about e.
func (vm *VM) debug(e *DebugEvent) (handled bool) {
	action := vm.cfg.Debug(e)
	if action&DebugPause != 0 {
		vm.mu.Lock()
		vm.pausing = true
		vm.interrupt()
		vm.mu.Unlock()
	}
	return action&DebugHandled != 0
}

// debug shows an exception to the debugger, whose changes to the registers count.
func (s *sealed) debug(f *trapFrame) (handled bool) {
	regs := *f.regs
	regs.RIP, regs.RSP, regs.RFLAGS = f.rip, f.rsp, f.rflags
	handled = s.vm.debug(&DebugEvent{VCPU: s.vm.vcpu, Vector: uint8(f.vector), Code: f.code, Addr: f.sregs.CR2, Regs: &regs, Sregs: f.sregs})
	*f.regs, f.rip, f.rsp, f.rflags = regs, regs.RIP, regs.RSP, regs.RFLAGS
	return handled
}
