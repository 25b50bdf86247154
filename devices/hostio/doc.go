// Package hostio is the host's end of the devices: TAP interfaces, disk files,
// the console's output and the event that interrupts a wait. It opens and
// moves bytes; what the bytes mean is not its business.
package hostio

import (
	"errors"
	"syscall"
)

// errno is the number inside an error of package unix; any other error, which
// these system calls do not return, counts as EIO.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	// The plain number first: an EAGAIN of every idle NIC must not allocate.
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return syscall.EIO
}
