package vmm

import (
	"errors"
	"syscall"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
)

// loop runs the vCPU until the guest ends. It is the hot path: exit, bus,
// device, and back, without an allocation.
func (vm *VM) loop() (Result, error) {
	vm.timer.Record(MarkEntry)
	defer vm.timer.Record(MarkExit)
	for {
		if errno := vm.vcpu.Run(); errno != 0 {
			if errno != syscall.EINTR {
				return Result{}, vm.runError(errno)
			}
			// Somebody kicked, or the Go runtime sent its signal. Clear first,
			// look afterwards: a kick in between is seen in the next round.
			vm.vcpu.ClearKick()
			if err := vm.stopped(); err != nil {
				return Result{}, err
			}
			continue
		}
		if err := vm.exit(); err != nil {
			var h *hypercall.Halt
			if errors.As(err, &h) {
				return Result{Status: int(h.Status), Trap: h.Frame}, nil
			}
			return Result{}, err
		}
	}
}

// exit handles one exit of the guest. This is the only place that decides what
// an exit reason means; nil lets the guest go on.
func (vm *VM) exit() error {
	switch reason := vm.vcpu.Reason(); reason {
	case kvm.ExitIO:
		io := vm.vcpu.IO()
		if vm.sealed != nil && io.Port < sealedVectors {
			return vm.sealed.trap(io.Port)
		}
		var err error
		if io.Out {
			err = vm.ports.Out(io.Port, io.Size, io.Data)
		} else {
			err = vm.ports.In(io.Port, io.Size, io.Data)
		}
		if err != nil {
			return vm.portFault(err)
		}
		return nil
	case kvm.ExitMMIO:
		return vm.mmioFault(vm.vcpu.MMIO())
	case kvm.ExitInternalError:
		return vm.internalFault(vm.vcpu.InternalError())
	case kvm.ExitFailEntry:
		return vm.fault(&GuestError{Kind: FaultEntry, Code: vm.vcpu.FailEntry()})
	case kvm.ExitShutdown:
		return vm.fault(&GuestError{Kind: FaultShutdown})
	case kvm.ExitHLT:
		return vm.fault(&GuestError{Kind: FaultHLT})
	default:
		return vm.fault(&GuestError{Kind: FaultExit})
	}
}
