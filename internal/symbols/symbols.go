// Package symbols names addresses of a guest by the symbols of its kernel file, and makes stack traces of them. It is used
// when a guest has ended badly, so it takes its time then and costs nothing before.
package symbols

import (
	"cmp"
	"debug/dwarf"
	"debug/elf"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Table is what a kernel file says of its code.
type Table struct {
	funcs []function // by address
	text  [][2]uint64
	lines *dwarf.Data // nil = none
}

type function struct {
	addr, size uint64
	name       string
}

// Open reads an ELF file. The file is not trusted: what cannot be made sense of is an error, or is not there.
func Open(path string) (t *Table, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("symbols of %s: %v", path, p)
		}
	}()
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("symbols of %s: %w", path, err)
	}
	defer f.Close()
	t = &Table{}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && p.Vaddr+p.Memsz > p.Vaddr {
			t.text = append(t.text, [2]uint64{p.Vaddr, p.Vaddr + p.Memsz})
		}
	}
	syms, err := f.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, fmt.Errorf("symbols of %s: %w", path, err)
	}
	for _, s := range syms {
		if typ := elf.ST_TYPE(s.Info); (typ == elf.STT_FUNC || typ == elf.STT_NOTYPE) && t.IsText(s.Value) && s.Name != "" {
			t.funcs = append(t.funcs, function{s.Value, s.Size, s.Name})
		}
	}
	// Of several names of an address, one that has a size is the function's.
	slices.SortStableFunc(t.funcs, func(a, b function) int { return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.size, b.size)) })
	if f.Section(".debug_line") != nil {
		t.lines, _ = f.DWARF()
	}
	return t, nil
}

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

// Line is the source line of addr, where the file has debug information.
func (t *Table) Line(addr uint64) (file string, line int, ok bool) {
	defer func() {
		if recover() != nil {
			file, line, ok = "", 0, false
		}
	}()
	if t.lines == nil || !t.IsText(addr) {
		return "", 0, false
	}
	unit, err := t.lines.Reader().SeekPC(addr)
	if err != nil {
		return "", 0, false
	}
	r, err := t.lines.LineReader(unit)
	if err != nil || r == nil {
		return "", 0, false
	}
	var e dwarf.LineEntry
	if r.SeekPC(addr, &e) != nil || e.File == nil {
		return "", 0, false
	}
	return filepath.Clean(e.File.Name), e.Line, true
}

// Describe is addr with its function and line, as far as they are known. A return address belongs to the call before it.
func (t *Table) Describe(addr uint64, isReturn bool) string {
	s, at := fmt.Sprintf("0x%016x", addr), addr
	if isReturn {
		at--
	}
	if name, offset, ok := t.Function(at); ok {
		s += fmt.Sprintf(" %s+%#x", name, offset+addr-at)
	}
	if file, line, ok := t.Line(at); ok {
		s += fmt.Sprintf(" (%s:%d)", file, line)
	}
	return s
}
