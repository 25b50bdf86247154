package main

import (
	"encoding/binary"
	"strconv"
	"syscall"
	"unsafe"
)

// What <linux/kvm.h> defines, as far as one VM with one exit needs it.

const (
	apiVersion = 12
	exitIO     = 2

	ioGetAPIVersion     = 0xae00
	ioCreateVM          = 0xae01
	ioGetVCPUMmapSize   = 0xae04
	ioGetSupportedCPUID = 0xc008ae05
	ioCreateVCPU        = 0xae41
	ioSetUserMemory     = 0x4020ae46
	ioRun               = 0xae80
	ioSetRegs           = 0x4090ae82
	ioSetSregs          = 0x4138ae84
	ioSetCPUID2         = 0x4008ae90
	ioGetTSCKHz         = 0xaea3

	maxCPUID = 256
)

// The structures name only the fields that are set.
type (
	cpuid2 struct {
		nent uint32
		_    uint32
		_    [maxCPUID][10]uint32
	}
	memoryRegion struct {
		_                         [2]uint32 // slot, flags
		_                         uint64    // guest_phys_addr
		memorySize, userspaceAddr uint64
	}
	segment struct {
		_           uint64 // base
		limit       uint32
		selector    uint16
		typ         uint8
		present     uint8
		_           uint8 // dpl
		db, s, l, g uint8
		_           uint8 // avl
		unusable    uint8
		_           uint8
	}
	dtable struct {
		base  uint64
		limit uint16
		_     [3]uint16
	}
	sregs struct {
		cs, ds, es, fs, gs, ss, tr, ldt segment
		gdt, _                          dtable
		cr0, _, cr3, cr4, _, efer, _    uint64
		_                               [4]uint64
	}
	regs struct {
		_           [5]uint64 // rax to rsi
		rdi, rsp, _ uint64
		_           [8]uint64 // r8 to r15
		rip, rflags uint64
	}
)

// The sizes are part of the request numbers above.
const (
	_ = -(ioSetUserMemory>>16&0x3fff ^ unsafe.Sizeof(memoryRegion{}))
	_ = -(ioSetRegs>>16&0x3fff ^ unsafe.Sizeof(regs{}))
	_ = -(ioSetSregs>>16&0x3fff ^ unsafe.Sizeof(sregs{}))
)

var le = binary.LittleEndian

// ioctl ends the program on an error.
func ioctl(fd int, request, arg uintptr) int {
	r, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, arg)
	if errno != 0 {
		fail("ioctl 0x"+strconv.FormatUint(uint64(request), 16)+":", errno.Error())
	}
	return int(r)
}

func ioctlPtr[T any](fd int, request uintptr, p *T) {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(p)))
	if errno != 0 {
		fail("ioctl 0x"+strconv.FormatUint(uint64(request), 16)+":", errno.Error())
	}
}

func addressOf(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) }

// exitOf reads exit_reason and the io member's port out of struct kvm_run.
func exitOf(state []byte) (reason uint32, port uint16) {
	const reasonAt, portAt = 8, 34
	return le.Uint32(state[reasonAt:]), le.Uint16(state[portAt:])
}
