package appscan

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// maxFile bounds a file that is looked at: the largest programs have some 200 MB.
const maxFile = 1 << 30

var errNotELF = errors.New("not an ELF file for x86-64")

// span is a part of a file that is loaded at addr.
type span struct {
	addr uint64
	data []byte
}

func (s *span) has(a uint64) bool { return a >= s.addr && a-s.addr < uint64(len(s.data)) }

// slot is a pointer that the loader fills in: the address of a function here, or
// of a symbol of any object.
type slot struct {
	symbol string
	addr   uint64
}

// object is a program or library.
type object struct {
	path    string // in the guest, without links
	label   string // the name by which it is asked for
	kind    elf.Type
	entry   uint64
	interp  string
	needed  []string
	runpath []string
	text    []span // executable
	data    []span // the rest
	slots   map[uint64]slot
	exports map[string][]uint64 // functions, by name; several if it has versions
	imports map[string]bool
	start   []uint64 // constructors and destructors
	golang  bool
	goFuncs map[uint64]goFunc
}

// program says that it can be started: it has an entry and is not a mere library.
func (o *object) program() bool {
	return o.kind == elf.ET_EXEC || o.kind == elf.ET_DYN && o.entry != 0 && o.interp != ""
}

// libc says that it belongs to the C library, which has a wrapper for every system call.
func (o *object) libc() bool {
	n := o.label
	for _, p := range []string{"libc.so", "ld-linux", "ld-musl", "libpthread.so", "librt.so", "libc-"} {
		if strings.HasPrefix(n, p) {
			return true
		}
	}
	return false
}

// in returns the bytes from a on, if spans has it.
func in(spans []span, a uint64) []byte {
	for i := range spans {
		if spans[i].has(a) {
			return spans[i].data[a-spans[i].addr:]
		}
	}
	return nil
}

// open reads the file of a resolved path.
func (r *Root) open(name string) (*object, error) {
	f, size, err := r.file(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil || string(magic[:]) != elf.ELFMAG {
		return nil, fmt.Errorf("%s: %w", name, errNotELF)
	}
	if size > maxFile {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d that are looked at", name, size, maxFile)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b[copy(b, magic[:]):]); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	o, err := parse(name, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return o, nil
}

// parse reads an ELF file.
func parse(name string, b []byte) (*object, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("%w: %v %v", errNotELF, f.Class, f.Machine)
	}
	for _, s := range f.Sections {
		// What is loaded is never compressed, and symbols and names are not.
		if s.Flags&elf.SHF_COMPRESSED != 0 && (s.Flags&elf.SHF_ALLOC != 0 || s.Type != elf.SHT_PROGBITS) {
			return nil, fmt.Errorf("section %s is compressed", s.Name)
		}
	}
	o := &object{path: name, label: path.Base(name), kind: f.Type, entry: f.Entry, slots: map[uint64]slot{}, exports: map[string][]uint64{}, imports: map[string]bool{}}
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD && p.Type != elf.PT_INTERP {
			continue
		}
		if p.Off > uint64(len(b)) || p.Filesz > uint64(len(b))-p.Off {
			return nil, fmt.Errorf("a segment of %d bytes at %d lies beyond the file's %d", p.Filesz, p.Off, len(b))
		}
		part := span{p.Vaddr, b[p.Off:][:p.Filesz]}
		switch {
		case p.Type == elf.PT_INTERP:
			o.interp, _, _ = strings.Cut(string(part.data), "\x00")
		case p.Flags&elf.PF_X != 0:
			o.text = append(o.text, part)
		default:
			o.data = append(o.data, part)
		}
	}
	// Without a dynamic section there are none of these, which is no error.
	o.needed, _ = f.ImportedLibraries()
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		words, _ := f.DynString(tag)
		for _, w := range words {
			o.runpath = append(o.runpath, strings.Split(w, ":")...)
		}
	}
	for _, tag := range []elf.DynTag{elf.DT_INIT, elf.DT_FINI} {
		values, _ := f.DynValue(tag)
		o.start = append(o.start, values...)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, err
	}
	for _, s := range symbols {
		const ifunc = 10 // STT_GNU_IFUNC
		switch t := elf.ST_TYPE(s.Info); {
		case s.Section == elf.SHN_UNDEF:
			o.imports[s.Name] = true
		case t == elf.STT_FUNC || t == ifunc || t == elf.STT_NOTYPE && in(o.text, s.Value) != nil:
			o.exports[s.Name] = append(o.exports[s.Name], s.Value)
		}
	}
	if err := o.relocate(f, symbols); err != nil {
		return nil, err
	}
	o.readGo(f)
	return o, nil
}

// relocate fills slots from the relocations.
func (o *object) relocate(f *elf.File, symbols []elf.Symbol) error {
	for _, s := range f.Sections {
		if s.Type == elf.SHT_INIT_ARRAY || s.Type == elf.SHT_FINI_ARRAY {
			defer func(addr, size uint64) {
				for a, sl := range o.slots {
					if a >= addr && a-addr < size && sl.symbol == "" {
						o.start = append(o.start, sl.addr)
					}
				}
			}(s.Addr, s.Size)
		}
		const relr = 19 // SHT_RELR
		if s.Type != elf.SHT_RELA && s.Type != relr || s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		b, err := s.Data()
		if err != nil {
			return fmt.Errorf("section %s: %w", s.Name, err)
		}
		if s.Type == relr {
			o.relative(b)
			continue
		}
		for ; len(b) >= 24; b = b[24:] {
			at, info, addend := f.ByteOrder.Uint64(b), f.ByteOrder.Uint64(b[8:]), f.ByteOrder.Uint64(b[16:])
			sym := elf.R_SYM64(info)
			switch elf.R_X86_64(elf.R_TYPE64(info)) {
			case elf.R_X86_64_RELATIVE, elf.R_X86_64_IRELATIVE:
				o.slots[at] = slot{addr: addend}
			case elf.R_X86_64_GLOB_DAT, elf.R_X86_64_JMP_SLOT, elf.R_X86_64_64:
				if sym == 0 || uint64(sym) > uint64(len(symbols)) {
					return fmt.Errorf("section %s: a relocation names symbol %d of %d", s.Name, sym, len(symbols))
				}
				o.slots[at] = slot{symbol: symbols[sym-1].Name}
			}
		}
	}
	return nil
}

// relative reads compact relative relocations (System V ABI, DT_RELR): an even
// word is an address, an odd one says which of the 63 words after it are too.
func (o *object) relative(b []byte) {
	at := uint64(0)
	add := func(a uint64) {
		if d := in(o.data, a); len(d) >= 8 {
			o.slots[a] = slot{addr: le64(d)}
		}
	}
	for ; len(b) >= 8; b = b[8:] {
		w := le64(b)
		if w&1 == 0 {
			add(w)
			at = w + 8
			continue
		}
		for i := uint64(0); i < 63; i++ {
			if w>>(i+1)&1 != 0 {
				add(at + i*8)
			}
		}
		at += 63 * 8
	}
}

func le64(b []byte) uint64 {
	_ = b[7]
	v := uint64(0)
	for i := 7; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}
