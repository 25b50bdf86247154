package vmm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// A sealed hvt guest runs in ring 3, under tables that it cannot reach. What the
// processor needs in ring 0 lies in supervisor pages below the boot
// information; docs/sealed.md has the picture.
const (
	sealedIDT   memory.Addr = 0xc000 // 256 gates of 16 bytes
	sealedStubs memory.Addr = 0xd000 // 256 stubs of 4 bytes
	sealedTSS   memory.Addr = 0xe000
	sealedStack memory.Addr = 0x10000 // first address after the ring-0 stack's page
)

// sealedVectors is the number of exceptions and interrupts, and so of the ports
// by which the stubs tell them. The guest itself cannot reach these ports.
const sealedVectors = 256

// Selectors of the sealed GDT.
const (
	selKernelCode = 0x08 // the stubs
	selUserData   = 0x10 | 3
	selUserCode   = 0x18 | 3
	selTSS        = 0x20
)

const (
	pteU  = 1 << 2
	pteD  = 1 << 6
	pteNX = 1 << 63
)

const (
	sealedEFER = 0xd00 // NXE, LMA, LME; no SCE

	// Positions in CR4.
	cr4UMIP = 11
	cr4SMEP = 20
	cr4SMAP = 21
)

// MSR numbers (AMD64 APM volume 2, appendix A).
const (
	msrLSTAR  = 0xc0000082
	msrFSBase = 0xc0000100
	msrGSBase = 0xc0000101
)

// syscallSentinel is LSTAR: where a stray SYSCALL lands on a KVM that does not
// honour EFER.SCE = 0 in ring 3. Nothing is mapped there.
const syscallSentinel = 0xffff_8000_0000_0000

// stubSize is the size of a stub: out imm8, al; then hlt, which is never
// reached, because the monitor moves the vCPU elsewhere.
const stubSize = 4

// sealedPorts are the ports that the I/O permission bitmap opens: boot marks, and
// the hypercalls, and the network ring's doorbell, on which the bus has the last
// word. A 32-bit access needs the bits of four ports.
var sealedPorts = [...][2]uint16{{0x3f0, 0x3f0}, {0x501, hypercall.LastPort + 3}, {ringPort, lastPort}}

const (
	lastPort      = ringPort + 3
	tssFixed      = 104 // bytes of the TSS before the bitmap
	sealedTSSSize = tssFixed + lastPort/8 + 1 + 1
)

// bootSealed writes tables and stubs and sets every register.
func (vm *VM) bootSealed(img *loader.Image, cpuid *kvm.CPUID) error {
	maps := hvtMap(img, vm.mem.Size())
	low, err := vm.pageTables(maps, pteP|pteU|pteA, pteRW|pteD)
	if err != nil {
		return err
	}
	for a := gpaGDT; a < gpaBootInfo; a += memory.PageSize {
		e := uint64(a) | pteP | pteRW | pteA | pteD | pteNX
		if a == sealedStubs {
			e = uint64(a) | pteP | pteA
		}
		le.PutUint64(low[gpaPT0+a/memory.PageSize*8:], e)
	}
	copy(low[gpaGDT:], le64s(
		0,
		0x00af9b000000ffff, // 0x08: 64-bit code, ring 0
		0x00cff3000000ffff, // 0x10: data, ring 3
		0x00affb000000ffff, // 0x18: 64-bit code, ring 3
		0x00008b0000000000|uint64(sealedTSS)<<16|(sealedTSSSize-1), 0, // 0x20: busy TSS
	))
	fillTSS(low[sealedTSS:])
	fillIDT(low[sealedIDT:], low[sealedStubs:])
	cr4 := sealedCR4(cpuid, vm.cfg.TSSAvailable)
	keys := usesKeys(img)
	if keys {
		cr4 |= cr4PKE
	}
	vm.sealed = newSealed(vm, cr4)
	if err := vm.vcpu.SetSregs(&vm.sealed.userSregs); err != nil {
		if keys && errors.Is(err, syscall.EINVAL) {
			return noKeys("CR4.PKE is refused")
		}
		return err
	}
	if keys {
		if vm.code, err = hvtView(vm.mem, img, true); err != nil {
			return err
		}
		vm.keyed = slices.DeleteFunc(slices.Clone(maps), func(m mapping) bool { return m.key == 0 })
		vm.warnLiftable()
		if err := vm.sealed.enableKeys(maps, vm.keyed); err != nil {
			return err
		}
	}
	return cmp.Or(vm.vcpu.SetMSR(msrLSTAR, syscallSentinel), vm.vcpu.SetRegs(vm.entryRegs(img.Entry)))
}

// sealedCR4 adds to the guest's CR4 what the processor offers to keep rings
// apart: ring 0 neither executes nor reads what is the guest's.
func sealedCR4(cpuid *kvm.CPUID, qemu bool) uint64 {
	cr4 := uint64(ring0CR4)
	for _, e := range cpuid.Entries() {
		if e.Function == 7 && e.Index == 0 {
			cr4 |= uint64(e.EBX>>7&1)<<cr4SMEP | uint64(e.ECX>>2&1)<<cr4UMIP
			if !qemu { // whose emulation takes a far return in ring 3 for an access of ring 0
				cr4 |= uint64(e.EBX>>20&1) << cr4SMAP
			}
		}
	}
	return cr4
}

// fillTSS writes a 64-bit TSS (AMD64 APM volume 2, section 12.2.5): the ring-0
// stack, and the I/O permission bitmap, which ends with the highest open port
// and the byte of ones that the processor wants after it.
func fillTSS(b []byte) {
	le.PutUint64(b[4:], uint64(sealedStack)) // RSP0
	le.PutUint16(b[102:], tssFixed)          // where the bitmap starts
	bitmap := b[tssFixed:sealedTSSSize]
	fill(bitmap, 0xff)
	for _, r := range sealedPorts {
		for p := r[0]; p <= r[1]; p++ {
			bitmap[p/8] &^= 1 << (p % 8)
		}
	}
}

// fillIDT writes 256 interrupt gates (section 4.8.4), each to its stub, which is,
// for vector v, out v, al; hlt. #BP and #OF may be raised by INT3 and INTO in
// ring 3, as the guest expects.
func fillIDT(idt, stubs []byte) {
	for v := range uint64(sealedVectors) {
		stub := uint64(sealedStubs) + v*stubSize
		typ := uint64(0x8e)
		if v == vecBP || v == vecOF {
			typ |= 3 << 5
		}
		le.PutUint64(idt[v*16:], stub|selKernelCode<<16|typ<<40) // stubs lie below 64 KiB
		le.PutUint32(stubs[v*stubSize:], uint32(0xf400e6|v<<8))
	}
}

// mapping is a range of guest memory with one set of permissions.
type mapping struct {
	start, end memory.Addr
	perm       memory.Perm
	exec       bool
	key        uint8 // protection key
}

// entry is the mapping's page-table entry for an address inside it. base are the
// bits of every entry, write those of a writable one.
func (m *mapping) entry(a memory.Addr, base, write uint64) uint64 {
	if m.perm == 0 {
		return 0
	}
	e := uint64(a) | base | uint64(m.key)<<pteKey
	if m.perm&memory.Write != 0 {
		e |= write
	}
	if !m.exec {
		e |= pteNX
	}
	return e
}

// hvtMap is the memory of an hvt guest from end to end: boot information,
// segments, and writable memory around them.
func hvtMap(img *loader.Image, size uint64) []mapping {
	m := []mapping{{start: gpaBootInfo, end: gpaLowEnd, perm: memory.Read}}
	at := gpaLowEnd
	add := func(end memory.Addr, perm memory.Perm, exec bool, key uint8) {
		if end <= at {
			return
		}
		// One mapping for what has the same permissions keeps its pages large.
		if last := &m[len(m)-1]; last.end == at && last.perm == perm && last.exec == exec && last.key == key {
			last.end = end
		} else {
			m = append(m, mapping{at, end, perm, exec, key})
		}
		at = end
	}
	for i := range img.Segments {
		s := &img.Segments[i]
		add(s.Start(), memory.ReadWrite, false, 0)
		add(s.End(), s.Perm(), s.X, s.Key)
	}
	add(memory.Addr(size), memory.ReadWrite, false, 0)
	return m
}

// pageTables maps the guest's memory one to one with its permissions: 4 KiB pages
// where these change inside 2 MiB, 2 MiB pages elsewhere. maps have no gap. It
// returns low memory, where the tables start. Memory is zero before.
func (vm *VM) pageTables(maps []mapping, base, write uint64) (low []byte, err error) {
	const gib = 1 << 30
	if vm.cfg.NetRing != nil {
		maps = append(slices.Clip(maps), mapping{start: vm.ringAt() - hvtPage, end: vm.ringAt()}, mapping{start: vm.ringAt(), end: vm.ringAt() + ringSize, perm: memory.ReadWrite, exec: vm.cfg.Ring == Ring0})
	}
	if low, err = vm.mem.At(0, uint64(gpaBootInfo)); err != nil {
		return nil, err
	}
	// One directory for each GiB, and two tables for each mapping, at the most.
	pages := tablePages{vm: vm, most: vm.mem.Size()/gib + 1 + 2*uint64(len(maps)), entry: base | pteRW}
	le.PutUint64(low[gpaPML4:], uint64(gpaPDPT)|pages.entry)
	var pd, pt []byte
	for i := range maps {
		m := &maps[i]
		for a := m.start; a < m.end; {
			if pd == nil || a.Aligned(gib) {
				if pd, err = pages.next(gpaPD, &pages.directories, low[gpaPDPT+a/gib*8:]); err != nil {
					return nil, err
				}
			}
			e, slot := m.entry(a, base, write), pd[a%gib/hvtPage*8:]
			if a.Aligned(hvtPage) && m.end-a >= hvtPage {
				if e != 0 {
					le.PutUint64(slot, e|ptePS)
				}
				a += hvtPage
				continue
			}
			if pt == nil || a.Aligned(hvtPage) {
				if pt, err = pages.next(gpaPT0, &pages.tables, slot); err != nil {
					return nil, err
				}
			}
			le.PutUint64(pt[a%hvtPage/memory.PageSize*8:], e)
			a += memory.PageSize
		}
	}
	return low, nil
}

// tablePages hands out pages for page tables and directories.
type tablePages struct {
	vm                        *VM
	most                      uint64 // pages in all
	entry                     uint64 // bits of the entries that lead to them
	directories, tables, high uint64 // handed out; high: of vm.tables
}

// next is the next page of a kind, of which n were handed out, and enters it in
// parent. Four lie from first on, the others above all that the guest has, in a
// memory slot that no address of the guest's reaches.
func (t *tablePages) next(first memory.Addr, n *uint64, parent []byte) (b []byte, err error) {
	vm := t.vm
	if *n++; *n <= 4 {
		at := first + memory.Addr(*n-1)*memory.PageSize
		le.PutUint64(parent, uint64(at)|t.entry)
		return vm.mem.At(at, memory.PageSize)
	}
	if vm.tables == nil {
		if vm.tables, err = memory.New(t.most * memory.PageSize); err != nil {
			return nil, &HostError{What: "memory", Err: err}
		}
		vm.closers = append(vm.closers, vm.tables)
		if err := vm.kvm.SetMemory(1, uint64(vm.tablesAt()), vm.tables.Host()); err != nil {
			return nil, fmt.Errorf("page tables: %w", err)
		}
	}
	at := memory.Addr(t.high * memory.PageSize)
	t.high++
	le.PutUint64(parent, uint64(vm.tablesAt()+at)|t.entry)
	return vm.tables.At(at, memory.PageSize)
}

// tablesAt is where the memory slot of page tables starts that do not fit below
// the guest.
func (vm *VM) tablesAt() memory.Addr { return memory.Addr(max(hvtMaxMem, vm.mem.Size()+2*hvtPage)) }
