package vmm

import (
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// An hvt guest in ring 0: 64-bit mode, identity-mapped, as Solo5's own tender
// starts it (hvt ABI 2, "Guest state at entry"). Bit names are those of the
// AMD64 Architecture Programmer's Manual, volume 2.

// Page-table entry bits (section 5.4).
const (
	pteP  = 1 << 0
	pteRW = 1 << 1
	pteA  = 1 << 5 // set beforehand, which saves the CPU the write
	ptePS = 1 << 7 // a 2 MiB page
)

// Control register values (sections 3.1 and 14.6).
const (
	ring0CR0  = 0x80010021 // PG, WP, NE, PE
	ring0CR4  = 0x620      // OSXMMEXCPT, OSFXSR, PAE
	ring0EFER = 0x500      // LMA, LME
)

// ring0GDT is the null, code and data descriptor.
var ring0GDT = [...]uint64{0, 0x00af99000000ffff, 0x00cf93000000ffff}

// bootRing0 writes GDT and page tables and sets every register.
func bootRing0(mem *memory.Memory, vcpu *kvm.VCPU, entry memory.Addr) error {
	if err := putWords(mem, gpaGDT, ring0GDT[:]); err != nil {
		return err
	}
	if err := ring0PageTables(mem); err != nil {
		return err
	}
	code := kvm.Segment{Limit: 0xffffffff, Selector: 0x08, Type: 9, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: 0x10, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	sregs := kvm.Sregs{
		CS: code, SS: data, DS: data, ES: data, FS: data, GS: data,
		TR:  kvm.Segment{Type: 11, Present: 1},
		LDT: kvm.Segment{Unusable: 1},
		GDT: kvm.DTable{Base: uint64(gpaGDT), Limit: uint16(len(ring0GDT)*8 - 1)},
		CR0: ring0CR0, CR3: uint64(gpaPML4), CR4: ring0CR4, EFER: ring0EFER,
	}
	if err := vcpu.SetSregs(&sregs); err != nil {
		return kvmError(err)
	}
	regs := kvm.Regs{
		RIP: uint64(entry), RFLAGS: 2, RDI: uint64(gpaBootInfo),
		RSP: mem.Size() - 8, // 16-byte aligned after a call, as the C ABI wants
	}
	if err := vcpu.SetRegs(&regs); err != nil {
		return kvmError(err)
	}
	return nil
}

// ring0PageTables maps all memory one to one: 2 MiB pages, but the first ones
// are of 4 KiB, where the monitor's area is absent below 0x10000 and read-only
// below 1 MiB.
func ring0PageTables(mem *memory.Memory) error {
	const table = pteP | pteRW | pteA
	pages := mem.Size() / hvtPage
	pd := make([]uint64, pages)
	for i := range pd {
		pd[i] = uint64(i)*hvtPage | pteP | pteRW | pteA | ptePS
	}
	pd[0] = uint64(gpaPT0) | table

	pdpt := make([]uint64, (pages+511)/512)
	for i := range pdpt {
		pdpt[i] = (uint64(gpaPD) + uint64(i)*memory.PageSize) | table
	}

	var pt0 [512]uint64
	for i := range pt0 {
		switch a := memory.Addr(i * memory.PageSize); {
		case a < gpaBootInfo:
		case a < gpaLowEnd:
			pt0[i] = uint64(a) | pteP | pteA
		default:
			pt0[i] = uint64(a) | pteP | pteRW | pteA
		}
	}

	for _, t := range []struct {
		at      memory.Addr
		entries []uint64
	}{{gpaPML4, []uint64{uint64(gpaPDPT) | table}}, {gpaPDPT, pdpt}, {gpaPD, pd}, {gpaPT0, pt0[:]}} {
		if err := putWords(mem, t.at, t.entries); err != nil {
			return err
		}
	}
	return nil
}

// putWords stores 64-bit little-endian words.
func putWords(mem *memory.Memory, at memory.Addr, words []uint64) error {
	b, err := mem.At(at, uint64(len(words))*8)
	if err != nil {
		return err
	}
	for i, w := range words {
		le.PutUint64(b[i*8:], w)
	}
	return nil
}
