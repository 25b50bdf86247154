package appscan

import "golang.org/x/arch/x86/x86asm"

// unknown is the value of a register that the scan does not know.
const unknown = -1

// regs are the general registers, by their encoding: RAX, RCX, RDX, RBX, RSP,
// RBP, RSI, RDI, R8 …: constants below 32768, or unknown. For RSP it is the word
// that it points to.
type regs [16]int16

const (
	ax = 0
	sp = 4
	si = 6
	di = 7
)

// clobbered are the registers that a called function may change: all but RBX,
// RSP, RBP and R12 to R15 (System V ABI, AMD64 supplement, section 3.2.1).
const clobbered = 1<<0 | 1<<1 | 1<<2 | 1<<6 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11

var nothing = func() (r regs) {
	r.forget(0xffff)
	return r
}()

// forget makes the registers of a set unknown.
func (r *regs) forget(set uint16) {
	for i := range r {
		if set>>i&1 != 0 {
			r[i] = unknown
		}
	}
}

// implicit are the registers that an instruction changes without naming them.
var implicit = map[x86asm.Op]uint16{
	x86asm.CPUID: 1<<0 | 1<<1 | 1<<2 | 1<<3, x86asm.RDTSC: 1<<0 | 1<<2, x86asm.RDTSCP: 1<<0 | 1<<1 | 1<<2, x86asm.XGETBV: 1<<0 | 1<<2,
	x86asm.MUL: 1<<0 | 1<<2, x86asm.DIV: 1<<0 | 1<<2, x86asm.IDIV: 1<<0 | 1<<2, x86asm.CDQ: 1 << 2, x86asm.CQO: 1 << 2,
	x86asm.CDQE: 1, x86asm.CWDE: 1, x86asm.CMPXCHG: 1, x86asm.CMPXCHG16B: 1<<0 | 1<<2,
	x86asm.MOVSB: 1<<1 | 1<<6 | 1<<7, x86asm.MOVSD: 1<<1 | 1<<6 | 1<<7, x86asm.MOVSQ: 1<<1 | 1<<6 | 1<<7,
	x86asm.STOSB: 1<<1 | 1<<7, x86asm.STOSD: 1<<1 | 1<<7, x86asm.STOSQ: 1<<1 | 1<<7,
	x86asm.LODSB: 1<<0 | 1<<6, x86asm.SCASB: 1<<1 | 1<<7, x86asm.CMPSB: 1<<1 | 1<<6 | 1<<7,
}

// write follows what an instruction leaves in the registers.
func (r *regs) write(inst *x86asm.Inst) {
	switch inst.Op {
	case x86asm.CMP, x86asm.TEST, x86asm.PUSH, x86asm.NOP, x86asm.BT:
		return
	case x86asm.XCHG, x86asm.XADD:
		if i, _, ok := general(inst.Args[1]); ok {
			r[i] = unknown
		}
	}
	r.forget(implicit[inst.Op])
	to, whole, ok := general(inst.Args[0])
	if m, isMem := inst.Args[0].(x86asm.Mem); isMem && m.Base == x86asm.RSP && m.Disp == 0 && m.Index == 0 {
		to, whole, ok = sp, true, true
	}
	if !ok {
		return
	}
	value := int16(unknown)
	switch src := inst.Args[1].(type) {
	case x86asm.Imm:
		if inst.Op == x86asm.MOV && whole && src >= 0 && src < 1<<15 {
			value = int16(src)
		}
	case x86asm.Reg:
		from, same, ok := general(src)
		switch {
		case !ok || !same || !whole:
		case inst.Op == x86asm.XOR && inst.Args[0] == inst.Args[1]:
			value = 0
		case inst.Op == x86asm.MOV:
			value = r[from]
		}
	}
	r[to] = value
}

// general is the number of a general register; whole says that a write to it
// leaves nothing of the old value.
func general(arg x86asm.Arg) (n int, whole, ok bool) {
	switch reg, _ := arg.(x86asm.Reg); {
	case reg >= x86asm.RAX && reg <= x86asm.R15:
		return int(reg - x86asm.RAX), true, true
	case reg >= x86asm.EAX && reg <= x86asm.R15L:
		return int(reg - x86asm.EAX), true, true
	case reg >= x86asm.AX && reg <= x86asm.R15W:
		return int(reg - x86asm.AX), false, true
	case reg >= x86asm.AL && reg <= x86asm.BL:
		return int(reg - x86asm.AL), false, true
	case reg >= x86asm.AH && reg <= x86asm.BH:
		return int(reg - x86asm.AH), false, true
	case reg >= x86asm.SPB && reg <= x86asm.R15B:
		return int(reg-x86asm.SPB) + 4, false, true
	}
	return 0, false, false
}
