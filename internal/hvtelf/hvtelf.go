// Package hvtelf makes small hvt unikernels out of machine code, for tests and
// for probing what a KVM can execute.
package hvtelf

import (
	"encoding/binary"

	"github.com/uvm-monitor/uvm/loader"
)

// Where a guest's parts lie in its memory. Code starts at CodeAddr, which is
// also the entry point; Data is one writable page with room after it.
const (
	CodeAddr = 0x100000
	DataAddr = 0x110000
)

// Guest is a unikernel to be.
type Guest struct {
	Code    []byte          // at CodeAddr, readable and executable; up to 64 KiB
	Data    []byte          // at DataAddr, writable
	Devices []loader.Device // manifest entries after the reserved first one
	Native  *loader.Native  // uvm's own note, if any
}

const page = 4096

// ELF returns the file: two segments, the ABI note and the manifest.
func (g Guest) ELF() []byte {
	mft := loader.Manifest{Entries: append([]loader.Device{{Type: loader.DeviceReserved}}, g.Devices...)}
	abi := note("Solo5\x00\x00\x00", 6, 0x31494241, 0, []byte{1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	man := note("Solo5\x00\x00\x00", 6, 0x3154464d, 4, mft.Encode())
	var native []byte
	phnum := uint64(4)
	if n := g.Native; n != nil {
		d := binary.LittleEndian.AppendUint32(nil, n.Version)
		native = note("uvm\x00", 4, 1, 0, binary.LittleEndian.AppendUint32(d, uint32(n.Flags)))
		phnum++
	}

	data := g.Data
	if len(data) == 0 {
		data = []byte{0}
	}
	abiOff := 64 + phnum*56
	manOff := align(abiOff+uint64(len(abi)), 8)
	nativeOff := align(manOff+uint64(len(man)), 4)
	codeOff := align(nativeOff+uint64(len(native)), page)
	dataOff := align(codeOff+uint64(len(g.Code)), page)
	f := make([]byte, dataOff+uint64(len(data)))

	le := binary.LittleEndian
	putHeader(f, uint16(phnum))
	for i, p := range [][7]uint64{ // type, flags, offset, address, file size, memory size, alignment
		{1, 5, codeOff, CodeAddr, uint64(len(g.Code)), uint64(len(g.Code)), page},
		{1, 6, dataOff, DataAddr, uint64(len(data)), uint64(len(data)), page},
		{4, 4, abiOff, 0, uint64(len(abi)), 0, 4},
		{4, 4, manOff, 0, uint64(len(man)), 0, 8},
		{4, 4, nativeOff, 0, uint64(len(native)), 0, 4},
	}[:phnum] {
		h := f[64+i*56:]
		le.PutUint32(h, uint32(p[0]))
		le.PutUint32(h[4:], uint32(p[1]))
		for j, v := range []uint64{p[2], p[3], p[3], p[4], p[5], p[6]} {
			le.PutUint64(h[8+j*8:], v)
		}
	}
	copy(f[abiOff:], abi)
	copy(f[manOff:], man)
	copy(f[nativeOff:], native)
	copy(f[codeOff:], g.Code)
	copy(f[dataOff:], data)
	return f
}

// note is an ELF note. owner is padded to four bytes already, and nameSize says
// how long it is without; pad bytes before the content count as content.
func note(owner string, nameSize, typ uint32, pad int, content []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, nameSize)
	b = binary.LittleEndian.AppendUint32(b, uint32(pad+len(content)))
	b = binary.LittleEndian.AppendUint32(b, typ)
	b = append(b, owner...)
	b = append(b, make([]byte, pad)...)
	return append(b, content...)
}

func align(n, a uint64) uint64 { return (n + a - 1) &^ (a - 1) }

// Out returns code that makes a hypercall:
//
//	b8 imm32    mov eax, arg
//	66 ba imm16 mov dx, port
//	ef          out dx, eax
func Out(port uint16, arg uint32) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{0xb8}, arg)
	b = binary.LittleEndian.AppendUint16(append(b, 0x66, 0xba), port)
	return append(b, 0xef)
}

// putHeader writes the ELF header of a file that is entered at CodeAddr and has
// phnum program headers right after it.
func putHeader(f []byte, phnum uint16) {
	le := binary.LittleEndian
	copy(f, "\x7fELF\x02\x01\x01")
	le.PutUint16(f[16:], 2)  // ET_EXEC
	le.PutUint16(f[18:], 62) // EM_X86_64
	le.PutUint32(f[20:], 1)
	le.PutUint64(f[24:], CodeAddr)
	le.PutUint64(f[32:], 64) // program headers follow
	le.PutUint16(f[52:], 64)
	le.PutUint16(f[54:], 56)
	le.PutUint16(f[56:], phnum)
}
