// Package memory is guest-physical memory as the monitor sees it: who may
// touch which byte, and the only place where a guest address becomes host
// memory.
//
// Memory is the monitor's own access, for building a guest before it runs.
// View is what a guest may reach; every device and hypercall gets the View and
// nothing else, so that a hypercall can never do more than the guest could.
package memory

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// PageSize is the smallest unit of protection, in bytes.
const PageSize = 4096

// Addr is a guest-physical address. It cannot become a pointer outside this
// package.
type Addr uint64

func (a Addr) String() string { return "0x" + strconv.FormatUint(uint64(a), 16) }

// Aligned says whether a is a multiple of n, a power of two.
func (a Addr) Aligned(n uint64) bool { return uint64(a)&(n-1) == 0 }

// Perm says what may be done with guest memory.
type Perm uint8

// Permissions, to be combined; the values are those of mprotect(2).
const (
	Read      Perm = unix.PROT_READ
	Write     Perm = unix.PROT_WRITE
	ReadWrite      = Read | Write
)

func (p Perm) String() string {
	if names := [...]string{0: "no access", Read: "read", Write: "write", ReadWrite: "read-write"}; int(p) < len(names) {
		return names[p]
	}
	return "perm " + strconv.Itoa(int(p))
}

// AccessError is an access that leaves guest memory or lacks a permission.
type AccessError struct {
	Addr Addr
	Len  uint64 // bytes
	Want Perm   // 0 for the monitor's own access, which needs bounds only
	End  Addr   // the first address after guest memory
}

func (e *AccessError) Error() string {
	s := "guest memory access at " + e.Addr.String() + ", " + strconv.FormatUint(e.Len, 10) + " bytes"
	if e.Addr > e.End || e.Len > uint64(e.End-e.Addr) {
		return s + ": beyond the end of memory at " + e.End.String()
	}
	return s + ": no " + e.Want.String() + " permission there"
}
