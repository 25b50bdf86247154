package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// pageRights is what the page tables say of a page.
type pageRights struct{ present, user, write, nx bool }

// walkSealed translates as the processor does, with what it found on the way
// taken together. The tables lie in two memory slots.
func walkSealed(t testing.TB, vm *VM, va uint64) (pa uint64, r pageRights) {
	t.Helper()
	const nx = 1 << 63
	r = pageRights{true, true, true, false}
	table := uint64(gpaPML4)
	for shift := uint(39); ; shift -= 9 {
		mem, off := vm.mem, table
		if above := uint64(vm.tablesAt()); table >= above {
			mem, off = vm.tables, table-above
		} else if table >= uint64(gpaBootInfo) {
			t.Fatalf("page table for %#x at %#x: the guest can read it", va, table)
		}
		b, err := mem.At(memory.Addr(off+va>>shift&511*8), 8)
		if err != nil {
			t.Fatalf("page-table entry of %#x at shift %d: %v", va, shift, err)
		}
		e := le.Uint64(b)
		if e&entPresent == 0 {
			return 0, pageRights{}
		}
		r.user = r.user && e&entUser != 0
		r.write = r.write && e&entWrite != 0
		r.nx = r.nx || e&nx != 0
		if e&entAccessed == 0 {
			t.Errorf("page-table entry of %#x at shift %d = %#x; want it accessed", va, shift, e)
		}
		if shift == 12 || e&entLarge != 0 {
			page := uint64(1)<<shift - 1
			return e&entAddr&^page | va&page, r
		}
		table = e & entAddr
	}
}

// rightsAt is what a sealed guest with these segments ought to have at an
// address, looked up segment by segment.
func rightsAt(segments []loader.Segment, size, a uint64) pageRights {
	switch {
	case a < 0x1000 || a >= size:
		return pageRights{}
	case a>>12 == uint64(sealedStubs)>>12:
		return pageRights{present: true}
	case a < 0x10000:
		return pageRights{present: true, write: true, nx: true}
	case a < 0x100000:
		return pageRights{present: true, user: true, nx: true}
	}
	for _, s := range segments {
		if a >= uint64(s.Addr) && a < uint64(s.Addr)+s.MemSize {
			if !s.R && !s.W && !s.X {
				return pageRights{}
			}
			return pageRights{present: true, user: true, write: s.W, nx: !s.X}
		}
	}
	return pageRights{present: true, user: true, write: true, nx: true}
}

// withSegments adds segments without content to a guest's file: its program
// headers move to the end.
func withSegments(file []byte, more []loader.Segment) []byte {
	const phdr = 56
	old := bytes.Clone(file[64 : 64+phdr*int(le.Uint16(file[56:]))])
	f := bytes.Clone(file)
	le.PutUint64(f[32:], uint64(len(f))) // e_phoff
	le.PutUint16(f[56:], uint16(len(old)/phdr+len(more)))
	f = append(f, old...)
	for i := range more {
		s := &more[i]
		h := make([]byte, phdr)
		le.PutUint32(h, 1) // PT_LOAD
		flags := uint32(0)
		for bit, on := range map[uint32]bool{1: s.X, 2: s.W, 4: s.R} {
			if on {
				flags |= bit
			}
		}
		le.PutUint32(h[4:], flags)
		le.PutUint64(h[16:], uint64(s.Addr))
		le.PutUint64(h[24:], uint64(s.Addr))
		le.PutUint64(h[40:], s.MemSize)
		le.PutUint64(h[48:], memory.PageSize)
		f = append(f, h...)
	}
	return f
}

// segmentAt is a segment of whole pages; flags are letters of "rwx".
func segmentAt(addr, size uint64, flags string) loader.Segment {
	return loader.Segment{
		Addr: memory.Addr(addr), MemSize: size,
		R: bytes.ContainsRune([]byte(flags), 'r'), W: bytes.ContainsRune([]byte(flags), 'w'), X: bytes.ContainsRune([]byte(flags), 'x'),
	}
}

// TestSealedPageTables compares every page of many layouts with the segments.
func TestSealedPageTables(t *testing.T) {
	const mib = 1 << 20
	type layout struct {
		name string
		size uint64
		more []loader.Segment // after the guest's own two, ascending
	}
	layouts := []layout{
		{"2 MiB", 2 * mib, nil},
		{"4 MiB", 4 * mib, nil},
		{"64 MiB", 64 * mib, nil},
		{"text of one large page", 8 * mib, []loader.Segment{segmentAt(2*mib, 2*mib, "rx")}},
		{"across 2 MiB", 8 * mib, []loader.Segment{segmentAt(2*mib-0x1000, 0x2000, "r")}},
		{"across two borders", 8 * mib, []loader.Segment{segmentAt(2*mib-0x1000, 2*mib+0x2000, "rx")}},
		{"up to the end", 8 * mib, []loader.Segment{segmentAt(8*mib-0x1000, 0x1000, "r")}},
		{"all of a region but its ends", 8 * mib, []loader.Segment{segmentAt(4*mib+0x1000, 2*mib-0x2000, "rx")}},
		{"no permission", 8 * mib, []loader.Segment{segmentAt(2*mib, 2*mib, ""), segmentAt(4*mib+0x1000, 0x1000, "")}},
		{"execute only", 8 * mib, []loader.Segment{segmentAt(2*mib+0x3000, 0x1000, "x")}},
		{"write only", 8 * mib, []loader.Segment{segmentAt(2*mib+0x3000, 0x1000, "w")}},
	}
	var every []loader.Segment // a page table for every region
	for a := uint64(2 * mib); a < 64*mib; a += 2 * mib {
		every = append(every, segmentAt(a+0x5000, 0x1000, "r"))
	}
	layouts = append(layouts, layout{"a segment in every 2 MiB", 64 * mib, every})
	r := rand.New(rand.NewPCG(11, 12))
	for i := range 12 {
		size := uint64(2+2*r.IntN(8)) * mib
		var more []loader.Segment
		for a := uint64(dataAddr + 0x1000); ; {
			a += uint64(r.IntN(1<<r.IntN(11))) * memory.PageSize
			n := uint64(1+r.IntN(1<<r.IntN(11))) * memory.PageSize
			if a+n > size || len(more) > 50 {
				break
			}
			more = append(more, segmentAt(a, n, []string{"r", "rw", "rx", "w", "x", ""}[r.IntN(6)]))
			a += n
		}
		layouts = append(layouts, layout{fmt.Sprintf("random %d", i), size, more})
	}
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			g.halt(5)
			cfg := g.config()
			cfg.Memory, cfg.KernelFile = l.size, bytes.NewReader(withSegments(g.elf(), l.more))
			vm := newVM(t, cfg)
			segments := append([]loader.Segment{segmentAt(codeAddr, 0x1000, "rx"), segmentAt(dataAddr, 0x1000, "rw")}, l.more...)
			for a := uint64(0); a < l.size; a += memory.PageSize {
				pa, got := walkSealed(t, vm, a)
				want := rightsAt(segments, l.size, a)
				if got != want || want.present && pa != a {
					t.Fatalf("page %#x = %#x, %+v; want the same address, %+v", a, pa, got, want)
				}
				// The monitor's view agrees with the processor's.
				_, readable := vm.view.Readable(memory.Addr(a), memory.PageSize)
				_, writable := vm.view.Writable(memory.Addr(a), memory.PageSize)
				if w := want.present && want.user && want.write; (writable == nil) != w {
					t.Fatalf("page %#x: Writable() = %v; want %v", a, writable, w)
				}
				if readable == nil && !(want.present && want.user) {
					t.Fatalf("page %#x: Readable() = nil; want an error", a)
				}
			}
			for _, a := range []uint64{l.size, l.size + 2*mib, 1 << 32, uint64(vm.tablesAt()) + 0x1000, 1 << 39, 1 << 46, 1<<64 - 1<<47, 1<<64 - 0x1000} {
				if pa, got := walkSealed(t, vm, a); got.present {
					t.Errorf("page %#x beyond memory = %#x, %+v; want none", a, pa, got)
				}
			}
			if res, err := runVM(t, vm); err != nil || res.Status != 5 {
				t.Errorf("Run() = %+v, %v; want status 5", res, err)
			}
		})
	}
}

// TestSealedLargeGuest looks at the borders of a guest of 4 GiB, and has it use
// its last page and a segment across 2 MiB just below.
func TestSealedLargeGuest(t *testing.T) {
	const size, border = 4 << 30, 4<<30 - 2<<20
	g := guest{ring: RingSealed}
	for _, a := range []uint64{2 << 20, 1<<30 - 1, 1 << 30, 2 << 30, 3<<30 + 7, border - 0x1001, border + 0x1000, size - 1} {
		g.emit(0xb0, 0x5a) // mov al, 0x5a
		g.pointAt(a)
		g.storeByte()
		g.puts(a, 1)
	}
	g.pointAt(border)
	insn := g.storeByte()
	g.halt(0)
	more := []loader.Segment{segmentAt(border-0x1000, 0x2000, "r")}
	var console bytes.Buffer
	cfg := g.config()
	cfg.Memory, cfg.Console, cfg.KernelFile = size, &console, bytes.NewReader(withSegments(g.elf(), more))
	before := rss(t)
	vm := newVM(t, cfg)
	segments := append([]loader.Segment{segmentAt(codeAddr, 0x1000, "rx"), segmentAt(dataAddr, 0x1000, "rw")}, more...)
	for _, a := range []uint64{0, 0x1000, 2<<20 - 0x1000, 2 << 20, 1<<30 - 0x1000, 1 << 30, border - 0x2000, border - 0x1000, border, border + 0x1000, size - 0x1000, size} {
		if pa, got := walkSealed(t, vm, a); got != rightsAt(segments, size, a) || got.present && pa != a {
			t.Errorf("page %#x = %#x, %+v; want the same address, %+v", a, pa, got, rightsAt(segments, size, a))
		}
	}
	_, err := runVM(t, vm)
	var e *GuestError
	if !errors.As(err, &e) || e.Kind != FaultTranslation || e.Addr != border || e.RIP != insn {
		t.Errorf("Run() = %v; want kind %q, address %#x, rip %#x", err, FaultTranslation, uint64(border), insn)
	}
	if want := bytes.Repeat([]byte{0x5a}, 8); !bytes.Equal(console.Bytes(), want) {
		t.Errorf("output = % x; want % x", console.Bytes(), want)
	}
	if grown := rss(t) - before; grown > 64<<10 {
		t.Errorf("resident memory grew by %d KiB; want at most 64 MiB", grown)
	}
}

// TestSealedStraddling uses and violates segments on both sides of a 2 MiB
// border, whose page tables lie in low memory and in a slot of their own.
func TestSealedStraddling(t *testing.T) {
	const mib = 1 << 20
	var more []loader.Segment
	for border := uint64(2 * mib); border < 32*mib; border += 2 * mib {
		more = append(more, segmentAt(border-0x1000, 0x2000, "r"))
	}
	for _, border := range []uint64{2 * mib, 4 * mib, 8 * mib, 10 * mib, 30 * mib} {
		for _, tt := range []struct {
			addr uint64
			emit func(*guest) uint64
			good bool
		}{
			{border - 0x1001, (*guest).storeByte, true},
			{border - 0x1000, (*guest).storeByte, false},
			{border - 1, (*guest).storeByte, false},
			{border, (*guest).storeByte, false},
			{border + 0xfff, (*guest).storeByte, false},
			{border + 0x1000, (*guest).storeByte, true},
			{border, (*guest).loadByte, true},
			{border, (*guest).callRBX, false},
			{border + 0x1000, (*guest).callRBX, false},
		} {
			g := guest{ring: RingSealed}
			g.pointAt(tt.addr)
			tt.emit(&g)
			g.call(hypercall.Walltime, uint32(border+0x1000))
			g.halt(0)
			cfg := g.config()
			cfg.Memory, cfg.KernelFile = 32*mib, bytes.NewReader(withSegments(g.elf(), more))
			vm := newVM(t, cfg)
			_, err := runVM(t, vm)
			vm.Close()
			var e *GuestError
			if tt.good {
				if err != nil {
					t.Errorf("access to %#x = %v; want nil", tt.addr, err)
				}
			} else if !errors.As(err, &e) || e.Kind != FaultTranslation || e.Addr != tt.addr {
				t.Errorf("access to %#x = %v; want kind %q there", tt.addr, err, FaultTranslation)
			}
		}
	}
}
