// Package paging follows a guest's page tables, for debuggers and core dumps: long mode with four or five levels, and no
// paging at all. The tables are the guest's own, and may be anything: each level is one bounded read, and there are no
// more levels than the processor has.
package paging

import (
	"encoding/binary"
	"fmt"
)

// Tables is what a vCPU's control registers say of its page tables.
type Tables struct {
	CR0, CR3, CR4, EFER uint64
	// Read returns the 8 bytes at a guest-physical address; false where there is no memory.
	Read func(gpa uint64) (uint64, bool)
}

// Mapping is a page, or neighbouring pages with the same permissions that are neighbours in physical memory too.
type Mapping struct {
	VA, GPA, Size            uint64
	Writable, User, NX, Long bool // Long: of large pages
}

// Bits of control registers and page-table entries (AMD64 APM volume 2, sections 3.1 and 5.4).
const (
	cr0PG   = 1 << 31
	cr4LA57 = 1 << 12
	eferLMA = 1 << 10

	present  = 1 << 0
	writable = 1 << 1
	user     = 1 << 2
	large    = 1 << 7
	noExec   = 1 << 63
	address  = 0x000f_ffff_ffff_f000
)

// ModeError is paging of a kind that only 32-bit guests use.
type ModeError struct{ CR0, CR4, EFER uint64 }

func (e *ModeError) Error() string {
	return fmt.Sprintf("paging of a 32-bit guest (cr0 %#x, cr4 %#x, efer %#x), which is not supported", e.CR0, e.CR4, e.EFER)
}

// levels is the number of levels; 0 = no paging.
func (t *Tables) levels() (int, error) {
	switch {
	case t.CR0&cr0PG == 0:
		return 0, nil
	case t.EFER&eferLMA == 0:
		return 0, &ModeError{t.CR0, t.CR4, t.EFER}
	case t.CR4&cr4LA57 != 0:
		return 5, nil
	}
	return 4, nil
}

// Find returns the page that va is in; false where none is.
func (t *Tables) Find(va uint64) (Mapping, bool, error) {
	levels, err := t.levels()
	if err != nil {
		return Mapping{}, false, err
	}
	if levels == 0 {
		const most = 1 << 32 // no paging, no long mode
		page := va &^ 0xfff
		return Mapping{VA: page, GPA: page, Size: 4096, Writable: true, User: true}, va < most, nil
	}
	if width := 64 - (12 + 9*levels); va != uint64(int64(va<<width)>>width) {
		return Mapping{}, false, nil // not canonical
	}
	m := Mapping{Writable: true, User: true}
	table := t.CR3 & address
	for level := levels - 1; ; level-- {
		shift := 12 + 9*level
		e, ok := t.Read(table + va>>shift&511*8)
		if !ok || e&present == 0 {
			return Mapping{}, false, nil
		}
		m.add(e)
		if level == 0 || level <= 2 && e&large != 0 {
			m.Size, m.Long = 1<<shift, level > 0
			m.VA, m.GPA = va&^(m.Size-1), e&address&^(m.Size-1)
			return m, true, nil
		}
		table = e & address
	}
}

// add narrows m down by an entry on the way to it.
func (m *Mapping) add(e uint64) {
	m.Writable = m.Writable && e&writable != 0
	m.User = m.User && e&user != 0
	m.NX = m.NX || e&noExec != 0
}

// Limits of Each: tables of a guest that refer to themselves describe any amount of mappings.
const (
	maxEntries = 1 << 23 // entries to look at
)

// ErrTooMany is page tables that describe more than anybody wants to know.
var ErrTooMany = fmt.Errorf("page tables with more than %d entries", maxEntries)

// Each calls f for the mappings from the lowest virtual address on, with neighbours of the same kind put together,
// until it returns false. Permissions do not separate them. Without paging there are none.
func (t *Tables) Each(f func(Mapping) bool) error {
	levels, err := t.levels()
	if err != nil || levels == 0 {
		return err
	}
	w := walker{t: t, f: f, budget: maxEntries, sign: 64 - (12 + 9*levels)}
	if w.walk(t.CR3&address, levels-1, 0) && w.last.Size > 0 {
		f(w.last)
	}
	if w.budget < 0 {
		return ErrTooMany
	}
	return nil
}

type walker struct {
	t      *Tables
	f      func(Mapping) bool
	last   Mapping // not given to f yet
	budget int
	sign   int // bits above a canonical address
}

// walk goes through the table at gpa, whose entries are 1 << (12 + 9·level) bytes each; false ends the walk.
func (w *walker) walk(gpa uint64, level int, va uint64) bool {
	shift := 12 + 9*level
	for i := range uint64(512) {
		if w.budget--; w.budget < 0 {
			return false
		}
		e, ok := w.t.Read(gpa + i*8)
		if !ok {
			return true // all of the table lies outside memory
		}
		if e&present == 0 {
			continue
		}
		at := va | i<<shift
		if level > 0 && (level > 2 || e&large == 0) {
			if !w.walk(e&address, level-1, at) {
				return false
			}
			continue
		}
		at = uint64(int64(at<<w.sign) >> w.sign)
		m := Mapping{VA: at, GPA: e & address &^ (1<<shift - 1), Size: 1 << shift}
		if l := &w.last; l.Size > 0 && l.VA+l.Size == m.VA && l.GPA+l.Size == m.GPA {
			l.Size += m.Size
			continue
		}
		if w.last.Size > 0 && !w.f(w.last) {
			return false
		}
		w.last = m
	}
	return true
}

// Reader is the Read of a physical memory that answers slices.
func Reader(at func(gpa, n uint64) ([]byte, bool)) func(uint64) (uint64, bool) {
	return func(gpa uint64) (uint64, bool) {
		b, ok := at(gpa, 8)
		if !ok {
			return 0, false
		}
		return binary.LittleEndian.Uint64(b), true
	}
}
