package memory

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newMemory(t testing.TB, size uint64) *Memory {
	t.Helper()
	m, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestNewErrors(t *testing.T) {
	for _, size := range []uint64{0, 1, 4095, 4097, 1<<46 + 4096, 1 << 63, 1<<64 - 4096, 1<<64 - 1} {
		m, err := New(size)
		if m != nil || err == nil || !strings.Contains(err.Error(), fmt.Sprint(size)) {
			t.Errorf("New(%d) = %v, %v; want an error that names the size", size, m, err)
		}
	}
	// The size is right but no address space has that much room next to the
	// program and its libraries.
	if m, err := New(1 << 46); err == nil {
		m.Close()
	} else if !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "67108864 MiB") {
		t.Errorf("New(1<<46) = %v; want ENOMEM and the size in MiB", err)
	}
}

// TestHugePages: memory of a PC begins where a huge page can, and is as long as asked for.
func TestHugePages(t *testing.T) {
	for range 4 { // the host puts each next mapping right below
		const hole, end = 1 << 30, 2 << 30
		m, err := NewWithHole(3*PageSize, hole, end)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if a := hostAddr(m.Host()); a%(2<<20) != 0 || m.Size() != 3*PageSize {
			t.Errorf("NewWithHole(3 pages) lies at %#x with %d bytes; want a multiple of 2 MiB and %d", a, m.Size(), 3*PageSize)
		}
		m.Host()[m.Size()-1] = 1
	}
}

func TestNewIsZero(t *testing.T) {
	m := newMemory(t, 3*PageSize)
	if m.Size() != 3*PageSize || len(m.Host()) != 3*PageSize {
		t.Fatalf("Size() = %d, len(Host()) = %d; want %d", m.Size(), len(m.Host()), 3*PageSize)
	}
	for i, b := range m.Host() {
		if b != 0 {
			t.Fatalf("Host()[%d] = %d; want 0: guests rely on zeroed memory", i, b)
		}
	}
}

// TestAt tries every edge of the bounds check.
func TestAt(t *testing.T) {
	const size = 2 * PageSize
	m := newMemory(t, size)
	for _, c := range []struct {
		a  Addr
		n  uint64
		ok bool
	}{
		{0, 0, true}, {0, 1, true}, {0, size, true}, {0, size + 1, false},
		{PageSize - 1, 2, true}, // across pages
		{size - 1, 0, true}, {size - 1, 1, true}, {size - 1, 2, false},
		{size, 0, true}, {size, 1, false},
		{size + 1, 0, false}, {size + 1, 1, false},
		{0, 1<<64 - 1, false}, {1, 1<<64 - 1, false}, // the sum wraps to 0
		{1<<64 - 1, 0, false}, {1<<64 - 1, 1, false}, {1<<64 - 1, 2, false}, {1<<64 - 1, 1<<64 - 1, false},
		{1 << 63, 1 << 63, false}, {size, 1<<64 - size, false}, // wraps to 0
		{1<<64 - size, size, false}, {1<<64 - size, 2 * size, false},
	} {
		b, err := m.At(c.a, c.n)
		if !c.ok {
			var ae *AccessError
			if b != nil || !errors.As(err, &ae) || *ae != (AccessError{Addr: c.a, Len: c.n, End: size}) {
				t.Errorf("At(%v, %d) = %d bytes, %v; want an AccessError with the same numbers", c.a, c.n, len(b), err)
			}
			continue
		}
		if err != nil || uint64(len(b)) != c.n || uint64(cap(b)) != c.n {
			t.Errorf("At(%v, %d) = %d bytes, capacity %d, %v; want %d and no room to append", c.a, c.n, len(b), cap(b), err, c.n)
		} else if c.n > 0 && &b[0] != &m.host[c.a] {
			t.Errorf("At(%v, %d) does not start at the address", c.a, c.n)
		}
	}
}

func TestClose(t *testing.T) {
	m, err := New(PageSize)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := m.Close(); err != nil {
			t.Errorf("Close() %d = %v; want nil", i, err)
		}
	}
	if m.Size() != 0 {
		t.Errorf("Size() after Close = %d; want 0", m.Size())
	}
	if b, err := m.At(0, 1); err == nil {
		t.Errorf("At(0, 1) after Close = %d bytes; want an error", len(b))
	}
}

// rss is the process's resident memory in bytes.
func rss(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * uint64(os.Getpagesize())
}

// TestLazy shows that memory costs nothing before it is touched. The allowance
// is for what the Go runtime does meanwhile and for huge pages.
func TestLazy(t *testing.T) {
	const allowance = 32 << 20
	before := rss(t)
	m := newMemory(t, 1<<30)
	if got := rss(t); got > before+allowance {
		t.Errorf("a fresh memory of 1 GiB takes %d MiB; want about none", (got-before)>>20)
	}
	for i := 0; i < 64<<20; i += PageSize {
		m.Host()[i] = 1
	}
	if got := rss(t); got < before+allowance {
		t.Errorf("64 MiB touched take %d MiB; want about 64, or else this test cannot see a difference", (got-before)>>20)
	}
}

// probe has the kernel read and write the page at a, which gives EFAULT and no
// signal where the host's protection forbids it.
func probe(t *testing.T, m *Memory, a Addr) Perm {
	t.Helper()
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, PageSize); err != nil {
		t.Fatal(err)
	}
	page := m.Host()[a : a+PageSize]
	var p Perm
	for _, c := range []struct {
		perm Perm
		call func(int, []byte, int64) (int, error)
	}{{Read, unix.Pwrite}, {Write, unix.Pread}} {
		switch _, err := c.call(fd, page, 0); err {
		case nil:
			p |= c.perm
		case unix.EFAULT:
		default:
			t.Fatal(err)
		}
	}
	return p
}

func TestProtect(t *testing.T) {
	m := newMemory(t, 6*PageSize)
	for _, c := range []struct {
		a    Addr
		n    uint64
		perm Perm
	}{
		{1 * PageSize, PageSize, Read},
		{2 * PageSize, PageSize, 0},
		{4 * PageSize, 2 * PageSize, Read},
		{5 * PageSize, PageSize, ReadWrite}, // given back, up to the very end
		{3 * PageSize, 0, 0},                // nothing
		{6 * PageSize, 0, 0},                // nothing, at the end
	} {
		if err := m.Protect(c.a, c.n, c.perm); err != nil {
			t.Fatalf("Protect(%v, %d, %v) = %v; want nil", c.a, c.n, c.perm, err)
		}
	}
	for i, want := range []Perm{ReadWrite, Read, 0, ReadWrite, Read, ReadWrite} {
		if got := probe(t, m, Addr(i*PageSize)); got != want {
			t.Errorf("page %d allows %v; want %v", i, got, want)
		}
	}
	// x86 has no pages that can be written and not read.
	if err := m.Protect(0, PageSize, Write); err != nil {
		t.Fatal(err)
	}
	if got := probe(t, m, 0); got&Write == 0 {
		t.Errorf("page protected to Write allows %v; want write", got)
	}
}

func TestProtectErrors(t *testing.T) {
	m := newMemory(t, 2*PageSize)
	for _, c := range []struct {
		a Addr
		n uint64
	}{{0, 2*PageSize + 1}, {2 * PageSize, PageSize}, {3 * PageSize, 0}, {1<<64 - PageSize, 2 * PageSize}} {
		var ae *AccessError
		if err := m.Protect(c.a, c.n, Read); !errors.As(err, &ae) {
			t.Errorf("Protect(%v, %d) = %v; want an AccessError", c.a, c.n, err)
		}
	}
	if err := m.Protect(1, PageSize, Read); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "0x1, 4096 bytes") {
		t.Errorf("Protect(1, 4096) = %v; want EINVAL and what was tried", err)
	}
	if got := probe(t, m, 0); got != ReadWrite {
		t.Errorf("page 0 after failed calls allows %v; want read-write", got)
	}
}

func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Addr(0).String(), "0x0"},
		{Addr(0x100000).String(), "0x100000"},
		{Addr(1<<64 - 1).String(), "0xffffffffffffffff"},
		{Perm(0).String(), "no access"},
		{Read.String(), "read"},
		{Write.String(), "write"},
		{ReadWrite.String(), "read-write"},
		{Perm(7).String(), "perm 7"},
		{(&AccessError{0x1000, 8, 0, 0x1007}).Error(), "guest memory access at 0x1000, 8 bytes: beyond the end of memory at 0x1007"},
		{(&AccessError{0x2000, 0, Read, 0x1000}).Error(), "guest memory access at 0x2000, 0 bytes: beyond the end of memory at 0x1000"},
		{(&AccessError{1<<64 - 1, 1<<64 - 1, Read, 0x1000}).Error(), "guest memory access at 0xffffffffffffffff, 18446744073709551615 bytes: beyond the end of memory at 0x1000"},
		{(&AccessError{0x1000, 8, Write, 0x1008}).Error(), "guest memory access at 0x1000, 8 bytes: no write permission there"},
	} {
		if c.got != c.want {
			t.Errorf("text = %q; want %q", c.got, c.want)
		}
	}
}

func TestAligned(t *testing.T) {
	for _, c := range []struct {
		a    Addr
		n    uint64
		want bool
	}{{0, 4096, true}, {4096, 4096, true}, {4095, 4096, false}, {6144, 2048, true}, {6144, 4096, false}, {5, 1, true},
		{1 << 63, 1 << 63, true}, {1<<64 - 1, 1 << 63, false}} {
		if got := c.a.Aligned(c.n); got != c.want {
			t.Errorf("Addr(%v).Aligned(%d) = %v; want %v", c.a, c.n, got, c.want)
		}
	}
}
