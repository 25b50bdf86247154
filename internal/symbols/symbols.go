// Package symbols names addresses of a guest by the symbols of its kernel file, and makes stack traces of them. It is used
// when a guest has ended badly, so it takes its time then and costs nothing before: that is why it reads ELF files by itself.
// What debug/elf brings along has to be initialized at each start of a program that links it.
package symbols

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
)

// Table is what a kernel file says of its code.
type Table struct {
	funcs []function // by address
	text  [][2]uint64
}

type function struct {
	addr, size uint64
	name       string
}

// Sizes in bytes and numbers of ELF-64 (System V ABI, chapters 4 and 5).
const (
	phdrSize, shdrSize, symSize = 56, 64, 24
	ptLoad, pfX                 = 1, 1
	shtSymtab                   = 2
	sttNoType, sttFunc          = 0, 2

	maxTable = 256 << 20 // bytes of a symbol table, or of its names
)

// Open reads an ELF file of 64 bits. The file is not trusted: what cannot be made sense of is an error, or is not there.
func Open(path string) (*Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("symbols: %w", err)
	}
	defer f.Close()
	t, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("symbols of %s: %w", path, err)
	}
	return t, nil
}

var le = binary.LittleEndian

// piece reads n bytes at off.
func piece(f *os.File, off, n uint64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if size := uint64(st.Size()); n > maxTable || off > size || n > size-off {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, n)
	_, err = f.ReadAt(b, int64(off))
	return b, err
}

func read(f *os.File) (*Table, error) {
	h, err := piece(f, 0, 64)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(h, []byte("\x7fELF\x02\x01")) || le.Uint16(h[54:]) != phdrSize {
		return nil, fmt.Errorf("not a 64-bit ELF file")
	}
	t := &Table{}
	phdrs, err := piece(f, le.Uint64(h[32:]), uint64(le.Uint16(h[56:]))*phdrSize)
	if err != nil {
		return nil, err
	}
	for p := range slices.Chunk(phdrs, phdrSize) {
		start, size := le.Uint64(p[16:]), le.Uint64(p[40:])
		if le.Uint32(p) == ptLoad && le.Uint32(p[4:])&pfX != 0 && start+size > start {
			t.text = append(t.text, [2]uint64{start, start + size})
		}
	}
	if le.Uint16(h[58:]) != shdrSize {
		return t, nil // no sections
	}
	shdrs, err := piece(f, le.Uint64(h[40:]), uint64(le.Uint16(h[60:]))*shdrSize)
	if err != nil {
		return nil, err
	}
	for s := range slices.Chunk(shdrs, shdrSize) {
		link := uint64(le.Uint32(s[40:]))
		if le.Uint32(s[4:]) != shtSymtab || link >= uint64(len(shdrs)/shdrSize) {
			continue
		}
		names := shdrs[link*shdrSize:]
		syms, err := piece(f, le.Uint64(s[24:]), le.Uint64(s[32:])/symSize*symSize)
		if err != nil {
			return nil, err
		}
		text, err := piece(f, le.Uint64(names[24:]), le.Uint64(names[32:]))
		if err != nil {
			return nil, err
		}
		t.add(syms, text)
	}
	// Of several names of an address, one that has a size is the function's.
	slices.SortStableFunc(t.funcs, func(a, b function) int { return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.size, b.size)) })
	return t, nil
}

// add takes the functions of a symbol table.
func (t *Table) add(syms, names []byte) {
	for s := range slices.Chunk(syms, symSize) {
		typ, name, addr := s[4]&15, uint64(le.Uint32(s)), le.Uint64(s[8:])
		if typ != sttFunc && typ != sttNoType || name >= uint64(len(names)) || !t.IsText(addr) {
			continue
		}
		if text, _, ok := bytes.Cut(names[name:min(uint64(len(names)), name+maxName)], []byte{0}); ok && len(text) > 0 {
			t.funcs = append(t.funcs, function{addr, le.Uint64(s[16:]), string(text)})
		}
	}
}

// maxName is how long a name can be, in bytes; a longer one is no name.
const maxName = 4096

// IsText says that addr may be code.
func (t *Table) IsText(addr uint64) bool {
	return slices.ContainsFunc(t.text, func(r [2]uint64) bool { return addr >= r[0] && addr < r[1] })
}

// Function names the function that addr is in.
func (t *Table) Function(addr uint64) (name string, offset uint64, ok bool) {
	i, _ := slices.BinarySearchFunc(t.funcs, addr, func(f function, a uint64) int {
		if f.addr <= a {
			return -1
		}
		return 1
	})
	if i == 0 || !t.IsText(addr) {
		return "", 0, false
	}
	f := &t.funcs[i-1]
	if offset = addr - f.addr; f.size > 0 && offset >= f.size {
		return "", 0, false
	}
	return f.name, offset, true
}

// Describe is addr with its function, if that is known, for a terminal. A return address belongs to the call before it.
func (t *Table) Describe(addr uint64, isReturn bool) string {
	s, at := fmt.Sprintf("0x%016x", addr), addr
	if isReturn {
		at--
	}
	if name, offset, ok := t.Function(at); ok {
		q := strconv.Quote(name)
		s += fmt.Sprintf(" %s+%#x", q[1:len(q)-1], offset+addr-at)
	}
	return s
}
