package loader

import (
	"encoding/binary"
	"io"
	"math"

	"github.com/uvm-monitor/uvm/memory"
)

// ELF-64 layout, from the System V ABI, chapters 4 and 5.
const (
	elfMagic = "\x7fELF"
	ehdrSize = 64
	phdrSize = 56

	etExec   = 2
	emX86_64 = 62

	ptLoad = 1
	ptNote = 4

	pfX = 1
	pfW = 2
	pfR = 4
)

const notELF = "not an ELF file"

var le = binary.LittleEndian

// phdr is an Elf64_Phdr.
type phdr struct {
	typ, flags                                 uint32
	offset, vaddr, paddr, filesz, memsz, align uint64
}

// readHeaders checks the ELF header h, sets img.Entry and returns the program
// headers (hvt ABI 2, "Header").
func (img *Image) readHeaders(h *[ehdrSize]byte) ([]phdr, error) {
	phnum := le.Uint16(h[56:])
	bad := func(format string, args ...any) ([]phdr, error) { return nil, img.errorf(ErrFormat, format, args...) }
	switch {
	case string(h[:4]) != elfMagic:
		return bad(notELF)
	case h[4] != 2:
		return bad("not a 64-bit ELF file")
	case h[5] != 1:
		return bad("not a little-endian ELF file")
	case le.Uint32(h[20:]) != 1:
		return bad("ELF version is %d, need 1", le.Uint32(h[20:]))
	case le.Uint16(h[52:]) != ehdrSize:
		return bad("ELF header size is %d, need %d", le.Uint16(h[52:]), ehdrSize)
	case phnum < 1:
		return bad("no program headers")
	case le.Uint16(h[54:]) != phdrSize:
		return bad("program header size is %d, need %d", le.Uint16(h[54:]), phdrSize)
	case le.Uint16(h[16:]) != etExec:
		return bad("ELF type is %d, need %d (a statically linked executable)", le.Uint16(h[16:]), etExec)
	case le.Uint16(h[18:]) != emX86_64:
		return bad("machine is %d, need %d (x86-64)", le.Uint16(h[18:]), emX86_64)
	}
	img.Entry = memory.Addr(le.Uint64(h[24:]))

	// At most 65535 × 56 bytes, read in one piece; a short file fails here.
	buf := make([]byte, int(phnum)*phdrSize)
	if err := img.readAt(buf, le.Uint64(h[32:]), "program headers"); err != nil {
		return nil, err
	}
	phdrs := make([]phdr, phnum)
	for i := range phdrs {
		b := buf[i*phdrSize:]
		phdrs[i] = phdr{
			typ: le.Uint32(b), flags: le.Uint32(b[4:]), offset: le.Uint64(b[8:]), vaddr: le.Uint64(b[16:]),
			paddr: le.Uint64(b[24:]), filesz: le.Uint64(b[32:]), memsz: le.Uint64(b[40:]), align: le.Uint64(b[48:]),
		}
	}
	return phdrs, nil
}

// readAt fills b from the file at off.
func (img *Image) readAt(b []byte, off uint64, what string) error {
	if off > math.MaxInt64-uint64(len(b)) {
		return img.errorf(ErrFormat, "%s: file offset %#x is out of range", what, off)
	}
	n, err := img.file.ReadAt(b, int64(off))
	switch {
	case n == len(b):
		return nil
	case err == io.EOF:
		return img.errorf(ErrFormat, "truncated: %s needs %d bytes at file offset %#x, the file has %d there", what, len(b), off, n)
	}
	return &Error{Kind: ErrOpen, Path: img.Path, Detail: "read " + what, Err: err}
}
