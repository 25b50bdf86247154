package vmm

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

// Page-table entry bits as the processor sets them in the tests' own words:
// AMD64 Architecture Programmer's Manual, volume 2, section 5.4.
const (
	entPresent  = 1 << 0
	entWrite    = 1 << 1
	entUser     = 1 << 2
	entAccessed = 1 << 5
	entLarge    = 1 << 7
	entAddr     = 0x000f_ffff_ffff_f000
)

// walk translates a virtual address as the processor does. perm is 0 where
// nothing is mapped.
func walk(t testing.TB, mem *memory.Memory, va uint64) (pa uint64, perm memory.Perm) {
	t.Helper()
	perm = memory.ReadWrite
	table := uint64(gpaPML4)
	for shift := uint(39); ; shift -= 9 {
		b, err := mem.At(memory.Addr(table+va>>shift&511*8), 8)
		if err != nil {
			t.Fatalf("page-table entry of %#x at level %d: %v", va, shift, err)
		}
		e := le.Uint64(b)
		if e&entPresent == 0 {
			return 0, 0
		}
		if e&entWrite == 0 {
			perm &= memory.Read
		}
		if bad := e &^ (entPresent | entWrite | entAccessed | entLarge | entAddr); bad != 0 {
			t.Fatalf("page-table entry of %#x at level %d = %#x; want no bits %#x", va, shift, e, bad)
		}
		if shift == 12 || e&entLarge != 0 {
			page := uint64(1)<<shift - 1
			return e&entAddr&^page | va&page, perm
		}
		table = e & entAddr
	}
}

// ring0Tables writes the page tables of a guest in ring 0.
func ring0Tables(t *testing.T, mem *memory.Memory) {
	t.Helper()
	if _, err := (&VM{mem: mem}).pageTables(ring0Map(mem.Size()), pteP|pteA, pteRW); err != nil {
		t.Fatalf("pageTables(%s) = %v; want nil", formatBytes(mem.Size()), err)
	}
}

func TestPageTables(t *testing.T) {
	for _, size := range []uint64{2 << 20, 4 << 20, 64 << 20, 1 << 30, 1<<30 + 2<<20, 4 << 30} {
		t.Run(formatBytes(size), func(t *testing.T) {
			mem, err := memory.New(size)
			if err != nil {
				t.Fatal(err)
			}
			defer mem.Close()
			ring0Tables(t, mem)
			check := func(va uint64, want memory.Perm) {
				t.Helper()
				pa, perm := walk(t, mem, va)
				if perm != want || want != 0 && pa != va {
					t.Errorf("walk(%#x) = %#x, %v; want the same address, %v", va, pa, perm, want)
				}
			}
			for va := uint64(0); va < 2<<20; va += memory.PageSize {
				want := memory.ReadWrite
				switch {
				case va < 0x10000:
					want = 0
				case va < 0x100000:
					want = memory.Read
				}
				check(va, want)
				check(va+memory.PageSize-1, want)
			}
			for va := uint64(2 << 20); va < size; va += 2 << 20 {
				check(va, memory.ReadWrite)
				check(va+2<<20-1, memory.ReadWrite)
			}
			// Nothing beyond, in the last directory, the next one and the next
			// 512 GiB.
			for _, va := range []uint64{size, size + 2<<20, size + 1<<30, 1 << 39, 1 << 46, 1<<64 - 1<<47, 1<<64 - 1} {
				check(va, 0)
			}
		})
	}
}

// TestPageTableWords pins the exact words, which the ABI's description of a
// 64 MiB guest gives: guests may read them once they have mapped them.
func TestPageTableWords(t *testing.T) {
	mem, err := memory.New(64 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	ring0Tables(t, mem)
	const rw, ro = entPresent | entWrite | entAccessed, entPresent | entAccessed
	for _, w := range []struct {
		at   memory.Addr
		want uint64
	}{
		{0x2000, 0x3000 | rw}, {0x2008, 0}, // PML4
		{0x3000, 0x4000 | rw}, {0x3008, 0}, // PDPT
		{0x4000, 0x8000 | rw}, {0x4008, 0x200000 | rw | entLarge}, // PD 0
		{0x40f8, 31<<21 | rw | entLarge}, {0x4100, 0}, // its end at 64 MiB
		{0x8000, 0}, {0x8078, 0}, {0x8080, 0x10000 | ro}, // PT 0
		{0x87f8, 0xff000 | ro}, {0x8800, 0x100000 | rw}, {0x8ff8, 0x1ff000 | rw},
		{0x9000, 0}, // nothing after it
	} {
		b, err := mem.At(w.at, 8)
		if err != nil {
			t.Fatal(err)
		}
		if got := le.Uint64(b); got != w.want {
			t.Errorf("word at %v = %#x; want %#x", w.at, got, w.want)
		}
	}
}

// pointAt emits
//
//	48 bb imm64  movabs rbx, addr
func (g *guest) pointAt(addr uint64) {
	g.emit(append([]byte{0x48, 0xbb}, le64s(addr)...)...)
}

// loadByte and storeByte emit an access of two bytes' length to where rbx
// points, and return its address.
func (g *guest) loadByte() uint64  { return g.emit(0x8a, 0x03) } // mov al, [rbx]
func (g *guest) storeByte() uint64 { return g.emit(0x88, 0x03) } // mov [rbx], al

// wantTripleFault checks a page fault that found no IDT. On SVM the state
// after a shutdown is undefined and KVM resets the vCPU, so that rip is the
// reset vector and CR2 is lost (AMD64 APM volume 2, section 15.14.3).
func wantTripleFault(t *testing.T, e *GuestError, rip, cr2 uint64) {
	t.Helper()
	const resetVector = 0xfff0
	if e.Kind != FaultShutdown {
		t.Errorf("Run() = %v; want kind %q", e, FaultShutdown)
		return
	}
	if e.RIP == resetVector && e.Addr == noAddr {
		return
	}
	if e.RIP != rip || e.Addr != cr2 {
		t.Errorf("triple fault = rip %#x, address %#x; want %#x, %#x", e.RIP, e.Addr, rip, cr2)
	}
	want := fmt.Sprintf("guest fault: triple fault, address %#x, rip=%#x", cr2, rip)
	if e.Error() != want {
		t.Errorf("Error() = %q; want %q", e.Error(), want)
	}
}

// TestGuestMemoryFaults runs guests that touch what is not theirs, under the
// monitor's page tables and without an IDT.
func TestGuestMemoryFaults(t *testing.T) { bothRings(t, testGuestMemoryFaults) }

func testGuestMemoryFaults(t *testing.T, ring Ring) {
	for _, size := range []uint64{2 << 20, 64 << 20, 4 << 30} {
		for _, tt := range []struct {
			name string
			addr uint64
			emit func(*guest) uint64
		}{
			{"read null page", 8, (*guest).loadByte},
			{"read page tables", 0x2000, (*guest).loadByte},
			{"read last absent byte", 0xffff, (*guest).loadByte},
			{"write boot information", 0x10000, (*guest).storeByte},
			{"write last read-only byte", 0xfffff, (*guest).storeByte},
			{"read first byte beyond", size, (*guest).loadByte},
			{"write first byte beyond", size, (*guest).storeByte},
		} {
			t.Run(formatBytes(size)+"/"+tt.name, func(t *testing.T) {
				g := guest{ring: ring}
				g.pointAt(tt.addr)
				rip := tt.emit(&g)
				g.halt(0)
				e := faultOf(t, &g, func(c *Config) { c.Memory = size })
				if ring == Ring0 {
					wantTripleFault(t, e, rip, tt.addr)
					return
				}
				// Low memory is there, but the monitor's or read-only.
				code := uint64(4)
				if tt.addr >= 0x1000 && tt.addr < size {
					code |= 1
				}
				if strings.HasPrefix(tt.name, "write") {
					code |= 2
				}
				wantException(t, e, vecPF, code, rip, tt.addr)
			})
		}
	}
}

// TestGuestMemoryEdges runs guests that use the first and the last byte they
// may, and finds what they wrote there in host memory. A guest's memory takes
// up host memory only where it was touched.
func TestGuestMemoryEdges(t *testing.T) { bothRings(t, testGuestMemoryEdges) }

func testGuestMemoryEdges(t *testing.T, ring Ring) {
	for _, size := range []uint64{2 << 20, 64 << 20, 4 << 30} {
		t.Run(formatBytes(size), func(t *testing.T) {
			g := guest{ring: ring}
			g.pointAt(0x10000)
			g.loadByte()            // read-only, but readable
			g.emit(0xb0, 0x5a)      // mov al, 0x5a
			g.pointAt(size - 1)     // the stack is empty: nothing lies there yet
			g.storeByte()           //
			g.emit(0xb0, 0)         // mov al, 0
			g.loadByte()            //
			g.pointAt(size / 4 * 3) //
			g.storeByte()           // what was read back
			g.puts(size-1, 1)       // a buffer that ends where memory does
			g.puts(size/4*3, 1)     //
			g.puts(0xfffff, 2)      // across the permissions' border, both readable
			g.puts(size, 0)         // nothing at the very end is still inside
			g.puts(dataAddr, 0)     //
			g.halt(0)
			before := rss(t)
			got := runGuest(t, &g, func(c *Config) { c.Memory = size })
			if want := "\x5a\x5a\x00" + string(g.code[0]); string(got) != want {
				t.Errorf("output = % x; want % x", got, want)
			}
			// Transparent huge pages round every touched page up to 2 MiB.
			if grown := rss(t) - before; grown > 64<<10 {
				t.Errorf("resident memory grew by %d KiB for a guest of %s; want at most 64 MiB", grown, formatBytes(size))
			}
		})
	}
}

// rss is the process's resident memory in KiB.
func rss(t testing.TB) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmRSS in /proc/self/status: %s", strings.TrimSpace(string(status)))
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
