package memory

import (
	"fmt"
	"sort"
)

// span is a half-open range of guest memory with one permission.
type span struct {
	start, end Addr
	perm       Perm
}

// View is the part of a Memory that its guest may reach. It starts empty:
// what was not granted is refused. Once the guest runs it does not change, so
// any goroutine may use it.
type View struct {
	mem   *Memory
	spans []span // ascending, disjoint
}

// NewView returns a view of mem that allows nothing.
func NewView(mem *Memory) *View { return &View{mem: mem} }

// Grant allows p on [start, end). Ranges are granted in ascending order and do
// not overlap.
func (v *View) Grant(start, end Addr, p Perm) error {
	n := len(v.spans)
	switch {
	case start == end:
		return nil
	case start > end:
		return fmt.Errorf("grant of guest memory %v-%v: ends before it starts", start, end)
	case uint64(end) > v.mem.Size():
		return fmt.Errorf("grant of guest memory %v-%v: memory ends at %#x", start, end, v.mem.Size())
	case n > 0 && start < v.spans[n-1].end:
		return fmt.Errorf("grant of guest memory %v-%v: not above the one before, which ends at %v", start, end, v.spans[n-1].end)
	}
	v.spans = append(v.spans, span{start, end, p})
	return nil
}

// Readable returns the n bytes at a if the guest may read every one of them.
// The bytes are live guest memory: the guest can change them at any time, so
// callers copy what they decide on. An empty range at or below the end of
// memory is always allowed.
func (v *View) Readable(a Addr, n uint64) ([]byte, error) { return v.Access(a, n, Read) }

// Writable returns the n bytes at a if the guest may write every one of them.
func (v *View) Writable(a Addr, n uint64) ([]byte, error) { return v.Access(a, n, Write) }

// Access returns the n bytes at a if the guest may do with every one of them what
// want says.
func (v *View) Access(a Addr, n uint64, want Perm) ([]byte, error) {
	b, err := v.mem.At(a, n)
	if err != nil || !v.allows(a, a+Addr(n), want) {
		return nil, &AccessError{Addr: a, Len: n, Want: want, End: Addr(v.mem.Size())}
	}
	return b, nil
}

// allows says whether spans with permission want cover [a, end) without a gap.
// The bounds were checked: a <= end <= memory size.
func (v *View) allows(a, end Addr, want Perm) bool {
	if a == end {
		return true
	}
	i := sort.Search(len(v.spans), func(i int) bool { return v.spans[i].end > a })
	for ; i < len(v.spans); i++ {
		s := &v.spans[i]
		if s.start > a || s.perm&want != want {
			return false
		}
		if end <= s.end {
			return true
		}
		a = s.end
	}
	return false
}
