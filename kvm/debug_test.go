package kvm

import "testing"

// TestSingleStep takes a debug exit after each instruction, and none when debugging has ended.
func TestSingleStep(t *testing.T) {
	g := newGuest(t, 0x90, 0x90, 0xe6, 0x10) // nop; nop; out 0x10, al
	if err := g.SetGuestDebug(DebugEnable|DebugStep, [8]uint64{}); err != nil {
		t.Fatal(err)
	}
	for pc := uint64(codeAddr + 1); pc <= codeAddr+2; pc++ {
		g.runTo(t, ExitDebug)
		if d := g.Debug(); d.Exception != 1 || d.PC != pc {
			t.Errorf("Debug() = %+v; want #DB at %#x", d, pc)
		}
	}
	if err := g.SetGuestDebug(0, [8]uint64{}); err != nil {
		t.Fatal(err)
	}
	g.runTo(t, ExitIO)
}

// TestXSave writes a vector register and the control word of SSE, and reads them back.
func TestXSave(t *testing.T) {
	g := newGuest(t, 0xf4)
	b, err := g.XSave()
	if err != nil {
		t.Fatal(err)
	}
	if mxcsr := le32(b[24:]); mxcsr != 0x1f80 {
		t.Errorf("MXCSR = %#x; want 0x1f80, as after a reset", mxcsr)
	}
	b[160+16*5], b[25], b[512] = 0xab, 0x9f, b[512]|2 // XMM5, MXCSR, and that SSE is in use
	if err := g.SetXSave(b); err != nil {
		t.Fatal(err)
	}
	if got, err := g.XSave(); err != nil || got[160+16*5] != 0xab || got[25] != 0x9f {
		t.Errorf("XSave() after SetXSave = XMM5 %#x, MXCSR %#x, %v; want 0xab, 0x9f80", got[160+16*5], le32(got[24:]), err)
	}
	b[27] = 0xff // bits of MXCSR that do not exist
	if err := g.SetXSave(b); err == nil {
		t.Error("SetXSave() with a wrong MXCSR = nil; want an error")
	}
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
