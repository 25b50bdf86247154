package vmm

import (
	"syscall"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
)

// loop runs the vCPU until the guest ends. It is the hot path: exit, bus,
// device, and back, without an allocation.
func (vm *VM) loop(v *kvm.VCPU) (Result, error) {
	for {
		if errno := v.Run(); errno != 0 {
			if errno != syscall.EINTR && errno != syscall.EAGAIN {
				return Result{}, vm.runError(v, errno)
			}
			// Somebody kicked, or the Go runtime sent its signal (or a vCPU that waited
			// for another one to start it has been started: EAGAIN). Clear first, look
			// afterwards: a kick in between is seen in the next round.
			v.ClearKick()
			if err := vm.stopped(); err != nil {
				return Result{}, err
			}
			continue
		}
		if err := vm.exit(v); err != nil {
			switch e := err.(type) {
			case *hypercall.Halt:
				return Result{Status: int(e.Status), Trap: e.Frame}, nil
			case *devices.Stop:
				return Result{Status: e.Status, Stop: e.Reason}, nil
			}
			return Result{}, hostError(err)
		}
	}
}

// exit handles one exit of the guest. This is the only place that decides what
// an exit reason means; nil lets the guest go on.
func (vm *VM) exit(v *kvm.VCPU) error {
	switch v.Reason() {
	case kvm.ExitIO:
		io := v.IO()
		switch {
		case vm.pc != nil:
			return vm.pc.port(&io)
		case vm.sealed != nil && io.Port < sealedVectors:
			return vm.sealed.trap(io.Port)
		}
		return vm.portFault(v, access(&vm.ports, &io))
	case kvm.ExitMMIO:
		m, kind := v.MMIO(), FaultMMIO
		if vm.pc != nil {
			vm.pc.mmio(m)
			return nil
		}
		if m.Addr < vm.mem.Size() { // a write to protected memory, as page-table KVM reports it
			kind = FaultTranslation
		}
		return vm.fault(v, &GuestError{Kind: kind, Addr: m.Addr})
	case kvm.ExitInternalError:
		suberror, insn := v.InternalError()
		return vm.fault(v, &GuestError{Kind: FaultInternal, Code: uint64(suberror), Insn: insn})
	case kvm.ExitFailEntry:
		return vm.fault(v, &GuestError{Kind: FaultEntry, Code: v.FailEntry()})
	case kvm.ExitShutdown:
		// A triple fault is how a PC is reset; before it has said anything, it is none.
		if vm.pc != nil && vm.pc.used.Load() {
			return &devices.Stop{Reason: devices.StopReset}
		}
		return vm.fault(v, &GuestError{Kind: FaultShutdown})
	case kvm.ExitHLT:
		return vm.fault(v, &GuestError{Kind: FaultHLT})
	default:
		return vm.fault(v, &GuestError{Kind: FaultExit})
	}
}

// runProbe is Run while the VM is being built: what interrupts it is a signal of
// the Go runtime's, because nobody can have stopped the VM yet.
func runProbe(v *kvm.VCPU) (errno syscall.Errno) {
	for errno = v.Run(); errno == syscall.EINTR; errno = v.Run() {
	}
	return errno
}

// access hands a port access to the bus.
func access(b *devices.PortBus, io *kvm.IO) error {
	if io.Out {
		return b.Out(io.Port, io.Size, io.Data)
	}
	return b.In(io.Port, io.Size, io.Data)
}
