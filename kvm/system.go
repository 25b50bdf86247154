package kvm

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// System is the descriptor of /dev/kvm itself.
type System struct {
	fd       int
	mmapSize int // bytes of a vCPU's kvm_run mapping
}

// Open opens the KVM device, usually /dev/kvm, and checks its API version. The error
// is an *OpError, as all of this package are.
func Open(path string) (*System, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &OpError{Op: "open " + path, Err: err.(syscall.Errno)}
	}
	s := &System{fd: fd}
	if v, errno := ioctl(fd, ioGetAPIVersion, 0); errno != 0 {
		err = opError("KVM_GET_API_VERSION", errno)
	} else if v != apiVersion {
		err = &OpError{fmt.Sprintf("%s: KVM API version is %d, need %d", path, v, apiVersion), syscall.ENOTSUP}
	} else if n, errno := ioctl(fd, ioGetVCPUMmapSize, 0); errno != 0 {
		err = opError("KVM_GET_VCPU_MMAP_SIZE", errno)
	} else if n < runSize {
		err = &OpError{fmt.Sprintf("%s: KVM_GET_VCPU_MMAP_SIZE is %d bytes, need %d", path, n, runSize), syscall.ENOTSUP}
	} else {
		s.mmapSize = int(n)
		return s, nil
	}
	s.Close()
	return nil, err
}

// Close releases the descriptor. VMs created from it live on.
func (s *System) Close() error { return unix.Close(s.fd) }

// Cap is a capability number for Check, KVM_CAP_… in <linux/kvm.h>.
type Cap uint32

// Check returns KVM's answer for a capability: 0 absent, 1 present, for some a
// number (section 4.4).
func (s *System) Check(c Cap) (int, error) {
	n, errno := ioctl(s.fd, ioCheckExtension, uintptr(c))
	return int(n), opError("KVM_CHECK_EXTENSION", errno)
}

// SupportedCPUID returns the CPUID leaves that KVM can give to a guest
// (section 4.46).
func (s *System) SupportedCPUID() (*CPUID, error) {
	c := &CPUID{nent: maxCPUID}
	return c, opError("KVM_GET_SUPPORTED_CPUID", ioctlPtr(s.fd, ioGetSupportedCPUID, c))
}

// CreateVM makes an empty VM (section 4.2).
func (s *System) CreateVM() (*VM, error) {
	fd, errno := ioctl(s.fd, ioCreateVM, 0)
	for errno == syscall.EINTR {
		// A pending signal interrupts it, and the Go runtime sends them.
		fd, errno = ioctl(s.fd, ioCreateVM, 0)
	}
	if errno != 0 {
		return nil, opError("KVM_CREATE_VM", errno)
	}
	return &VM{fd: int(fd), mmapSize: s.mmapSize}, nil
}

// Entries is the table's used part; changes to it are changes to the table.
func (c *CPUID) Entries() []CPUIDEntry { return c.entries[:c.nent] }

// OpError is a KVM operation that the kernel refused.
type OpError struct {
	Op  string        // the ioctl or system call, as KVM_CREATE_VM
	Err syscall.Errno // what the kernel answered
}

func (e *OpError) Error() string { return e.Op + ": " + e.Err.Error() }

func (e *OpError) Unwrap() error { return e.Err }

// opError is nil for errno 0, so that callers can pass an ioctl's result on.
func opError(op string, errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return &OpError{Op: op, Err: errno}
}
