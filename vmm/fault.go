package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"syscall"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// FaultKind says what a guest did that ended it, in the words of the report.
type FaultKind string

// The kinds of fault.
const (
	FaultTranslation FaultKind = "host/guest translation fault"        // touched memory that the host does not let it
	FaultMMIO        FaultKind = "access to an address without memory" // touched an address without memory
	FaultPort        FaultKind = "invalid port access"                 // touched a port in a way that nothing answers
	FaultHypercall   FaultKind = "invalid hypercall"                   // called a hypercall that does not exist
	FaultPointer     FaultKind = "invalid guest pointer"               // gave a hypercall a pointer that leaves its memory
	FaultInternal    FaultKind = "KVM internal error"                  // an instruction that this KVM cannot run
	FaultEntry       FaultKind = "KVM entry failure"                   // the processor refused the guest's state
	FaultShutdown    FaultKind = "triple fault"                        // triple fault; on SVM RIP is that after reset, 0xfff0
	FaultHLT         FaultKind = "HLT without an interrupt to wake it" // halted with nothing that could wake it
	FaultExit        FaultKind = "unhandled KVM exit"                  // any other exit of KVM
	FaultException   FaultKind = "exception without a handler"         // sealed: an exception that the guest has no handler for
	FaultPrivileged  FaultKind = "refused instruction (try --ring 0)"  // sealed: an instruction that the monitor does not carry out
	FaultRing        FaultKind = "invalid network ring"                // left an index or a pointer in the network ring that cannot be
	FaultSeal        FaultKind = "broken seal"                         // sealed: ring 0 was entered in a way that should not exist
)

// GuestError is a guest that did what it must not. It ends the VM.
type GuestError struct {
	Kind   FaultKind
	RIP    uint64   // of the instruction; for an access to a port or to memory that ends as MMIO, and for HLT, KVM may be past it
	Addr   uint64   // what was touched: guest-physical, or CR2 for a triple fault
	Code   uint64   // KVM's suberror (FaultInternal) or hardware reason (FaultEntry)
	Exit   uint32   // KVM's exit reason
	Vector uint8    // sealed: the exception; Code is its error code
	Key    uint8    // sealed: the protection key that refused a read or write; 0: none did
	Insn   []byte   // bytes at RIP, where they can be read
	Err    error    // the device's words, for ports, hypercalls and the network ring
	Regs   kvm.Regs // general registers; of a sealed guest's fault in ring 3
}

func (e *GuestError) Error() string {
	s, regs := "guest fault: "+string(e.Kind), e.Vector != 0
	switch e.Kind {
	case FaultPort, FaultHypercall, FaultPointer, FaultRing:
		s += ": " + e.Err.Error()
	case FaultInternal:
		s += fmt.Sprintf(" %d", e.Code)
		if e.Code == kvm.SuberrorEmulation {
			s += " (its emulator cannot run this instruction)"
		}
	case FaultEntry:
		s += fmt.Sprintf(", hardware reason %#x", e.Code)
	case FaultExit:
		s += fmt.Sprintf(" %v", kvm.ExitReason(e.Exit))
	case FaultException, FaultPrivileged, FaultSeal:
		regs = true
		s += fmt.Sprintf(", vector %d, error code %#x", e.Vector, e.Code)
		fallthrough
	case FaultTranslation, FaultMMIO, FaultShutdown:
		if e.Addr != noAddr {
			s += fmt.Sprintf(", address %#x", e.Addr)
		}
	}
	if e.Kind == FaultTranslation && e.Key == keyText {
		s += ", execute-only text (protection key 15)"
	} else if e.Kind == FaultTranslation && e.Key != 0 {
		s += fmt.Sprintf(", protection key %d", e.Key)
	}
	if e.Kind == FaultShutdown && e.RIP == resetVector {
		return s + " (this KVM has reset the processor; where it was is not known)"
	}
	s += fmt.Sprintf(", rip=%#x", e.RIP)
	if len(e.Insn) > 0 {
		s += fmt.Sprintf(", bytes at rip: % x", e.Insn)
	}
	if regs {
		r := &e.Regs
		s += fmt.Sprintf(", rax=%#x rbx=%#x rcx=%#x rdx=%#x rsi=%#x rdi=%#x rbp=%#x rsp=%#x r8=%#x r9=%#x r10=%#x r11=%#x r12=%#x r13=%#x r14=%#x r15=%#x rflags=%#x",
			r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RBP, r.RSP, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.RFLAGS)
	}
	return s
}

func (e *GuestError) Unwrap() error { return e.Err }

// noAddr in GuestError.Addr says that KVM does not tell the address.
const noAddr = ^uint64(0)

// resetVector is where a processor starts. KVM on SVM resets the vCPU when it
// shuts down, before anybody can ask for its registers.
const resetVector = 0xfff0

// fault completes e with the registers of the vCPU.
func (vm *VM) fault(v *kvm.VCPU, e *GuestError) error {
	e.Exit = uint32(v.Reason())
	regs, err := v.Regs()
	if err != nil {
		return errors.Join(e, hostError(err))
	}
	e.RIP, e.Regs = regs.RIP, regs
	switch e.Kind {
	case FaultShutdown:
		e.Addr = noAddr
		if sregs, err := v.Sregs(); err == nil && sregs.CR2 != 0 {
			e.Addr = sregs.CR2
		}
	case FaultInternal:
		if len(e.Insn) == 0 && vm.pc == nil { // a PC's rip is no physical address
			e.Insn = vm.bytesAt(e.RIP)
		}
	}
	return e
}

// bytesAt reads up to one instruction's length of what the guest may read or
// execute; hvt guests run identity-mapped, so that rip is a physical address.
func (vm *VM) bytesAt(rip uint64) []byte {
	const longest = 15
	size := vm.mem.Size()
	if rip >= size {
		return nil
	}
	view := cmp.Or(vm.code, vm.view)
	for n := min(longest, size-rip); n > 0; n-- {
		if b, err := view.Readable(memory.Addr(rip), n); err == nil {
			return append([]byte(nil), b...)
		}
	}
	return nil
}

// portFault explains what the bus, a device on it or the network ring answered. Only the
// device's own errors are the guest's fault.
func (vm *VM) portFault(v *kvm.VCPU, err error) error {
	switch e := err.(type) {
	case *devices.PortError:
		return vm.fault(v, &GuestError{Kind: FaultPort, Addr: uint64(e.Port), Err: err})
	case *hypercall.InvalidCallError:
		return vm.fault(v, &GuestError{Kind: FaultHypercall, Addr: uint64(e.Call), Err: err})
	case *hypercall.PointerError:
		return vm.fault(v, &GuestError{Kind: FaultPointer, Addr: uint64(e.Addr), Err: err})
	case *GuestError:
		return vm.fault(v, e)
	}
	return err
}

// runError explains what KVM_RUN itself answered.
func (vm *VM) runError(v *kvm.VCPU, errno syscall.Errno) error {
	if errno == syscall.EFAULT {
		// KVM_RUN leaves the address in kvm_run only on newer kernels.
		e := &GuestError{Kind: FaultTranslation, Addr: noAddr}
		if gpa, ok := v.MemoryFault(); ok {
			e.Addr = gpa
		}
		return vm.fault(v, e)
	}
	return hostError(&kvm.OpError{Op: "KVM_RUN", Err: errno})
}

// ErrUnstableTSC says that the host cannot tell the TSC's frequency, which hvt
// guests keep their time by.
var ErrUnstableTSC = errors.New("host TSC is unstable, cannot continue")

func tscError(err error) error {
	if errors.Is(err, syscall.EIO) {
		return &HostError{What: "KVM", Err: ErrUnstableTSC}
	}
	return err
}
