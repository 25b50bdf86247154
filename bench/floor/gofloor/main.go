// Gofloor is floor.c in Go by bare ioctls: one VM, one exit, and none of the
// packages of this repository. Together with goempty it tells what of a Go
// monitor's start is the language's share.
//
//	gofloor [--mem=MiB]
package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

const (
	pageSize  = 4096
	largePage = 2 << 20

	gdtAt, pml4At, pdptAt, pdAt, pt0At = 0x1000, 0x2000, 0x3000, 0x4000, 0x8000

	bootInfo = 0x10000
	base     = 0x100000

	present, writable, accessed, large = 1, 2, 32, 128 // page-table entry bits

	haltPort = 0x508
	haltArg  = base + 64

	defaultMiB, maxMiB = 64, 4096
)

var guest = []byte{
	0x66, 0xba, haltPort & 0xff, haltPort >> 8, // mov $haltPort, %dx
	0xb8, haltArg & 0xff, haltArg >> 8 & 0xff, haltArg >> 16, 0, // mov $haltArg, %eax
	0xef, // out %eax, (%dx)
}

// fail ends the program. There is no fmt here: it would be measured, too.
func fail(words ...string) {
	os.Stderr.WriteString("gofloor: " + strings.Join(words, " ") + "\n")
	os.Exit(1)
}

func check(what string, err error) {
	if err != nil {
		fail(what+":", err.Error())
	}
}

func main() {
	mib := defaultMiB
	if len(os.Args) > 1 {
		value, ok := strings.CutPrefix(os.Args[1], "--mem=")
		n, err := strconv.Atoi(value)
		if !ok || err != nil || n < 2 || n > maxMiB || n%2 != 0 {
			fail("usage: gofloor [--mem=MiB], an even number from 2 to", strconv.Itoa(maxMiB))
		}
		mib = n
	}
	cycle(mib << 20)
}

// cycle makes a VM, has one exit and takes it all down.
func cycle(size int) {
	kvm, err := syscall.Open("/dev/kvm", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	check("open /dev/kvm (no KVM here, or no permission: join the group kvm)", err)
	if ioctl(kvm, ioGetAPIVersion, 0) != apiVersion {
		fail("KVM API version is not", strconv.Itoa(apiVersion))
	}
	runSize := ioctl(kvm, ioGetVCPUMmapSize, 0)
	vm := ioctl(kvm, ioCreateVM, 0)
	vcpu := ioctl(vm, ioCreateVCPU, 0)
	state, err := syscall.Mmap(vcpu, 0, runSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check("mmap of kvm_run", err)

	cpuid := cpuid2{nent: maxCPUID}
	ioctlPtr(kvm, ioGetSupportedCPUID, &cpuid)
	ioctlPtr(vcpu, ioSetCPUID2, &cpuid)

	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	check("mmap of guest memory", err)
	ioctlPtr(vm, ioSetUserMemory, &memoryRegion{memorySize: uint64(size), userspaceAddr: addressOf(mem)})

	copy(mem[base:], guest)
	ioctl(vcpu, ioGetTSCKHz, 0)
	writeTables(mem)
	code := segment{limit: 0xffffffff, selector: 0x08, typ: 9, present: 1, s: 1, l: 1, g: 1}
	data := segment{limit: 0xffffffff, selector: 0x10, typ: 3, present: 1, s: 1, db: 1, g: 1}
	ioctlPtr(vcpu, ioSetSregs, &sregs{
		cs: code, ss: data, ds: data, es: data, fs: data, gs: data,
		tr: segment{typ: 11, present: 1}, ldt: segment{unusable: 1},
		gdt: dtable{base: gdtAt, limit: 0x17},
		cr0: 0x80010021, cr3: pml4At, cr4: 0x620, efer: 0x500,
	})
	ioctlPtr(vcpu, ioSetRegs, &regs{rip: base, rsp: uint64(size) - 8, rdi: bootInfo, rflags: 2})

	ioctl(vcpu, ioRun, 0)
	if reason, port := exitOf(state); reason != exitIO || port != haltPort {
		fail("guest: exit reason", strconv.Itoa(int(reason)), "port", strconv.Itoa(int(port)))
	}
	if le.Uint32(mem[haltArg+8:]) != 0 {
		fail("guest: status is not 0")
	}
	check("munmap of kvm_run", syscall.Munmap(state))
	for _, fd := range []int{vcpu, vm, kvm} {
		check("close", syscall.Close(fd))
	}
	check("munmap of guest memory", syscall.Munmap(mem))
}

// writeTables stores GDT and page tables (hvt ABI 2, "Guest state at entry").
func writeTables(mem []byte) {
	const table = present | writable | accessed
	put := func(at, i int, v uint64) { le.PutUint64(mem[at+i*8:], v) }
	put(gdtAt, 1, 0x00af99000000ffff)
	put(gdtAt, 2, 0x00cf93000000ffff)
	put(pml4At, 0, pdptAt|table)
	for a := 0; a < len(mem); a += largePage {
		put(pdAt, a/largePage, uint64(a)|table|large)
	}
	for i := 0; i*largePage*512 < len(mem); i++ {
		put(pdptAt, i, uint64(pdAt+i*pageSize)|table)
	}
	put(pdAt, 0, pt0At|table)
	for a := bootInfo; a < largePage; a += pageSize {
		entry := uint64(a) | present | accessed
		if a >= base {
			entry |= writable
		}
		put(pt0At, a/pageSize, entry)
	}
}
