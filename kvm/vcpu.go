package kvm

import (
	"cmp"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// VCPU is the descriptor of one virtual CPU with its kvm_run mapping.
type VCPU struct {
	ID   int // as CreateVCPU was told
	fd   int
	run  runPage
	kept bool // the last Run left the registers in kvm_run

	// kick orders Kick against Bind, Unbind and Close; see kick.go.
	kick struct {
		sync.Mutex
		tid    int   // owner thread, 0 = none
		cpu    int64 // what CPUTime has measured last
		closed bool
	}
}

// Run enters the guest until its next exit (section 4.10). The result is 0, or
// what the kernel answered: EINTR after Kick or any signal, EFAULT where the
// guest touched memory that the host cannot give it. Exit then describes why
// the guest stopped. It allocates nothing.
func (v *VCPU) Run() syscall.Errno {
	_, errno := ioctl(v.fd, ioRun, 0)
	v.kept = false
	if errno == 0 {
		page := v.run.page()
		v.kept, page.validRegs = page.validRegs != 0, 0 // the next Run leaves none, unless SetState asks for them again
	}
	return errno
}

// Regs reads the general registers.
func (v *VCPU) Regs() (Regs, error) {
	var r Regs
	return r, opError("KVM_GET_REGS", ioctlPtr(v.fd, ioGetRegs, &r))
}

// SetRegs writes the general registers.
func (v *VCPU) SetRegs(r *Regs) error {
	return opError("KVM_SET_REGS", ioctlPtr(v.fd, ioSetRegs, r))
}

// Sregs reads segments, descriptor tables and control registers.
func (v *VCPU) Sregs() (Sregs, error) {
	var s Sregs
	return s, opError("KVM_GET_SREGS", ioctlPtr(v.fd, ioGetSregs, &s))
}

// SetSregs writes segments, descriptor tables and control registers.
func (v *VCPU) SetSregs(s *Sregs) error {
	return opError("KVM_SET_SREGS", ioctlPtr(v.fd, ioSetSregs, s))
}

// SetAll is SetSregs and SetRegs.
func (v *VCPU) SetAll(r *Regs, s *Sregs) error { return cmp.Or(v.SetSregs(s), v.SetRegs(r)) }

// State returns all registers as the last Run left them, for the caller to
// change: SetState makes the changes count. They are a borrowed view, valid until
// the next Run. SetState costs no system call, and neither does State after the Run
// that follows one.
func (v *VCPU) State() (r *Regs, s *Sregs, err error) {
	area := &v.run.page().sync
	if !v.kept {
		if area.regs, err = v.Regs(); err == nil {
			area.sregs, err = v.Sregs()
		}
	}
	return &area.regs, &area.sregs, err
}

// SetState has the next Run start with the registers of State. Until then Regs
// and Sregs may still return the old ones, and a state that KVM does not accept
// is that Run's EINVAL. It needs KVM_CAP_SYNC_REGS, which Linux has had since 4.17.
func (v *VCPU) SetState() {
	// KVM stores registers at the next exit, too, which is likely to need them
	// again; at each exit it would cost the others too much.
	page := v.run.page()
	page.validRegs, page.dirtyRegs = syncRegs|syncSregs, syncRegs|syncSregs
}

// XSave reads the x87 and vector registers, in XSAVE's standard form (Intel SDM volume
// 1, section 13.4). The error is EINVAL where the guest's need more than 4 KiB (section 4.42).
func (v *VCPU) XSave() (*[4096]byte, error) {
	b := new([4096]byte)
	return b, opError("KVM_GET_XSAVE", ioctlPtr(v.fd, ioGetXSave, b))
}

// SetXSave writes what XSave reads (section 4.43).
func (v *VCPU) SetXSave(b *[4096]byte) error {
	return opError("KVM_SET_XSAVE", ioctlPtr(v.fd, ioSetXSave, b))
}

// SetGuestDebug has the vCPU take debug exits (section 4.87): control is of the Debug
// bits, 0 ends it; regs are DR0 to DR7 for DebugHard. A KVM may accept what it does not
// honour.
func (v *VCPU) SetGuestDebug(control uint32, regs [8]uint64) error {
	return opError("KVM_SET_GUEST_DEBUG", ioctlPtr(v.fd, ioSetGuestDebug, &guestDebug{control: control, regs: regs}))
}

// SetCPUID decides what the guest's CPUID instruction answers (section 4.20).
func (v *VCPU) SetCPUID(c *CPUID) error {
	return opError("KVM_SET_CPUID2", ioctlPtr(v.fd, ioSetCPUID2, c))
}

// SetMSR writes one model-specific register (section 4.19).
func (v *VCPU) SetMSR(index uint32, value uint64) error {
	m := oneMSR{nmsrs: 1, index: index, data: value}
	n, errno := ioctlPtrResult(v.fd, ioSetMSRs, &m)
	if errno == 0 && n != 1 {
		errno = syscall.EINVAL // the result is the number of registers written
	}
	return opError("KVM_SET_MSRS", errno)
}

// TSCKHz is the guest's TSC frequency in kHz (section 4.56). The error is EIO
// where the host's TSC is unstable.
func (v *VCPU) TSCKHz() (uint64, error) {
	khz, errno := ioctl(v.fd, ioGetTSCKHz, 0)
	return uint64(khz), opError("KVM_GET_TSC_KHZ", errno)
}

// Close unmaps kvm_run and closes the descriptor. Kick afterwards does nothing.
func (v *VCPU) Close() error {
	v.kick.Lock()
	defer v.kick.Unlock()
	if v.kick.closed {
		return nil
	}
	v.kick.closed = true
	return cmp.Or(unix.Munmap(v.run.mem), unix.Close(v.fd))
}
