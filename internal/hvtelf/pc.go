package hvtelf

import "encoding/binary"

// PC is a kernel to be for the PC-like machine. Its code runs at CodeAddr, its
// data is at DataAddr, both writable and executable, as Linux has it.
type PC struct {
	Code []byte // up to 64 KiB
	Data []byte
	PVH  int // bytes of the entry point in the PVH note: 4, 8, or 0 for no note
}

// ELF returns the file: two segments, linked 2 GiB below the top of the address
// space as Linux is, and the notes, of which PVH's is the last. Without it the
// file is for the Linux 64-bit protocol.
func (g PC) ELF() []byte {
	notes := append(note("GNU\x00", 4, 3, 0, make([]byte, 20)), note("Xen\x00", 4, 6, 0, []byte("test\x00\x00\x00\x00"))...)
	if g.PVH != 0 {
		notes = append(notes, note("Xen\x00", 4, 18, 0, binary.LittleEndian.AppendUint64(nil, CodeAddr)[:g.PVH])...)
	}
	const notesOff = 64 + 3*56
	codeOff := align(notesOff+uint64(len(notes)), page)
	dataOff := align(codeOff+uint64(len(g.Code)), page)
	f := make([]byte, dataOff, dataOff+uint64(len(g.Data)))

	le := binary.LittleEndian
	putHeader(f, 3)
	for i, p := range [][6]uint64{ // type, offset, address, file size, memory size, alignment
		{1, codeOff, CodeAddr, uint64(len(g.Code)), uint64(len(g.Code)), page},
		{1, dataOff, DataAddr, uint64(len(g.Data)), uint64(len(g.Data)) + page, page},
		{4, notesOff, 0, uint64(len(notes)), uint64(len(notes)), 4},
	} {
		h := f[64+i*56:]
		le.PutUint32(h, uint32(p[0]))
		le.PutUint32(h[4:], 7)
		for j, v := range []uint64{p[1], p[2] - 2<<30, p[2], p[3], p[4], p[5]} {
			le.PutUint64(h[8+j*8:], v)
		}
	}
	copy(f[notesOff:], notes)
	copy(f[codeOff:], g.Code)
	return append(f, g.Data...)
}

// Where a bzImage of BzImage is loaded, and what memory it asks for from there.
const (
	BzAddr     = 0x200000
	BzInitSize = 0x123456
)

// BzImage returns a bzImage with protocol 2.15 that has code at its 64-bit
// entry point, BzAddr + 0x200.
func BzImage(code []byte) []byte {
	const payload = 5 * 512
	size := align(512+uint64(len(code)), 16)
	f := make([]byte, payload+size)
	le := binary.LittleEndian
	f[0x1f1] = 4 // setup_sects
	le.PutUint32(f[0x1f4:], uint32(size/16))
	le.PutUint16(f[0x1fe:], 0xaa55)
	copy(f[0x200:], "\xeb\x6aHdrS")
	le.PutUint16(f[0x206:], 0x20f)
	le.PutUint16(f[0x20e:], 0x300-0x200) // kernel_version
	f[0x211] = 1                         // loadflags: LOADED_HIGH
	le.PutUint32(f[0x22c:], 0x7fffffff)  // initrd_addr_max
	le.PutUint32(f[0x230:], 0x200000)    // kernel_alignment
	f[0x234] = 1                         // relocatable_kernel
	le.PutUint16(f[0x236:], 3)           // xloadflags: XLF_KERNEL_64, above 4 GiB
	le.PutUint32(f[0x238:], 2047)        // cmdline_size
	le.PutUint64(f[0x258:], BzAddr)      // pref_address
	le.PutUint32(f[0x260:], BzInitSize)  // init_size
	copy(f[0x300:], "6.1.0-test (uvm) #1")
	copy(f[payload+512:], code)
	return f
}
