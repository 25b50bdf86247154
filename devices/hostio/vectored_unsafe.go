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
	v := appendIovecs((*iov)[:0], bufs)
	*iov = v
	for i := range v {
		size += int(v[i].Len)
	}
	for {
		n, _, e := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(v))), uintptr(len(v)))
		if e == 0 {
			return int(n), size, 0
		} else if e != unix.EINTR {
			return 0, size, e
		}
	}
}

// appendIovecs adds the slices of bufs that are not empty.
func appendIovecs(iov []unix.Iovec, bufs [][]byte) []unix.Iovec {
	for _, b := range bufs {
		if len(b) > 0 {
			iov = append(iov, iovec(b))
		}
	}
	return iov
}

func iovec(b []byte) unix.Iovec { return unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))} }

func bytesOf(v unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }

// misaligned says that address or length is no multiple of align, a power of two or 0 for any.
func misaligned(v unix.Iovec, align int) bool {
	return align > 0 && (uintptr(unsafe.Pointer(v.Base))|uintptr(v.Len))&uintptr(align-1) != 0
}

// skip takes the first n bytes off, fewer than there are.
func skip(v *unix.Iovec, n uint64) {
	v.Base, v.Len = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n)), v.Len-n
}
