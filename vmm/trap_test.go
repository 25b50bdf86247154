package vmm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// Where the segments of trapRig lie. Writable memory follows up to testMem.
const (
	rigText   = 0x100000
	rigRodata = 0x101000
	rigData   = 0x102000
)

// trapRig is a sealed guest without a vCPU: what the monitor does between an
// exception's frame and the guest's next register values.
func trapRig(t testing.TB) *sealed {
	t.Helper()
	mem, err := memory.New(testMem)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	img := &loader.Image{Entry: rigText, Segments: []loader.Segment{
		{Addr: rigText, MemSize: 0x1000, Align: 0x1000, R: true, X: true},
		{Addr: rigRodata, MemSize: 0x1000, Align: 0x1000, R: true},
		{Addr: rigData, MemSize: 0x1000, Align: 0x1000, R: true, W: true},
	}}
	view, err := hvtView(mem, img, false)
	if err != nil {
		t.Fatal(err)
	}
	return newSealed(&VM{mem: mem, view: view}, ring0CR4)
}

// choices turns fuzz input into a guest's state: it prefers values at the
// borders of what the guest may touch.
type choices struct{ b []byte }

func (c *choices) byte() byte {
	if len(c.b) == 0 {
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *choices) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = c.byte()
	}
	return b
}

var borders = [...]uint64{
	0, 0x1000, uint64(sealedIDT), uint64(sealedTSS), uint64(sealedStack), uint64(gpaBootInfo), uint64(gpaLowEnd),
	rigRodata, rigData, rigData + 0x800, rigData + 0x1000, 0x180000, testMem, 1 << 32, 1 << 47, -(1 << 47) & (1<<64 - 1), 1 << 63, 0,
}

func (c *choices) addr() uint64 {
	switch k := c.byte(); {
	case k < 0xc0:
		return borders[int(k)%len(borders)] + uint64(int64(int8(c.byte())))
	case k < 0xe0:
		return rigData + uint64(le.Uint16(c.bytes(2)))
	default:
		return le.Uint64(c.bytes(8))
	}
}

// put stores bytes wherever they fit, as a loader or a guest might have.
func put(s *sealed, at uint64, b []byte) {
	if dst, err := s.vm.mem.At(memory.Addr(at), uint64(len(b))); err == nil {
		copy(dst, b)
	}
}

// trapOnce puts a guest of any state through what a trap does with it.
func trapOnce(t *testing.T, s *sealed, in []byte) {
	host := s.vm.mem.Host()
	clear(host)
	c := &choices{in}
	*s = sealed{vm: s.vm, userSregs: s.userSregs}
	s.gdt = kvm.DTable{Base: c.addr(), Limit: le.Uint16(c.bytes(2))}
	s.idt = kvm.DTable{Base: c.addr(), Limit: le.Uint16(c.bytes(2))}
	s.tss = kvm.DTable{Base: c.addr(), Limit: le.Uint16(c.bytes(2))}
	s.cr2, s.tr = c.addr(), le.Uint16(c.bytes(2))
	f := &trapFrame{vector: [...]uint64{vecGP, vecUD, vecPF, vecBP, vecDB, 17, 255, uint64(c.byte())}[c.byte()&7]}
	f.code, f.rip, f.rflags, f.rsp = uint64(le.Uint32(c.bytes(4))), c.addr(), c.addr(), c.addr()
	sregs := s.userSregs
	f.regs, f.sregs = new(kvm.Regs), &sregs
	for i := range uint8(16) {
		*f.register(i) = c.addr()
	}
	put(s, f.rip, c.bytes(15))
	put(s, f.rsp, le64s(c.addr(), [...]uint64{8, 0, 8, 0x1b}[c.byte()&3], c.addr(), c.addr(), [...]uint64{0x10, 0, 0x10, 0x23}[c.byte()&3]))
	if gate := c.bytes(16); c.byte()&3 != 0 {
		copy(gate[2:], []byte{8, 0, gate[4] & 7, 0x8e}) // one that works, if its handler does
		put(s, s.idt.Base+f.vector*16, gate)
	} else {
		put(s, s.idt.Base+f.vector*16, gate)
	}
	put(s, s.tss.Base+36, le64s(c.addr(), c.addr(), c.addr(), c.addr(), c.addr(), c.addr(), c.addr()))
	if gate := c.bytes(16); c.byte()&1 != 0 {
		gate[5] = 0x89
		put(s, s.gdt.Base+24, gate)
	}

	before := bytes.Clone(host[:rigData])
	canonicalBefore := canonical(f.rip) && canonical(f.rip+15)
	var err error
	if f.vector == vecGP {
		err = s.privileged(f)
	} else {
		s.violates(f, s.cr2)
		err = s.deliver(f)
	}
	var e *GuestError
	switch {
	case err != nil && !errors.As(err, &e):
		t.Errorf("trap = %v (%T); want nil or a *GuestError", err, err)
	case err != nil && e.Error() == "":
		t.Errorf("trap = %#v; want a report", err)
	case err == nil && canonicalBefore && !canonical(f.rip):
		t.Errorf("guest goes on at %#x; want a canonical address", f.rip)
	}
	if !bytes.Equal(host[:rigData], before) {
		t.Errorf("trap of vector %d at %#x changed memory that the guest may not write", f.vector, f.rip)
	}
	for name, b := range map[string]uint64{"fs": sregs.FS.Base, "gs": sregs.GS.Base} {
		if !canonical(b) {
			t.Errorf("%s base = %#x; want a canonical address", name, b)
		}
	}
	sregs.FS.Base, sregs.GS.Base = 0, 0
	if sregs != s.userSregs {
		t.Errorf("segment and control registers after a trap = %+v; want only the bases of fs and gs changed", sregs)
	}
}

// TestTrapOfAnyState goes through random guests.
func TestTrapOfAnyState(t *testing.T) {
	s := trapRig(t)
	r := rand.New(rand.NewPCG(7, 8))
	in := make([]byte, 400)
	for range 1000 {
		for i := range in {
			in[i] = byte(r.Uint32())
		}
		if trapOnce(t, s, in); t.Failed() {
			t.Fatalf("input: % x", in)
		}
	}
}

func FuzzTrap(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{9}, 400))    // everything in writable data
	f.Add(bytes.Repeat([]byte{0xff}, 400)) // everything at the top
	f.Add(bytes.Repeat([]byte{13, 0xf8}, 200))
	s := trapRig(f)
	f.Fuzz(func(t *testing.T, in []byte) { trapOnce(t, s, in) })
}

// TestDeliverFrame checks the frame that a handler finds (AMD64 APM volume 2,
// section 8.9.3), with and without an error code and a stack of its own.
func TestDeliverFrame(t *testing.T) {
	const idt, tss, handler, stack, ist = rigData, rigData + 0x1000, rigText + 0x40, 0x180013, 0x190009
	// Among them TF, which the handler does not inherit; IF does not show, since
	// the guest never had it.
	const flags = 0x409c7
	for _, tt := range []struct {
		name   string
		vector uint64
		ist    byte
		want   []uint64 // upwards from the handler's rsp
		rsp    uint64
	}{
		{"#UD on the same stack", vecUD, 0, []uint64{rigText, 8, flags, stack, 0x10}, 0x180010 - 40},
		{"#UD on IST1", vecUD, 1, []uint64{rigText, 8, flags, stack, 0x10}, 0x190000 - 40},
		{"#GP on the same stack", vecGP, 0, []uint64{0xec, rigText, 8, flags, stack, 0x10}, 0x180010 - 48},
		{"#GP on IST7", vecGP, 7, []uint64{0xec, rigText, 8, flags, stack, 0x10}, 0x190000 - 48},
		{"#AC", 17, 0, []uint64{0xec, rigText, 8, flags, stack, 0x10}, 0x180010 - 48},
		{"#XM", 19, 0, []uint64{rigText, 8, flags, stack, 0x10}, 0x180010 - 40},
		{"vector 255", 255, 0, []uint64{rigText, 8, flags, stack, 0x10}, 0x180010 - 40},
	} {
		s := trapRig(t)
		s.idt, s.tss = kvm.DTable{Base: idt, Limit: 0xfff}, kvm.DTable{Base: tss, Limit: 103}
		put(s, idt+tt.vector*16, gate(handler, tt.ist, 0x8e, 8))
		put(s, tss+36+uint64(max(tt.ist, 1)-1)*8, le64s(ist))
		f := &trapFrame{vector: tt.vector, code: 0xec, rip: rigText, rflags: flags | flagsIF, rsp: stack, regs: new(kvm.Regs)}
		if err := s.deliver(f); err != nil {
			t.Errorf("deliver(%s) = %v; want nil", tt.name, err)
			continue
		}
		if f.rip != handler || f.rsp != tt.rsp || f.rflags&flagsTF != 0 {
			t.Errorf("deliver(%s) = rip %#x, rsp %#x, rflags %#x; want %#x, %#x, without TF", tt.name, f.rip, f.rsp, f.rflags, handler, tt.rsp)
		}
		for i, w := range tt.want {
			b, err := s.vm.mem.At(memory.Addr(tt.rsp+uint64(i)*8), 8)
			if err != nil || le.Uint64(b) != w {
				t.Errorf("deliver(%s) pushed % x, %v at %d; want %#x", tt.name, b, err, i, w)
			}
		}
	}
}

// gate is an entry of an IDT (AMD64 APM volume 2, section 4.8.4).
func gate(handler uint64, ist, typ byte, selector uint16) []byte {
	return le64s(handler&0xffff|uint64(selector)<<16|uint64(ist)<<32|uint64(typ)<<40|handler>>16&0xffff<<48, handler>>32)
}

// TestDeliverUnusable has gates, tables and stacks that no exception can go
// through: the guest ends with the exception that it was.
func TestDeliverUnusable(t *testing.T) {
	const idt, tss, handler, stack = rigData, rigData + 0x1000, rigText + 0x40, 0x180000
	top := func(rsp uint64) func(s *sealed, f *trapFrame) {
		return func(_ *sealed, f *trapFrame) { f.rsp = rsp }
	}
	onGate := func(b []byte) func(s *sealed, f *trapFrame) {
		return func(s *sealed, _ *trapFrame) { put(s, idt+vecUD*16, b) }
	}
	onIST := func(rsp uint64) func(s *sealed, f *trapFrame) {
		return func(s *sealed, _ *trapFrame) {
			put(s, idt+vecUD*16, gate(handler, 1, 0x8e, 8))
			put(s, tss+36, le64s(rsp))
		}
	}
	inIDT := func(base uint64, limit uint16) func(s *sealed, f *trapFrame) {
		return func(s *sealed, _ *trapFrame) {
			s.idt = kvm.DTable{Base: base, Limit: limit}
			put(s, base+vecUD*16, gate(handler, 0, 0x8e, 8))
		}
	}
	inTSS := func(base uint64, limit uint16) func(s *sealed, f *trapFrame) {
		return func(s *sealed, f *trapFrame) {
			onIST(stack)(s, f)
			s.tss = kvm.DTable{Base: base, Limit: limit}
			put(s, base+36, le64s(stack))
		}
	}
	for _, tt := range []struct {
		name  string
		setup func(*sealed, *trapFrame)
		good  bool
	}{
		{"as it should be", func(*sealed, *trapFrame) {}, true},
		{"trap gate", onGate(gate(handler, 0, 0x8f, 8)), true},
		{"gate for ring 3", onGate(gate(handler, 0, 0xee, 8)), true},
		{"gate not present", onGate(gate(handler, 0, 0x0e, 8)), false},
		{"zeros", onGate(make([]byte, 16)), false},
		{"call gate", onGate(gate(handler, 0, 0x8c, 8)), false},
		{"16-bit gate", onGate(gate(handler, 0, 0x86, 8)), false},
		{"task gate", onGate(gate(handler, 0, 0x85, 8)), false},
		{"code segment", onGate(gate(handler, 0, 0x9e, 8)), false},
		{"selector of data", onGate(gate(handler, 0, 0x8e, 0x10)), false},
		{"sealed selector", onGate(gate(handler, 0, 0x8e, selUserCode)), false},
		{"selector zero", onGate(gate(handler, 0, 0x8e, 0)), false},
		{"handler at the end of the lower half", onGate(gate(1<<47-1, 0, 0x8e, 8)), true},
		{"handler beyond it", onGate(gate(1<<47, 0, 0x8e, 8)), false},
		{"handler before the upper half", onGate(gate(1<<64-1<<47-1, 0, 0x8e, 8)), false},
		{"IDT in read-only memory", inIDT(rigRodata, 0xfff), true},
		{"IDT in text", inIDT(rigText, 0xfff), true},
		{"gate ends with memory", inIDT(testMem-vecUD*16-16, 0xfff), true},
		{"gate beyond memory", inIDT(testMem-vecUD*16-15, 0xfff), false},
		{"gate ends with the limit", inIDT(idt, vecUD*16+15), true},
		{"gate beyond the limit", inIDT(idt, vecUD*16+14), false},
		{"the monitor's own IDT", inIDT(uint64(sealedIDT), 0xfff), false},
		{"IDT that wraps to zero", inIDT(1<<64-vecUD*16, 0xfff), false},
		{"IDT that wraps", inIDT(1<<64-1, 0xfff), false},
		{"IDT at zero, which means none", inIDT(0, 0xfff), false},
		{"stack ends with memory", top(testMem), true},
		{"stack beyond memory", top(testMem + 16), false},
		{"stack is read-only", top(rigRodata + 0x1000), false},
		{"stack just above read-only", top(rigData + 48), true},
		{"stack across into read-only", top(rigData + 32), false},
		{"stack in text", top(rigText + 0x800), false},
		{"stack in boot information", top(uint64(gpaLowEnd)), false},
		{"stack is the monitor's", top(uint64(sealedStack)), false},
		{"stack in the monitor's TSS", top(uint64(sealedTSS) + 0x70), false},
		{"stack at zero", top(0), false},
		{"stack wraps", top(16), false},
		{"stack not canonical", top(1 << 47), false},
		{"IST", onIST(stack), true},
		{"IST is the monitor's stack", onIST(uint64(sealedStack)), false},
		{"IST in the monitor's TSS", onIST(uint64(sealedTSS) + 0x70), false},
		{"IST is read-only", onIST(rigRodata + 0x1000), false},
		{"IST at zero", onIST(0), false},
		{"IST not canonical", onIST(1 << 63), false},
		{"TSS in read-only memory", inTSS(rigRodata, 103), true},
		{"no TSS", inTSS(0, 0), false},
		{"TSS limit ends with IST1", inTSS(tss, 43), true},
		{"TSS limit before that", inTSS(tss, 42), false},
		{"IST1 ends with memory", inTSS(testMem-44, 103), true},
		{"IST1 beyond memory", inTSS(testMem-43, 103), false},
		{"TSS at the top", inTSS(1<<64-36, 103), false},
		{"the monitor's own TSS", inTSS(uint64(sealedTSS), 103), false},
	} {
		s := trapRig(t)
		s.idt, s.tss = kvm.DTable{Base: idt, Limit: 0xfff}, kvm.DTable{Base: tss, Limit: 103}
		put(s, idt+vecUD*16, gate(handler, 0, 0x8e, 8))
		f := &trapFrame{vector: vecUD, rip: rigText, rsp: stack, regs: new(kvm.Regs)}
		tt.setup(s, f)
		before := *f
		low := bytes.Clone(s.vm.mem.Host()[:rigData])
		err := s.deliver(f)
		if !bytes.Equal(s.vm.mem.Host()[:rigData], low) {
			t.Errorf("deliver(%s) changed memory that the guest may not write", tt.name)
		}
		if tt.good {
			if err != nil {
				t.Errorf("deliver(%s) = %v; want nil", tt.name, err)
			}
			continue
		}
		var e *GuestError
		if !errors.As(err, &e) || e.Kind != FaultException || e.Vector != vecUD || e.RIP != rigText || *f != before {
			t.Errorf("deliver(%s) = %v; want kind %q, vector %d, rip %#x", tt.name, err, FaultException, vecUD, rigText)
		}
	}
}

// TestDeliverPageFault has the error codes of page faults: what a handler finds is
// what ring 0 would have shown, under tables without NX or the monitor's pages.
func TestDeliverPageFault(t *testing.T) {
	const idt, handler, stack = rigData, rigText + 0x40, 0x180000
	for _, tt := range []struct {
		name            string
		code, cr2, want uint64
	}{
		{"read of page 0", codeUser, 8, 0},
		{"write to page 0", codeUser | codeWrite, 8, codeWrite},
		{"jump to page 0", codeUser | codeFetch, 0, 0},
		{"read of the monitor's", codeUser | codePresent, uint64(sealedTSS), 0},
		{"write to the monitor's", codeUser | codePresent | codeWrite, uint64(gpaBootInfo) - 1, codeWrite},
		{"write to boot information", codeUser | codePresent | codeWrite, uint64(gpaBootInfo), codePresent | codeWrite},
		{"read beyond memory", codeUser, testMem, 0},
		{"write beyond memory", codeUser | codeWrite, testMem, codeWrite},
		{"jump beyond memory", codeUser | codeFetch, testMem, 0},
	} {
		s := trapRig(t)
		s.idt, s.cr2 = kvm.DTable{Base: idt, Limit: 0xfff}, tt.cr2
		put(s, idt+vecPF*16, gate(handler, 0, 0x8e, 8))
		f := &trapFrame{vector: vecPF, code: tt.code, rip: rigText, rsp: stack, regs: new(kvm.Regs)}
		if err := s.deliver(f); err != nil {
			t.Errorf("deliver(%s) = %v; want nil", tt.name, err)
			continue
		}
		if b, err := s.vm.mem.At(memory.Addr(f.rsp), 8); err != nil || le.Uint64(b) != tt.want {
			t.Errorf("deliver(%s) pushed error code % x, %v; want %#x", tt.name, b, err, tt.want)
		}
	}
}
