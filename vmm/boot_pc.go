package vmm

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// What a kernel of the PC-like machine finds in low memory, by either boot
// protocol: Linux's Documentation/x86/boot.rst ("64-bit boot protocol"), and
// Xen's docs/misc/pvh.pandoc with include/public/arch-x86/hvm/start_info.h.
const (
	pcGDT       memory.Addr = 0x500
	pcStartInfo memory.Addr = 0x6000
	pcModule    memory.Addr = 0x6100
	pcZeroPage  memory.Addr = 0x7000 // Linux protocol; PVH: the memory map
	pcStack     memory.Addr = 0x8ff0
	pcPML4      memory.Addr = 0x9000 // then a PDPT and a PD
	pcCmdline   memory.Addr = 0x20000
	pcACPI      memory.Addr = 0xe0000
	pcHighMem   memory.Addr = 0x100000
)

// memoryMap is the firmware's view: types 1 (RAM) and 2 (reserved).
func memoryMap(mem *memory.Memory) [][3]uint64 {
	m := [][3]uint64{
		{0, uint64(mpTableAddr), 1},
		{uint64(mpTableAddr), uint64(pcHighMem - mpTableAddr), 2},
	}
	for _, r := range mem.Ranges() {
		start := max(r.Start, pcHighMem)
		m = append(m, [3]uint64{uint64(start), uint64(r.End - start), 1})
	}
	return m
}

// le64s encodes 64-bit fields.
func le64s(w ...uint64) (b []byte) {
	for _, v := range w {
		b = le.AppendUint64(b, v)
	}
	return b
}

// pcGDTEntries are flat segments at the selectors that Linux asks for.
var pcGDTEntries = []uint64{0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x008f8b000000ffff}

const (
	pcSelCode = 0x10
	pcSelData = 0x18
	pcSelTask = 0x20
)

// bootLinux starts the kernel in 64-bit mode, the first GiB identity-mapped.
func (vm *VM) bootLinux(img *loader.Image, cmdline string, rd *initrd) error {
	zero := make([]byte, memory.PageSize)
	if img.Linux.Header != nil {
		copy(zero[0x1f1:], img.Linux.Header)
	} else {
		le.PutUint16(zero[0x1fe:], 0xaa55)
		copy(zero[0x202:], "HdrS")
		le.PutUint32(zero[0x230:], 0x1000000) // kernel_alignment
	}
	zero[0x210] = 0xff // type_of_loader: none of the known ones
	le.PutUint32(zero[0x218:], uint32(rd.at))
	le.PutUint32(zero[0x21c:], uint32(rd.size))
	le.PutUint32(zero[0x228:], uint32(pcCmdline))
	// As long as the line is: Unikraft and Nanos take it for its length.
	le.PutUint32(zero[0x238:], uint32(len(cmdline)+1))
	le.PutUint64(zero[0x70:], uint64(pcACPI))
	m := memoryMap(vm.mem)
	zero[0x1e8] = byte(len(m))
	for i, e := range m {
		copy(zero[0x2d0+20*i:], le64s(e[:]...)) // of the type 4 bytes; the rest is 0
	}
	const table, large = pteP | pteRW, pteP | pteRW | ptePS
	pd := make([]uint64, 512)
	for i := range pd {
		pd[i] = uint64(i)<<21 | large
	}
	page := func(w ...uint64) []byte { return append(le64s(w...), make([]byte, memory.PageSize-8*len(w))...) }
	sregs, err := flatSregs(vm.vcpu)
	sregs.CS.L = 1
	sregs.TR = kvm.Segment{Limit: 0xfffff, Selector: pcSelTask, Type: 11, Present: 1, G: 1}
	sregs.GDT = kvm.DTable{Base: uint64(pcGDT), Limit: uint16(len(pcGDTEntries)*8 - 1)}
	sregs.CR0, sregs.CR3, sregs.CR4, sregs.EFER = 0x80000011, uint64(pcPML4), 0x20, 0x500 // PG ET PE; PAE; LMA LME
	regs := kvm.Regs{RIP: uint64(img.Entry), RFLAGS: 2, RSI: uint64(pcZeroPage), RSP: uint64(pcStack), RBP: uint64(pcStack)}
	return cmp.Or(err,
		vm.mem.Put(pcZeroPage, zero),
		vm.mem.Put(pcGDT, le64s(pcGDTEntries...)),
		vm.mem.Put(pcPML4, page(uint64(pcPML4)+0x1000|table), page(uint64(pcPML4)+0x2000|table), le64s(pd...)),
		vm.vcpu.SetAll(&regs, &sregs))
}

// bootPVH starts the kernel in 32-bit protected mode without paging.
func (vm *VM) bootPVH(img *loader.Image, _ string, rd *initrd) error {
	m := memoryMap(vm.mem)
	var maps []byte
	for _, e := range m {
		maps = append(maps, le64s(e[:]...)...)
	}
	modules, modlist := uint64(0), uint64(0)
	if rd.size > 0 {
		modules, modlist = 1, uint64(pcModule)
	}
	sregs, err := flatSregs(vm.vcpu)
	sregs.CS.DB = 1
	sregs.TR = kvm.Segment{Limit: 0x67, Type: 11, Present: 1}
	sregs.CR0, sregs.CR4, sregs.EFER = 0x11, 0, 0
	regs := kvm.Regs{RIP: uint64(img.Entry), RFLAGS: 2, RBX: uint64(pcStartInfo)}
	regs.RSP = uint64(pcStack) // not in the protocol; Nanos calls before it sets its own
	const magic, version = 0x336ec578, 1
	return cmp.Or(err,
		vm.mem.Put(pcStartInfo, le64s(magic|version<<32, modules<<32, modlist, uint64(pcCmdline), uint64(pcACPI), uint64(pcZeroPage), uint64(len(m)))),
		vm.mem.Put(pcModule, le64s(uint64(rd.at), rd.size, 0, 0)),
		vm.mem.Put(pcZeroPage, maps),
		vm.vcpu.SetAll(&regs, &sregs))
}

// flatSregs are the vCPU's own, with the local APIC's base, and flat segments. The
// code segment lacks its size, L or DB.
func flatSregs(vcpu *kvm.VCPU) (s kvm.Sregs, err error) {
	s, err = vcpu.Sregs()
	s.CS = kvm.Segment{Limit: 0xffffffff, Selector: pcSelCode, Type: 11, Present: 1, S: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: pcSelData, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	return s, err
}

// initrd is an initial RAM disk and where it will lie; all zero: there is none.
type initrd struct {
	file *os.File
	size uint64
	at   memory.Addr
}

// openInitrd opens the file and finds its place: as high in low memory as the
// kernel allows. lowMem is where low memory ends.
func openInitrd(path string, img *loader.Image, lowMem uint64) (*initrd, error) {
	// O_NONBLOCK keeps the open of a FIFO from waiting for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &HostError{What: "initrd", Err: err}
	}
	r := &initrd{file: f}
	if err := r.place(img, lowMem); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

func (r *initrd) place(img *loader.Image, lowMem uint64) error {
	st, err := r.file.Stat()
	if err != nil {
		return &HostError{What: "initrd", Err: err}
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return configError("initrd: %s: need a regular file that is not empty", r.file.Name())
	}
	r.size = uint64(st.Size())
	top, bottom := min(lowMem, uint64(img.Linux.InitrdMax)+1), uint64(img.Linux.End)
	if bottom > top || r.size > top-bottom {
		return configError("initrd: %s is %d KiB, and between the kernel's end at %#x and %#x there are %d KiB (give the guest more memory: -m)",
			r.file.Name(), r.size>>10, bottom, top, (max(top, bottom)-bottom)>>10)
	}
	r.at = max(memory.Addr(top-r.size)&^(memory.PageSize-1), memory.Addr(bottom))
	return nil
}

// load reads the file, if there is one, into memory.
func (r *initrd) load(mem *memory.Memory) error {
	b, err := mem.At(r.at, r.size)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(r.file, b); err != nil {
		return &HostError{What: "initrd", Err: fmt.Errorf("%s: %w", r.file.Name(), err)}
	}
	return nil
}

// pcCommandLine is the kernel's command line: what works by default, the virtio
// devices, the user's own words, and after -- what init gets. A default makes
// way for the user's word with the same key.
func (c *Config) pcCommandLine(devices []string, limit int) (string, error) {
	has := func(key string) bool { return strings.Contains(" "+c.Cmdline, " "+key+"=") }
	var before []string
	for _, d := range [...]string{"console=ttyS0", "reboot=t", "panic=-1"} {
		if key, _, _ := strings.Cut(d, "="); !has(key) {
			before = append(before, d)
		}
	}
	if len(c.Disks) > 0 && !has("root") {
		mode := "rw"
		if c.Disks[0].ReadOnly {
			mode = "ro"
		}
		before = append(before, "root=/dev/vda", mode)
	}
	before = append(before, devices...)
	line := strings.TrimRight(strings.Join(before, " ")+" "+c.Cmdline, " ")
	if len(c.Args) > 0 {
		if !strings.Contains(line, " -- ") {
			line += " --"
		}
		line += " " + strings.Join(c.Args, " ")
	}
	return line, checkCommandLine("kernel command line", line, limit)
}
