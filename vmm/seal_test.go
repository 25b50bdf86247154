package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

// call emits a call of what rbx points to, and returns its address.
//
//	ff d3  call rbx
func (g *guest) callRBX() uint64 { return g.emit(0xff, 0xd3) }

// untouchable is a copy of what no guest of the tests may write: the monitor's
// memory, but for the ring-0 stack with its frames, boot information and text.
func untouchable(vm *VM) []byte {
	b := bytes.Clone(vm.mem.Host()[:codeAddr+0x1000])
	clear(b[sealedStack-memory.PageSize : sealedStack])
	return b
}

// Bits of a page fault's error code (AMD64 APM volume 2, section 8.4.2).
const (
	codePresent = 1 << 0
	codeWrite   = 1 << 1
	codeUser    = 1 << 2
	codeFetch   = 1 << 4
)

// TestSealedMemory reads, writes and executes what the guest must not. What
// its own tables would have refused as well is an exception; what only the
// seal refuses ends as a translation fault, handler or not.
func TestSealedMemory(t *testing.T) {
	type access struct {
		name string
		code uint64 // of the error code, besides present
		emit func(*guest) uint64
	}
	read := access{"read", codeUser, (*guest).loadByte}
	write := access{"write", codeUser | codeWrite, (*guest).storeByte}
	exec := access{"execute", codeUser | codeFetch, (*guest).callRBX}
	all := []access{read, write, exec}
	type place struct {
		name     string
		addr     uint64
		accesses []access
		present  uint64
		kind     FaultKind
	}
	places := []place{
		{"page 0", 8, all, 0, FaultException},
		{"end of page 0", 0xfff, all[:2], 0, FaultException},
		{"end of memory", testMem, all, 0, FaultException},
		{"page tables' slot", hvtMaxMem, all, 0, FaultException},
		{"the top of the lower half", 1<<47 - 0x1000, all, 0, FaultException},
		{"boot information", 0x10000, all[1:2], codePresent, FaultException},
		{"end of boot information", 0xfffff, all[1:2], codePresent, FaultException},
		{"boot information", 0x10000, all[2:], codePresent, FaultTranslation},
		{"end of boot information", 0xff000, all[2:], codePresent, FaultTranslation},
		{"text", codeAddr, all[1:2], codePresent, FaultTranslation},
		{"end of text", codeAddr + 0xfff, all[1:2], codePresent, FaultTranslation},
		{"read-only data", dataAddr, all[1:], codePresent, FaultTranslation},
		{"between segments", codeAddr + 0x1000, all[2:], codePresent, FaultTranslation},
		{"heap", dataAddr + 0x1000, all[2:], codePresent, FaultTranslation},
		{"stack", testMem - 0x1000, all[2:], codePresent, FaultTranslation},
	}
	for page := uint64(gpaGDT); page < 0x10000; page += memory.PageSize {
		places = append(places, place{"the monitor's", page, all, codePresent, FaultException})
	}
	for _, p := range places {
		for _, a := range p.accesses {
			t.Run(fmt.Sprintf("%s %s at %#x", a.name, p.name, p.addr), func(t *testing.T) {
				g := guest{ring: RingSealed, readOnly: true}
				g.pointAt(p.addr)
				insn := a.emit(&g)
				g.emit(0xf4) // hlt
				vm := newVM(t, g.config())
				before := untouchable(vm)
				_, err := runVM(t, vm)
				var e *GuestError
				if !errors.As(err, &e) {
					t.Fatalf("Run() = %v; want a *GuestError", err)
				}
				if a.code&codeFetch != 0 {
					insn = p.addr // the guest is there already
				}
				if e.Kind != p.kind || e.Vector != vecPF || e.Code != a.code|p.present || e.RIP != insn || e.Addr != p.addr {
					t.Errorf("Run() = %v (vector %d, error code %#x); want kind %q, vector %d, error code %#x, address %#x, rip %#x",
						e, e.Vector, e.Code, p.kind, vecPF, a.code|p.present, p.addr, insn)
				}
				if !bytes.Equal(untouchable(vm), before) {
					t.Errorf("memory below the heap changed")
				}
			})
		}
	}
}

// TestSealedDataIsNotCode executes writable data of the file, which the guest
// of TestSealedMemory does not have.
func TestSealedDataIsNotCode(t *testing.T) {
	g := guest{ring: RingSealed}
	at := uint64(g.store([]byte{0xc3})) // ret
	g.pointAt(at)
	g.callRBX()
	g.halt(0)
	e := faultOf(t, &g, nil)
	if e.Kind != FaultTranslation || e.RIP != at || e.Addr != at || e.Vector != vecPF {
		t.Errorf("Run() = %v; want kind %q, rip %#x, address %#x", e, FaultTranslation, at, at)
	}
}

// TestSealedHighHalf touches addresses of the upper half, where this KVM and
// the host's kernel live, and addresses that are none.
func TestSealedHighHalf(t *testing.T) {
	for _, addr := range []uint64{1 << 47, 1 << 63, 1<<64 - 1<<47, syscallSentinel + 0x1000, 0xffff888000000000, 0xffffc90000000000,
		0xfffffe0000000000, 0xffffffff81000000, 0xffffffffff600000, 1<<64 - 0x1000, 1<<64 - 1} {
		for name, emit := range map[string]func(*guest) uint64{
			"read": (*guest).loadByte, "write": (*guest).storeByte, "execute": (*guest).callRBX,
		} {
			t.Run(fmt.Sprintf("%s %#x", name, addr), func(t *testing.T) {
				g := guest{ring: RingSealed}
				g.pointAt(addr)
				insn := emit(&g)
				g.halt(0)
				e := faultOf(t, &g, nil)
				// #PF or, where the address is not canonical, #GP.
				if e.Kind != FaultException || e.Vector != vecPF && e.Vector != vecGP {
					t.Fatalf("Run() = %v; want kind %q, vector %d or %d", e, FaultException, vecPF, vecGP)
				}
				if e.RIP != insn && (e.RIP != addr || name != "execute") {
					t.Errorf("Run() = %v; want rip %#x", e, insn)
				}
				if e.Vector == vecPF && e.Addr != addr {
					t.Errorf("Run() = %v; want address %#x", e, addr)
				}
			})
		}
	}
}

// TestSealedPorts tries the neighbours of every open port, in each size.
func TestSealedPorts(t *testing.T) {
	type size struct {
		bytes int
		code  []byte // dx, from the accumulator
	}
	out := []size{{1, []byte{0xee}}, {2, []byte{0x66, 0xef}}, {4, []byte{0xef}}}
	in := []size{{1, []byte{0xec}}, {2, []byte{0x66, 0xed}}, {4, []byte{0xed}}}
	outs := []size{{1, []byte{0x6e}}, {2, []byte{0x66, 0x6f}}, {4, []byte{0x6f}}}
	ins := []size{{1, []byte{0x6c}}, {2, []byte{0x66, 0x6d}}, {4, []byte{0x6d}}}
	for _, port := range []uint16{0, 1, vecPF, 0x80, 0xff, 0x100, 0x3ed, 0x3ee, 0x3ef, 0x3f0, 0x3f1, 0x3f8, 0x4fe, 0x4ff, 0x500, 0x501, 0x508,
		0x509, 0x50a, 0x50b, 0x50c, 0x510, 0x600, 0x601, 0x604, 0xcf8, 0x1000, 0x7fff, 0xfffc, 0xffff} {
		t.Run(fmt.Sprintf("%#x", port), func(t *testing.T) {
			for name, sizes := range map[string][]size{"out": out, "in": in, "outs": outs, "ins": ins} {
				for _, s := range sizes {
					if name == "out" && (port == 0x3f0 && s.bytes == 1 || port >= 0x501 && port <= 0x508 && s.bytes == 4) ||
						name == "outs" && (port == 0x3f0 && s.bytes == 1 || port >= 0x501 && port <= 0x508 && s.bytes == 4) {
						continue // open
					}
					for _, prefix := range [][]byte{nil, {0xf3}} {
						if prefix != nil && len(name) < 4 {
							continue // nothing to repeat
						}
						code := append(bytes.Clone(prefix), s.code...)
						g := guest{ring: RingSealed}
						g.stringIO(port, g.store(make([]byte, 64)), 3)
						insn := g.emit(code...)
						g.halt(0)
						vm := newVM(t, g.config())
						_, err := runVM(t, vm)
						vm.Close()
						var e *GuestError
						if port == 0x500 && s.bytes == 4 && strings.HasPrefix(name, "out") && prefix == nil {
							if !errors.As(err, &e) || e.Kind != FaultHypercall || e.RIP != insn { // call number 0
								t.Errorf("%s at port %#x = %v; want kind %q, rip %#x", name, port, err, FaultHypercall, insn)
							}
							continue
						}
						if !errors.As(err, &e) || e.Kind != FaultPort || e.Addr != uint64(port) {
							t.Errorf("%s of %d bytes (% x) at port %#x = %v; want kind %q", name, s.bytes, code, port, err, FaultPort)
							continue
						}
						wantAt(t, e, insn, len(code))
					}
				}
			}
		})
	}
}

// TestSealedPortPrefixes gives port instructions the prefixes that they may
// have: it is still a port that was touched.
func TestSealedPortPrefixes(t *testing.T) {
	for _, tt := range []struct {
		asm  string
		code []byte
		text string
	}{
		{"out 0x80, al", []byte{0xe6, 0x80}, "1-byte OUT to port 0x80"},
		{"out 0x80, ax", []byte{0x66, 0xe7, 0x80}, "2-byte OUT to port 0x80"},
		{"out 0x80, eax", []byte{0xe7, 0x80}, "4-byte OUT to port 0x80"},
		{"in al, 0x80", []byte{0xe4, 0x80}, "1-byte IN from port 0x80"},
		{"in eax, 0x80", []byte{0xe5, 0x80}, "4-byte IN from port 0x80"},
		{"rex.w out dx, eax", []byte{0x48, 0xef}, "4-byte OUT to port 0x510"},
		{"cs outsb", []byte{0x2e, 0x6e}, "1-byte OUT to port 0x510"},
		{"fs rep outsd", []byte{0x64, 0xf3, 0x6f}, "4-byte OUT to port 0x510, repeated 3 times"},
		{"rep gs outsw", []byte{0xf3, 0x65, 0x66, 0x6f}, "2-byte OUT to port 0x510, repeated 3 times"},
		{"outsb [esi]", []byte{0x67, 0x6e}, "1-byte OUT to port 0x510"},
		{"insd [edi]", []byte{0x67, 0x6d}, "4-byte IN from port 0x510"},
		{"es ds ss cs fs gs out dx, al", []byte{0x26, 0x3e, 0x36, 0x2e, 0x64, 0x65, 0xee}, "1-byte OUT to port 0x510"},
		{"as long as it gets", append(bytes.Repeat([]byte{0x66}, 14), 0xef), "2-byte OUT to port 0x510"},
	} {
		t.Run(tt.asm, func(t *testing.T) {
			g := guest{ring: RingSealed}
			g.stringIO(0x510, g.store(make([]byte, 64)), 3)
			insn := g.emit(tt.code...)
			g.halt(0)
			e := faultOf(t, &g, nil)
			if e.Kind != FaultPort || e.RIP != insn || e.Vector != vecGP || !strings.Contains(e.Error(), ": "+tt.text+", rip=") {
				t.Errorf("Run() = %v; want kind %q: %s, rip %#x", e, FaultPort, tt.text, insn)
			}
		})
	}
}

// TestSealedStubPorts writes to the ports that the stubs tell exceptions by:
// the guest's own OUT is no exception.
func TestSealedStubPorts(t *testing.T) {
	for v := range sealedVectors {
		g := guest{ring: RingSealed}
		insn := g.emit(0xe6, byte(v)) // out v, al
		vm := newVM(t, g.config())
		_, err := runVM(t, vm)
		vm.Close()
		var e *GuestError
		if !errors.As(err, &e) || e.Kind != FaultPort || e.Addr != uint64(v) || e.RIP != insn {
			t.Errorf("out %#x, al = %v; want kind %q, rip %#x", v, err, FaultPort, insn)
		}
	}
}
