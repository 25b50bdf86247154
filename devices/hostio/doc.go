// Package hostio is the host's end of the devices: TAP interfaces, disk files,
// the console's output and the event that interrupts a wait. It opens and
// moves bytes; what the bytes mean is not its business.
package hostio

import "syscall"

// Error is a part of the host that cannot be used.
type Error struct {
	Name   string // a disk's path, a TAP interface, or "fd N"
	Detail string // what was tried, or what is wrong and what to do
	Err    error
}

func (e *Error) Error() string { return e.Name + ": " + e.Detail + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// errno is the number that an error of package unix is; any other error, which its
// system calls do not return, counts as EIO.
func errno(err error) syscall.Errno {
	e, ok := err.(syscall.Errno)
	if err != nil && !ok {
		return syscall.EIO
	}
	return e
}
