package loader_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// TestSegments breaks one rule at a time, and comes as near to each as allowed.
func TestSegments(t *testing.T) {
	const fit = loader.ErrFit
	const top = memSize - 0x1000 // the last page
	for _, c := range []struct {
		name string
		f    file
		kind loader.ErrorKind
		text string
	}{
		// Address.
		{"address below", base().seg(text, phVaddr, 0xff000), fit, "kernel k: segment 0 at 0xff000: below 0x100000, where guest memory starts"},
		{"address 0", base().seg(text, phVaddr, 0), fit, "segment 0 at 0x0: below 0x100000"},
		{"address one below", base().seg(text, phVaddr, 0xfffff), fit, "segment 0 at 0xfffff: below"},
		{"descending", base().seg(data, phVaddr, 0x140000).insert(2, 1, nil).seg(2, phVaddr, 0x130000, phMemsz, 1, phAlign, 4096),
			fit, "segment 2 at 0x130000: not in ascending order, the one before is at 0x140000"},
		{"same address", base().seg(data, phVaddr, 0x100000), fit, "segment 1 at 0x100000: overlaps the one before, which ends at 0x101000"},
		{"not page-aligned", base().seg(data, phVaddr, 0x110123), ok, ""},
		{"address at the end", base().seg(data, phVaddr, memSize), fit, "beyond guest memory"},
		{"physical address is ignored", base().seg(text, 24, 0).seg(data, 24, 1<<63), ok, ""},

		// Alignment.
		{"alignment 0", base().seg(data, phAlign, 0), fit, "segment 1 at 0x110000: alignment 0x0 is not a power of two"},
		{"alignment 3", base().seg(data, phAlign, 3), fit, "alignment 0x3 is not a power of two"},
		{"alignment 0x1800", base().seg(data, phAlign, 0x1800), fit, "not a power of two"},
		{"alignment 2^64-1", base().seg(data, phAlign, math.MaxUint64), fit, "not a power of two"},
		{"alignment 1 with whole pages", base().seg(data, phAlign, 1, phMemsz, 0x1000), ok, ""},
		{"alignment 1 without", base().seg(data, phAlign, 1), fit, "segment 1 at 0x110000: aligned range 0x110000-0x110004 is not made of 4 KiB pages"},
		{"alignment 0x800, end on half a page", base().seg(data, phAlign, 0x800), fit, "0x110000-0x110800 is not made of 4 KiB pages"},
		{"alignment 0x800, start on half a page", base().seg(data, phAlign, 0x800, phVaddr, 0x110800), fit, "0x110800-0x111000 is not made of 4 KiB pages"},
		{"alignment 0x800, end on a page", base().seg(data, phAlign, 0x800, phMemsz, 0x801), ok, ""},
		{"alignment 64 KiB", base().seg(data, phAlign, 0x10000), ok, ""},
		{"alignment reaches below memory", base().seg(text, phAlign, 0x200000), fit, "segment 0 at 0x100000: aligned start 0x0 is below 0x100000"},
		{"alignment 2^63", base().seg(text, phAlign, 1<<63), fit, "aligned start 0x0 is below"},
		{"alignment reaches the one before", base().seg(data, phAlign, 0x20000), fit, "segment 1 at 0x110000: overlaps the one before, which ends at 0x101000"},
		{"alignment of the one before reaches this", base().seg(text, phAlign, 0x20000), fit, "overlaps the one before, which ends at 0x120000"},

		// Size.
		{"up to the next", base().seg(text, phMemsz, 0x10000), ok, ""},
		{"one byte too many", base().seg(text, phMemsz, 0x10001), fit, "segment 1 at 0x110000: overlaps the one before, which ends at 0x111000"},
		{"one byte in the next's page", base().seg(data, phVaddr, 0x100fff, phMemsz, 4), fit, "segment 1 at 0x100fff: overlaps"},
		{"memory less than file", base().seg(data, phMemsz, 3), fit, "segment 1 at 0x110000: size in memory (0x3) is less than in the file (0x4)"},
		{"memory zero, file not", base().seg(data, phMemsz, 0), fit, "size in memory (0x0) is less"},
		{"exact fit", base().seg(data, phVaddr, top, phMemsz, 0x1000), ok, ""},
		{"exact fit by alignment", base().seg(data, phVaddr, memSize-4), ok, ""},
		{"one byte too large", base().seg(data, phVaddr, top, phMemsz, 0x1001), fit,
			"segment 1 at 0x1ff000: its end 0x201000 is beyond guest memory, which ends at 0x200000 (it would need 4 MiB)"},
		{"exact fit but for alignment", base().seg(data, phVaddr, 0x180000, phMemsz, 0x80000, phAlign, 0x80000), ok, ""},
		{"alignment beyond the end", base().seg(data, phVaddr, 0x180000, phMemsz, 0x80001, phAlign, 0x80000), fit, "its end 0x280000 is beyond"},

		// Around the address space. The sum must not come out small.
		{"sum is 2^64", base().seg(data, phMemsz, 1<<64-0x110000), fit, "segment 1 at 0x110000: size 0xffffffffffef0000 wraps around the address space"},
		{"sum is 2^64-1, alignment wraps", base().seg(data, phMemsz, 1<<64-0x110001), fit, "wraps around"},
		{"sum is 2^64 - alignment", base().seg(data, phMemsz, 1<<64-0x111000), fit, "its end 0xfffffffffffff000 is beyond"},
		{"size 2^64-1", base().seg(data, phMemsz, math.MaxUint64), fit, "wraps around"},
		{"size 2^64-1, text", base().seg(text, phMemsz, math.MaxUint64), fit, "segment 0 at 0x100000: size 0xffffffffffffffff wraps"},
		{"sum lands on memory", base().seg(data, phMemsz, 1<<64-0x10000), fit, "wraps around"},
		{"last page of the address space", base().seg(data, phVaddr, 1<<64-0x1000, phMemsz, 0x1000), fit, "wraps around"},
		{"last page but one", base().seg(data, phVaddr, 1<<64-0x2000, phMemsz, 0x1000), fit, "its end 0xfffffffffffff000 is beyond"},
		{"size in the file 2^64-1 too", base().seg(data, phMemsz, math.MaxUint64, phFilesz, math.MaxUint64), fit, "wraps around"},

		// Place in the file.
		{"larger than the file", base().seg(data, phFilesz, 5, phMemsz, 5), loader.ErrFormat, "kernel k: truncated: segment 1 needs 5 bytes at file offset 0x2000, the file has 4 there"},
		{"behind the file", base().seg(data, phOffset, 1<<40), loader.ErrFormat, "truncated: segment 1 needs 4 bytes at file offset 0x10000000000, the file has 0 there"},
		{"offset 2^63-4", base().seg(data, phOffset, 1<<63-4), loader.ErrFormat, "segment 1: file offset 0x7ffffffffffffffc is out of range"},
		{"offset 2^63-5", base().seg(data, phOffset, 1<<63-5), loader.ErrFormat, "truncated: segment 1"},
		{"offset 2^64-1", base().seg(text, phOffset, math.MaxUint64), loader.ErrFormat, "segment 0: file offset 0xffffffffffffffff is out of range"},
		{"the ELF header itself", base().seg(text, phOffset, 0), ok, ""},

		// Flags.
		{"writable and executable", base().put32(base().ph(data, phFlags), 3), fit, "segment 1 at 0x110000: is both writable and executable"},
		{"all", base().put32(base().ph(text, phFlags), 7), fit, "segment 0 at 0x100000: is both writable and executable"},
		{"executable only", base().put32(base().ph(text, phFlags), 1), ok, ""},
		{"none", base().put32(base().ph(data, phFlags), 0), ok, ""},
		{"of the system's own", base().put32(base().ph(data, phFlags), 0xfffffff6), ok, ""},

		// Without bytes in the file.
		{"BSS only", base().seg(data, phFilesz, 0, phMemsz, 0x1000), ok, ""},
		{"BSS at an impossible offset", base().seg(data, phFilesz, 0, phOffset, math.MaxUint64), ok, ""},
		{"BSS below", base().insert(0, 1, nil).seg(0, phVaddr, 0x10000, phMemsz, 0x1000, phAlign, 4096), fit, "segment 0 at 0x10000: below 0x100000"},
		{"BSS too large", base().seg(data, phFilesz, 0, phMemsz, memSize), fit, "segment 1 at 0x110000: its end 0x310000 is beyond"},
		{"empty", base().seg(data, phFilesz, 0, phMemsz, 0, phVaddr, 5, phAlign, 3, phOffset, math.MaxUint64), ok, ""},
		{"another type is ignored", base().put32(base().ph(data, 0), 0x6474e551).seg(data, phVaddr, 1, phAlign, 7), ok, ""},
	} {
		check(t, c.name, c.f, c.kind, c.text)
	}
}

// TestKernelEnd looks at what counts for the first free address.
func TestKernelEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		f    file
		end  memory.Addr
		segs int
	}{
		{"base", base(), 0x111000, 2},
		{"BSS counts", base().seg(data, phMemsz, 0x2001), 0x113000, 2},
		{"BSS only counts", base().seg(data, phFilesz, 0, phMemsz, 0x5000), 0x115000, 2},
		{"alignment counts", base().seg(data, phAlign, 0x10000), 0x120000, 2},
		{"empty does not", base().seg(data, phFilesz, 0, phMemsz, 0, phVaddr, 0x150000), 0x101000, 1},
		{"no segment", base().seg(data, phFilesz, 0, phMemsz, 0).seg(text, phFilesz, 0, phMemsz, 0), 0, 0},
		{"all of memory", base().seg(data, phVaddr, memSize-4), memSize, 2},
	} {
		img, mem, end, err := load(c.f, memSize)
		if err != nil {
			t.Errorf("%s: load = %v; want nil", c.name, err)
			continue
		}
		mem.Close()
		if end != c.end || len(img.Segments) != c.segs {
			t.Errorf("%s: end %v, %d segments; want %v, %d", c.name, end, len(img.Segments), c.end, c.segs)
		}
	}
}

func TestSegmentRange(t *testing.T) {
	for _, c := range []struct {
		s          loader.Segment
		start, end memory.Addr
	}{
		{loader.Segment{Addr: 0x100000, MemSize: 1, Align: 4096}, 0x100000, 0x101000},
		{loader.Segment{Addr: 0x100fff, MemSize: 1, Align: 4096}, 0x100000, 0x101000},
		{loader.Segment{Addr: 0x100fff, MemSize: 2, Align: 4096}, 0x100000, 0x102000},
		{loader.Segment{Addr: 0x101000, MemSize: 0x1000, Align: 1}, 0x101000, 0x102000},
		{loader.Segment{Addr: 0x234567, MemSize: 0x1000, Align: 0x200000}, 0x200000, 0x400000},
	} {
		if start, end := c.s.Start(), c.s.End(); start != c.start || end != c.end {
			t.Errorf("Start, End of %+v = %v, %v; want %v, %v", c.s, start, end, c.start, c.end)
		}
	}
}

func TestSegmentPerm(t *testing.T) {
	for _, c := range []struct {
		r, w, x bool
		want    memory.Perm
	}{
		{false, false, false, 0}, {true, false, false, memory.Read}, {false, true, false, memory.Write},
		{true, true, false, memory.ReadWrite}, {false, false, true, memory.Read}, {true, false, true, memory.Read},
	} {
		s := loader.Segment{R: c.r, W: c.w, X: c.x}
		if got := s.Perm(); got != c.want {
			t.Errorf("Perm of R %v, W %v, X %v = %v; want %v", c.r, c.w, c.x, got, c.want)
		}
	}
}

// TestFitSizes fits the same image into several memories.
func TestFitSizes(t *testing.T) {
	img, err := loader.Open("k", bytes.NewReader(base()), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		size uint64
		ok   bool
	}{{0, false}, {0x100000, false}, {0x100001, false}, {0x110fff, false}, {0x111000, true}, {memSize, true}, {4 << 30, true}, {math.MaxUint64, true}} {
		if _, err := img.Fit(c.size); (err == nil) != c.ok {
			t.Errorf("Fit(%#x) = %v; want success %v", c.size, err, c.ok)
		}
	}
	// Load looks at the bounds again, whatever Fit said.
	mem, err := memory.New(0x110000)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var ae *memory.AccessError
	if err := img.Load(mem); !errors.As(err, &ae) || ae.Addr != 0x110000 {
		t.Errorf("Load into too small a memory = %v; want an AccessError at 0x110000", err)
	}
}
