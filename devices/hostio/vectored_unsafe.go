package hostio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vectored does readv(2) or writev(2), again where a signal interrupts it. It is
// here because the functions of package unix allocate. iov keeps the list from
// call to call; empty slices are left out. n is how many of the size bytes of bufs
// were moved.
func vectored(call uintptr, fd int, iov *[]unix.Iovec, bufs [][]byte) (n, size int, e syscall.Errno) {
	v := (*iov)[:0]
	for _, b := range bufs {
		size += len(b)
		if len(b) > 0 {
			v = append(v, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
		}
	}
	*iov = v
	for {
		n, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)))
		if e == 0 {
			return int(n), size, 0
		} else if e != unix.EINTR {
			return 0, size, e
		}
	}
}
