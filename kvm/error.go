package kvm

import "syscall"

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
