package vmm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
)

// State is where a VM is in its life.
type State int

// The states of a VM.
const (
	Created State = iota // built, has not run
	Running              // inside Run
	Paused               // inside Run, and no vCPU moves
	Stopped              // Run has returned; it cannot run again
	Closed               // all resources are released
)

func (s State) String() string {
	return [...]string{"created", "running", "paused", "stopped", "closed"}[s]
}

// StateError is a call that does not fit the VM's state.
type StateError struct {
	From, To State
}

func (e *StateError) Error() string {
	return fmt.Sprintf("a VM that is %v cannot become %v", e.From, e.To)
}

// State returns the present state.
func (vm *VM) State() State {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.state
}

// Size returns the guest's memory in bytes and its number of vCPUs.
func (vm *VM) Size() (memory uint64, cpus int) { return vm.cfg.Memory, vm.cfg.CPUs }

// follows has a bit for each state that may follow.
var follows = [...]int{Created: 1<<Running | 1<<Closed, Running: 1<<Paused | 1<<Stopped, Paused: 1<<Running | 1<<Stopped, Stopped: 1 << Closed, Closed: 0}

// move changes the state. vm.mu is held.
func (vm *VM) move(to State) error {
	if follows[vm.state]>>to&1 == 0 {
		return &StateError{vm.state, to}
	}
	vm.state = to
	vm.changed.Broadcast()
	return nil
}

// Result is how a guest ended that ended by itself.
type Result struct {
	Status int                // the status that the guest gave, all 32 bits
	Trap   *TrapFrame         // where the guest trapped, if it says so
	Stop   devices.StopReason // how a PC ended
}

// Run runs the guest on the calling goroutine until it halts, breaks, or ctx
// is done; a guest that never exits is interrupted for that. It can be called
// once. The error is nil if the guest halted by itself, a *GuestError if it
// did what it must not, and the cause of ctx if that ended it.
func (vm *VM) Run(ctx context.Context) (Result, error) {
	vm.mu.Lock()
	from := vm.state
	if from == Created {
		vm.move(Running)
	}
	vm.mu.Unlock()
	if from != Created {
		return Result{}, &StateError{from, Running}
	}
	unwatch := context.AfterFunc(ctx, func() { vm.stop(context.Cause(ctx)) })
	// Deferred, because the caller's console may panic: Close waits for done.
	defer func() {
		unwatch()
		vm.mu.Lock()
		defer vm.mu.Unlock()
		close(vm.done)
		vm.move(Stopped)
	}()
	vm.timer.Record(MarkEntry)
	for i := range vm.counters {
		vm.counters[i].end = time.Since(vm.epoch)
	}
	defer vm.timer.Record(MarkExit)
	if vm.pc != nil {
		return vm.runPC()
	}
	if vm.cfg.NetRing != nil {
		defer vm.cfg.NetRing.Start(func(err error) { vm.stop(&GuestError{Kind: FaultRing, Err: err}) })()
	}
	return vm.runVCPU(vm.vcpu)
}

// runVCPU is the life of a vCPU on the calling goroutine. KVM wants one vCPU to
// stay on one thread, and Kick needs to know which.
func (vm *VM) runVCPU(v *kvm.VCPU) (Result, error) {
	runtime.LockOSThread()
	slack := setTimerSlack(vcpuTimerSlack)
	v.Bind()
	defer func() {
		v.Unbind()
		setTimerSlack(slack)
		runtime.UnlockOSThread()
	}()
	return vm.loop(v)
}

// Traps is the number of exceptions that a sealed guest has taken to the
// monitor: privileged instructions, and faults. Call it when Run has returned.
func (vm *VM) Traps() uint64 {
	if vm.sealed == nil {
		return 0
	}
	return vm.sealed.traps
}

// LastCalls are the last 16 hypercalls of an hvt guest, the latest one first. Call it when
// Run has returned.
func (vm *VM) LastCalls() []hypercall.Record {
	if vm.table == nil {
		return nil
	}
	return vm.table.Last()
}

// Unanswered is how often a PC's guest has touched a port or an address where
// nothing is. It may be called from any goroutine.
func (vm *VM) Unanswered() uint64 {
	if vm.pc == nil {
		return 0
	}
	return vm.pc.unanswered.Load()
}

// stop ends Run with cause. The first cause wins. It may be called from any
// goroutine, before and after Run.
func (vm *VM) stop(cause error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.state == Closed {
		return
	}
	if vm.stopCause == nil {
		vm.stopCause = cause
	}
	vm.interrupt()
}

// interrupt brings all vCPUs to attend. vm.mu is held, and what they find there is set.
func (vm *VM) interrupt() {
	for _, v := range vm.vcpus {
		v.Kick()
	}
	vm.wake.Signal()
	vm.changed.Broadcast()
}

// ErrClosed is what Run returns when Close ended it.
var ErrClosed = errors.New("VM closed")

// Close stops the guest if it runs and releases the vCPU, the memory and the
// devices; when it returns, they are gone. It may be called from any
// goroutine but the one inside Run, and more than once.
func (vm *VM) Close() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for vm.state == Running || vm.state == Paused {
		vm.mu.Unlock()
		vm.stop(ErrClosed)
		<-vm.done
		vm.mu.Lock()
	}
	if vm.state == Closed {
		return nil
	}
	vm.state = Closed
	return vm.release()
}

// vcpuTimerSlack is how late the kernel may wake the vCPU's thread, in ns: its
// own default. A program may have chosen more for its other threads.
const vcpuTimerSlack = 50_000

// setTimerSlack changes the calling thread's timer slack and returns what it
// was, for the caller to put back. The guest's POLL depends on it.
func setTimerSlack(ns uintptr) (old uintptr) {
	if n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil {
		old = uintptr(n)
	}
	// It cannot fail: any thread may choose any slack but 0 for itself.
	unix.Prctl(unix.PR_SET_TIMERSLACK, ns, 0, 0, 0)
	return old
}

// loop runs the vCPU until the guest ends. It is the hot path: exit, bus,
// device, and back, without an allocation.
func (vm *VM) loop(v *kvm.VCPU) (Result, error) {
	var cut kvm.IO // an access that was interrupted
	for {
		var err error
		switch errno := v.Run(); errno {
		case 0:
			if vm.observing.Load() {
				err = vm.observed(v, nil)
			} else {
				err = vm.exit(v)
			}
			if err == devices.ErrInterrupted {
				cut = v.IO()
			}
		case syscall.EINTR, syscall.EAGAIN:
			// Somebody kicked, or the Go runtime sent its signal (or a vCPU that waited
			// for another one to start it has been started: EAGAIN). Clear first, look
			// afterwards: a kick in between is seen in the next round.
			v.ClearKick()
			vm.counters[v.ID].exits[kvm.ExitIntr].Add(1)
			if err := vm.attend(); err != nil {
				return Result{}, vm.portFault(v, err)
			}
			if cut.Out {
				io := cut
				err = vm.observed(v, &io)
			}
		default:
			return Result{}, vm.runError(v, errno)
		}
		if cut.Out = err == devices.ErrInterrupted; cut.Out {
			// KVM completes the access, so that the vCPU's registers are those after it,
			// and does not enter the guest.
			v.Kick()
		} else if err != nil {
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
	c, reason := &vm.counters[v.ID], v.Reason()
	c.exits[min(int(reason), len(c.exits)-1)].Add(1)
	switch reason {
	case kvm.ExitIO:
		io := v.IO()
		if n := io.Port - hypercall.PortBase; n < hypercall.NumCalls && vm.pc == nil {
			c.calls[n].Add(1)
		} else if vm.sealed != nil && io.Port < sealedVectors {
			c.traps[min(io.Port, 31)].Add(1)
		}
		return vm.port(v, &io)
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
	case kvm.ExitDebug:
		if exit := v.Debug(); vm.cfg.Debug != nil && vm.debug(&DebugEvent{VCPU: v, Vector: uint8(exit.Exception), Exit: exit}) {
			return nil
		}
		return vm.fault(v, &GuestError{Kind: FaultExit})
	case kvm.ExitHLT:
		return vm.fault(v, &GuestError{Kind: FaultHLT})
	default:
		return vm.fault(v, &GuestError{Kind: FaultExit})
	}
}

// port handles an access to I/O ports.
func (vm *VM) port(v *kvm.VCPU, io *kvm.IO) error {
	switch {
	case vm.pc != nil:
		return vm.pc.port(v.ID, io)
	case vm.sealed != nil && io.Port < sealedVectors:
		return vm.sealed.trap(io.Port)
	}
	return vm.portFault(v, vm.ports.Access(io.Port, io.Size, io.Data, io.Out))
}

// runProbe is Run while the VM is being built: what interrupts it is a signal of
// the Go runtime's, because nobody can have stopped the VM yet.
func runProbe(v *kvm.VCPU) (errno syscall.Errno) {
	for errno = v.Run(); errno == syscall.EINTR; errno = v.Run() {
	}
	return errno
}
