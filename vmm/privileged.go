package vmm

import (
	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// privileged carries out the instruction that a #GP stopped at, if it is one of
// those that an hvt guest may use in ring 0. Every other #GP is the guest's.
func (s *sealed) privileged(f *trapFrame) error {
	code := s.vm.bytesAt(f.rip)
	if port, ok := portAccess(code, f.regs); ok {
		e := s.fault(f, FaultPort, uint64(port.Port))
		e.Err = port
		if *port == (devices.PortError{Port: hypercall.PortBase, Size: 4, Count: 1, Out: true}) {
			// The bitmap closes this one as well; what it means is known.
			e.Kind, e.Addr, e.Err = FaultHypercall, 0, &hypercall.InvalidCallError{}
		}
		return e
	}
	in, ok := decode(code)
	if !ok {
		return s.deliver(f)
	}
	next := *f
	next.rip += uint64(in.len)
	switch {
	case in.kind == opHLT:
		return s.fault(f, FaultHLT, noAddr)
	case !s.execute(&in, &next):
		return s.fault(f, FaultPrivileged, noAddr)
	}
	*f = next
	return nil
}

// execute has the effect of in, or says that the monitor does not carry it out. f is
// where the guest goes on.
func (s *sealed) execute(in *insn, f *trapFrame) bool {
	regs, sregs := f.regs, f.sregs
	switch in.kind {
	case opWRMSR:
		value := regs.RDX<<32 | regs.RAX&0xffffffff
		if !canonical(value) {
			return false
		}
		switch uint32(regs.RCX) {
		case msrFSBase:
			sregs.FS.Base = value
		case msrGSBase:
			sregs.GS.Base = value
		default:
			return false
		}
	case opLGDT, opLIDT:
		b := s.load(in, f, 10)
		if b == nil {
			return false
		}
		t := kvm.DTable{Limit: le.Uint16(b), Base: le.Uint64(b[2:])}
		if in.kind == opLGDT {
			s.gdt = t
		} else {
			s.idt = t
		}
	case opLTR, opMovSeg:
		return s.loadSelector(in, f)
	case opMovCR2:
		*f.register(in.rm) = s.cr2
	case opRETF, opIRET:
		n := uint64(16) // rip, cs; an IRET also rflags, rsp, ss
		if in.kind == opIRET {
			n = 40
		}
		b, err := s.vm.view.Readable(memory.Addr(f.rsp), n)
		if err != nil || le.Uint64(b[8:]) != abiCode {
			return false
		}
		rip, rsp := le.Uint64(b), f.rsp+n
		if in.kind == opIRET {
			if ss := le.Uint64(b[32:]); ss != abiData && ss != 0 {
				return false
			}
			f.rflags, rsp = guestFlags(le.Uint64(b[16:])), le.Uint64(b[24:])
		}
		if !canonical(rip) {
			return false
		}
		f.rip, f.rsp = rip, rsp
	case opCLI, opSTI: // there are no interrupts
	case opSGDT:
		return s.store(in, f, le.AppendUint64(le.AppendUint16(nil, s.gdt.Limit), s.gdt.Base))
	case opSIDT:
		return s.store(in, f, le.AppendUint64(le.AppendUint16(nil, s.idt.Limit), s.idt.Base))
	case opSTR:
		return s.store(in, f, le.AppendUint16(nil, s.tr))
	case opSLDT: // there is none
		return s.store(in, f, make([]byte, 2))
	case opSMSW:
		return s.store(in, f, le.AppendUint16(nil, ring0CR0&0xffff))
	default:
		return false
	}
	return true
}

// load returns the n bytes, 16 at the most, of a memory operand, or a register, of
// which the low bytes count; nil where the guest may not read them.
func (s *sealed) load(in *insn, f *trapFrame, n uint64) []byte {
	if !in.mem {
		return le64s(*f.register(in.rm), 0)[:n]
	}
	b, _ := s.vm.view.Readable(in.address(f), n)
	return b
}

// store gives the guest what it believes a register of the processor's to hold.
func (s *sealed) store(in *insn, f *trapFrame, value []byte) bool {
	if !in.mem {
		*f.register(in.rm) = uint64(le.Uint16(value))
		return true
	}
	b, err := s.vm.view.Writable(in.address(f), uint64(len(value)))
	if err != nil {
		return false
	}
	copy(b, value)
	return true
}

// loadSelector is LTR and MOV to a segment register. The processor keeps the
// sealed ones; what the guest asks for has to be what they stand for.
func (s *sealed) loadSelector(in *insn, f *trapFrame) bool {
	b := s.load(in, f, 2)
	if b == nil {
		return false
	}
	sel := le.Uint16(b)
	if in.kind == opLTR {
		return s.loadTR(sel)
	}
	const es, ss, ds, fs, gs = 0, 2, 3, 4, 5
	if sel != abiData && (sel != 0 || in.ext == ss) {
		return false
	}
	switch in.ext {
	case es, ss, ds:
	case fs:
		f.sregs.FS.Base = 0
	case gs:
		f.sregs.GS.Base = 0
	default:
		return false
	}
	return true
}

// address is where a memory operand lies. f.rip is the end of the instruction.
func (in *insn) address(f *trapFrame) memory.Addr {
	a := uint64(int64(in.ea.disp))
	if in.ea.rip {
		a += f.rip
	}
	if in.ea.base != noReg {
		a += *f.register(in.ea.base)
	}
	if in.ea.index != noReg {
		a += *f.register(in.ea.index) << in.ea.shift
	}
	return memory.Addr(a)
}

// register is the general register of that number, 0 to 15. The stack pointer
// is the frame's: the processor's own points to the ring-0 stack.
func (f *trapFrame) register(n uint8) *uint64 {
	regs := f.regs
	return [...]*uint64{
		&regs.RAX, &regs.RCX, &regs.RDX, &regs.RBX, &f.rsp, &regs.RBP, &regs.RSI, &regs.RDI,
		&regs.R8, &regs.R9, &regs.R10, &regs.R11, &regs.R12, &regs.R13, &regs.R14, &regs.R15,
	}[n&15]
}

// portAccess recognises IN, OUT, INS and OUTS: the I/O bitmap refused the port.
func portAccess(code []byte, regs *kvm.Regs) (*devices.PortError, bool) {
	p := &devices.PortError{Port: uint16(regs.RDX), Size: 4, Count: 1}
	for i, b := range code {
		switch {
		case b == 0x66:
			p.Size = 2
		case b == 0xf2 || b == 0xf3:
			p.Count = int(min(regs.RCX, 1<<30))
		case b&0xf0 == 0x40: // REX means nothing here
		case b&^0x18 == 0x26, b == 0x64, b == 0x65, b == 0x67: // nor does a segment or the size of an address
		default:
			if g := b &^ 3; g != 0xe4 && g != 0xec && g != 0x6c {
				return nil, false
			}
			if b&1 == 0 {
				p.Size = 1
			}
			p.Out = b&2 != 0
			if b&^3 == 0xe4 {
				if i+1 >= len(code) {
					return nil, false
				}
				p.Port = uint16(code[i+1])
			}
			return p, true
		}
	}
	return nil, false
}
