package kvm

import (
	"syscall"
	"unsafe"
)

// ioctl is the package's only door to the kernel. It goes through
// syscall.Syscall and never RawSyscall: KVM_RUN lasts as long as the guest
// likes, and a raw call would keep the Go runtime from stopping the world.
// It does not retry EINTR, because that is how a vCPU is stopped.
func ioctl(fd int, req, arg uintptr) (uintptr, syscall.Errno) {
	r, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), req, arg)
	return r, errno
}

// ioctlPtr passes a pointer to a structure that the kernel reads or fills.
func ioctlPtr[T any](fd int, req uintptr, p *T) syscall.Errno {
	_, errno := ioctlPtrResult(fd, req, p)
	return errno
}

// ioctlPtrResult is ioctlPtr for calls whose result means something.
func ioctlPtrResult[T any](fd int, req uintptr, p *T) (uintptr, syscall.Errno) {
	r, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(p)))
	return r, errno
}

// userAddr is the address of guest memory for a kvm_userspace_memory_region.
// mem must not be Go heap: it comes from mmap and lives until it is unmapped.
func userAddr(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) }
