package vmm

// The privileged instructions that trap with #GP when a guest runs in ring 3:
// those that hvt guests execute, and those that are refused by name. What is not
// in the table is an exception of the guest's. Encodings: AMD64 Architecture
// Programmer's Manual, volume 3, appendix A.

// opKind is a privileged instruction.
type opKind uint8

const (
	opWRMSR  opKind = iota + 1
	opLGDT          // operand in memory
	opLIDT          // operand in memory
	opLTR           // operand a 16-bit register or memory
	opMovCR2        // general register from CR2
	opMovSeg        // segment register from a 16-bit register or memory
	opRETF          // far return, 64-bit
	opIRET          // 64-bit
	opCLI
	opSTI
	opHLT
	opSGDT // operand in memory; these five trap with UMIP only
	opSIDT // operand in memory
	opSTR  // operand a register or 16 bits of memory
	opSLDT // likewise
	opSMSW // likewise
	opRefused
)

// decodeRule is a row of the decoder's table. It is about the instruction's prefix,
// opcode and ModRM byte as one number, 0xRppooMM: the REX prefix's low half (W, R, X,
// B), 0f or 00, the opcode, and ModRM.
type decodeRule struct {
	mask, value uint32 // the rule is for numbers that have this value under the mask
	form        uint8
	kind        opKind
}

// Operand forms.
const (
	formNone = iota // no ModRM byte
	formRM          // register or memory
	formMem         // memory only
)

// Masks: the opcode, its pairs and fours; with the ModRM byte's reg field, which is
// part of many opcodes, or all of that byte; with REX.W.
const (
	maskOp   = 0xffff00
	maskOp2  = 0xfffe00
	maskOp4  = 0xfffc00
	maskReg  = 0xffff38
	maskAll  = 0xffffff
	maskREXW = 0x8ffff00
	maskCR2  = 0x4ffffc0 | 7<<3 // a register, and REX.R, which would name another control register
)

// The first rule that fits counts.
var decodeTable = [...]decodeRule{
	{maskOp, 0x0f3000, formNone, opWRMSR},
	{maskReg, 0x0f0100 | 2<<3, formMem, opLGDT},
	{maskReg, 0x0f0100 | 3<<3, formMem, opLIDT},
	{maskReg, 0x0f0000 | 3<<3, formRM, opLTR},
	{maskCR2, 0x0f20c0 | 2<<3, formRM, opMovCR2},
	{maskOp, 0x008e00, formRM, opMovSeg},
	{maskREXW, 0x800cb00, formNone, opRETF},
	{maskREXW, 0x800cf00, formNone, opIRET},
	{maskOp, 0x00fa00, formNone, opCLI},
	{maskOp, 0x00fb00, formNone, opSTI},
	{maskOp, 0x00f400, formNone, opHLT},
	{maskReg, 0x0f0100 | 0<<3, formMem, opSGDT},
	{maskReg, 0x0f0100 | 1<<3, formMem, opSIDT},
	{maskReg, 0x0f0000 | 1<<3, formRM, opSTR},
	{maskReg, 0x0f0000 | 0<<3, formRM, opSLDT},
	{maskReg, 0x0f0100 | 4<<3, formRM, opSMSW},

	{maskReg, 0x0f0000 | 2<<3, formRM, opRefused},  // LLDT
	{maskReg, 0x0f0100 | 6<<3, formRM, opRefused},  // LMSW
	{maskReg, 0x0f0100 | 7<<3, formMem, opRefused}, // INVLPG
	{maskAll, 0x0f01d1, formRM, opRefused},         // XSETBV
	{maskAll, 0x0f01f8, formRM, opRefused},         // SWAPGS
	{maskOp2, 0x0f0600, formNone, opRefused},       // CLTS, SYSRET
	{maskOp2, 0x0f0800, formNone, opRefused},       // INVD, WBINVD
	{maskOp4, 0x0f2000, formRM, opRefused},         // MOV from and to control and debug registers
	{maskOp2, 0x0f3200, formNone, opRefused},       // RDMSR, RDPMC
	{maskOp, 0x0f3500, formNone, opRefused},        // SYSEXIT
}

// insn is a decoded instruction.
type insn struct {
	kind opKind
	len  int   // bytes
	ext  uint8 // the ModRM byte's reg field with REX.R: which segment register
	rm   uint8 // register operand, unless mem
	mem  bool
	ea   effAddr
}

// effAddr is a memory operand, before the registers' values are known.
type effAddr struct {
	base, index uint8 // register numbers, or noReg
	shift       uint8 // of the index
	rip         bool  // relative to the end of the instruction
	disp        int32
}

const noReg = 0xff

// decode decodes the instruction at the start of b, which holds as many bytes
// as can be read there.
func decode(b []byte) (in insn, ok bool) {
	const rexR, rexX, rexB = 4, 2, 1
	i, rex := 0, byte(0)
	if i < len(b) && b[i]&0xf0 == 0x40 {
		rex, i = b[i], i+1
	}
	word := uint32(rex&0xf) << 24
	if i < len(b) && b[i] == 0x0f {
		word, i = word|0x0f0000, i+1
	}
	if i >= len(b) {
		return in, false
	}
	word |= uint32(b[i]) << 8
	i++
	var modrm byte
	hasModRM := i < len(b)
	if hasModRM {
		modrm = b[i]
	}
	isReg := modrm>>6 == 3
	for _, r := range decodeTable {
		switch {
		case (word|uint32(modrm))&r.mask != r.value || r.form == formMem && isReg || r.form != formNone && !hasModRM:
			continue
		case r.form == formNone:
			return insn{kind: r.kind, len: i}, true
		}
		in = insn{kind: r.kind, ext: modrm>>3&7 | rex&rexR<<1}
		i++
		if isReg {
			in.rm, in.len = modrm&7|rex&rexB<<3, i
			return in, true
		}
		in.mem = true
		n, ok := in.ea.decode(modrm, b[i:], rex&rexB<<3, rex&rexX<<2)
		in.len = i + n
		return in, ok
	}
	return in, false
}

// decode reads SIB byte and displacement from b and returns their length. rexB
// and rexX are the prefix's bits, moved to where a register number has them.
func (ea *effAddr) decode(modrm byte, b []byte, rexB, rexX byte) (n int, ok bool) {
	mod, rm := modrm>>6, modrm&7
	ea.base, ea.index = rm|rexB, noReg
	dispSize := [4]int{0, 1, 4, 0}[mod]
	if rm == 4 { // a SIB byte follows
		if len(b) < 1 {
			return 0, false
		}
		sib := b[0]
		rm, n = sib&7, 1
		ea.base, ea.shift = rm|rexB, sib>>6
		if index := sib>>3&7 | rexX; index != 4 { // 4 means none
			ea.index = index
		}
	}
	if rm == 5 && mod == 0 { // no base, but RIP where there is no SIB byte
		ea.base, ea.rip, dispSize = noReg, n == 0, 4
	}
	if len(b) < n+dispSize {
		return n, false
	}
	switch dispSize {
	case 1:
		ea.disp = int32(int8(b[n]))
	case 4:
		ea.disp = int32(le.Uint32(b[n:]))
	}
	return n + dispSize, true
}
