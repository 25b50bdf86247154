package vmm

import (
	"context"
	"errors"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// Pause stops a VM that runs, until Resume. When it returns nil, no vCPU is inside the
// guest or a hypercall, and a PC's virtio devices and the network ring have nothing in
// flight and do not touch memory; the UART still takes input, and KVM's timers go on. The guest does not
// notice: what waits in POLL or for the console goes on afterwards, with the time that
// was left.
//
// It waits for what a vCPU or device has begun; if ctx is done before, the VM goes on
// and the error is the cause. The error is a *StateError where the VM does not run, or
// ends meanwhile. A paused VM can be stopped and closed. Any goroutine may call it.
func (vm *VM) Pause(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		vm.mu.Lock()
		vm.changed.Broadcast()
		vm.mu.Unlock()
	})()
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.state == Paused {
		return &StateError{Paused, Paused}
	}
	for vm.state == Running {
		if ctx.Err() != nil {
			vm.letGo()
			return context.Cause(ctx)
		}
		if !vm.pausing {
			vm.pausing = true
			vm.interrupt()
		}
		vm.changed.Wait()
	}
	if vm.state != Paused {
		return &StateError{vm.state, Paused}
	}
	return nil
}

// Resume has a paused VM go on. Any goroutine may call it.
func (vm *VM) Resume() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.state != Paused {
		return &StateError{vm.state, Running}
	}
	vm.letGo()
	return vm.move(Running)
}

// letGo ends a pause, also one that not all vCPUs have come to yet.
func (vm *VM) letGo() {
	if vm.pausing = false; vm.stopCause == nil {
		vm.wake.Clear()
	}
	vm.resumes++
	vm.changed.Broadcast()
}

// attend is where a vCPU comes to that was kicked: it waits while the VM is paused, and
// returns the cause of stop, or nil. The last one to come stops the devices.
func (vm *VM) attend() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for vm.pausing && vm.stopCause == nil {
		resumes := vm.resumes
		vm.parked++
		last := vm.parked == len(vm.vcpus)
		if last {
			vm.freeze(true)
			if vm.resumes == resumes && vm.stopCause == nil {
				vm.move(Paused)
			}
		}
		for vm.resumes == resumes && vm.stopCause == nil {
			vm.changed.Wait()
		}
		if last {
			vm.freeze(false)
		}
		vm.parked-- // only now: whoever comes last next time does not race with us
	}
	return vm.stopCause
}

// freeze stops what works beside the vCPUs or has it go on. It may have to wait for the
// host, and vm.mu, which is held, is free meanwhile.
func (vm *VM) freeze(on bool) {
	vm.mu.Unlock()
	defer vm.mu.Lock()
	for _, f := range vm.freezers {
		f.Freeze(on)
	}
}

// Machine is a VM that stands still, for debuggers and the like. It is valid while
// Inspect calls its function, and only there.
type Machine struct {
	VCPUs    []*kvm.VCPU // their registers are those between two instructions of the guest's
	Memory   *memory.Memory
	Tables   *memory.Memory // a sealed guest's page tables that do not fit into Memory, from TablesAt on; else nil
	VM       *kvm.VM
	TablesAt memory.Addr
	Sealed   bool // the guest runs in ring 3, and believes itself to be in ring 0
	PC       bool // else an hvt guest, whose virtual addresses are physical ones
}

// A vCPU, and registers as KVM has them.
type (
	Regs  = kvm.Regs
	Sregs = kvm.Sregs
	VCPU  = kvm.VCPU
)

// ErrNotPaused is what Inspect returns for a VM that runs or is closed.
var ErrNotPaused = errors.New("the VM is not paused")

// Inspect calls f while no vCPU can move. The VM is paused, or it has not run yet, or it
// has ended, as after a fault; otherwise the error is ErrNotPaused. f may change
// registers and memory. It must not call the VM's methods, which wait for it.
func (vm *VM) Inspect(f func(*Machine) error) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.state == Running || vm.state == Closed {
		return ErrNotPaused
	}
	return f(&Machine{VCPUs: vm.vcpus, Memory: vm.mem, Tables: vm.tables, TablesAt: vm.tablesAt(), VM: vm.kvm, Sealed: vm.sealed != nil, PC: vm.pc != nil})
}
