package kvm

import "golang.org/x/sys/unix"

// kickSignal interrupts KVM_RUN. The Go runtime installs a handler for SIGURG
// in every program (it preempts goroutines with it) and ignores deliveries
// that it did not ask for, so that a library may send it without touching the
// program's signal set-up. KVM_RUN answers a pending signal with EINTR.
const kickSignal = unix.SIGURG

// Bind names the calling thread as the one that will call Run. The caller has
// locked its goroutine to the thread (runtime.LockOSThread).
func (v *VCPU) Bind() {
	v.kick.Lock()
	v.kick.tid = unix.Gettid()
	v.kick.Unlock()
}

// Unbind ends Bind. No signal reaches the thread after it has returned. An owner
// that hands the vCPU on unbinds before it says so, or it would take away the
// next one's Bind.
func (v *VCPU) Unbind() {
	v.CPUTime()
	v.kick.Lock()
	v.kick.tid = 0
	v.kick.Unlock()
}

// CPUTime is the processor time in ns of the thread that Bind named, guest and monitor,
// from the thread's start to now, or to Unbind. It may be called from any goroutine.
func (v *VCPU) CPUTime() int64 {
	v.kick.Lock()
	defer v.kick.Unlock()
	// clock_getres(2), "dynamic clocks": the processor time of a thread by its id.
	var ts unix.Timespec
	if tid := v.kick.tid; tid != 0 && unix.ClockGettime(int32(^tid<<3|6), &ts) == nil {
		v.kick.cpu = ts.Nano()
	}
	return v.kick.cpu
}

// Kick makes the present Run, or else the next one, return EINTR. It may be
// called from any goroutine, at any time.
//
// Two things make it free of lost wake-ups: immediate_exit stops a KVM_RUN
// that has not started yet, the signal one that has (section 5, immediate_exit).
func (v *VCPU) Kick() {
	v.kick.Lock()
	defer v.kick.Unlock()
	if v.kick.closed {
		return
	}
	v.run.setImmediateExit(true)
	if v.kick.tid != 0 {
		// The thread exists: it has to pass Unbind, and with it this lock, first.
		unix.Tgkill(unix.Getpid(), v.kick.tid, kickSignal)
	}
}

// ClearKick makes Run work again after Kick. The owner calls it before it looks
// for the reason of the kick, so that a later one is never lost.
func (v *VCPU) ClearKick() { v.run.setImmediateExit(false) }
