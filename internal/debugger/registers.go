package debugger

import (
	"encoding/binary"
	"errors"

	"github.com/uvm-monitor/uvm/internal/corefile"
	"github.com/uvm-monitor/uvm/internal/gdb"
	"github.com/uvm-monitor/uvm/vmm"
)

var le = binary.LittleEndian

// cpu is all that debuggers want to know of a vCPU.
type cpu struct {
	regs  vmm.Regs
	sregs vmm.Sregs
	xsave *[4096]byte
}

func readCPU(v *vmm.VCPU) (c cpu, err error) {
	var errs [3]error
	c.regs, errs[0] = v.Regs()
	c.sregs, errs[1] = v.Sregs()
	c.xsave, errs[2] = v.XSave()
	return c, errors.Join(errs[:]...)
}

// cpuOf is the state of a vCPU as the guest sees it: without the debugger's TF, and where a guest
// that has ended badly stood.
func (d *Debugger) cpuOf(m *vmm.Machine, thread int) (cpu, error) {
	c, err := readCPU(m.VCPUs[thread])
	if d.tf {
		c.regs.RFLAGS &^= flagTF
	}
	if thread == 0 && d.end.regs != nil {
		c.regs = *d.end.regs
	}
	if m.Sealed {
		c.sregs.CR3 = d.plainCR3
	}
	return c, err
}

// Offsets in an XSAVE area (Intel SDM volume 1, sections 10.5.1 and 13.4).
const (
	xMXCSR  = 24
	xST     = 32  // 8 of 16 bytes
	xXMM    = 160 // 16 of 16 bytes
	xBV     = 512 // which components are not in their initial state
	xYMMH   = 576 // 16 of 16 bytes
	bvKnown = 7   // x87, SSE, AVX
)

// Registers reads a vCPU's registers.
func (d *Debugger) Registers(thread int) (r gdb.Registers, err error) {
	err = d.inspect(func(m *vmm.Machine) error {
		c, err := d.cpuOf(m, thread)
		r = c.gdb()
		return err
	})
	return r, err
}

func (c *cpu) gdb() (r gdb.Registers) {
	g, s := &c.regs, &c.sregs
	r.General = [16]uint64{g.RAX, g.RBX, g.RCX, g.RDX, g.RSI, g.RDI, g.RBP, g.RSP, g.R8, g.R9, g.R10, g.R11, g.R12, g.R13, g.R14, g.R15}
	r.RIP, r.RFLAGS = g.RIP, uint32(g.RFLAGS)
	r.Seg = [6]uint32{uint32(s.CS.Selector), uint32(s.SS.Selector), uint32(s.DS.Selector), uint32(s.ES.Selector), uint32(s.FS.Selector), uint32(s.GS.Selector)}
	r.FSBase, r.GSBase = s.FS.Base, s.GS.Base
	r.CR0, r.CR2, r.CR3, r.CR4, r.EFER = s.CR0, s.CR2, s.CR3, s.CR4, s.EFER
	if c.xsave == nil {
		return r
	}
	x := c.xsave[:]
	r.Control, r.Status, r.Opcode = uint32(le.Uint16(x)), uint32(le.Uint16(x[2:])), uint32(le.Uint16(x[6:]))
	r.FIOff, r.FISeg, r.FOOff, r.FOSeg = le.Uint32(x[8:]), uint32(le.Uint16(x[12:])), le.Uint32(x[16:]), uint32(le.Uint16(x[20:]))
	r.MXCSR = le.Uint32(x[xMXCSR:])
	for i := range r.ST {
		copy(r.ST[i][:], x[xST+16*i:])
	}
	r.Tag = fullTag(x[4], r.Status>>11&7, &r.ST)
	for i := range r.XMM {
		copy(r.XMM[i][:], x[xXMM+16*i:])
		if x[xBV]&4 != 0 {
			copy(r.YMMHigh[i][:], x[xYMMH+16*i:])
		}
	}
	return r
}

// fullTag makes the x87 tag word out of FXSAVE's, which only says what is not empty (section 10.5.1.1).
func fullTag(abridged byte, top uint32, st *[8][10]byte) (tag uint32) {
	for i := range uint32(8) {
		t := uint32(3) // empty
		if abridged>>i&1 != 0 {
			v := &st[(i-top)&7]
			mantissa, exponent := le.Uint64(v[:]), le.Uint16(v[8:])&0x7fff
			switch {
			case mantissa == 0 && exponent == 0:
				t = 1 // zero
			case exponent == 0 || exponent == 0x7fff || mantissa>>63 == 0:
				t = 2 // special
			default:
				t = 0 // valid
			}
		}
		tag |= t << (2 * i)
	}
	return tag
}

// SetRegisters writes a vCPU's registers, but for selectors and control registers.
func (d *Debugger) SetRegisters(thread int, r *gdb.Registers) error {
	return d.inspect(func(m *vmm.Machine) error {
		c, err := d.cpuOf(m, thread)
		if err != nil {
			return err
		}
		if d.end.regs != nil {
			return errors.New("the guest has ended")
		}
		old := c.gdb()
		g, s := &c.regs, &c.sregs
		for i, p := range []*uint64{&g.RAX, &g.RBX, &g.RCX, &g.RDX, &g.RSI, &g.RDI, &g.RBP, &g.RSP, &g.R8, &g.R9, &g.R10, &g.R11, &g.R12, &g.R13, &g.R14, &g.R15, &g.RIP} {
			*p = append(r.General[:], r.RIP)[i]
		}
		if g.RFLAGS = uint64(r.RFLAGS); m.Sealed {
			g.RFLAGS = g.RFLAGS&flagsGuest | 2
		}
		s.FS.Base, s.GS.Base = r.FSBase, r.GSBase
		if m.Sealed && d.watchCR3 != 0 {
			s.CR3 = d.watchCR3
		}
		// Last: what KVM refuses of the others has left nothing changed.
		v := m.VCPUs[thread]
		if *r != old {
			if err := c.setVector(v, r); err != nil {
				return err
			}
		}
		return v.SetAll(g, s)
	})
}

// setVector writes the x87 and vector registers.
func (c *cpu) setVector(v *vmm.VCPU, r *gdb.Registers) error {
	x := c.xsave[:]
	le.PutUint16(x, uint16(r.Control))
	le.PutUint16(x[2:], uint16(r.Status))
	x[4] = 0
	for i := range 8 {
		if r.Tag>>(2*i)&3 != 3 {
			x[4] |= 1 << i
		}
	}
	le.PutUint16(x[6:], uint16(r.Opcode))
	le.PutUint32(x[8:], r.FIOff)
	le.PutUint16(x[12:], uint16(r.FISeg))
	le.PutUint32(x[16:], r.FOOff)
	le.PutUint16(x[20:], uint16(r.FOSeg))
	le.PutUint32(x[xMXCSR:], r.MXCSR)
	for i := range r.ST {
		copy(x[xST+16*i:], r.ST[i][:])
	}
	high := false
	for i := range r.XMM {
		copy(x[xXMM+16*i:], r.XMM[i][:])
		copy(x[xYMMH+16*i:], r.YMMHigh[i][:])
		high = high || r.YMMHigh[i] != [16]byte{}
	}
	x[xBV] |= 3
	if high || x[xBV]&4 != 0 {
		x[xBV] |= 4
	}
	return v.SetXSave(c.xsave)
}

// user are the registers as a core file has them.
func (c *cpu) user() corefile.UserRegs {
	g, s := &c.regs, &c.sregs
	return corefile.UserRegs{
		R15: g.R15, R14: g.R14, R13: g.R13, R12: g.R12, RBP: g.RBP, RBX: g.RBX, R11: g.R11, R10: g.R10, R9: g.R9, R8: g.R8,
		RAX: g.RAX, RCX: g.RCX, RDX: g.RDX, RSI: g.RSI, RDI: g.RDI, RIP: g.RIP, RFLAGS: g.RFLAGS, RSP: g.RSP,
		CS: uint64(s.CS.Selector), SS: uint64(s.SS.Selector), DS: uint64(s.DS.Selector), ES: uint64(s.ES.Selector),
		FS: uint64(s.FS.Selector), GS: uint64(s.GS.Selector), FSBase: s.FS.Base, GSBase: s.GS.Base,
	}
}
