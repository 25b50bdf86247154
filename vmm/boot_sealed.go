package vmm

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// A sealed hvt guest runs in ring 3, under tables that it cannot reach. What the
// processor needs in ring 0 lies in supervisor pages below the boot
// information; docs/sealed.md has the picture.
const (
	sealedIDT   memory.Addr = 0x9000 // 256 gates of 16 bytes
	sealedStubs memory.Addr = 0xa000 // 256 stubs of 4 bytes
	sealedTSS   memory.Addr = 0xb000
	sealedStack memory.Addr = 0xd000 // first address after the ring-0 stack's page
	sealedLowPT memory.Addr = 0xd000 // page tables besides the first one, up to gpaBootInfo

	// sealedHighPT is where page tables lie that do not fit below: a memory slot
	// of its own beyond what any hvt guest can have.
	sealedHighPT memory.Addr = hvtMaxMem
)

// lowTables is the number of page tables at sealedLowPT.
const lowTables = int((gpaBootInfo - sealedLowPT) / memory.PageSize)

// tableAddr is where the n-th page table lies; the first one is gpaPT0.
func tableAddr(n int) memory.Addr {
	switch {
	case n == 0:
		return gpaPT0
	case n <= lowTables:
		return sealedLowPT + memory.Addr(n-1)*memory.PageSize
	}
	return sealedHighPT + memory.Addr(n-1-lowTables)*memory.PageSize
}

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

	cr4UMIP = 1 << 11
	cr4SMEP = 1 << 20
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
// the hypercalls. A 32-bit access needs the bits of four ports.
var sealedPorts = [...][2]uint16{{0x3f0, 0x3f0}, {0x501, 0x508 + 3}}

// bootSealed writes tables and stubs and sets every register.
func (vm *VM) bootSealed(img *loader.Image, cpuid *kvm.CPUID) error {
	mem := vm.mem
	maps := hvtMap(img, mem.Size())
	if err := vm.sealedPageTables(maps); err != nil {
		return err
	}
	tss := sealedTSSBytes()
	gdt := []uint64{
		0,
		0x00af9b000000ffff, // 0x08: 64-bit code, ring 0
		0x00cff3000000ffff, // 0x10: data, ring 3
		0x00affb000000ffff, // 0x18: 64-bit code, ring 3
		0x00008b0000000000 | uint64(sealedTSS)<<16 | uint64(len(tss)-1), 0, // 0x20: busy TSS
	}
	if err := putWords(mem, gpaGDT, gdt); err != nil {
		return err
	}
	for _, part := range []struct {
		at   memory.Addr
		data []byte
	}{{sealedTSS, tss}, {sealedIDT, sealedIDTBytes()}, {sealedStubs, sealedStubBytes()}} {
		b, err := mem.At(part.at, uint64(len(part.data)))
		if err != nil {
			return err
		}
		copy(b, part.data)
	}
	if err := vm.vcpu.SetMSR(msrLSTAR, syscallSentinel); err != nil {
		return kvmError(err)
	}
	cr4 := sealedCR4(cpuid)
	keys := usesKeys(img)
	if keys {
		cr4 |= cr4PKE
	}
	vm.sealed = newSealed(vm, cr4, uint32(len(tss)-1))
	sregs := vm.sealed.userSregs
	if err := vm.vcpu.SetSregs(&sregs); err != nil {
		if keys && errors.Is(err, syscall.EINVAL) {
			return noKeys("CR4.PKE is refused")
		}
		return kvmError(err)
	}
	if keys {
		if err := vm.keysOn(img, maps); err != nil {
			return err
		}
	}
	regs := kvm.Regs{
		RIP: uint64(img.Entry), RFLAGS: 2, RDI: uint64(gpaBootInfo), RSP: mem.Size() - 8,
	}
	if err := vm.vcpu.SetRegs(&regs); err != nil {
		return kvmError(err)
	}
	return nil
}

// sealedCR4 adds to the guest's CR4 what the processor offers to keep rings
// apart. Not SMAP: the stubs touch no memory of the guest, and QEMU's emulation
// takes a far return in ring 3 for an access of ring 0.
func sealedCR4(cpuid *kvm.CPUID) uint64 {
	cr4 := uint64(ring0CR4)
	for _, e := range cpuid.Entries() {
		if e.Function != 7 || e.Index != 0 {
			continue
		}
		for _, f := range []struct {
			has bool
			bit uint64
		}{{e.EBX>>7&1 != 0, cr4SMEP}, {e.ECX>>2&1 != 0, cr4UMIP}} {
			if f.has {
				cr4 |= f.bit
			}
		}
	}
	return cr4
}

// sealedTSSBytes is a 64-bit TSS (AMD64 APM volume 2, section 12.2.5): the ring-0
// stack, and the I/O permission bitmap, which ends with the highest open port
// and the byte of ones that the processor wants after it.
func sealedTSSBytes() []byte {
	const fixed = 104
	last := sealedPorts[len(sealedPorts)-1][1]
	b := make([]byte, fixed+int(last)/8+1+1)
	le.PutUint64(b[4:], uint64(sealedStack)) // RSP0
	le.PutUint16(b[102:], fixed)             // where the bitmap starts
	bitmap := b[fixed:]
	for i := range bitmap {
		bitmap[i] = 0xff
	}
	for _, r := range sealedPorts {
		for p := r[0]; p <= r[1]; p++ {
			bitmap[p/8] &^= 1 << (p % 8)
		}
	}
	return b
}

// sealedIDTBytes is 256 interrupt gates (section 4.8.4), each to its stub. #BP
// and #OF may be raised by INT3 and INTO in ring 3, as the guest expects.
func sealedIDTBytes() []byte {
	b := make([]byte, 256*16)
	for v := range 256 {
		stub := uint64(sealedStubs) + uint64(v)*stubSize
		typ := uint64(0x8e)
		if v == vecBP || v == vecOF {
			typ |= 3 << 5
		}
		le.PutUint64(b[v*16:], stub&0xffff|selKernelCode<<16|typ<<40|stub>>16<<48)
		le.PutUint64(b[v*16+8:], stub>>32)
	}
	return b
}

// sealedStubBytes is, for each vector v, out v, al; hlt; nop.
func sealedStubBytes() []byte {
	b := make([]byte, 256*stubSize)
	for v := range 256 {
		copy(b[v*stubSize:], []byte{0xe6, byte(v), 0xf4, 0x90})
	}
	return b
}

// mapping is a range of guest memory with one set of permissions.
type mapping struct {
	start, end memory.Addr
	perm       memory.Perm
	exec       bool
	key        uint8 // protection key
}

// entry is the mapping's page-table entry for an address inside it.
func (m *mapping) entry(a memory.Addr) uint64 {
	if m.perm == 0 {
		return 0
	}
	e := uint64(a) | pteP | pteU | pteA | uint64(m.key)<<pteKey
	if m.perm&memory.Write != 0 {
		e |= pteRW | pteD
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

// sealedPageTables maps the guest's memory one to one with its permissions, and
// the monitor's part for ring 0 only: 4 KiB pages where permissions change
// inside 2 MiB, 2 MiB pages elsewhere.
func (vm *VM) sealedPageTables(maps []mapping) error {
	const table = pteP | pteRW | pteU | pteA
	mem := vm.mem
	regions := int(mem.Size() / hvtPage)
	pd := make([]uint64, regions)
	tables := [][]uint64{make([]uint64, 512)} // the first 2 MiB always have one
	pd[0] = uint64(tableAddr(0)) | table
	for a := gpaGDT; a < gpaBootInfo; a += memory.PageSize {
		e := uint64(a) | pteP | pteRW | pteA | pteD | pteNX
		if a == sealedStubs {
			e &^= pteNX | pteRW | pteD
		}
		tables[0][a/memory.PageSize] = e
	}
	for i := range maps {
		m := &maps[i]
		for a := m.start; a < m.end; {
			r := int(a / hvtPage)
			if a.Aligned(hvtPage) && m.end-a >= hvtPage && r > 0 {
				if e := m.entry(a); e != 0 {
					pd[r] = e | ptePS
				}
				a += hvtPage
				continue
			}
			if pd[r] == 0 { // regions come in order: the last table is this one's
				pd[r] = uint64(tableAddr(len(tables))) | table
				tables = append(tables, make([]uint64, 512))
			}
			tables[len(tables)-1][a%hvtPage/memory.PageSize] = m.entry(a)
			a += memory.PageSize
		}
	}
	if err := vm.placeTables(tables); err != nil {
		return err
	}
	pdpt := make([]uint64, (regions+511)/512)
	for i := range pdpt {
		pdpt[i] = (uint64(gpaPD) + uint64(i)*memory.PageSize) | table
	}
	for _, t := range []struct {
		at      memory.Addr
		entries []uint64
	}{{gpaPML4, []uint64{uint64(gpaPDPT) | table}}, {gpaPDPT, pdpt}, {gpaPD, pd}} {
		if err := putWords(mem, t.at, t.entries); err != nil {
			return err
		}
	}
	return nil
}

// placeTables stores the page tables where tableAddr says: what does not fit
// into low memory goes to a memory slot of its own, which no address of the
// guest's reaches.
func (vm *VM) placeTables(tables [][]uint64) (err error) {
	low := min(len(tables), 1+lowTables)
	for n, t := range tables[:low] {
		if err := putWords(vm.mem, tableAddr(n), t); err != nil {
			return err
		}
	}
	high := tables[low:]
	if len(high) == 0 {
		return nil
	}
	if vm.tables, err = memory.New(uint64(len(high)) * memory.PageSize); err != nil {
		return &HostError{What: "memory", Err: err}
	}
	for i, t := range high {
		if err := putWords(vm.tables, memory.Addr(i*memory.PageSize), t); err != nil {
			return err
		}
	}
	if err := vm.kvm.SetMemory(1, uint64(sealedHighPT), vm.tables.Host()); err != nil {
		return kvmError(fmt.Errorf("page tables: %w", err))
	}
	return nil
}
