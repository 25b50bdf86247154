package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// pad emits int3 up to off bytes of code.
func (g *guest) pad(off int) {
	for len(g.code) < off {
		g.emit(0xcc)
	}
}

// abs emits an instruction with an absolute 32-bit memory operand: its ModRM
// byte has to be the last of code, and name SIB.
//
//	… 25 disp32  … [disp32]
func (g *guest) abs(at uint32, code ...byte) uint64 {
	return g.emit(append(append(code, 0x25), imm32(at)...)...)
}

// handlers is what a guest sets up to take exceptions.
type handlers struct {
	ist   byte   // stack of all gates; 0 = the interrupted one
	stack uint64 // in every slot of the TSS
	at    uint64 // handler of every vector
	types byte   // of the gates; 0 = interrupt gates
	tssAt uint64 // where the guest says its TSS is; 0 = where it is
	idtAt uint64 // and its IDT
	limit uint16 // of the IDT; 0 = 48 gates
	traps uint64 // by the set-up itself
	gdtr  uint32 // what LGDT read
	idtr  uint32 // what LIDT read
}

// install emits what Solo5's cpu_init does: its GDT, its selectors, a TSS and an
// IDT of 48 gates.
func (g *guest) install(h *handlers) {
	tss := make([]byte, 104)
	for i := range 7 {
		le.PutUint64(tss[36+i*8:], h.stack)
	}
	if h.tssAt == 0 {
		h.tssAt = uint64(g.store(tss))
	}
	if h.types == 0 {
		h.types = 0x8e
	}
	var idt []byte
	for range 48 {
		idt = append(idt, gate(h.at, h.ist, h.types, abiCode)...)
	}
	if h.idtAt == 0 {
		h.idtAt = uint64(g.store(idt))
	}
	if h.limit == 0 {
		h.limit = uint16(len(idt) - 1)
	}
	b := h.tssAt
	gdt := g.store(le64s(0, 0x00af99000000ffff, 0x00cf93000000ffff, 103|b&0xffffff<<16|0x89<<40|b>>24&0xff<<56, b>>32))
	h.gdtr = g.store(append(le.AppendUint16(nil, 5*8-1), le64s(uint64(gdt))...))
	h.idtr = g.store(append(le.AppendUint16(nil, h.limit), le64s(h.idtAt)...))
	g.abs(h.gdtr, 0x0f, 0x01, 0x14) // lgdt [gdtr]
	// Processors look at two words of the stack more before the selector.
	// 6a 00 6a 00           push 0; push 0
	// 6a 08                 push 8
	// 48 8d 05 03 00 00 00  lea rax, [rip+3]
	// 50                    push rax
	// 48 cb                 retfq
	g.emit(0x6a, 0, 0x6a, 0, 0x6a, 0x08, 0x48, 0x8d, 0x05, 0x03, 0, 0, 0, 0x50, 0x48, 0xcb)
	g.emit(0xb8, 0x10, 0, 0, 0)     // mov eax, 0x10
	g.emit(0x8e, 0xd0)              // mov ss, eax
	g.emit(0x8e, 0xd8)              // mov ds, eax
	g.emit(0x8e, 0xc0)              // mov es, eax
	g.emit(0xb8, 0x18, 0, 0, 0)     // mov eax, 0x18
	g.emit(0x0f, 0x00, 0xd8)        // ltr ax
	g.abs(h.idtr, 0x0f, 0x01, 0x1c) // lidt [idtr]
	h.traps = 5                     // ds and es may have the selector in ring 3 as well
}

// reporter emits a handler that prints its frame of words words and CR2, moves
// the frame's rip on by skip bytes, and returns.
func (g *guest) reporter(frame int, skip byte) {
	puts := g.store(le64s(0, uint64(frame)*8))
	cr2 := g.store(le64s(0))
	g.abs(puts, 0x48, 0x89, 0x24) // mov [puts], rsp
	g.out(0x502, puts)
	g.emit(0x0f, 0x20, 0xd1)     // mov rcx, cr2
	g.abs(cr2, 0x48, 0x89, 0x0c) // mov [cr2], rcx
	g.puts(uint64(cr2), 8)
	if frame == 6 {
		g.emit(0x48, 0x83, 0xc4, 0x08) // add rsp, 8
	}
	g.emit(0x48, 0x83, 0x04, 0x24, skip) // add qword [rsp], skip
	g.emit(0x48, 0xcf)                   // iretq
}

// TestHandler has guests take exceptions by handlers of their own, look at the
// frame, and go on.
func TestHandler(t *testing.T) {
	const handlerOff = 0x600
	for _, tt := range []struct {
		name   string
		vector uint8
		insn   []byte
		skip   byte // from the frame's rip to the next instruction
		after  uint64
		code   uint64
		cr2    uint64
		setup  func(*guest)
	}{
		{name: "#UD", vector: vecUD, insn: []byte{0x0f, 0x0b}, skip: 2},                                                 // ud2
		{name: "#BP", vector: vecBP, insn: []byte{0xcc}, after: 1},                                                      // int3
		{name: "#DE", vector: 0, insn: []byte{0xf7, 0xf1}, skip: 2, setup: func(g *guest) { g.emit(0x31, 0xc9) }},       // xor ecx, ecx; div ecx
		{name: "#PF at address 8", vector: vecPF, insn: []byte{0x8a, 0x03}, skip: 2, cr2: 8},                            // mov al, [rbx]
		{name: "#PF beyond memory", vector: vecPF, insn: []byte{0x8a, 0x03}, skip: 2, cr2: testMem},                     //
		{name: "#PF at a write beyond memory", vector: vecPF, insn: []byte{0x88, 0x03}, skip: 2, code: 2, cr2: 1 << 40}, // mov [rbx], al
		{name: "#PF at the monitor's", vector: vecPF, insn: []byte{0x8a, 0x03}, skip: 2, cr2: uint64(sealedTSS)},
		{name: "#PF at boot information", vector: vecPF, insn: []byte{0x88, 0x03}, skip: 2, code: 3, cr2: uint64(gpaBootInfo)},                //
		{name: "#GP of a selector", vector: vecGP, insn: []byte{0x0f, 0xa1}, skip: 2, code: 0xffe8, setup: func(g *guest) { g.push(0xffeb) }}, // pop fs
		{name: "#GP not canonical", vector: vecGP, insn: []byte{0x8a, 0x03}, skip: 2, cr2: 1 << 63},                                           //
		{name: "#XM", vector: 19, insn: []byte{0x0f, 0x5e, 0xc0}, skip: 3, setup: func(g *guest) { // 0/0 with all exceptions on
			g.emit(0x0f, 0x57, 0xc0)                   // xorps xmm0, xmm0
			g.abs(g.store(le64s(0)), 0x0f, 0xae, 0x14) // ldmxcsr [zero]
		}}, // divps xmm0, xmm0
	} {
		if inLab && tt.name == "#XM" {
			continue // QEMU's emulation never raises it
		}
		for _, ist := range []byte{0, 1, 7} {
			t.Run(fmt.Sprintf("%s with IST %d", tt.name, ist), func(t *testing.T) {
				const top = 0x1c0008 // aligned down to sixteen
				g := guest{ring: RingSealed}
				h := &handlers{ist: ist, stack: top, at: codeAddr + handlerOff}
				g.install(h)
				if tt.setup != nil {
					tt.setup(&g)
				}
				rsp := g.stored(4)
				g.pointAt(tt.cr2)
				insn := g.emit(tt.insn...)
				g.puts(uint64(rsp), 8)
				g.halt(7)
				g.pad(handlerOff)
				frame := 5
				if hasErrorCode>>tt.vector&1 != 0 {
					frame = 6
				}
				g.reporter(frame, tt.skip)

				var console bytes.Buffer
				cfg := g.config()
				cfg.Console = &console
				vm := newVM(t, cfg)
				res, err := runVM(t, vm)
				if err != nil || res.Status != 7 {
					t.Fatalf("Run() = %+v, %v; want status 7", res, err)
				}
				out := console.Bytes()
				var got []uint64
				for ; len(out) >= 8; out = out[8:] {
					got = append(got, le.Uint64(out))
				}
				if len(got) != frame+2 {
					t.Fatalf("output = %d words; want %d", len(got), frame+2)
				}
				if frame == 6 {
					if got[0] != tt.code {
						t.Errorf("error code = %#x; want %#x", got[0], tt.code)
					}
					got = got[1:]
				}
				cr2 := uint64(0)
				if tt.vector == vecPF {
					cr2 = tt.cr2
				}
				for i, w := range []struct {
					name string
					want uint64
				}{{"rip", insn + tt.after}, {"cs", 8}, {"", 0}, {"rsp", got[6]}, {"ss", 0x10}, {"cr2", cr2}} {
					if w.name != "" && got[i] != w.want {
						t.Errorf("%s = %#x; want %#x", w.name, got[i], w.want)
					}
				}
				if f := got[2]; f&2 == 0 || f&(flagsIF|flagsTF|3<<12|1<<14) != 0 {
					t.Errorf("rflags = %#x; want the fixed bit, and no IF, TF, IOPL or NT", f)
				}
				if want := h.traps + 3; vm.sealed.traps != want { // the exception, mov cr2, iretq
					t.Errorf("traps = %d; want %d", vm.sealed.traps, want)
				}
			})
		}
	}
}

// TestSealsHaveNoHandler violates the seal under a guest that would handle
// everything: the VM ends.
func TestSealsHaveNoHandler(t *testing.T) {
	const handlerOff = 0x600
	for _, tt := range []struct {
		name string
		addr uint64
		emit func(*guest) uint64
		kind FaultKind
	}{
		{"write text", codeAddr, (*guest).storeByte, FaultTranslation},
		{"execute data", dataAddr, (*guest).callRBX, FaultTranslation},
		{"execute the stack", testMem - 0x1000, (*guest).callRBX, FaultTranslation},
		{"execute boot information", 0x10000, (*guest).callRBX, FaultTranslation},
		{"out 0x80, al", 0, func(g *guest) uint64 { return g.emit(0xe6, 0x80) }, FaultPort},
		{"hlt", 0, func(g *guest) uint64 { return g.emit(0xf4) }, FaultHLT},
		{"wrmsr of MSR 0", 0, func(g *guest) uint64 { g.emit(0x31, 0xc9); return g.emit(0x0f, 0x30) }, FaultPrivileged}, // xor ecx, ecx; wrmsr
		{"rdmsr", 0, func(g *guest) uint64 { return g.emit(0x0f, 0x32) }, FaultPrivileged},
		{"mov cr3, rax", 0, func(g *guest) uint64 { return g.emit(0x0f, 0x22, 0xd8) }, FaultPrivileged},
		{"invlpg [rbx]", dataAddr, func(g *guest) uint64 { return g.emit(0x0f, 0x01, 0x3b) }, FaultPrivileged},
		{"lgdt beyond memory", testMem - 9, func(g *guest) uint64 { return g.emit(0x0f, 0x01, 0x13) }, FaultPrivileged},
		{"lgdt from the monitor's", uint64(gpaGDT), func(g *guest) uint64 { return g.emit(0x0f, 0x01, 0x13) }, FaultPrivileged},
		{"lidt from page 0", 8, func(g *guest) uint64 { return g.emit(0x0f, 0x01, 0x1b) }, FaultPrivileged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			g.install(&handlers{at: codeAddr + handlerOff})
			g.pointAt(tt.addr)
			insn := tt.emit(&g)
			g.pad(handlerOff)
			g.halt(1)
			e := faultOf(t, &g, nil)
			if e.Kind != tt.kind || e.RIP != insn && e.RIP != tt.addr {
				t.Errorf("Run() = %v; want kind %q, rip %#x", e, tt.kind, insn)
			}
			if e.Regs.RBX != tt.addr || e.Regs.RIP != e.RIP || e.Regs.RDI != 0x10000 {
				t.Errorf("registers = %+v; want rip %#x, rbx %#x, rdi 0x10000", e.Regs, e.RIP, tt.addr)
			}
		})
	}
}

// TestHandlerFaults has handlers that fault themselves. Where each fault takes
// more stack the guest ends by itself; where it does not, its context ends it.
func TestHandlerFaults(t *testing.T) {
	const handlerOff, handler = 0x600, codeAddr + 0x600
	for _, tt := range []struct {
		name string
		h    handlers
		code []byte // of the handler
		ends bool
		rip  uint64
	}{
		{"on the same stack", handlers{at: handler}, []byte{0x0f, 0x0b}, true, handler}, // ud2
		{"on a stack of its own", handlers{at: handler, ist: 1, stack: 0x1c0000}, []byte{0x0f, 0x0b}, false, 0},
		{"handler in data", handlers{at: dataAddr}, nil, true, dataAddr},
		{"handler not canonical", handlers{at: 1 << 47}, nil, true, codeAddr},
		{"handler in a stub", handlers{at: uint64(sealedStubs)}, nil, true, uint64(sealedStubs)},
		{"handler in page 0", handlers{at: 0, ist: 1, stack: 0x1c0000}, nil, false, 0},
		{"handler beyond memory", handlers{at: testMem, ist: 1, stack: 0x1c0000}, nil, false, 0},
		{"stack beyond memory", handlers{at: handler, ist: 1, stack: testMem + 16}, nil, true, codeAddr},
		{"stack is the monitor's", handlers{at: handler, ist: 1, stack: uint64(sealedStack)}, nil, true, codeAddr},
		{"stack is text", handlers{at: handler, ist: 1, stack: codeAddr + 0x1000}, nil, true, codeAddr},
		{"stack across into text", handlers{at: handler, ist: 1, stack: codeAddr + 0x1020}, nil, true, codeAddr},
		{"TSS beyond memory", handlers{at: handler, ist: 1, tssAt: testMem}, nil, true, codeAddr},
		{"TSS at the top", handlers{at: handler, ist: 1, tssAt: 1<<64 - 40}, nil, true, codeAddr},
		{"TSS is the monitor's", handlers{at: handler, ist: 1, tssAt: uint64(sealedTSS)}, nil, true, codeAddr},
		{"IDT beyond memory", handlers{at: handler, idtAt: testMem}, nil, true, codeAddr},
		{"IDT across the end", handlers{at: handler, idtAt: testMem - vecUD*16 - 8}, nil, true, codeAddr},
		{"IDT is the monitor's", handlers{at: handler, idtAt: uint64(sealedIDT)}, nil, true, codeAddr},
		{"IDT at the top", handlers{at: handler, idtAt: 1<<64 - 16}, nil, true, codeAddr},
		{"IDT too short", handlers{at: handler, limit: vecUD*16 + 14}, nil, true, codeAddr},
		{"gates not present", handlers{at: handler, types: 0x0e}, nil, true, codeAddr},
		{"gates are code", handlers{at: handler, types: 0x9a}, nil, true, codeAddr},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			g.install(&tt.h)
			g.emit(append([]byte{0xbc}, imm32(codeAddr+0x1800)...)...) // mov esp, a little above text
			insn := g.emit(0x0f, 0x0b)                                 // ud2
			g.pad(handlerOff)
			g.emit(tt.code...)
			g.spin()
			vm := newVM(t, g.config())
			before := untouchable(vm)
			ctx, cancel := context.WithTimeoutCause(context.Background(), hangs, errEnough)
			if !tt.ends {
				long := 30 * time.Millisecond
				if inLab {
					long = time.Second
				}
				ctx, cancel = context.WithTimeoutCause(context.Background(), long, errEnough)
			}
			defer cancel()
			_, err := vm.Run(ctx)
			if !bytes.Equal(untouchable(vm), before) {
				t.Errorf("memory that the guest may not write changed")
			}
			if !tt.ends {
				if err != errEnough || vm.sealed.traps < 3 {
					t.Errorf("Run() = %v after %d traps; want %v after 3 or more", err, vm.sealed.traps, errEnough)
				}
				return
			}
			want := tt.rip
			if want == codeAddr {
				want = insn
			}
			var e *GuestError
			if !errors.As(err, &e) || e.RIP != want || e.Kind != FaultException && (e.Kind != FaultTranslation || want != dataAddr) {
				t.Errorf("Run() = %v; want kind %q, rip %#x", err, FaultException, want)
			}
		})
	}
}
