package vmm

import (
	"errors"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// What execute says of an instruction that it does not carry out.
var (
	errRefused = errors.New("refused")
	errHalt    = errors.New("halted")
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
	switch s.execute(&in, &next) {
	case nil:
	case errHalt:
		return s.fault(f, FaultHLT, noAddr)
	default:
		return s.fault(f, FaultPrivileged, noAddr)
	}
	*f = next
	return nil
}

// execute has the effect of in. f is where the guest goes on.
func (s *sealed) execute(in *insn, f *trapFrame) error {
	regs, sregs := f.regs, f.sregs
	switch in.kind {
	case opWRMSR:
		value := regs.RDX<<32 | regs.RAX&0xffffffff
		if !canonical(value) {
			return errRefused
		}
		switch uint32(regs.RCX) {
		case msrFSBase:
			sregs.FS.Base = value
		case msrGSBase:
			sregs.GS.Base = value
		default:
			return errRefused
		}
		return nil
	case opLGDT, opLIDT:
		b, err := s.view().Readable(in.address(f), 10)
		if err != nil {
			return errRefused
		}
		t := kvm.DTable{Limit: le.Uint16(b), Base: le.Uint64(b[2:])}
		if in.kind == opLGDT {
			s.gdt = t
		} else {
			s.idt = t
		}
		return nil
	case opLTR, opMovSeg:
		return s.loadSelector(in, f)
	case opMovCR2:
		*f.register(in.rm) = s.cr2
		return nil
	case opRETF, opIRET:
		n := uint64(16) // rip, cs; an IRET also rflags, rsp, ss
		if in.kind == opIRET {
			n = 40
		}
		b, err := s.view().Readable(memory.Addr(f.rsp), n)
		if err != nil || le.Uint64(b[8:]) != abiCode {
			return errRefused
		}
		rip, rsp := le.Uint64(b), f.rsp+n
		if in.kind == opIRET {
			if ss := le.Uint64(b[32:]); ss != abiData && ss != 0 {
				return errRefused
			}
			f.rflags, rsp = guestFlags(le.Uint64(b[16:])), le.Uint64(b[24:])
		}
		if !canonical(rip) {
			return errRefused
		}
		f.rip, f.rsp = rip, rsp
		return nil
	case opCLI, opSTI:
		return nil // there are no interrupts
	case opHLT:
		return errHalt
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
	}
	return errRefused
}

// store gives the guest what it believes a register of the processor's to hold.
func (s *sealed) store(in *insn, f *trapFrame, value []byte) error {
	if !in.mem {
		*f.register(in.rm) = uint64(le.Uint16(value))
		return nil
	}
	b, err := s.view().Writable(in.address(f), uint64(len(value)))
	if err != nil {
		return errRefused
	}
	copy(b, value)
	return nil
}

func (s *sealed) view() *memory.View { return s.vm.view }

// loadSelector is LTR and MOV to a segment register. The processor keeps the
// sealed ones; what the guest asks for has to be what they stand for.
func (s *sealed) loadSelector(in *insn, f *trapFrame) error {
	var sel uint16
	if in.mem {
		b, err := s.view().Readable(in.address(f), 2)
		if err != nil {
			return errRefused
		}
		sel = le.Uint16(b)
	} else {
		sel = uint16(*f.register(in.rm))
	}
	if in.kind == opLTR {
		return s.loadTR(sel)
	}
	const es, ss, ds, fs, gs = 0, 2, 3, 4, 5
	if sel != abiData && (sel != 0 || in.ext == ss) {
		return errRefused
	}
	switch in.ext {
	case es, ss, ds:
	case fs:
		f.sregs.FS.Base = 0
	case gs:
		f.sregs.GS.Base = 0
	default:
		return errRefused
	}
	return nil
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
	i := 0
	for i < len(code) {
		switch b := code[i]; {
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
		i++
	}
	return nil, false
}
