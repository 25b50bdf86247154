package vmm

import (
	"fmt"
	"testing"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// none is a memory operand without base and index.
var none = effAddr{base: noReg, index: noReg}

// based is a memory operand of a base register and a displacement.
func based(base uint8, disp int32) effAddr { return effAddr{base: base, index: noReg, disp: disp} }

// ripRelative is a memory operand beside the instruction.
func ripRelative(disp int32) effAddr {
	return effAddr{base: noReg, index: noReg, rip: true, disp: disp}
}

// decodeTests has each rule of the table in the forms that compilers emit, and
// each way of writing a memory operand.
var decodeTests = []struct {
	asm  string
	code []byte
	want insn
}{
	{"wrmsr", []byte{0x0f, 0x30}, insn{kind: opWRMSR}},
	{"lgdt [rax]", []byte{0x0f, 0x01, 0x10}, insn{kind: opLGDT, ext: 2, mem: true, ea: based(0, 0)}},
	{"lidt [rax]", []byte{0x0f, 0x01, 0x18}, insn{kind: opLIDT, ext: 3, mem: true, ea: based(0, 0)}},
	{"ltr ax", []byte{0x0f, 0x00, 0xd8}, insn{kind: opLTR, ext: 3}},
	{"ltr r15w", []byte{0x41, 0x0f, 0x00, 0xdf}, insn{kind: opLTR, ext: 3, rm: 15}},
	{"ltr [rbx]", []byte{0x0f, 0x00, 0x1b}, insn{kind: opLTR, ext: 3, mem: true, ea: based(3, 0)}},
	{"mov rax, cr2", []byte{0x0f, 0x20, 0xd0}, insn{kind: opMovCR2, ext: 2}},
	{"mov rdi, cr2", []byte{0x0f, 0x20, 0xd7}, insn{kind: opMovCR2, ext: 2, rm: 7}},
	{"mov r8, cr2", []byte{0x41, 0x0f, 0x20, 0xd0}, insn{kind: opMovCR2, ext: 2, rm: 8}},
	{"mov es, eax", []byte{0x8e, 0xc0}, insn{kind: opMovSeg, ext: 0}},
	{"mov ss, eax", []byte{0x8e, 0xd0}, insn{kind: opMovSeg, ext: 2}},
	{"mov ds, r9d", []byte{0x41, 0x8e, 0xd9}, insn{kind: opMovSeg, ext: 3, rm: 9}},
	{"mov fs, rax", []byte{0x48, 0x8e, 0xe0}, insn{kind: opMovSeg, ext: 4}},
	{"mov gs, [rcx]", []byte{0x8e, 0x29}, insn{kind: opMovSeg, ext: 5, mem: true, ea: based(1, 0)}},
	{"retfq", []byte{0x48, 0xcb}, insn{kind: opRETF}},
	{"iretq", []byte{0x48, 0xcf}, insn{kind: opIRET}},
	{"cli", []byte{0xfa}, insn{kind: opCLI}},
	{"sti", []byte{0xfb}, insn{kind: opSTI}},
	{"hlt", []byte{0xf4}, insn{kind: opHLT}},
	{"sgdt [rdi]", []byte{0x0f, 0x01, 0x07}, insn{kind: opSGDT, mem: true, ea: based(7, 0)}},
	{"sidt [rdi]", []byte{0x0f, 0x01, 0x0f}, insn{kind: opSIDT, ext: 1, mem: true, ea: based(7, 0)}},
	{"str eax", []byte{0x0f, 0x00, 0xc8}, insn{kind: opSTR, ext: 1}},
	{"str [rax]", []byte{0x0f, 0x00, 0x08}, insn{kind: opSTR, ext: 1, mem: true, ea: based(0, 0)}},
	{"sldt r12d", []byte{0x41, 0x0f, 0x00, 0xc4}, insn{kind: opSLDT, rm: 12}},
	{"smsw eax", []byte{0x0f, 0x01, 0xe0}, insn{kind: opSMSW, ext: 4}},
	{"smsw [rax]", []byte{0x0f, 0x01, 0x20}, insn{kind: opSMSW, ext: 4, mem: true, ea: based(0, 0)}},

	// Memory operands, all of LGDT.
	{"lgdt [rdx+0x12]", []byte{0x0f, 0x01, 0x52, 0x12}, insn{ea: based(2, 0x12)}},
	{"lgdt [rdx-1]", []byte{0x0f, 0x01, 0x52, 0xff}, insn{ea: based(2, -1)}},
	{"lgdt [rdx+0x12345678]", []byte{0x0f, 0x01, 0x92, 0x78, 0x56, 0x34, 0x12}, insn{ea: based(2, 0x12345678)}},
	{"lgdt [r10-0x80000000]", []byte{0x41, 0x0f, 0x01, 0x92, 0, 0, 0, 0x80}, insn{ea: based(10, -1<<31)}},
	{"lgdt [rbp+0]", []byte{0x0f, 0x01, 0x55, 0}, insn{ea: based(5, 0)}},
	{"lgdt [r13+0]", []byte{0x41, 0x0f, 0x01, 0x55, 0}, insn{ea: based(13, 0)}},
	{"lgdt [rip+0x10]", []byte{0x0f, 0x01, 0x15, 0x10, 0, 0, 0}, insn{ea: ripRelative(16)}},
	{"lgdt [rip-2] (REX.B means nothing)", []byte{0x41, 0x0f, 0x01, 0x15, 0xfe, 0xff, 0xff, 0xff}, insn{ea: ripRelative(-2)}},
	{"lgdt [rsp]", []byte{0x0f, 0x01, 0x14, 0x24}, insn{ea: based(4, 0)}},
	{"lgdt [r12]", []byte{0x41, 0x0f, 0x01, 0x14, 0x24}, insn{ea: based(12, 0)}},
	{"lgdt [rsp+8]", []byte{0x0f, 0x01, 0x54, 0x24, 8}, insn{ea: based(4, 8)}},
	{"lgdt [rsp+0x100]", []byte{0x0f, 0x01, 0x94, 0x24, 0, 1, 0, 0}, insn{ea: based(4, 256)}},
	{"lgdt [0x110000]", []byte{0x0f, 0x01, 0x14, 0x25, 0, 0, 0x11, 0}, insn{ea: effAddr{base: noReg, index: noReg, disp: 0x110000}}},
	{"lgdt [-1]", []byte{0x0f, 0x01, 0x14, 0x25, 0xff, 0xff, 0xff, 0xff}, insn{ea: effAddr{base: noReg, index: noReg, disp: -1}}},
	{"lgdt [rax+rcx]", []byte{0x0f, 0x01, 0x14, 0x08}, insn{ea: effAddr{base: 0, index: 1}}},
	{"lgdt [rax+rcx*8+4]", []byte{0x0f, 0x01, 0x54, 0xc8, 4}, insn{ea: effAddr{base: 0, index: 1, shift: 3, disp: 4}}},
	{"lgdt [rax+r12*2]", []byte{0x42, 0x0f, 0x01, 0x14, 0x60}, insn{ea: effAddr{base: 0, index: 12, shift: 1}}},
	{"lgdt [r9+r15*4]", []byte{0x43, 0x0f, 0x01, 0x14, 0xb9}, insn{ea: effAddr{base: 9, index: 15, shift: 2}}},
	{"lgdt [rcx*4+0x20]", []byte{0x0f, 0x01, 0x14, 0x8d, 0x20, 0, 0, 0}, insn{ea: effAddr{base: noReg, index: 1, shift: 2, disp: 0x20}}},
	{"lgdt [rcx*4+0x20] (REX.B means nothing)", []byte{0x41, 0x0f, 0x01, 0x14, 0x8d, 0x20, 0, 0, 0}, insn{ea: effAddr{base: noReg, index: 1, shift: 2, disp: 0x20}}},
	{"lgdt [rbp+rcx+0]", []byte{0x0f, 0x01, 0x54, 0x0d, 0}, insn{ea: effAddr{base: 5, index: 1}}},
	{"lgdt [r13+rcx+0]", []byte{0x41, 0x0f, 0x01, 0x54, 0x0d, 0}, insn{ea: effAddr{base: 13, index: 1}}},
}

// TestDecode also cuts each instruction short, and puts others after it.
func TestDecode(t *testing.T) {
	for _, tt := range decodeTests {
		want := tt.want
		want.len = len(tt.code)
		if want.kind == 0 {
			want.kind, want.ext, want.mem = opLGDT, 2, true
		}
		if got, ok := decode(tt.code); !ok || got != want {
			t.Errorf("decode(% x), %s = %+v, %v; want %+v", tt.code, tt.asm, got, ok, want)
		}
		if got, ok := decode(append(append([]byte(nil), tt.code...), 0x0f, 0x30, 0xff)); !ok || got != want {
			t.Errorf("decode(% x 0f 30 ff), %s = %+v, %v; want %+v", tt.code, tt.asm, got, ok, want)
		}
		for n := range len(tt.code) {
			if got, ok := decode(tt.code[:n:n]); ok {
				t.Errorf("decode(% x), %s cut short = %+v; want a refusal", tt.code[:n], tt.asm, got)
			}
		}
	}
}

// TestDecodeUnknown has the neighbours of what is decoded.
func TestDecodeUnknown(t *testing.T) {
	for _, tt := range []struct {
		asm  string
		code []byte
	}{
		{"nothing", nil},
		{"xgetbv, which is lgdt with a register", []byte{0x0f, 0x01, 0xd0}},
		{"vmrun, which is lidt with a register", []byte{0x0f, 0x01, 0xd8}},
		{"vmcall, which is sgdt with a register", []byte{0x0f, 0x01, 0xc1}},
		{"monitor, which is sidt with a register", []byte{0x0f, 0x01, 0xc8}},
		{"verr ax", []byte{0x0f, 0x00, 0xe0}},
		{"mov eax, es", []byte{0x8c, 0xc0}},
		{"iret, 16 bits", []byte{0x66, 0xcf}},
		{"two REX", []byte{0x48, 0x48, 0xcf}},
		{"fs-relative lgdt", []byte{0x64, 0x0f, 0x01, 0x10}},
		{"lgdt with 32-bit addresses", []byte{0x67, 0x0f, 0x01, 0x10}},
		{"lgdt with 16-bit operand", []byte{0x66, 0x0f, 0x01, 0x10}},
		{"rep cli", []byte{0xf3, 0xfa}},
		{"lock hlt", []byte{0xf0, 0xf4}},
		{"int 8", []byte{0xcd, 8}},
		{"out dx, eax", []byte{0xef}},
		{"VEX", []byte{0xc5, 0xf8, 0x30}},
		{"0f twice", []byte{0x0f, 0x0f, 0x30}},
		{"retf, 32 bits", []byte{0xcb}},
		{"retf with a REX that is not W", []byte{0x47, 0xcb}},
		{"retfq 8", []byte{0x48, 0xca, 0x08, 0x00}},
		{"iretd", []byte{0xcf}},
		{"iretd with a REX that is not W", []byte{0x41, 0xcf}},
		{"far call [rax]", []byte{0xff, 0x18}},
		{"far jmp [rip]", []byte{0x48, 0xff, 0x2d, 0, 0, 0, 0}},
		{"rdtscp, which is invlpg with a register", []byte{0x0f, 0x01, 0xf9}},
		{"far call of a register", []byte{0xff, 0xd8}},
		{"far jmp of a register", []byte{0xff, 0xe8}},
		{"call of a register", []byte{0xff, 0xd0}},
		{"jmp of memory", []byte{0xff, 0x20}},
	} {
		if got, ok := decode(tt.code); ok {
			t.Errorf("decode(% x), %s = %+v; want a refusal", tt.code, tt.asm, got)
		}
	}
}

// TestDecodeRefuses has what is known and not carried out: the report names it.
func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct {
		asm  string
		code []byte
	}{
		{"rdmsr", []byte{0x0f, 0x32}},
		{"xsetbv", []byte{0x0f, 0x01, 0xd1}},
		{"lmsw eax", []byte{0x0f, 0x01, 0xf0}},
		{"invlpg [rax]", []byte{0x0f, 0x01, 0x38}},
		{"swapgs", []byte{0x0f, 0x01, 0xf8}},
		{"lldt ax", []byte{0x0f, 0x00, 0xd0}},
		{"mov rax, cr0", []byte{0x0f, 0x20, 0xc0}},
		{"mov rax, cr3", []byte{0x0f, 0x20, 0xd8}},
		{"mov rax, cr4", []byte{0x0f, 0x20, 0xe0}},
		{"mov rax, cr8", []byte{0x44, 0x0f, 0x20, 0xc0}},
		{"mov rax, cr10", []byte{0x44, 0x0f, 0x20, 0xd0}},
		{"mov cr0, rax", []byte{0x0f, 0x22, 0xc0}},
		{"mov cr2, rax", []byte{0x0f, 0x22, 0xd0}},
		{"mov cr3, rax", []byte{0x0f, 0x22, 0xd8}},
		{"mov cr4, rax", []byte{0x0f, 0x22, 0xe0}},
		{"mov rax, dr2", []byte{0x0f, 0x21, 0xd0}},
		{"mov dr2, rax", []byte{0x0f, 0x23, 0xd0}},
		{"clts", []byte{0x0f, 0x06}},
		{"invd", []byte{0x0f, 0x08}},
		{"wbinvd", []byte{0x0f, 0x09}},
		{"sysret", []byte{0x0f, 0x07}},
		{"sysexit", []byte{0x0f, 0x35}},
		{"rdpmc", []byte{0x0f, 0x33}},
	} {
		if got, ok := decode(tt.code); !ok || got.kind != opRefused {
			t.Errorf("decode(% x), %s = %+v, %v; want kind %d", tt.code, tt.asm, got, ok, opRefused)
		}
	}
}

// known says what is decoded, by the opcode maps and not by the decoder's
// table.
func known(rex byte, escape bool, op, modrm byte) bool {
	reg, register := modrm>>3&7, modrm>>6 == 3
	switch {
	case !escape:
		switch op {
		case 0x8e, 0xfa, 0xfb, 0xf4:
			return true
		case 0xcb, 0xcf:
			return rex&8 != 0
		}
		return false
	case op == 0x30:
		return true
	case op == 0x00:
		return reg == 0 || reg == 1 || reg == 3
	case op == 0x01:
		return reg == 4 || reg < 4 && !register
	case op == 0x20:
		return reg == 2 && register && rex&4 == 0
	}
	return false
}

// TestDecodeEveryOpcode goes through both opcode maps with every ModRM byte.
func TestDecodeEveryOpcode(t *testing.T) {
	for _, rex := range []byte{0, 0x40, 0x44, 0x48, 0x4f} {
		for i := range 1 << 17 {
			escape, op, modrm := i>>16 != 0, byte(i>>8), byte(i)
			var code []byte
			if rex != 0 {
				code = append(code, rex)
			}
			if escape {
				code = append(code, 0x0f)
			} else if op == 0x0f || op&0xf0 == 0x40 {
				continue // no opcode
			}
			code = append(code, op, modrm, 0, 0, 0, 0, 0)
			if in, ok := decode(code); ok && in.kind != opRefused != known(rex, escape, op, modrm) {
				t.Errorf("decode(% x) = %+v, %v; want %v", code, in, ok, !ok)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, tt := range decodeTests {
		f.Add(tt.code)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, ok := decode(b)
		if !ok {
			return
		}
		if in.len < 1 || in.len > 15 || in.len > len(b) || in.kind < opWRMSR || in.kind > opRefused || in.ext > 15 || in.rm > 15 {
			t.Errorf("decode(% x) = %+v; want a length of 1 to 15 that is there, and registers up to 15", b, in)
		}
		if again, ok := decode(b[:in.len:in.len]); !ok || again != in {
			t.Errorf("decode(% x) = %+v, %v; want %+v as with more bytes after it", b[:in.len], again, ok, in)
		}
	})
}

// TestAddress computes operands with registers that tell each other apart, RSP
// being the guest's and not the processor's.
func TestAddress(t *testing.T) {
	regs := &kvm.Regs{
		RAX: 1 << 4, RCX: 1 << 8, RDX: 1 << 12, RBX: 1 << 16, RSP: 0xbad, RBP: 1 << 20, RSI: 1 << 24, RDI: 1 << 28,
		R8: 1 << 32, R9: 1 << 36, R10: 1 << 40, R11: 1 << 44, R12: 1 << 48, R13: 1 << 52, R14: 1 << 56, R15: 1<<64 - 1,
	}
	f := &trapFrame{rip: 0x100010, rsp: 0x1ff000, regs: regs}
	for _, tt := range []struct {
		ea   effAddr
		want memory.Addr
	}{
		{none, 0},
		{based(0, 0), 1 << 4}, {based(1, 0), 1 << 8}, {based(2, 0), 1 << 12}, {based(3, 0), 1 << 16},
		{based(4, 0), 0x1ff000}, {based(5, 0), 1 << 20}, {based(6, 0), 1 << 24}, {based(7, 0), 1 << 28},
		{based(8, 0), 1 << 32}, {based(9, 0), 1 << 36}, {based(10, 0), 1 << 40}, {based(11, 0), 1 << 44},
		{based(12, 0), 1 << 48}, {based(13, 0), 1 << 52}, {based(14, 0), 1 << 56}, {based(15, 0), 1<<64 - 1},
		{based(4, -8), 0x1feff8},
		{based(15, 2), 1}, // wraps
		{ripRelative(-0x10), 0x100000},
		{effAddr{base: noReg, index: noReg, disp: -1}, 1<<64 - 1},
		{effAddr{base: 4, index: 1, shift: 3, disp: 1}, 0x1ff801},
		{effAddr{base: noReg, index: 15, shift: 3}, 1<<64 - 8},
	} {
		if got := (&insn{mem: true, ea: tt.ea}).address(f); got != tt.want {
			t.Errorf("address(%s) = %v; want %v", fmt.Sprintf("%+v", tt.ea), got, tt.want)
		}
	}
}
