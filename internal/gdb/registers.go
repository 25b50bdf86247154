package gdb

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
)

// Registers are those of one vCPU, in the order in which gdb is told of them.
type Registers struct {
	General [16]uint64 // rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15
	RIP     uint64
	RFLAGS  uint32
	Seg     [6]uint32 // selectors: cs, ss, ds, es, fs, gs
	ST      [8][10]byte
	// As FXSAVE has them, but for Tag, which is the full one: two bits for each register, 3 = empty.
	Control, Status, Tag, FISeg, FIOff, FOSeg, FOOff, Opcode uint32
	XMM                                                      [16][16]byte
	MXCSR                                                    uint32
	FSBase, GSBase                                           uint64
	CR0, CR2, CR3, CR4, EFER                                 uint64 // writes to them are ignored
	YMMHigh                                                  [16][16]byte
}

// Names of some of Registers.General.
const (
	RAX = iota
	RBX
	RCX
	RDX
	RSI
	RDI
	RBP
	RSP
)

// register is one entry of gdb's list.
type register struct {
	name        string
	size        int // bytes
	typ, group  string
	offset      int // in the encoded Registers
	featureEnds string
}

// registers is gdb's list. Its order is that of Registers, and its features are those that gdb knows by name (the GDB
// manual, "i386 Features"), but for the last but one.
var registers = sync.OnceValue(func() (list []register) {
	offset := 0
	add := func(size int, typ, group string, names ...string) {
		for _, n := range names {
			list = append(list, register{name: n, size: size, typ: typ, group: group, offset: offset})
			offset += size
		}
	}
	numbered := func(size int, typ, pattern string, n int) {
		for i := range n {
			add(size, typ, "", fmt.Sprintf(pattern, i))
		}
	}
	feature := func(name string) { list[len(list)-1].featureEnds = name }
	add(8, "int64", "", "rax", "rbx", "rcx", "rdx", "rsi", "rdi")
	add(8, "data_ptr", "", "rbp", "rsp")
	add(8, "int64", "", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
	add(8, "code_ptr", "", "rip")
	add(4, "i386_eflags", "", "eflags")
	add(4, "int32", "", "cs", "ss", "ds", "es", "fs", "gs")
	numbered(10, "i387_ext", "st%d", 8)
	add(4, "int", "float", "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
	feature("org.gnu.gdb.i386.core")
	numbered(16, "vec128", "xmm%d", 16)
	add(4, "i386_mxcsr", "vector", "mxcsr")
	feature("org.gnu.gdb.i386.sse")
	add(8, "int", "", "fs_base", "gs_base")
	feature("org.gnu.gdb.i386.segments")
	add(8, "int", "system", "cr0", "cr2", "cr3", "cr4", "efer")
	feature("org.uvm.control")
	numbered(16, "uint128", "ymm%dh", 16)
	feature("org.gnu.gdb.i386.avx")
	return list
})

// registersSize is the size of all of them in bytes.
func registersSize() int { return binary.Size(Registers{}) }

func (r *Registers) encode() []byte {
	b, _ := binary.Append(make([]byte, 0, registersSize()), binary.LittleEndian, r) // all of it has a fixed size
	return b
}

// decode takes the registers that b begins with; the others stay as they are.
func (r *Registers) decode(b []byte) {
	all := r.encode()
	copy(all, b)
	binary.Decode(all, binary.LittleEndian, r)
}

// targetXML describes the registers (the GDB manual, appendix G).
func targetXML() string {
	types := map[string]string{
		"org.gnu.gdb.i386.core": flagsType("i386_eflags", "CF:0 PF:2 AF:4 ZF:6 SF:7 TF:8 IF:9 DF:10 OF:11 NT:14 RF:16 VM:17 AC:18 VIF:19 VIP:20 ID:21"),
		"org.gnu.gdb.i386.sse": `<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>` +
			`<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>` +
			`<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>` +
			`<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>` +
			`<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/>` +
			`<field name="v2_int64" type="v2i64"/><field name="uint128" type="uint128"/></union>` +
			flagsType("i386_mxcsr", "IE:0 DE:1 ZE:2 OE:3 UE:4 PE:5 DAZ:6 IM:7 DM:8 ZM:9 OM:10 UM:11 PM:12 FZ:15"),
	}
	var b, feature strings.Builder
	b.WriteString(`<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target><architecture>i386:x86-64</architecture>`)
	for _, r := range registers() {
		fmt.Fprintf(&feature, `<reg name="%s" bitsize="%d" type="%s"`, r.name, r.size*8, r.typ)
		if r.group != "" {
			fmt.Fprintf(&feature, ` group="%s"`, r.group)
		}
		feature.WriteString("/>\n")
		if r.featureEnds != "" {
			fmt.Fprintf(&b, "<feature name=\"%s\">\n%s\n%s</feature>\n", r.featureEnds, types[r.featureEnds], feature.String())
			feature.Reset()
		}
	}
	b.WriteString("</target>\n")
	return b.String()
}

// flagsType is the type of a 32-bit register of which each bit has a name.
func flagsType(id, bits string) string {
	s := `<flags id="` + id + `" size="4">`
	for _, f := range strings.Fields(bits) {
		name, bit, _ := strings.Cut(f, ":")
		s += fmt.Sprintf(`<field name="%s" start="%s" end="%s"/>`, name, bit, bit)
	}
	return s + "</flags>"
}
