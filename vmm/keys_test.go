package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// codeKey is the bit of a page fault's error code that says: protection key.
const codeKey = 1 << 5

// execOnly asks for execute-only text.
func execOnly(c *Config) { c.SealExecOnly = true }

// requireKeys skips a test where KVM has no protection keys, which processors
// and outer monitors leave out. The lab has them.
func requireKeys(t *testing.T) {
	t.Helper()
	testutil.RequireKVM(t)
	g := guest{ring: RingSealed}
	g.halt(0)
	cfg := g.config()
	execOnly(&cfg)
	vm, err := New(cfg)
	if err == nil {
		vm.Close()
		return
	}
	if !errors.Is(err, ErrNoKeys) || inLab {
		t.Fatalf("New() = %v; want a VM, or outside the lab an error that says that there are no keys", err)
	}
	t.Skipf("%v; the lab has keys: make lab", err)
}

// wrpkru emits the load of PKRU and returns the instruction's address.
//
//	b8 imm32  mov eax, value
//	31 c9     xor ecx, ecx
//	31 d2     xor edx, edx
//	0f 01 ef  wrpkru
func (g *guest) wrpkru(value uint32) uint64 {
	g.emit(append([]byte{0xb8}, imm32(value)...)...)
	g.emit(0x31, 0xc9, 0x31, 0xd2)
	return g.emit(0x0f, 0x01, 0xef)
}

// TestKeyedMap needs no KVM: what the configuration and the file say becomes
// page-table entries and views.
func TestKeyedMap(t *testing.T) {
	mem, err := memory.New(testMem)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	img := &loader.Image{Entry: rigText, Segments: []loader.Segment{
		{Addr: rigText, MemSize: 0x1000, Align: 0x1000, R: true, X: true},
		{Addr: rigRodata, MemSize: 0x1000, Align: 0x1000, R: true, X: true, Key: 5},
		{Addr: rigData, MemSize: 0x1000, Align: 0x1000, R: true, W: true, Key: 3},
	}}
	if !usesKeys(img) {
		t.Error("usesKeys() = false; want true, for keys 5 and 3")
	}
	sealText(img)
	view, err := hvtView(mem, img, false)
	if err != nil {
		t.Fatal(err)
	}
	code, err := hvtView(mem, img, true)
	if err != nil {
		t.Fatal(err)
	}
	maps := hvtMap(img, testMem)
	for _, tt := range []struct {
		at         memory.Addr
		key        uint64
		exec       bool
		data, code memory.Perm // of the views
	}{
		{gpaBootInfo, 0, false, memory.Read, memory.Read},
		{rigText, 15, true, 0, memory.Read},
		{rigRodata, 5, true, 0, memory.Read},
		{rigData, 3, false, 0, 0},
		{rigData + 0x1000, 0, false, memory.ReadWrite, memory.ReadWrite},
	} {
		for i := range maps {
			if m := &maps[i]; m.start <= tt.at && tt.at < m.end {
				if e := m.entry(tt.at, pteP|pteU, pteRW); e>>59&15 != tt.key || (e>>63 == 0) != tt.exec {
					t.Errorf("entry of %v = %#x; want key %d, executable %t", tt.at, e, tt.key, tt.exec)
				}
			}
		}
		for _, v := range []struct {
			name string
			view *memory.View
			want memory.Perm
		}{{"hvtView", view, tt.data}, {"codeView", code, tt.code}} {
			_, errR := v.view.Readable(tt.at+8, 8)
			_, errW := v.view.Writable(tt.at+8, 8)
			if (errR == nil) != (v.want&memory.Read != 0) || (errW == nil) != (v.want&memory.Write != 0) {
				t.Errorf("%s at %v: read %v, write %v; want %v", v.name, tt.at, errR, errW, v.want)
			}
		}
	}
	vm := &VM{keyed: maps}
	pf := trapFrame{vector: vecPF, code: codePresent | codeUser | codeKey}
	other := trapFrame{vector: vecPF, code: codePresent | codeUser}
	if a, b, c := vm.keyOf(&pf, rigData), vm.keyOf(&other, rigData), vm.keyOf(&pf, testMem); a != 3 || b != 0 || c != 0 {
		t.Errorf("keyOf() = %d, %d, %d; want 3, 0 without the bit, 0 outside memory", a, b, c)
	}
}

// TestKeysRefused has configurations and hosts on which keys mean nothing.
func TestKeysRefused(t *testing.T) {
	var c *ConfigError
	g := guest{ring: Ring0}
	g.halt(0)
	for name, change := range map[string]func(*Config){"needs the ring sealed": execOnly, "run it in ring sealed": g.withNote(1)} {
		cfg := g.config()
		change(&cfg)
		if vm, err := New(cfg); !errors.As(err, &c) || !strings.Contains(err.Error(), name) {
			t.Errorf("New() = %v, %v; want a *ConfigError with %q", vm, err, name)
		}
	}

	// Where CR4.PKE is 0, there are no keys on any KVM.
	g.ring = RingSealed
	vm := newVM(t, g.config())
	text, data := mapping{start: codeAddr, end: codeAddr + 4096, exec: true}, mapping{start: dataAddr, end: dataAddr + 4096, key: 1}
	before := bytes.Clone(vm.mem.Host())
	// The text is protected by now, which it is not when New asks.
	if err := vm.mem.Protect(codeAddr, 4096, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	err := vm.sealed.enableKeys([]mapping{text, data}, []mapping{data})
	var h *HostError
	if !errors.As(err, &h) || !errors.Is(err, ErrNoKeys) || h.What != "protection keys" {
		t.Errorf("enableKeys() = %v; want a *HostError of protection keys", err)
	}
	if at := int(codeAddr); !bytes.Equal(vm.mem.Host()[at:], before[at:]) {
		t.Error("enableKeys left its instructions in the guest's text")
	}
}

// TestKeysNotEnforced offers a page without a key for the probe.
func TestKeysNotEnforced(t *testing.T) {
	requireKeys(t)
	g := guest{ring: RingSealed}
	g.halt(0)
	vm := newVM(t, g.config())
	sregs := vm.sealed.userSregs
	sregs.CR4 |= cr4PKE
	if err := vm.vcpu.SetSregs(&sregs); err != nil {
		t.Fatal(err)
	}
	if err := vm.mem.Protect(codeAddr, 4096, memory.ReadWrite); err != nil {
		t.Fatal(err)
	}
	err := vm.sealed.enableKeys([]mapping{{start: codeAddr, end: codeAddr + 4096, exec: true}}, []mapping{{start: dataAddr, end: dataAddr + 4096}})
	if !errors.Is(err, ErrNoKeys) || !strings.Contains(err.Error(), "went through") {
		t.Errorf("enableKeys() = %v; want that the read went through", err)
	}
}

// TestExecOnly has a guest read its own text: it runs until then, and ends
// there.
func TestExecOnly(t *testing.T) {
	requireKeys(t)
	for _, addr := range []uint64{codeAddr, codeAddr + 0xfff} {
		g := guest{ring: RingSealed}
		g.print("runs")
		g.pointAt(addr)
		insn := g.loadByte()
		g.halt(0)
		var out bytes.Buffer
		e := faultOf(t, &g, func(c *Config) { execOnly(c); c.Console = &out })
		const code = codePresent | codeUser | codeKey
		if e.Kind != FaultTranslation || e.Vector != vecPF || e.Code != code || e.RIP != insn || e.Addr != addr || e.Key != keyText {
			t.Errorf("Run() = %+v; want kind %q, vector 14, code %#x, rip %#x, address %#x, key 15", e, FaultTranslation, code, insn, addr)
		}
		if !bytes.HasPrefix(e.Insn, []byte{0x8a, 0x03}) || out.String() != "runs" {
			t.Errorf("bytes at rip = % x, output %q; want 8a 03 first, %q", e.Insn, out.String(), "runs")
		}
		if want := fmt.Sprintf("guest fault: host/guest translation fault, address %#x, execute-only text (protection key 15), rip=%#x", addr, insn); !strings.HasPrefix(e.Error(), want) {
			t.Errorf("Error() = %q; want it to begin with %q", e.Error(), want)
		}
	}
}

// TestExecOnlyHypercall has the monitor asked for what the guest cannot read.
func TestExecOnlyHypercall(t *testing.T) {
	requireKeys(t)
	for name, emit := range map[string]func(*guest){
		"buffer":                 func(g *guest) { g.puts(codeAddr, 8) },
		"buffer that ends there": func(g *guest) { g.puts(codeAddr-4, 8) },
		"structure":              func(g *guest) { g.call(hypercall.Puts, codeAddr) },
		"cookie of HALT":         func(g *guest) { g.call(hypercall.HaltCall, g.store(le64s(codeAddr, 0))) },
	} {
		g := guest{ring: RingSealed}
		emit(&g)
		g.halt(0)
		if e := faultOf(t, &g, execOnly); e.Kind != FaultPointer {
			t.Errorf("%s: Run() = %v; want kind %q", name, e, FaultPointer)
		}
	}
}

// TestExecOnlyTraps has the monitor decode instructions in text that nobody may
// read.
func TestExecOnlyTraps(t *testing.T) {
	requireKeys(t)
	g := guest{ring: RingSealed}
	g.emit(0xfa, 0xfb)       // cli; sti
	g.emit(0x0f, 0x20, 0xd0) // mov rax, cr2
	g.halt(0)
	cfg := g.config()
	execOnly(&cfg)
	vm := newVM(t, cfg)
	if res, err := runVM(t, vm); err != nil || res.Status != 0 || vm.Traps() != 3 {
		t.Errorf("Run() = %+v, %v, %d traps; want status 0 after 3", res, err, vm.Traps())
	}
}

// TestExecOnlyEntry compares the guest's start with one without keys: the probe
// leaves no trace but PKRU and CR4.PKE.
func TestExecOnlyEntry(t *testing.T) {
	requireKeys(t)
	g := guest{ring: RingSealed}
	pkru := g.store(le64s(0))
	g.emit(0x31, 0xc9, 0x0f, 0x01, 0xee)                        // xor ecx, ecx; rdpkru
	g.emit(append([]byte{0x89, 0x04, 0x25}, imm32(pkru)...)...) // mov [pkru], eax
	g.puts(uint64(pkru), 4)
	g.halt(0)
	cfg := g.config()
	plain := newVM(t, cfg)
	cfg.KernelFile = g.kernel()
	execOnly(&cfg)
	var out bytes.Buffer
	cfg.Console = &out
	vm := newVM(t, cfg)
	state := func(vm *VM) (kvm.Regs, kvm.Sregs) {
		r, err1 := vm.vcpu.Regs()
		s, err2 := vm.vcpu.Sregs()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return r, s
	}
	r1, s1 := state(plain)
	r2, s2 := state(vm)
	s1.CR4 |= cr4PKE
	s1.CR2 = s2.CR2 // of the probe; a guest in ring 3 cannot read it
	if r1 != r2 || s1 != s2 {
		t.Errorf("registers = %+v, %+v; want %+v, %+v", r2, s2, r1, s1)
	}
	if !bytes.Equal(vm.mem.Host()[codeAddr:][:len(g.code)], g.code) {
		t.Error("the probe left its instructions in the guest's text")
	}
	if _, err := runVM(t, vm); err != nil || !bytes.Equal(out.Bytes(), imm32(pkruInit)) {
		t.Errorf("Run() = %v, PKRU % x; want nil, % x", err, out.Bytes(), imm32(pkruInit))
	}
	if n := vm.Traps(); n != 0 {
		t.Errorf("Traps() = %d; want 0, the probe is not the guest's", n)
	}
}

// TestExecOnlyLifted shows what execute-only does not do: a WRPKRU in the text
// lifts it. The log says so beforehand, and only then.
func TestExecOnlyLifted(t *testing.T) {
	requireKeys(t)
	for _, lift := range []bool{false, true} {
		g := guest{ring: RingSealed}
		at := g.here()
		if lift {
			at = g.wrpkru(0)
			g.pointAt(codeAddr)
			g.loadByte()
		}
		g.halt(0)
		var log bytes.Buffer
		runGuest(t, &g, func(c *Config) {
			execOnly(c)
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		if got, want := strings.Contains(log.String(), fmt.Sprintf("WRPKRU, which can make it readable\" address=%#x", at)), lift; got != want {
			t.Errorf("with a WRPKRU %t: log = %q; want a warning %t", lift, log.String(), want)
		}
	}
}

// TestSegmentKey has a guest with a key for its data: it starts without access,
// gives it to itself, and hypercalls never have any.
func TestSegmentKey(t *testing.T) {
	requireKeys(t)
	const key = 2
	const readable, open uint32 = pkruInit&^(3<<(2*key)) | 2<<(2*key), pkruInit &^ (3 << (2 * key))
	for _, tt := range []struct {
		name string
		emit func(*guest) uint64 // returns rip of the fault
		code uint64              // 0: no fault of the key's
		kind FaultKind
	}{
		{"read", (*guest).loadByte, codePresent | codeUser | codeKey, FaultTranslation},
		{"write", (*guest).storeByte, codePresent | codeUser | codeWrite | codeKey, FaultTranslation},
		{"read, when readable", func(g *guest) uint64 { g.wrpkru(readable); g.loadByte(); return g.emit(0xf4) }, 0, FaultHLT},
		{"write, when readable", func(g *guest) uint64 { g.wrpkru(readable); return g.storeByte() }, codePresent | codeUser | codeWrite | codeKey, FaultTranslation},
		{"write, when open", func(g *guest) uint64 { g.wrpkru(open); g.storeByte(); return g.emit(0xf4) }, 0, FaultHLT},
		{"read, when closed again", func(g *guest) uint64 { g.wrpkru(open); g.wrpkru(pkruInit); return g.loadByte() }, codePresent | codeUser | codeKey, FaultTranslation},
		{"hypercall, when open", func(g *guest) uint64 { g.wrpkru(open); return g.call(hypercall.Walltime, dataAddr) }, 0, FaultPointer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: RingSealed}
			g.pointAt(dataAddr + 8)
			insn := tt.emit(&g)
			e := faultOf(t, &g, g.withNote(key))
			if e.Kind != tt.kind {
				t.Fatalf("Run() = %v; want kind %q", e, tt.kind)
			}
			if tt.code == 0 {
				return
			}
			if e.Vector != vecPF || e.Code != tt.code || e.RIP != insn || e.Addr != dataAddr+8 || e.Key != key || !strings.Contains(e.Error(), ", protection key 2, rip=") {
				t.Errorf("Run() = %+v (%v); want vector 14, code %#x, rip %#x, address %#x, key 2", e, e, tt.code, insn, dataAddr+8)
			}
		})
	}
}
