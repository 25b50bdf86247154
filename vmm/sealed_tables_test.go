package vmm

import (
	"slices"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/kvm"
)

// TestSealedTSS reads the I/O permission bitmap as the processor does (AMD64 APM
// volume 2, section 12.2.5): a port is open if its bit is there and zero. The
// bus refuses what the bitmap lets through; this is the wall in front of it.
func TestSealedTSS(t *testing.T) {
	b := make([]byte, sealedTSSSize)
	fillTSS(b)
	base := int(le.Uint16(b[102:]))
	for port := range 1 << 16 {
		i := base + port/8
		got := i+1 < len(b) && b[i]>>(port%8)&1 == 0 // the processor reads two bytes
		if want := port == 0x3f0 || port >= 0x501 && port <= 0x50c || port >= 0x600 && port <= 0x603; got != want {
			t.Errorf("port %#x open = %v; want %v", port, got, want)
		}
	}
	if last := b[len(b)-1]; last != 0xff {
		t.Errorf("last byte of the TSS = %#x; want 0xff", last)
	}
	if rsp0 := le.Uint64(b[4:]); rsp0 != uint64(sealedStack) {
		t.Errorf("RSP0 = %#x; want %v", rsp0, sealedStack)
	}
}

// TestSealedIDT checks that every gate leads to its stub in ring 0, and that
// ring 3 may raise only what INT3 and INTO raise.
func TestSealedIDT(t *testing.T) {
	idt, stubs := make([]byte, 256*16), make([]byte, 256*stubSize)
	fillIDT(idt, stubs)
	for v := range 256 {
		want := gate(uint64(sealedStubs)+uint64(v)*stubSize, 0, 0x8e, selKernelCode)
		if v == vecBP || v == vecOF {
			want[5] = 0xee // DPL 3
		}
		if got := idt[v*16 : v*16+16]; string(got) != string(want) {
			t.Errorf("gate %d = % x; want % x", v, got, want)
		}
		if got := stubs[v*stubSize : v*stubSize+3]; string(got) != string([]byte{0xe6, byte(v), 0xf4}) { // out v, al; hlt
			t.Errorf("stub %d = % x; want e6 %02x f4", v, got, v)
		}
	}
}

// TestSealedRegisters asks KVM for what the guest starts with.
func TestSealedRegisters(t *testing.T) {
	g := guest{ring: RingSealed}
	g.halt(0)
	vm := newVM(t, g.config())
	s, err := vm.vcpu.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	regs, err := vm.vcpu.Regs()
	if err != nil {
		t.Fatal(err)
	}
	const sce, nxe, wp = 1 << 0, 1 << 11, 1 << 16
	if s.CS.DPL != 3 || s.SS.DPL != 3 || s.CS.Selector&3 != 3 || s.SS.Selector&3 != 3 {
		t.Errorf("cs = %+v, ss = %+v; want ring 3", s.CS, s.SS)
	}
	if s.EFER&(sce|nxe) != nxe || s.CR0&wp == 0 {
		t.Errorf("efer = %#x, cr0 = %#x; want NXE without SCE, and WP", s.EFER, s.CR0)
	}
	if limit := uint32(sealedTSSSize - 1); s.TR.Limit != limit || s.TR.Base != uint64(sealedTSS) {
		t.Errorf("tr = %+v; want base %v, limit %#x", s.TR, sealedTSS, limit)
	}
	if regs.RFLAGS != 2 || regs.RSP != testMem-8 || regs.RDI != 0x10000 || regs.RIP != codeAddr {
		t.Errorf("rflags %#x, rsp %#x, rdi %#x, rip %#x; want 0x2, %#x, 0x10000, %#x", regs.RFLAGS, regs.RSP, regs.RDI, regs.RIP, testMem-8, codeAddr)
	}
}

// TestSealedCR4 has every combination of what a processor may offer.
func TestSealedCR4(t *testing.T) {
	testutil.RequireKVM(t)
	g := guest{ring: RingSealed}
	g.halt(0)
	vm := newVM(t, g.config())
	cpuid, err := vm.sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(cpuid.Entries(), func(e kvm.CPUIDEntry) bool { return e.Function == 7 && e.Index == 0 })
	if i < 0 {
		t.Fatal("KVM supports no CPUID leaf 7")
	}
	for n := range 16 {
		umip, smep, smap, qemu := uint64(n&1), uint64(n>>1&1), uint64(n>>2&1), n>>3 != 0
		e := &cpuid.Entries()[i]
		e.ECX, e.EBX = uint32(umip)<<2, uint32(smep)<<7|uint32(smap)<<20
		want := uint64(ring0CR4) | umip<<11 | smep<<20
		if !qemu {
			want |= smap << 21
		}
		if got := sealedCR4(cpuid, qemu); got != want {
			t.Errorf("sealedCR4(UMIP %d, SMEP %d, SMAP %d, QEMU %t) = %#x; want %#x", umip, smep, smap, qemu, got, want)
		}
	}
}
