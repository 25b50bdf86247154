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

// decodeRule is a row of the decoder's table.
type decodeRule struct {
	escape bool  // 0f comes before op
	op     byte  // opcode
	ext    int8  // the ModRM byte's reg field; anyExt, or noModRM where there is no such byte
	form   uint8 // what the operand may be
	kind   opKind
}

const (
	anyExt  = -1
	noModRM = -2
)

// Operand forms.
const (
	formAny  = iota
	formMem  // memory only
	formReg  // register only, and REX.R would name another control register
	formREXW // no operand, but REX.W has to be there
	formByte // ext is the ModRM byte, which is part of the opcode
)

var decodeTable = [...]decodeRule{
	{true, 0x30, noModRM, formAny, opWRMSR},
	{true, 0x01, 2, formMem, opLGDT},
	{true, 0x01, 3, formMem, opLIDT},
	{true, 0x00, 3, formAny, opLTR},
	{true, 0x20, 2, formReg, opMovCR2},
	{false, 0x8e, anyExt, formAny, opMovSeg},
	{false, 0xcb, noModRM, formREXW, opRETF},
	{false, 0xcf, noModRM, formREXW, opIRET},
	{false, 0xfa, noModRM, formAny, opCLI},
	{false, 0xfb, noModRM, formAny, opSTI},
	{false, 0xf4, noModRM, formAny, opHLT},
	{true, 0x01, 0, formMem, opSGDT},
	{true, 0x01, 1, formMem, opSIDT},
	{true, 0x00, 1, formAny, opSTR},
	{true, 0x00, 0, formAny, opSLDT},
	{true, 0x01, 4, formAny, opSMSW},

	{true, 0x00, 2, formAny, opRefused},             // LLDT
	{true, 0x01, 6, formAny, opRefused},             // LMSW
	{true, 0x01, 7, formMem, opRefused},             // INVLPG
	{true, 0x01, 0xd1 - 0x100, formByte, opRefused}, // XSETBV
	{true, 0x01, 0xf8 - 0x100, formByte, opRefused}, // SWAPGS
	{true, 0x06, noModRM, formAny, opRefused},       // CLTS
	{true, 0x07, noModRM, formAny, opRefused},       // SYSRET
	{true, 0x08, noModRM, formAny, opRefused},       // INVD
	{true, 0x09, noModRM, formAny, opRefused},       // WBINVD
	{true, 0x20, anyExt, formAny, opRefused},        // MOV from a control register
	{true, 0x21, anyExt, formAny, opRefused},        // MOV from a debug register
	{true, 0x22, anyExt, formAny, opRefused},        // MOV to a control register
	{true, 0x23, anyExt, formAny, opRefused},        // MOV to a debug register
	{true, 0x32, noModRM, formAny, opRefused},       // RDMSR
	{true, 0x33, noModRM, formAny, opRefused},       // RDPMC
	{true, 0x35, noModRM, formAny, opRefused},       // SYSEXIT
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
	const (
		rexW = 8
		rexR = 4
		rexX = 2
		rexB = 1
	)
	i, rex := 0, byte(0)
	if i < len(b) && b[i]&0xf0 == 0x40 {
		rex, i = b[i], i+1
	}
	escape := i < len(b) && b[i] == 0x0f
	if escape {
		i++
	}
	if i >= len(b) {
		return in, false
	}
	op := b[i]
	i++
	var modrm byte
	hasModRM := i < len(b)
	if hasModRM {
		modrm = b[i]
	}
	for _, r := range decodeTable {
		if r.escape != escape || r.op != op {
			continue
		}
		if r.ext == noModRM {
			if r.form == formREXW && rex&rexW == 0 {
				continue
			}
			return insn{kind: r.kind, len: i}, true
		}
		isReg, ext := modrm>>6 == 3, int8(modrm>>3&7)
		if r.form == formByte {
			ext = int8(modrm)
		}
		if !hasModRM || r.ext != anyExt && ext != r.ext || r.form == formMem && isReg || r.form == formReg && (!isReg || rex&rexR != 0) {
			continue
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
	ea.base, ea.index = modrm&7|rexB, noReg
	mod := modrm >> 6
	dispSize := [4]int{0, 1, 4, 0}[mod]
	if modrm&7 == 4 {
		if len(b) < 1 {
			return 0, false
		}
		sib := b[0]
		n = 1
		ea.base = sib&7 | rexB
		ea.shift = sib >> 6
		if index := sib>>3&7 | rexX; index != 4 { // 4 means none
			ea.index = index
		}
		if sib&7 == 5 && mod == 0 {
			ea.base, dispSize = noReg, 4
		}
	} else if modrm&7 == 5 && mod == 0 {
		ea.base, ea.rip, dispSize = noReg, true, 4
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
