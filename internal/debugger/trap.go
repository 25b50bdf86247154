package debugger

import (
	"encoding/binary"
	"errors"

	"github.com/uvm-monitor/uvm/internal/gdb"
	"github.com/uvm-monitor/uvm/memory"
	"github.com/uvm-monitor/uvm/vmm"
)

// Vectors (AMD64 APM volume 2, section 8.2) and bits.
const (
	vecDB = 1
	vecBP = 3
	vecPF = 14

	flagTF  = 1 << 8
	pfWrite = 1 << 1
	// flagsGuest is what a debugger may set of a sealed guest's RFLAGS.
	flagsGuest = 0xcd5 | 1<<18 | 1<<21
)

// KVM_SET_GUEST_DEBUG's control, as package kvm has it, and the bits that hand an exception on to the guest.
const (
	kvmEnable   = 1 << 0
	kvmStep     = 1 << 1
	kvmSoft     = 1 << 16
	kvmHard     = 1 << 17
	kvmInjectDB = 1 << 18
	kvmInjectBP = 1 << 19
	kvmBlockIRQ = 1 << 20
)

// state is what vCPU threads need to know of the debugger.
type state struct {
	client  bool // there is one
	active  bool // what vCPUs run into is of interest
	modes   []gdb.Mode
	points  map[pointKey]*point
	noBlock bool // this KVM cannot hold interrupts back while it steps

	// Of a sealed guest. TF is the debugger's where tf is set, and the guest does not see it.
	plainCR3 uint64
	watchCR3 uint64 // tables that protect what is watched; 0 = nothing is
	tf       bool
	stray    bool    // a #DB may still come of a TF that was taken back
	pushf    bool    // the next instruction stores RFLAGS
	through  *access // an access to a watched page that is let through
	watchMem *memory.Memory
	slotted  bool // it is in its slot
}

// access is one of the guest's, to a page with something watched in it.
type access struct {
	addr  uint64
	write bool
}

// Event is what vmm.Config.Debug calls.
func (d *Debugger) Event(e *vmm.DebugEvent) vmm.DebugAction {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.active:
		return 0
	case e.Regs == nil:
		return d.exit(e)
	}
	return d.exception(e)
}

// report is what becomes of a vCPU that has run into something; only the first one at a time is reported.
func (d *Debugger) report(e gdb.Event) vmm.DebugAction {
	select {
	case d.hit <- e:
	default:
	}
	return vmm.DebugHandled | vmm.DebugPause
}

// exception is an exception of a sealed guest.
func (d *Debugger) exception(e *vmm.DebugEvent) vmm.DebugAction {
	stepped, through, stray := d.tf, d.through, d.stray
	if stepped {
		e.Regs.RFLAGS &^= flagTF
	}
	if through != nil {
		e.Sregs.CR3 = d.watchCR3
	}
	d.tf, d.through, d.stray = false, nil, stray && e.Vector != vecDB
	step := gdb.Event{Signal: sigTrap}
	switch {
	case e.Vector == vecDB && (stepped || stray):
		if stepped && d.pushf {
			d.hideTF(e.Regs.RSP)
		}
		if p := d.watchHit(through); p != nil {
			return d.report(gdb.Event{Signal: sigTrap, Point: true, Kind: p.kind, Addr: p.addr})
		}
		if d.modes[0] == gdb.Step && stepped {
			return d.report(step)
		}
		return vmm.DebugHandled
	case e.Vector == vecBP && d.points[pointKey{gdb.SoftwareBreak, e.Regs.RIP - 1}] != nil:
		e.Regs.RIP--
		return d.report(gdb.Event{Signal: sigTrap, Point: true, Kind: gdb.SoftwareBreak})
	case e.Vector == vecPF && through == nil && d.watches(e.Addr, e.Code&pfWrite != 0):
		d.through = &access{e.Addr, e.Code&pfWrite != 0}
		e.Sregs.CR3 = d.plainCR3
		d.trace(e.Regs)
		return vmm.DebugHandled
	}
	if d.modes[0] == gdb.Step {
		// The monitor carries the instruction out, or calls the guest's handler: that is the step.
		return d.report(step) &^ vmm.DebugHandled
	}
	return 0
}

// trace has the guest execute one instruction.
func (d *Debugger) trace(r *vmm.Regs) {
	d.pushf = d.isPushf(r.RIP)
	d.tf = true
	r.RFLAGS |= flagTF
}

// isPushf says that the instruction at rip stores RFLAGS, and with them TF, where the guest can read them.
func (d *Debugger) isPushf(rip uint64) bool {
	host, err := d.m.Memory.At(memory.Addr(rip), 4)
	var b [4]byte
	if err != nil || d.mem.read(b[:], host) != nil {
		return false
	}
	for _, op := range b {
		switch {
		case op == 0x9c:
			return true
		case op == 0x66 || op == 0x67 || op == 0xf2 || op == 0xf3 || op >= 0x40 && op <= 0x4f: // prefixes
		default:
			return false
		}
	}
	return false
}

// hideTF takes TF out of the RFLAGS that PUSHF has put at rsp.
func (d *Debugger) hideTF(rsp uint64) {
	var w [2]byte
	host, err := d.m.Memory.At(memory.Addr(rsp), 2)
	if err == nil && d.mem.read(w[:], host) == nil {
		binary.LittleEndian.PutUint16(w[:], binary.LittleEndian.Uint16(w[:])&^flagTF)
		d.mem.write(host, w[:])
	}
}

// exit is a debug exit of KVM's, of a guest in ring 0.
func (d *Debugger) exit(e *vmm.DebugEvent) vmm.DebugAction {
	cpu := 0
	for i, v := range d.m.VCPUs {
		if v == e.VCPU {
			cpu = i
		}
	}
	stop := gdb.Event{Thread: cpu, Signal: sigTrap}
	inject := uint32(kvmInjectBP)
	if e.Vector == vecBP {
		if d.points[pointKey{gdb.SoftwareBreak, e.Exit.PC}] != nil {
			stop.Point, stop.Kind = true, gdb.SoftwareBreak
			return d.report(stop)
		}
	} else {
		for i, p := range d.hardware() {
			if p.exec() && p.addr == e.Exit.PC || !p.exec() && e.Exit.DR6>>i&1 != 0 {
				stop.Point, stop.Kind, stop.Addr = true, p.kind, p.addr
				return d.report(stop)
			}
		}
		if d.modes[cpu] == gdb.Step {
			return d.report(stop)
		}
		inject = kvmInjectDB
	}
	// The guest's own.
	d.control(cpu, inject)
	return vmm.DebugHandled
}

// control tells KVM which debug exits vCPU number cpu takes; more are further bits.
func (d *Debugger) control(cpu int, more uint32) error {
	var regs [8]uint64
	control := more
	for i, p := range d.hardware() {
		control |= kvmHard
		regs[i] = p.addr
		regs[7] |= 2<<(2*i) | p.dr7()<<(16+4*i)
	}
	for k, p := range d.points {
		if k.kind == gdb.SoftwareBreak && p.planted != nil {
			control |= kvmSoft
		}
	}
	if d.modes[cpu] == gdb.Step {
		if control |= kvmStep; !d.noBlock {
			control |= kvmBlockIRQ
		}
	}
	if control != 0 {
		control |= kvmEnable
	}
	v := d.m.VCPUs[cpu]
	err := v.SetGuestDebug(control, regs)
	if err != nil && control&kvmBlockIRQ != 0 {
		d.noBlock = true
		err = v.SetGuestDebug(control&^kvmBlockIRQ, regs)
	}
	return err
}

// arm prepares the vCPUs for going on as modes says.
func (d *Debugger) arm(m *vmm.Machine, modes []gdb.Mode) error {
	copy(d.modes, modes)
	if !m.Sealed {
		for cpu := range m.VCPUs {
			if err := d.control(cpu, 0); err != nil {
				return err
			}
		}
		return nil
	}
	v := m.VCPUs[0]
	r, err := v.Regs()
	s, err2 := v.Sregs()
	if err = errors.Join(err, err2); err != nil {
		return err
	}
	d.stray = d.stray || d.tf
	if d.tf {
		r.RFLAGS &^= flagTF
	}
	d.tf, d.through = false, nil
	if modes[0] == gdb.Step {
		d.trace(&r)
	}
	s.CR3 = d.plainCR3
	if d.watchCR3 != 0 {
		s.CR3 = d.watchCR3
	}
	return v.SetAll(&r, &s)
}

// disarm takes everything out of the guest.
func (d *Debugger) disarm(m *vmm.Machine) error {
	var errs []error
	for k := range d.points {
		errs = append(errs, d.clearPoint(m, k))
	}
	clear(d.modes)
	for i := range d.modes {
		d.modes[i] = gdb.Run
	}
	d.watchCR3 = 0
	errs = append(errs, d.arm(m, d.modes))
	d.client, d.active = false, d.stray
	return errors.Join(errs...)
}
