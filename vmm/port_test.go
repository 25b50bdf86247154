package vmm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/loader"
)

// port emits
//
//	66 ba imm16 mov dx, port
func (g *guest) port(p uint16) { g.emit(0x66, 0xba, byte(p), byte(p>>8)) }

// stringIO emits what an INS or OUTS with REP needs: dx, the count and the
// address in both index registers.
//
//	be imm32  mov esi, at
//	bf imm32  mov edi, at
//	b9 imm32  mov ecx, n
func (g *guest) stringIO(p uint16, at uint32, n uint32) {
	g.port(p)
	g.emit(append([]byte{0xbe}, imm32(at)...)...)
	g.emit(append([]byte{0xbf}, imm32(at)...)...)
	g.emit(append([]byte{0xb9}, imm32(n)...)...)
}

func TestFaultPort(t *testing.T) { bothRings(t, testFaultPort) }

func testFaultPort(t *testing.T, ring Ring) {
	for _, tt := range []struct {
		name string
		emit func(*guest) (insn uint64)
		n    int // length of the instruction
		want devices.PortError
		text string
	}{
		{"1-byte IN from a hypercall", func(g *guest) uint64 { g.port(0x502); return g.emit(0xec) }, 1, // in al, dx
			devices.PortError{Port: 0x502, Size: 1, Count: 1}, "1-byte IN from port 0x502"},
		{"4-byte IN from a hypercall", func(g *guest) uint64 { g.port(0x500); return g.emit(0xed) }, 1, // in eax, dx
			devices.PortError{Port: 0x500, Size: 4, Count: 1}, "4-byte IN from port 0x500"},
		{"1-byte OUT to a hypercall", func(g *guest) uint64 { g.port(0x501); return g.emit(0xee) }, 1, // out dx, al
			devices.PortError{Port: 0x501, Size: 1, Count: 1, Out: true}, "1-byte OUT to port 0x501"},
		{"2-byte OUT to a hypercall", func(g *guest) uint64 { g.port(0x508); return g.emit(0x66, 0xef) }, 2, // out dx, ax
			devices.PortError{Port: 0x508, Size: 2, Count: 1, Out: true}, "2-byte OUT to port 0x508"},
		{"POST port", func(g *guest) uint64 { return g.emit(0xe6, 0x80) }, 2, // out 0x80, al
			devices.PortError{Port: 0x80, Size: 1, Count: 1, Out: true}, "1-byte OUT to port 0x80"},
		{"serial line", func(g *guest) uint64 { g.port(0x3fd); return g.emit(0xec) }, 1, // in al, dx
			devices.PortError{Port: 0x3fd, Size: 1, Count: 1}, "1-byte IN from port 0x3fd"},
		{"below the hypercalls", func(g *guest) uint64 { return g.out(0x4ff, 0) }, 1,
			devices.PortError{Port: 0x4ff, Size: 4, Count: 1, Out: true}, "4-byte OUT to port 0x4ff"},
		{"after the last hypercall", func(g *guest) uint64 { return g.out(0x509, 0) }, 1,
			devices.PortError{Port: 0x509, Size: 4, Count: 1, Out: true}, "4-byte OUT to port 0x509"},
		{"0x50f", func(g *guest) uint64 { return g.out(0x50f, 0) }, 1,
			devices.PortError{Port: 0x50f, Size: 4, Count: 1, Out: true}, "4-byte OUT to port 0x50f"},
		{"network ring, which is not there", func(g *guest) uint64 { return g.out(0x600, 0) }, 1,
			devices.PortError{Port: 0x600, Size: 4, Count: 1, Out: true}, "4-byte OUT to port 0x600"},
		{"4-byte OUT to the marks", func(g *guest) uint64 { return g.out(0x3f0, 0) }, 1,
			devices.PortError{Port: 0x3f0, Size: 4, Count: 1, Out: true}, "4-byte OUT to port 0x3f0"},
		{"IN from the marks", func(g *guest) uint64 { g.port(0x3f0); return g.emit(0xec) }, 1, // in al, dx
			devices.PortError{Port: 0x3f0, Size: 1, Count: 1}, "1-byte IN from port 0x3f0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: ring}
			insn := tt.emit(&g)
			g.halt(0)
			e := faultOf(t, &g, nil)
			var p *devices.PortError
			if e.Kind != FaultPort || e.Addr != uint64(tt.want.Port) || !errors.As(e, &p) || *p != tt.want {
				t.Fatalf("Run() = %v; want kind %q, %v", e, FaultPort, &tt.want)
			}
			wantAt(t, e, insn, tt.n)
			if want := fmt.Sprintf("guest fault: invalid port access: %s, rip=%#x", tt.text, e.RIP); !strings.HasPrefix(e.Error(), want) {
				t.Errorf("Error() = %q; want it to begin with %q", e.Error(), want)
			}
		})
	}
}

// TestRepeatedPortAccess uses the string instructions. A KVM may hand over
// their items in one exit or one by one.
func TestRepeatedPortAccess(t *testing.T) { bothRings(t, testRepeatedPortAccess) }

func testRepeatedPortAccess(t *testing.T, ring Ring) {
	t.Run("outsb to the marks", func(t *testing.T) {
		g := guest{ring: ring}
		g.stringIO(devices.MarkPort, g.store([]byte("abc")), 3)
		g.emit(0xf3, 0x6e) // rep outsb
		g.halt(0)
		vm := newVM(t, g.config())
		if res, err := runVM(t, vm); err != nil || res.Status != 0 {
			t.Fatalf("Run() = %+v, %v; want status 0", res, err)
		}
		if got := guestMarks(vm); got != "abc" {
			t.Errorf("marks = %q; want %q", got, "abc")
		}
	})
	t.Run("insb from the marks", func(t *testing.T) {
		g := guest{ring: ring}
		g.stringIO(devices.MarkPort, g.store(make([]byte, 3)), 3)
		insn := g.emit(0xf3, 0x6c) // rep insb
		g.halt(0)
		e := faultOf(t, &g, nil)
		if e.Kind != FaultPort || e.Addr != devices.MarkPort {
			t.Errorf("Run() = %v; want kind %q, port %#x", e, FaultPort, devices.MarkPort)
		}
		wantAt(t, e, insn, 2)
	})
	t.Run("outsd to a hypercall", func(t *testing.T) {
		// Two WALLTIMEs: refused as one exit, two calls as two.
		g := guest{ring: ring}
		out := g.store(le64s(0))
		g.stringIO(hypercall.PortBase+uint16(hypercall.Walltime), g.store(append(imm32(out), imm32(out)...)), 2)
		insn := g.emit(0xf3, 0x6f) // rep outsd
		g.halt(0)
		_, err := runVM(t, newVM(t, g.config()))
		var e *GuestError
		if err == nil {
			return
		}
		if !errors.As(err, &e) || e.Kind != FaultPort || !strings.Contains(e.Error(), "repeated 2 times") {
			t.Fatalf("Run() = %v; want kind %q, repeated 2 times", err, FaultPort)
		}
		wantAt(t, e, insn, 2)
	})
}

func TestFaultHypercall(t *testing.T) { bothRings(t, testFaultHypercall) }

func testFaultHypercall(t *testing.T, ring Ring) {
	disk := []loader.Device{{Name: "d", Type: loader.DeviceBlock}}
	for _, tt := range []struct {
		call    hypercall.Call
		devices []loader.Device
	}{
		{0, nil},
		{hypercall.BlockWrite, nil},
		{hypercall.BlockRead, nil},
		{hypercall.NetWrite, nil},
		{hypercall.NetRead, nil},
		{hypercall.NetWrite, disk},
		{hypercall.NetRead, disk},
	} {
		t.Run(fmt.Sprintf("%v with %d disks", tt.call, len(tt.devices)), func(t *testing.T) {
			g := guest{ring: ring, devices: tt.devices}
			insn := g.call(tt.call, g.store(make([]byte, 64)))
			g.halt(0)
			e := faultOf(t, &g, func(c *Config) {
				for range tt.devices {
					c.Disks = append(c.Disks, Disk{Path: image(t, 512)})
				}
			})
			var call *hypercall.InvalidCallError
			if e.Kind != FaultHypercall || e.Addr != uint64(tt.call) || !errors.As(e, &call) || call.Call != tt.call {
				t.Fatalf("Run() = %v; want kind %q, call %d", e, FaultHypercall, tt.call)
			}
			wantAt(t, e, insn, 1)
			if want := fmt.Sprintf("guest fault: invalid hypercall: no hypercall number %d, rip=%#x", tt.call, e.RIP); !strings.HasPrefix(e.Error(), want) {
				t.Errorf("Error() = %q; want it to begin with %q", e.Error(), want)
			}
		})
	}
}

// TestFaultPointer gives every pointer of every hypercall a value just beyond
// what the guest may use, and just within it.
func TestFaultPointer(t *testing.T) { bothRings(t, testFaultPointer) }

func testFaultPointer(t *testing.T, ring Ring) {
	const end = testMem
	for _, tt := range []struct {
		call hypercall.Call
		what string // the pointer, as messages call it
		size uint64 // bytes there
		text bool   // whether the guest's text is as good: nothing is written
		emit func(g *guest, p uint64) uint64
	}{
		{hypercall.Walltime, "argument", 8, false, argument},
		{hypercall.Puts, "argument", 16, true, argument},
		{hypercall.Puts, "buffer", 1000, true, field(0, le64s(0, 1000))},
		{hypercall.Poll, "argument", 24, false, argument},
		{hypercall.BlockWrite, "argument", 40, false, argument},
		{hypercall.BlockWrite, "buffer", 512, true, field(16, le64s(1, 0, 0, 512, 0))},
		{hypercall.BlockRead, "argument", 40, false, argument},
		{hypercall.BlockRead, "buffer", 512, false, field(16, le64s(1, 0, 0, 512, 0))},
		{hypercall.HaltCall, "argument", 16, true, argument},
		{hypercall.HaltCall, "cookie", 512, true, field(0, le64s(0, 0))},
	} {
		for _, at := range []struct {
			name string
			addr uint64
			good bool
		}{
			{"ends with memory", end - tt.size, true},
			{"one byte too far", end - tt.size + 1, false},
			{"starts at the end", end, false},
			{"wraps around 32 bits", 1<<32 - 1, false},
			{"page tables", 0x2000, false},
			{"text", codeAddr, tt.text},
			{"boot information", 0x10000, tt.text},
			{"from low memory into boot information", 0x10000 - 1, false},
		} {
			t.Run(fmt.Sprintf("%v %s %s", tt.call, tt.what, at.name), func(t *testing.T) {
				g := guest{ring: ring, devices: []loader.Device{{Name: "d", Type: loader.DeviceBlock}}}
				insn := tt.emit(&g, uint64(tt.call)<<32|at.addr)
				g.halt(0)
				cfg := g.config()
				cfg.Disks = []Disk{{Path: image(t, 512)}}
				_, err := runVM(t, newVM(t, cfg))
				var e *GuestError
				var p *hypercall.PointerError
				if !errors.As(err, &e) || !errors.As(err, &p) {
					// A structure of any content is a valid one elsewhere, but
					// PUTS may find a bad buffer in it.
					if !at.good || err != nil {
						t.Errorf("Run() = %v; want good = %v", err, at.good)
					}
					return
				}
				if at.good && p.What == tt.what {
					t.Errorf("Run() = %v; want no fault", err)
				}
				if at.good {
					return
				}
				if e.Kind != FaultPointer || e.Addr != at.addr || p.Call != tt.call || p.What != tt.what || p.Len != tt.size {
					t.Errorf("Run() = %v; want kind %q: %v, %s at %#x, %d bytes", e, FaultPointer, tt.call, tt.what, at.addr, tt.size)
				}
				wantAt(t, e, insn, 1)
				if want := fmt.Sprintf("hypercall %v, %s: guest memory access at %#x, %d bytes", tt.call, tt.what, at.addr, tt.size); !strings.Contains(e.Error(), want) {
					t.Errorf("Error() = %q; want it to contain %q", e.Error(), want)
				}
			})
		}
	}
}

// argument emits the call in the upper half of p with the lower half as the
// address of its structure.
func argument(g *guest, p uint64) uint64 { return g.call(hypercall.Call(p>>32), uint32(p)) }

// field returns a function that emits the call in the upper half of p with a
// structure whose pointer at offset off is the lower half.
func field(off int, structure []byte) func(*guest, uint64) uint64 {
	return func(g *guest, p uint64) uint64 {
		s := append([]byte(nil), structure...)
		le.PutUint64(s[off:], p&(1<<32-1))
		return g.call(hypercall.Call(p>>32), g.store(s))
	}
}

// TestFaultPointer64 uses the upper half of 64-bit pointers and lengths.
func TestFaultPointer64(t *testing.T) { bothRings(t, testFaultPointer64) }

func testFaultPointer64(t *testing.T, ring Ring) {
	for _, tt := range []struct {
		name     string
		ptr, len uint64
		good     bool
	}{
		{"address that wraps", 1<<64 - 1, 2, false},
		{"address and length that wrap", 1 << 63, 1 << 63, false},
		{"length of everything", dataAddr, 1<<64 - 1, false},
		{"length that wraps to the start", dataAddr, 1<<64 - dataAddr, false},
		{"address of 4 GiB and a bit", 1<<32 + dataAddr, 1, false},
		{"nothing at the end", testMem, 0, true},
		{"nothing beyond the end", testMem + 1, 0, false},
		{"nothing at all", 0, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: ring}
			g.call(hypercall.Puts, g.store(le64s(tt.ptr, tt.len)))
			g.halt(0)
			_, err := runVM(t, newVM(t, g.config()))
			var e *GuestError
			if tt.good {
				if err != nil {
					t.Errorf("Run() = %v; want nil", err)
				}
			} else if !errors.As(err, &e) || e.Kind != FaultPointer || e.Addr != tt.ptr {
				t.Errorf("Run() = %v; want kind %q, address %#x", err, FaultPointer, tt.ptr)
			}
		})
	}
}

// guestMarks is what the guest wrote to the marks' port.
func guestMarks(vm *VM) string {
	var s []byte
	marks, _ := vm.Timeline()
	for i := range marks {
		if marks[i].Guest() {
			s = append(s, marks[i].Value)
		}
	}
	return string(s)
}
