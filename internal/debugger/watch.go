package debugger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/uvm-monitor/uvm/internal/gdb"
	"github.com/uvm-monitor/uvm/memory"
	"github.com/uvm-monitor/uvm/vmm"
)

// Watchpoints of a sealed guest: it runs under a second set of page tables, which lead to the same memory but protect the pages that something
// is watched in. An access to one of them faults, is let through under the guest's own tables for one instruction, and is
// looked at. The second set lies in a memory slot of its own, beyond all that the guest has.
const (
	watchSlot  = 100
	watchAt    = 128 << 30
	watchPages = 256

	pteP  = 1 << 0
	pteRW = 1 << 1
	ptePS = 1 << 7
	pteGP = 0x000f_ffff_ffff_f000
)

// maxAccess is how many bytes one access may have, at most, to count for what lies behind its first byte.
const maxAccess = 8

// watch adds p.
func (d *Debugger) watch(m *vmm.Machine, p *point) error {
	if p.size == 0 || p.size > maxWatch {
		return fmt.Errorf("a watchpoint of %d bytes: want 1 to %d", p.size, maxWatch)
	}
	p.value = make([]byte, p.size)
	t, err := d.mem.tables(m, m.VCPUs[0], d.plainCR3)
	if err == nil {
		_, err = d.mem.readVirtual(m, t, p.addr, p.value)
	}
	if err != nil {
		return err
	}
	d.points[p.pointKey] = p
	if err := d.buildWatch(m); err != nil {
		delete(d.points, p.pointKey)
		return errors.Join(err, d.buildWatch(m))
	}
	return nil
}

// watches says whether an access to addr faults because of a watchpoint.
func (d *Debugger) watches(addr uint64, write bool) bool {
	for _, p := range d.points {
		if p.value != nil && (write || p.kind != gdb.WatchWrite) && addr>>12 >= p.addr>>12 && addr>>12 <= (p.addr+p.size-1)>>12 {
			return true
		}
	}
	return false
}

// watchHit is the watchpoint that an access has hit, now that it has happened: it touched what is watched, or it has
// changed it.
func (d *Debugger) watchHit(a *access) (hit *point) {
	if a == nil {
		return nil
	}
	for _, p := range d.points {
		if p.value == nil {
			continue
		}
		now := make([]byte, p.size)
		if host, err := d.m.Memory.At(memory.Addr(p.addr), p.size); err != nil || d.mem.read(now, host) != nil {
			continue
		}
		changed := !bytes.Equal(now, p.value)
		p.value = now
		touched := a.addr < p.addr+p.size && p.addr < a.addr+maxAccess
		wanted := p.kind == gdb.WatchAccess || a.write == (p.kind == gdb.WatchWrite)
		if (touched || changed) && wanted {
			hit = p
		}
	}
	return hit
}

// watchTables builds page tables in a memory of their own.
type watchTables struct {
	d    *Debugger
	m    *vmm.Machine
	used uint64 // pages
}

// buildWatch makes the second set of tables anew, after a watchpoint has come or gone.
func (d *Debugger) buildWatch(m *vmm.Machine) error {
	d.watchCR3 = 0
	w := &watchTables{d: d, m: m}
	for _, p := range d.points {
		if p.value == nil {
			continue
		}
		if d.watchMem == nil {
			mem, err := memory.New(watchPages * memory.PageSize)
			if err != nil {
				return err
			}
			d.watchMem = mem
		}
		if w.used == 0 {
			if _, err := w.clone(d.plainCR3); err != nil {
				return err
			}
		}
		for page := p.addr &^ 0xfff; page < p.addr+p.size; page += 4096 {
			if err := w.protect(page, p.kind == gdb.WatchWrite); err != nil {
				return err
			}
		}
	}
	if w.used == 0 {
		return nil
	}
	// KVM keeps shadows of page tables, which it does not see change from here. It drops them with the slot.
	if err := m.VM.SetMemory(watchSlot, watchAt, nil); err != nil && d.slotted {
		return err
	}
	if err := m.VM.SetMemory(watchSlot, watchAt, d.watchMem.Host()); err != nil {
		return err
	}
	d.slotted, d.watchCR3 = true, watchAt
	return nil
}

// page is the next free page, and its guest-physical address.
func (w *watchTables) page() ([]byte, uint64, error) {
	if w.used == watchPages {
		return nil, 0, fmt.Errorf("watchpoints in too many pages: their page tables need more than %d", watchPages)
	}
	b, err := w.d.watchMem.At(memory.Addr(w.used*memory.PageSize), memory.PageSize)
	w.used++
	return b, watchAt + (w.used-1)*memory.PageSize, err
}

// clone copies one of the guest's tables.
func (w *watchTables) clone(gpa uint64) (uint64, error) {
	b, at, err := w.page()
	host, ok := physical(w.m, gpa&pteGP, memory.PageSize)
	if err == nil && !ok {
		err = fmt.Errorf("page table at %#x: no memory", gpa&pteGP)
	}
	if err == nil {
		err = w.d.mem.read(b, host)
	}
	return at, err
}

// protect takes a page away, or makes it read-only, with tables of its own on the way to it.
func (w *watchTables) protect(va uint64, readable bool) error {
	table := uint64(watchAt)
	for level := 3; ; level-- {
		b, err := w.d.watchMem.At(memory.Addr(table-watchAt+va>>(12+9*level)&511*8), 8)
		if err != nil {
			return err
		}
		e := binary.LittleEndian.Uint64(b)
		var child uint64
		switch {
		case e&pteP == 0 && level > 0:
			return fmt.Errorf("%#x: %w", va, errNoMemory)
		case level == 0:
			if e &^= pteRW; !readable {
				e &^= pteP
			}
			binary.LittleEndian.PutUint64(b, e)
			return nil
		case e&ptePS != 0 && level <= 2:
			child, err = w.split(e, level)
		case e&pteGP >= watchAt:
			table = e & pteGP
			continue
		default:
			child, err = w.clone(e)
		}
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(b, child|e&^(pteGP|ptePS))
		table = child
	}
}

// split makes a table of the next smaller pages out of a large one.
func (w *watchTables) split(e uint64, level int) (uint64, error) {
	b, at, err := w.page()
	if err != nil {
		return 0, err
	}
	if level == 1 {
		e &^= ptePS
	}
	for i := range uint64(512) {
		binary.LittleEndian.PutUint64(b[i*8:], e+i<<(12+9*(level-1)))
	}
	return at, nil
}
