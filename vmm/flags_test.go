package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// popf emits a load of RFLAGS.
//
//	48 b8 imm64  movabs rax, flags
//	50 9d        push rax; popfq
func (g *guest) popf(flags uint64) { g.push(flags); g.emit(0x9d) }

// printFlags prints RFLAGS.
//
//	9c 8f 04 25 disp32  pushfq; pop [disp32]
func (g *guest) printFlags() {
	at := g.store(le64s(0))
	g.emit(0x9c)
	g.abs(at, 0x8f, 0x04)
	g.puts(uint64(at), 8)
}

// TestIOPL has guests ask for an IOPL of 3 in every way that there is. It stays
// 0, and ports stay closed.
func TestIOPL(t *testing.T) {
	const iopl, handlerOff = 3 << 12, 0x600
	here := func(g *guest, cs, ss uint64) { // iretq to the next instruction
		const back = 5*11 + 2
		g.push(ss, testMem-0x100, iopl|2, cs, g.here()+back)
		g.emit(0x48, 0xcf)
	}
	for _, tt := range []struct {
		name string
		emit func(*guest)
	}{
		{"popfq", func(g *guest) { g.popf(iopl | 2) }},
		{"popfq of every flag but TF", func(g *guest) { g.popf(0x3f7ed7) }},
		{"iretq as in ring 0", func(g *guest) { here(g, abiCode, abiData) }},
		{"iretq as in ring 3", func(g *guest) { here(g, selUserCode, selUserData) }},
		{"iretq from a handler", func(g *guest) {
			g.install(&handlers{at: codeAddr + handlerOff, ist: 1, stack: 0x1c0000})
			g.emit(0x0f, 0x0b) // ud2
		}},
		{"a trap that is emulated", func(g *guest) { g.popf(iopl | 2); g.emit(0xfa) }}, // cli
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			tt.emit(&g)
			g.printFlags()
			insn := g.emit(0xe6, 0x80) // out 0x80, al
			g.halt(0)
			g.pad(handlerOff)
			g.emit(0x81, 0x4c, 0x24, 0x10, 0, 0x30, 0, 0) // or dword [rsp+16], IOPL
			g.emit(0x48, 0x83, 0x04, 0x24, 2)             // add qword [rsp], 2
			g.emit(0x48, 0xcf)                            // iretq
			var console bytes.Buffer
			e := faultOf(t, &g, func(c *Config) { c.Console = &console })
			if e.Kind != FaultPort || e.Addr != 0x80 || e.RIP != insn {
				t.Errorf("Run() = %v; want kind %q, port 0x80, rip %#x", e, FaultPort, insn)
			}
			if console.Len() != 8 {
				t.Fatalf("output = % x; want RFLAGS", console.Bytes())
			}
			if f := le.Uint64(console.Bytes()); f&iopl != 0 {
				t.Errorf("rflags = %#x; want an IOPL of 0", f)
			}
		})
	}
}

// TestGuestFlags sets flags that confuse monitors, and goes on through traps.
func TestGuestFlags(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags uint64
		keeps uint64 // through an emulated instruction
	}{
		{"NT", 1<<14 | 2, 0},
		{"AC", 1<<18 | 2, 1 << 18},
		{"DF", 1<<10 | 2, 1 << 10},
		{"ID", 1<<21 | 2, 1 << 21},
		{"arithmetic", 0x8d5 | 2, 0x8d5},
		{"RF, VM, VIF, VIP", 0x1b0002, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			g.popf(tt.flags)
			g.emit(0xfa, 0xfb) // cli; sti
			g.printFlags()
			g.push(abiData, testMem-0x100, tt.flags, abiCode, g.here()+5*11+2)
			g.emit(0x48, 0xcf) // iretq
			g.printFlags()
			g.halt(0)
			out := runGuest(t, &g, nil)
			for i, when := range []string{"sti", "iretq"} {
				if got := le.Uint64(out[8*i:]); got&0x2c8dd5 != tt.keeps&0x2c8dd5 || got&(3<<12) != 0 {
					t.Errorf("rflags after %s = %#x; want %#x among the guest's, and an IOPL of 0", when, got, tt.keeps)
				}
			}
		})
	}
}

// TestSingleStep sets TF. Without a handler the guest ends at the first step;
// with one, every instruction of its own is a trap. Those that the monitor
// carries out are not: unlike a processor it steps over them.
func TestSingleStep(t *testing.T) {
	const handlerOff, steps = 0x600, 50
	t.Run("no handler", func(t *testing.T) {
		g := guest{ring: RingSealed}
		g.popf(flagsTF | 2)
		insn := g.emit(0x90, 0x90, 0x90) // nop
		g.halt(0)
		e := faultOf(t, &g, nil)
		if e.Kind != FaultException || e.Vector != vecDB || e.RIP != insn && e.RIP != insn+1 {
			t.Errorf("Run() = %v; want kind %q, vector %d, rip %#x", e, FaultException, vecDB, insn+1)
		}
	})
	for name, insn := range map[string][]byte{
		"nop": {0x90}, "cli": {0xfa}, "mov ss, eax": {0x8e, 0xd0}, "pushfq; pop rcx": {0x9c, 0x59},
	} {
		t.Run(name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			counter := g.store(le64s(0))
			g.install(&handlers{at: codeAddr + handlerOff, ist: 1, stack: 0x1c0000})
			g.push(flagsTF | 2)
			g.emit(0xb8, 0x10, 0, 0, 0) // mov eax, 0x10
			g.emit(0x9d)                // popfq
			for range steps {
				g.emit(insn...)
			}
			g.emit(0x6a, 0x02, 0x9d) // push 2; popfq
			g.puts(uint64(counter), 8)
			g.halt(0)
			g.pad(handlerOff)
			g.abs(counter, 0x48, 0xff, 0x04) // inc qword [counter]
			g.emit(0x48, 0xcf)               // iretq
			n := le.Uint64(runGuest(t, &g, nil))
			least := uint64(steps)
			if insn[0] == 0xfa || insn[0] == 0x8e {
				least = 1
			}
			if n < least || n > 2*steps+5 {
				t.Errorf("steps = %d; want at least %d", n, least)
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		g := guest{ring: RingSealed}
		g.install(&handlers{at: codeAddr + handlerOff, ist: 1, stack: 0x1c0000})
		g.popf(flagsTF | 2)
		g.spin()
		g.pad(handlerOff)
		g.emit(0x48, 0xcf) // iretq
		storm(t, &g)
	})
}

// storm runs a guest that traps for ever until its context ends it.
func storm(t *testing.T, g *guest) {
	t.Helper()
	vm := newVM(t, g.config())
	ctx, cancel := context.WithTimeoutCause(context.Background(), 30*time.Millisecond, errEnough)
	defer cancel()
	if _, err := vm.Run(ctx); err != errEnough || vm.sealed.traps < 20 {
		t.Errorf("Run() = %v after %d traps; want %v after more than 20", err, vm.sealed.traps, errEnough)
	}
}

// TestTrapStorms loops for ever on instructions that the monitor carries out.
func TestTrapStorms(t *testing.T) {
	for name, insn := range map[string][]byte{
		"cli": {0xfa}, "sti": {0xfb},
		"wrmsr":        {0xb9, 0, 1, 0, 0xc0, 0x0f, 0x30}, // mov ecx, 0xc0000100; wrmsr
		"mov rcx, cr2": {0x0f, 0x20, 0xd1},
		"lidt":         {0x0f, 0x01, 0x1c, 0x25, 0, 0, 0x11, 0}, // lidt [0x110000]
	} {
		t.Run(name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			loop := g.emit(insn...)
			g.jumpBack(0xeb, loop) // jmp loop
			storm(t, &g)
		})
	}
}

// TestTrapsAreCounted makes a known number of traps.
func TestTrapsAreCounted(t *testing.T) {
	const n = 10000
	g := guest{ring: RingSealed}
	loopGuest(&g, func() { g.emit(0xfa) }) // cli
	vm := newVM(t, g.config())
	repeat(t, vm, n)
	if res, err := runVM(t, vm); err != nil || res.Status != 0 || vm.sealed.traps != n {
		t.Errorf("Run() = %+v, %v after %d traps; want status 0 after %d", res, err, vm.sealed.traps, n)
	}
}

// TestSyscallSentinel jumps to where a stray SYSCALL lands, with registers that
// claim one: it is a jump, unless the bytes are there.
func TestSyscallSentinel(t *testing.T) {
	for name, rcx := range map[string]uint64{"text": codeAddr + 2, "nowhere": 0, "not canonical": 1 << 50} {
		t.Run(name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			g.emit(append([]byte{0x48, 0xb9}, le64s(rcx)...)...) // movabs rcx, imm64
			g.pointAt(syscallSentinel)
			g.emit(0xff, 0xe3) // jmp rbx
			e := faultOf(t, &g, nil)
			if e.Kind != FaultException || e.Vector != vecPF || e.RIP != syscallSentinel || e.Addr != syscallSentinel {
				t.Errorf("Run() = %v; want kind %q, vector %d, rip %#x", e, FaultException, vecPF, uint64(syscallSentinel))
			}
		})
	}
}

// TestStateSurvivesTraps sets FS and GS bases and vector registers, and finds
// them after instructions that the monitor carries out.
func TestStateSurvivesTraps(t *testing.T) {
	for _, base := range []uint64{dataAddr, 0, 1<<47 - 0x1000, 1<<64 - 1<<47, 1<<64 - 0x1000} {
		for prefix, msr := range map[byte]uint32{0x64: msrFSBase, 0x65: msrGSBase} {
			t.Run(fmt.Sprintf("base %#x in MSR %#x", base, msr), func(t *testing.T) {
				g := guest{ring: RingSealed}
				value := le64s(0x1122334455667788)
				at := g.store(value)
				got := g.store(make([]byte, 16))
				g.emit(append([]byte{0xb9}, imm32(msr)...)...)              // mov ecx, msr
				g.emit(append([]byte{0xb8}, imm32(uint32(base))...)...)     // mov eax, low half
				g.emit(append([]byte{0xba}, imm32(uint32(base>>32))...)...) // mov edx, high half
				g.emit(0x0f, 0x30)                                          // wrmsr
				g.pointAt(uint64(at) - base)                                //
				g.emit(prefix, 0x48, 0x8b, 0x03)                            // mov rax, fs:[rbx]
				g.abs(got, 0x48, 0x89, 0x04)                                // mov [got], rax
				g.emit(0xfa)                                                // cli
				g.emit(prefix, 0x48, 0x8b, 0x03)                            // mov rax, fs:[rbx]
				g.abs(got+8, 0x48, 0x89, 0x04)                              // mov [got+8], rax
				g.puts(uint64(got), 16)
				g.halt(0)
				if out := runGuest(t, &g, nil); !bytes.Equal(out, append(value, value...)) {
					t.Errorf("value by the base = % x; want % x twice", out, value)
				}
			})
		}
	}
	t.Run("vector registers", func(t *testing.T) {
		g := guest{ring: RingSealed}
		var values []byte
		for i := range 16 * 16 {
			values = append(values, byte(i*7+1))
		}
		from, to := g.store(values), g.store(make([]byte, 16*16))
		mxcsr := g.store(imm32(0x7f80)) // round towards zero
		g.abs(mxcsr, 0x0f, 0xae, 0x14)  // ldmxcsr [mxcsr]
		g.emit(0xd9, 0xeb)              // fldpi
		move := func(op byte, at uint32) {
			for i := range uint32(16) { // movdqu xmmI, [at], or the other way round
				rex := []byte{0xf3, 0x0f, op, byte(i%8<<3 | 4)}
				if i >= 8 {
					rex = []byte{0xf3, 0x44, 0x0f, op, byte(i%8<<3 | 4)}
				}
				g.abs(at+16*i, rex...)
			}
		}
		move(0x6f, from)
		for range 10 {
			g.emit(0xfa)             // cli
			g.emit(0x0f, 0x20, 0xd1) // mov rcx, cr2
		}
		move(0x7f, to)
		x87, csr := g.store(make([]byte, 8)), g.store(make([]byte, 8))
		g.abs(x87, 0xdd, 0x1c)       // fstp qword [x87]
		g.abs(csr, 0x0f, 0xae, 0x1c) // stmxcsr [csr]
		g.puts(uint64(to), len(values))
		g.puts(uint64(x87), 8)
		g.puts(uint64(csr), 4)
		g.halt(0)
		want := append(append(bytes.Clone(values), le64s(0x400921fb54442d18)...), imm32(0x7f80)...)
		if out := runGuest(t, &g, nil); !bytes.Equal(out, want) {
			t.Errorf("registers after traps = % x; want % x", out, want)
		}
	})
}

// TestStoredTables reads the tables back. Where the processor offers UMIP the
// guest sees what it loaded; elsewhere it sees the processor's, which is no use
// to it.
func TestStoredTables(t *testing.T) {
	const handlerOff = 0x600
	g := guest{ring: RingSealed}
	h := &handlers{at: codeAddr + handlerOff}
	g.install(h)
	gdtr, idtr, tr, msw := g.store(make([]byte, 16)), g.store(make([]byte, 16)), g.store(make([]byte, 8)), g.store(make([]byte, 8))
	g.abs(gdtr, 0x0f, 0x01, 0x04) // sgdt [gdtr]
	g.abs(idtr, 0x0f, 0x01, 0x0c) // sidt [idtr]
	g.abs(tr, 0x0f, 0x00, 0x0c)   // str [tr]
	g.abs(msw, 0x0f, 0x01, 0x24)  // smsw [msw]
	g.emit(0x0f, 0x00, 0xc0)      // sldt eax
	ldtr := g.stored(0)
	g.emit(0x0f, 0x00, 0xcb) // str ebx
	tr2 := g.stored(3)
	g.halt(0)
	g.pad(handlerOff)
	g.halt(1)
	vm := newVM(t, g.config())
	before := untouchable(vm)
	if res, err := runVM(t, vm); err != nil || res.Status != 0 {
		t.Fatalf("Run() = %+v, %v; want status 0", res, err)
	}
	if !bytes.Equal(untouchable(vm), before) {
		t.Errorf("memory that the guest may not write changed")
	}
	if vm.sealed.traps == h.traps {
		t.Log("no UMIP in ring 3 here")
		return
	}
	host := vm.mem.Host()
	for _, x := range []struct {
		name      string
		got, want []byte
	}{
		{"gdtr", host[gdtr : gdtr+10], host[h.gdtr : h.gdtr+10]},
		{"idtr", host[idtr : idtr+10], host[h.idtr : h.idtr+10]},
		{"tr", host[tr : tr+2], []byte{0x18, 0}},
		{"tr in a register", host[tr2 : tr2+8], le64s(0x18)},
		{"ldtr", host[ldtr : ldtr+8], le64s(0)},
		{"msw", host[msw : msw+2], []byte{0x21, 0}},
	} {
		if !bytes.Equal(x.got, x.want) {
			t.Errorf("%s = % x; want % x", x.name, x.got, x.want)
		}
	}
}

// TestHypercallInstructions executes what asks a monitor for something. KVM may
// answer by itself or write the other maker's instruction over it; nothing
// else of text changes.
func TestHypercallInstructions(t *testing.T) {
	for name, insn := range map[string][]byte{"vmcall": {0x0f, 0x01, 0xc1}, "vmmcall": {0x0f, 0x01, 0xd9}} {
		t.Run(name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			at := g.emit(insn...) - codeAddr
			g.halt(0)
			vm := newVM(t, g.config())
			before := untouchable(vm)
			_, err := runVM(t, vm)
			var e *GuestError
			if err != nil && (!errors.As(err, &e) || e.RIP != codeAddr) {
				t.Errorf("Run() = %v; want nil or a *GuestError at %#x", err, codeAddr)
			}
			after := untouchable(vm)
			copy(after[codeAddr+at:], insn)
			if !bytes.Equal(after, before) {
				t.Errorf("memory that the guest may not write changed")
			}
		})
	}
}
