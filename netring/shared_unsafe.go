package netring

import (
	"sync/atomic"
	"unsafe"
)

// word is the 32-bit word at byte offset off of the ring, a multiple of four: the guest reads
// and writes it at the same time. No access to the ring that comes earlier in the program
// happens after a Store or Load of a word, none that comes later before it.
func (r *Ring) word(off int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&r.mem[off : off+4][0]))
}
