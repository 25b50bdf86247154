package vmm

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// What every hvt guest finds in memory, whatever ring it runs in.

var le = binary.LittleEndian

// hvtCmdlineSize is the room for the command line with its NUL.
const hvtCmdlineSize = 8192

// hvtBootInfoSize is the size of struct hvt_boot_info (hvt ABI 2) in bytes, with the
// tail that newer guests read.
const hvtBootInfoSize = 56

// checkCommandLine holds the line that messages call what against its limit.
func checkCommandLine(what, line string, limit int) error {
	if len(line) > limit {
		return &CommandLineError{Len: len(line), Max: limit}
	}
	if i := strings.IndexByte(line, 0); i >= 0 {
		return configError("%s: a NUL byte at position %d", what, i)
	}
	return nil
}

// CommandLineError is a guest command line that is too long.
type CommandLineError struct{ Len, Max int } // bytes

func (e *CommandLineError) Error() string {
	return fmt.Sprintf("guest arguments: %d bytes, the limit is %d", e.Len, e.Max)
}

// writeBootInfo stores the structure that the guest finds by RDI, the manifest and
// the command line one after the other from gpaBootInfo on.
func (vm *VM) writeBootInfo(kernelEnd memory.Addr, tscHz uint64, img *loader.Image, cmdline string) error {
	mft, at, features, ring := img.Manifest.Encode(), uint64(gpaBootInfo)+hvtBootInfoSize, uint64(0), memory.Addr(0)
	if vm.cfg.NetRing != nil {
		features, ring = hypercall.FeatureRing, vm.ringAt()
	}
	if img.Native != nil {
		features |= hypercall.FeatureBatch
	}
	// Memory is zero: the command line is terminated.
	info := le64s(vm.mem.Size(), uint64(kernelEnd), tscHz, at+uint64(len(mft)), at, features, uint64(ring))
	return vm.mem.Put(gpaBootInfo, info, mft, []byte(cmdline))
}

// hvtView is what an hvt guest may reach: the boot information, its segments
// as they ask for, and the rest of memory above 1 MiB. Low memory with the
// page tables stays out, though a guest in ring 0 could map it; so does memory
// with a protection key, since whether the guest may reach that changes with PKRU.
// What instructions can be fetched from has executable segments with a key as well;
// the decoder and fault reports look through that view, never a hypercall.
func hvtView(mem *memory.Memory, img *loader.Image, fetch bool) (v *memory.View, err error) {
	v = memory.NewView(mem)
	for _, m := range hvtMap(img, mem.Size()) {
		if m.key == 0 || fetch && m.exec {
			err = cmp.Or(err, v.Grant(m.start, m.end, m.perm))
		}
	}
	return v, err
}

// protectSegments gives the host's pages the permissions of the segments, so
// that they hold for a ring-0 guest too.
func protectSegments(mem *memory.Memory, img *loader.Image) (err error) {
	for i := range img.Segments {
		if s := &img.Segments[i]; s.Perm() != memory.ReadWrite {
			err = cmp.Or(err, mem.Protect(s.Start(), uint64(s.End()-s.Start()), s.Perm()))
		}
	}
	return err
}

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

// ring0Map is all memory but the monitor's, which is absent below 0x10000 and
// read-only below 1 MiB.
func ring0Map(size uint64) []mapping {
	return []mapping{
		{start: gpaBootInfo, end: gpaLowEnd, perm: memory.Read, exec: true},
		{start: gpaLowEnd, end: memory.Addr(size), perm: memory.ReadWrite, exec: true},
	}
}

// bootRing0 writes GDT and page tables and sets every register.
func (vm *VM) bootRing0(entry memory.Addr) error {
	low, err := vm.pageTables(ring0Map(vm.mem.Size()), pteP|pteA, pteRW)
	if err != nil {
		return err
	}
	copy(low[gpaGDT:], le64s(ring0GDT[:]...))
	code := kvm.Segment{Limit: 0xffffffff, Selector: 0x08, Type: 9, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: 0x10, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	sregs := kvm.Sregs{
		CS: code, SS: data, DS: data, ES: data, FS: data, GS: data,
		TR:  kvm.Segment{Type: 11, Present: 1},
		LDT: kvm.Segment{Unusable: 1},
		GDT: kvm.DTable{Base: uint64(gpaGDT), Limit: uint16(len(ring0GDT)*8 - 1)},
		CR0: ring0CR0, CR3: uint64(gpaPML4), CR4: ring0CR4, EFER: ring0EFER,
	}
	return vm.vcpu.SetAll(vm.entryRegs(entry), &sregs)
}

// entryRegs are the general registers of an hvt guest's start, in either ring. The
// stack lies below 4 GiB, where hypercall structures can be named.
func (vm *VM) entryRegs(entry memory.Addr) *kvm.Regs {
	return &kvm.Regs{
		RIP: uint64(entry), RFLAGS: flagsReserved, RDI: uint64(gpaBootInfo),
		RSP: min(vm.mem.Size(), hvtMaxMem) - 8, // 16-byte aligned after a call, as the C ABI wants
	}
}
