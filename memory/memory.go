package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Memory is one contiguous block of guest memory that starts at
// guest-physical address 0. Its pages are zero and take no host memory until
// somebody touches them.
//
// Methods may be called from any goroutine, but not together with Close.
type Memory struct {
	host []byte
}

// New reserves size bytes, a multiple of PageSize. The mapping is private and
// unreserved: the host commits a page when it is first written.
func New(size uint64) (*Memory, error) {
	if size == 0 || size%PageSize != 0 || size > 1<<46 {
		return nil, fmt.Errorf("guest memory of %d bytes: need a positive multiple of %d", size, PageSize)
	}
	host, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("guest memory of %d MiB: mmap: %w", size>>20, err)
	}
	return &Memory{host: host}, nil
}

// Size is the number of bytes.
func (m *Memory) Size() uint64 { return uint64(len(m.host)) }

// Host is the whole mapping, for the hypervisor's memory slot.
func (m *Memory) Host() []byte { return m.host }

// At returns the n bytes at a for the monitor's own use while it builds the
// guest; they must not have been protected yet.
func (m *Memory) At(a Addr, n uint64) ([]byte, error) {
	size := m.Size()
	if uint64(a) > size || n > size-uint64(a) {
		return nil, &AccessError{Addr: a, Len: n, End: Addr(size)}
	}
	return m.host[a : uint64(a)+n : uint64(a)+n], nil
}

// Protect restricts what the guest (through the hypervisor's own page tables)
// and the monitor can do with the pages of [a, a+n), both multiples of
// PageSize. A write by the guest that it forbids ends as a failed exit.
func (m *Memory) Protect(a Addr, n uint64, p Perm) error {
	b, err := m.At(a, n)
	if err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	prot := unix.PROT_NONE
	if p&Read != 0 {
		prot |= unix.PROT_READ
	}
	if p&Write != 0 {
		prot |= unix.PROT_WRITE
	}
	if err := unix.Mprotect(b, prot); err != nil {
		return fmt.Errorf("protect guest memory at %v, %d bytes: mprotect: %w", a, n, err)
	}
	return nil
}

// Close unmaps the memory. No VM may use it any more.
func (m *Memory) Close() error {
	if m.host == nil {
		return nil
	}
	err := unix.Munmap(m.host)
	m.host = nil
	return err
}
