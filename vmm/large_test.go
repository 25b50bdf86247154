package vmm

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
)

// largeSizes are memory sizes that only guests with uvm's own note can have.
var largeSizes = []uint64{4<<30 + 2<<20, 5<<30 - 2<<20, maxMem}

// large gives a configuration g's file with the note, and size bytes of memory.
func (g *guest) large(size uint64) func(*Config) {
	return func(c *Config) {
		g.withNote(0)(c)
		c.Memory = size
	}
}

// TestLargeMemory uses memory beyond 4 GiB up to its last byte, by itself and as
// the buffer of a hypercall.
func TestLargeMemory(t *testing.T) {
	const gib4 = 4 << 30
	for _, size := range largeSizes {
		t.Run(formatBytes(size), func(t *testing.T) {
			g := guest{ring: RingSealed}
			rsp := g.stored(4)
			g.emit(0x50, 0x58) // push rax; pop rax: the stack is there
			for _, a := range []uint64{gib4 - 1, gib4, gib4 + 1<<20, size - 2<<20 - 1, size - 2<<20, size - 0x1000, size - 1} {
				g.emit(0xb0, 0x5a) // mov al, 0x5a
				g.pointAt(a)
				g.storeByte()
				g.puts(a, 1)
			}
			g.puts(size, 0)
			g.puts(uint64(rsp), 8)
			g.halt(0)
			before := rss(t)
			var console bytes.Buffer
			cfg := g.config()
			g.large(size)(&cfg)
			cfg.Console = &console
			vm := newVM(t, cfg)
			segments := []loader.Segment{segmentAt(codeAddr, 0x1000, "rx"), segmentAt(dataAddr, 0x1000, "rw")}
			for _, a := range []uint64{0, 0x1000, 2 << 20, gib4 - 0x1000, gib4, 5<<30 - 0x1000, 5 << 30, size - 2<<20, size - 0x1000,
				size, size + 2<<20, uint64(vm.tablesAt()), uint64(vm.tablesAt()) + 0x1000, 1 << 39, 1 << 46} {
				if pa, got := walkSealed(t, vm, a); got != rightsAt(segments, size, a) || got.present && pa != a {
					t.Errorf("page %#x = %#x, %+v; want the same address, %+v", a, pa, got, rightsAt(segments, size, a))
				}
			}
			if res, err := runVM(t, vm); err != nil || res.Status != 0 {
				t.Errorf("Run() = %+v, %v; want status 0", res, err)
			}
			if want := append(bytes.Repeat([]byte{0x5a}, 7), le64s(gib4-8)...); !bytes.Equal(console.Bytes(), want) {
				t.Errorf("output = % x; want % x", console.Bytes(), want)
			}
			if grown := rss(t) - before; grown > 64<<10 {
				t.Errorf("resident memory grew by %d KiB; want at most 64 MiB", grown)
			}
		})
	}
}

// TestLargeMemoryEnds goes one byte beyond, and executes what is not text.
func TestLargeMemoryEnds(t *testing.T) {
	for _, size := range largeSizes {
		for _, tt := range []struct {
			name string
			emit func(*guest) (insn, addr uint64)
			kind FaultKind
			code uint64
		}{
			{"write", func(g *guest) (uint64, uint64) { g.pointAt(size); return g.storeByte(), size }, FaultException, codeUser | codeWrite},
			{"read", func(g *guest) (uint64, uint64) { g.pointAt(size + 0xfff); return g.loadByte(), size + 0xfff }, FaultException, codeUser},
			{"page tables", func(g *guest) (uint64, uint64) { g.pointAt(size + 0x1000); return g.loadByte(), size + 0x1000 }, FaultException, codeUser},
			{"execute", func(g *guest) (uint64, uint64) { g.pointAt(size - 8); g.callRBX(); return size - 8, size - 8 },
				FaultTranslation, codePresent | codeUser | codeFetch},
			{"buffer", func(g *guest) (uint64, uint64) { g.puts(size-1, 2); return g.here() - 1, size - 1 }, FaultPointer, 0},
			{"buffer of the page tables", func(g *guest) (uint64, uint64) { g.puts(size, 1); return g.here() - 1, size }, FaultPointer, 0},
		} {
			t.Run(formatBytes(size)+"/"+tt.name, func(t *testing.T) {
				g := guest{ring: RingSealed}
				insn, addr := tt.emit(&g)
				g.halt(0)
				e := faultOf(t, &g, g.large(size))
				if e.Kind != tt.kind || e.Code != tt.code || e.Addr != addr {
					t.Errorf("Run() = %v (error code %#x); want kind %q, error code %#x, address %#x", e, e.Code, tt.kind, tt.code, addr)
				}
				wantAt(t, e, insn, 1)
			})
		}
	}
}

// TestLargeStructures puts a structure above 4 GiB and its address into RAX: an
// OUT has 32 bits, and the structure below is the one that counts.
func TestLargeStructures(t *testing.T) {
	g := guest{ring: RingSealed}
	low, high := g.store([]byte("low")), g.store([]byte("high"))
	arg := g.store(le64s(uint64(low), 3))
	g.pointAt(1<<32 + uint64(arg))
	g.emit(append([]byte{0x48, 0xc7, 0x03}, imm32(high)...)...)    // mov qword [rbx], high
	g.emit(append([]byte{0x48, 0xc7, 0x43, 0x08}, imm32(4)...)...) // mov qword [rbx+8], 4
	g.emit(0x48, 0x89, 0xd8)                                       // mov rax, rbx
	g.emit(0x66, 0xba, 2, 5)                                       // mov dx, 0x502
	g.emit(0xef)                                                   // out dx, eax
	g.puts(1<<32+uint64(arg), 4)                                   // the buffer, though, has 64 bits
	g.halt(0)
	if got, want := runGuest(t, &g, g.large(5<<30)), "low"+string(imm32(high)); string(got) != want {
		t.Errorf("output = %q; want %q", got, want)
	}
}

// TestMemoryLimits has memory that a kernel cannot have.
func TestMemoryLimits(t *testing.T) {
	plain := new(guest)
	plain.halt(0)
	for _, tt := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"hvt guest", func(c *Config) { c.Memory = 4<<30 + 2<<20 },
			"guest memory of 4098 MiB: an hvt guest has at most 4096 MiB, unless it has uvm's own note and says that it is sealed"},
		{"native guest in ring 0", func(c *Config) { plain.large(4<<30 + 2<<20)(c); c.Ring = Ring0 },
			"guest memory of 4098 MiB: in ring 0 there are at most 4096 MiB: run it in ring sealed"},
		{"more than anybody has", plain.large(maxMem + 2<<20), "guest memory of 65538 MiB: a guest has at most 65536 MiB"},
	} {
		cfg := plain.config()
		tt.edit(&cfg)
		vm, err := New(cfg)
		var e *ConfigError
		if !errors.As(err, &e) || err.Error() != tt.want {
			t.Errorf("New(%s) = %v; want a *ConfigError: %s", tt.name, err, tt.want)
		}
		if vm != nil {
			vm.Close()
		}
	}
}

// TestLargeSample runs guests made by a compiler, whose hypercall structures lie
// on the stack, in all the memory there is.
func TestLargeSample(t *testing.T) {
	dir := sampleGuests(t)
	for _, name := range []string{"hello", "args", "clock"} {
		vm := newVM(t, Config{Kernel: filepath.Join(dir, name+".hvt"), Memory: maxMem, TSSAvailable: inLab})
		if res, err := runVM(t, vm); err != nil || res.Status != 0 || vm.Traps() != 0 {
			t.Errorf("%s: Run() = %+v, %v, %d traps; want status 0 without any", name, res, err, vm.Traps())
		}
	}
}
