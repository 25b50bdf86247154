package memory

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// A virtqueue's indices are words that guest and monitor read and write at the
// same time. Go has no 16-bit atomics, so these are plain accesses that the
// compiler can neither split nor move: amd64 keeps loads in order and stores in
// order, and Fence is the one barrier that it needs besides. The race detector
// knows nothing of the guest and is told to look away.

// Load16 reads the little-endian word at the start of b, at an even address,
// before all later reads.
//
//go:norace
//go:noinline
func Load16(b []byte) uint16 { return *(*uint16)(unsafe.Pointer(&b[:2][0])) }

// Store16 writes the word at the start of b, at an even address, after all
// earlier writes.
//
//go:norace
//go:noinline
func Store16(b []byte, x uint16) { *(*uint16)(unsafe.Pointer(&b[:2][0])) = x }

// Fence lets no later read pass an earlier write.
func Fence() {
	var x int32
	atomic.AddInt32(&x, 1)
}

// hostAddr is where b lies in this process.
func hostAddr(b []byte) int64 { return int64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// Resident is how much of memory the host has committed, in bytes (mincore(2)).
func (m *Memory) Resident() (n uint64) {
	pages := make([]byte, 64<<10)
	for b := m.host; len(b) > 0; {
		part := b[:min(len(b), len(pages)*PageSize)]
		b = b[len(part):]
		clear(pages)
		syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(&part[0])), uintptr(len(part)), uintptr(unsafe.Pointer(&pages[0])))
		for _, p := range pages {
			n += uint64(p&1) * PageSize
		}
	}
	return n
}
