package memory

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Memory is guest memory from guest-physical address 0 on, possibly with a hole
// where a PC has its devices. Its pages are zero and take no host memory until
// somebody touches them.
//
// Methods may be called from any goroutine, but not together with Close.
type Memory struct {
	mapping       []byte // what the host mapped
	host          []byte // of it, from address 0 to the end, the hole included
	hole, holeEnd Addr   // equal where there is no hole
}

// New reserves size bytes, a multiple of PageSize. The mapping is private and
// unreserved: the host commits a page when it is first written.
func New(size uint64) (*Memory, error) { return NewWithHole(size, 0, 0) }

// NewWithHole is New for a machine whose addresses from hole to holeEnd, multiples
// of PageSize, are not memory: what is above hole moves up by its length. Address 0 lies on
// a boundary of 2 MiB, without which neither the host nor KVM can use huge pages; whether
// they do is the host's choice.
func NewWithHole(size uint64, hole, holeEnd Addr) (*Memory, error) {
	if size == 0 || size%PageSize != 0 || size > 1<<46 {
		return nil, fmt.Errorf("guest memory of %d bytes: need a positive multiple of %d", size, PageSize)
	}
	slack := uint64(0)
	if hole != holeEnd {
		slack = 2<<20 - PageSize
	}
	if size <= uint64(hole) {
		hole, holeEnd = 0, 0
	}
	size += uint64(holeEnd - hole)
	mapping, err := unix.Mmap(-1, 0, int(size+slack), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("guest memory of %d MiB: mmap: %w", size>>20, err)
	}
	return &Memory{mapping, mapping[uint64(-hostAddr(mapping))&slack:][:size:size], hole, holeEnd}, nil
}

// Size is the first address after memory; without a hole, the number of bytes.
func (m *Memory) Size() uint64 { return uint64(len(m.host)) }

// Host is the mapping, for the hypervisor's memory slot, of memory without a hole.
func (m *Memory) Host() []byte { return m.host }

// Range is a contiguous piece of guest memory.
type Range struct {
	Start, End Addr // half open
	Host       []byte
}

// Ranges are the pieces that memory consists of: one, or one on each side of the hole.
func (m *Memory) Ranges() []Range {
	if m.hole == m.holeEnd {
		return []Range{{0, Addr(m.Size()), m.host}}
	}
	return []Range{{0, m.hole, m.host[:m.hole]}, {m.holeEnd, Addr(m.Size()), m.host[m.holeEnd:]}}
}

// At returns the n bytes at a for the monitor's own use while it builds the
// guest; they must not have been protected yet.
func (m *Memory) At(a Addr, n uint64) ([]byte, error) {
	size := m.Size()
	if uint64(a) > size || n > size-uint64(a) || a < m.holeEnd && n > 0 && a+Addr(n) > m.hole {
		return nil, &AccessError{Addr: a, Len: n, End: Addr(size)}
	}
	return m.host[a : uint64(a)+n : uint64(a)+n], nil
}

// Put stores the parts one after the other from a on, as At would have them.
func (m *Memory) Put(a Addr, parts ...[]byte) error {
	for _, p := range parts {
		b, err := m.At(a, uint64(len(p)))
		if err != nil {
			return err
		}
		copy(b, p)
		a += Addr(len(p))
	}
	return nil
}

// Peek copies guest memory at a into b, and Poke copies b to there, whatever Protect has
// said: it is the way of a debugger, and slow.
func (m *Memory) Peek(a Addr, b []byte) error { return m.force(a, b, os.O_RDONLY, (*os.File).ReadAt) }

// Poke is described at Peek.
func (m *Memory) Poke(a Addr, b []byte) error { return m.force(a, b, os.O_WRONLY, (*os.File).WriteAt) }

// force goes through the kernel, which heeds protection as little as for ptrace(2).
func (m *Memory) force(a Addr, b []byte, flag int, move func(*os.File, []byte, int64) (int, error)) error {
	host, err := m.At(a, uint64(len(b)))
	if err != nil {
		return err
	}
	f, err := os.OpenFile("/proc/self/mem", flag, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = move(f, b, hostAddr(host))
	return err
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
	if err := unix.Mprotect(b, int(p)); err != nil {
		return fmt.Errorf("protect guest memory at %v, %d bytes: mprotect: %w", a, n, err)
	}
	return nil
}

// Close unmaps the memory. No VM may use it any more.
func (m *Memory) Close() error {
	if m.mapping == nil {
		return nil
	}
	err := unix.Munmap(m.mapping)
	m.mapping, m.host = nil, nil
	return err
}
