package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
)

// wantAt checks that a fault's rip is the instruction at insn or the one after
// its n bytes: KVMs differ in whether an exit has completed the instruction.
func wantAt(t *testing.T, e *GuestError, insn uint64, n int) {
	t.Helper()
	if e.RIP != insn && e.RIP != insn+uint64(n) {
		t.Errorf("RIP = %#x; want %#x or %#x", e.RIP, insn, insn+uint64(n))
	}
	if text := fmt.Sprintf("rip=%#x", e.RIP); !strings.Contains(e.Error(), text) {
		t.Errorf("Error() = %q; want it to contain %q", e.Error(), text)
	}
}

// wantException checks a sealed guest's exception that it had no handler for.
func wantException(t *testing.T, e *GuestError, vector uint8, code, rip, addr uint64) {
	t.Helper()
	want := GuestError{Kind: FaultException, RIP: rip, Addr: addr, Code: code, Exit: e.Exit, Vector: vector}
	got := *e
	got.Insn, got.Regs = nil, kvm.Regs{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Run() = %v\n(%+v); want\n(%+v)", e, got, want)
	}
}

// TestFaultTranslation has guests write what their file says is read-only: the
// page tables allow it, the host's do not.
func TestFaultTranslation(t *testing.T) { bothRings(t, testFaultTranslation) }

func testFaultTranslation(t *testing.T, ring Ring) {
	for _, tt := range []struct {
		name     string
		addr     uint64
		readOnly bool
	}{
		{"text", codeAddr + 0x123, false},
		{"end of text", codeAddr + 0xfff, false},
		{"read-only data", dataAddr + 0x20, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: ring, readOnly: tt.readOnly}
			g.pointAt(tt.addr)
			g.loadByte()
			insn := g.storeByte()
			g.halt(0)
			e := faultOf(t, &g, nil)
			if e.Kind != FaultTranslation {
				t.Fatalf("Run() = %v; want kind %q", e, FaultTranslation)
			}
			wantAt(t, e, insn, 2)
			// Page-table KVM names the byte. Hardware names the page, or does
			// not know where the kernel is older than 6.8.
			want := fmt.Sprintf("address %#x", e.Addr)
			switch e.Addr {
			case tt.addr, tt.addr &^ 0xfff:
				if !strings.Contains(e.Error(), want) {
					t.Errorf("Error() = %q; want it to contain %q", e.Error(), want)
				}
			case noAddr:
				if strings.Contains(e.Error(), "address") {
					t.Errorf("Error() = %q; want no address, as it is not known", e.Error())
				}
			default:
				t.Errorf("Addr = %#x; want %#x, its page, or unknown", e.Addr, tt.addr)
			}
		})
	}
}

// remap lays page tables of the guest's own into its data: the first 2 MiB as
// they are, writable throughout, and gpa at 2 MiB; and loads them. It comes
// before anything else is stored.
func (g *guest) remap(gpa uint64) {
	const page = 4096
	g.data = make([]byte, 4*page)
	const entry = entPresent | entWrite
	le.PutUint64(g.data[1*page:], dataAddr+2*page|entry)     // PML4
	le.PutUint64(g.data[2*page:], dataAddr+3*page|entry)     // PDPT
	le.PutUint64(g.data[3*page:], 0|entry|entLarge)          // PD
	le.PutUint64(g.data[3*page+8:], gpa|entry|entLarge)      //
	g.emit(append([]byte{0xb8}, imm32(dataAddr+page)...)...) // mov eax, PML4
	g.emit(0x0f, 0x22, 0xd8)                                 // mov cr3, rax
}

// TestFaultMMIO needs a guest that makes page tables of its own: the monitor's
// map nothing that is not memory.
func TestFaultMMIO(t *testing.T) {
	const gpa, va = 0x40000000, 0x200000
	for _, tt := range []struct {
		name string
		emit func(*guest) uint64
	}{
		{"read", (*guest).loadByte},
		{"write", (*guest).storeByte},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: Ring0}
			g.remap(gpa)
			g.pointAt(va + 0x123)
			insn := tt.emit(&g)
			g.halt(0)
			e := faultOf(t, &g, nil)
			if e.Kind != FaultMMIO || e.Addr != gpa+0x123 {
				t.Fatalf("Run() = %v; want kind %q, address %#x", e, FaultMMIO, gpa+0x123)
			}
			wantAt(t, e, insn, 2)
			if want := "guest fault: access to an address without memory, address 0x40000123, rip="; !strings.HasPrefix(e.Error(), want) {
				t.Errorf("Error() = %q; want it to begin with %q", e.Error(), want)
			}
		})
	}
}

// TestRemappedGuestStaysInside lets a guest map the monitor's low memory and
// write there. In ring 0 that is its own affair; a hypercall still refuses.
func TestRemappedGuestStaysInside(t *testing.T) {
	g := guest{ring: Ring0}
	g.remap(0)
	g.pointAt(uint64(gpaGDT))
	g.storeByte()
	g.print("alive")
	g.puts(uint64(gpaGDT), 8)
	g.halt(0)
	var console bytes.Buffer
	e := faultOf(t, &g, func(c *Config) { c.Console = &console })
	if e.Kind != FaultPointer || e.Addr != uint64(gpaGDT) {
		t.Errorf("Run() = %v; want kind %q, address %v", e, FaultPointer, gpaGDT)
	}
	if console.String() != "alive" {
		t.Errorf("output = %q; want %q", console.String(), "alive")
	}
}

// TestFaultInternal executes what page-table KVM cannot in ring 0. On real
// virtualisation the processor executes it, and the test says what then has to
// come of it.
func TestFaultInternal(t *testing.T) { bothRings(t, testFaultInternal) }

func testFaultInternal(t *testing.T, ring Ring) {
	for _, tt := range []struct {
		name   string
		code   []byte
		native FaultKind // "": the guest goes on
	}{
		{"xorps xmm0, xmm0", []byte{0x0f, 0x57, 0xc0}, ""},
		{"popcnt eax, eax", []byte{0xf3, 0x0f, 0xb8, 0xc0}, ""},
		{"int3", []byte{0xcc}, FaultShutdown}, // there is no IDT
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guest{ring: ring}
			g.emit(0x90) // nop
			insn := g.emit(tt.code...)
			g.halt(9)
			res, err := runVM(t, newVM(t, g.config()))
			if err == nil {
				if tt.native != "" || res.Status != 9 {
					t.Errorf("Run() = %+v, nil; want status 9, and that only where the guest goes on", res)
				}
				return
			}
			var e *GuestError
			if ring == RingSealed && tt.native == FaultShutdown {
				// The exception is the monitor's to report; the guest's rip is past INT3.
				if !errors.As(err, &e) || e.Kind != FaultException || e.Vector != vecBP || e.RIP != insn+1 {
					t.Errorf("Run() = %v; want kind %q, vector %d, rip %#x", err, FaultException, vecBP, insn+1)
				}
				return
			}
			if !errors.As(err, &e) || e.Kind != FaultInternal && e.Kind != tt.native || ring == RingSealed {
				t.Fatalf("Run() = %v; want kind %q, and that only in ring 0", err, FaultInternal)
			}
			if e.Kind != FaultInternal {
				return
			}
			if e.Code != kvm.SuberrorEmulation || e.RIP != insn || !bytes.HasPrefix(e.Insn, tt.code) {
				t.Errorf("Run() = code %d, rip %#x, bytes % x; want %d, %#x, first % x", e.Code, e.RIP, e.Insn, kvm.SuberrorEmulation, insn, tt.code)
			}
			want := fmt.Sprintf("guest fault: KVM internal error 1 (its emulator cannot run this instruction), rip=%#x, bytes at rip: % x", insn, tt.code)
			if !strings.HasPrefix(e.Error(), want) {
				t.Errorf("Error() = %q; want it to begin with %q", e.Error(), want)
			}
		})
	}
}

// TestFaultInternalOutsideMemory jumps to an address without memory, where no
// KVM can fetch an instruction and the monitor finds no bytes to show.
func TestFaultInternalOutsideMemory(t *testing.T) {
	g := guest{ring: Ring0}
	g.remap(0x40000000)
	g.pointAt(0x200000)
	g.emit(0xff, 0xe3) // jmp rbx
	e := faultOf(t, &g, nil)
	if e.Kind != FaultInternal || e.RIP != 0x200000 {
		t.Errorf("Run() = %v; want kind %q, rip 0x200000", e, FaultInternal)
	}
}

func TestFaultShutdown(t *testing.T) { bothRings(t, testFaultShutdown) }

func testFaultShutdown(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.emit(0x90)               // nop
	insn := g.emit(0x0f, 0x0b) // ud2
	e := faultOf(t, &g, nil)
	if ring == RingSealed { // where the monitor sees the exception itself
		wantException(t, e, vecUD, 0, insn, noAddr)
		if want := fmt.Sprintf("guest fault: exception without a handler, vector 6, error code 0x0, rip=%#x, bytes at rip: 0f 0b", insn); !strings.HasPrefix(e.Error(), want) {
			t.Errorf("Error() = %q; want it to begin with %q", e.Error(), want)
		}
		return
	}
	// No page fault happened, CR2 is zero and says nothing.
	if e.Kind != FaultShutdown || e.Addr != noAddr || e.RIP != insn && e.RIP != 0xfff0 {
		t.Errorf("Run() = %v (address %#x); want kind %q at rip %#x without an address", e, e.Addr, FaultShutdown, insn)
	}
	want := fmt.Sprintf("guest fault: triple fault, rip=%#x", e.RIP)
	if e.RIP == resetVector { // SVM
		want = "guest fault: triple fault (this KVM has reset the processor; where it was is not known)"
	}
	if e.Error() != want {
		t.Errorf("Error() = %q; want %q", e.Error(), want)
	}
}

func TestFaultHLT(t *testing.T) { bothRings(t, testFaultHLT) }

func testFaultHLT(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	insn := g.emit(0xf4) // hlt
	e := faultOf(t, &g, nil)
	if e.Kind != FaultHLT {
		t.Fatalf("Run() = %v; want kind %q", e, FaultHLT)
	}
	wantAt(t, e, insn, 1)
	if want := fmt.Sprintf("guest fault: HLT without an interrupt to wake it, rip=%#x", e.RIP); !strings.HasPrefix(e.Error(), want) {
		t.Errorf("Error() = %q; want it to begin with %q", e.Error(), want)
	}
}

func TestHalt(t *testing.T) { bothRings(t, testHalt) }

func testHalt(t *testing.T, ring Ring) {
	for _, status := range []int32{0, 7, 255, 256, -1} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			g := guest{ring: ring}
			g.halt(status)
			res, err := runVM(t, newVM(t, g.config()))
			if err != nil || res != (Result{Status: int(status)}) {
				t.Errorf("Run() = %+v, %v; want status %d", res, err, status)
			}
		})
	}
}

// TestHaltWithTrapFrame has a guest say where it trapped, by the cookie of
// HALT; its 512 bytes may end where memory ends.
func TestHaltWithTrapFrame(t *testing.T) { bothRings(t, testHaltWithTrapFrame) }

func testHaltWithTrapFrame(t *testing.T, ring Ring) {
	frame := TrapFrame{CR2: 0xc2, ErrorCode: 0xec, RIP: 0x100abc, CS: 8, RFLAGS: 0x246, RSP: 0x1ffff0, SS: 0x10}
	raw := le64s(frame.CR2, frame.ErrorCode, frame.RIP, frame.CS, frame.RFLAGS, frame.RSP, frame.SS)
	t.Run("in data", func(t *testing.T) {
		g := guest{ring: ring}
		at := g.store(append(raw, make([]byte, 512)...))
		g.call(hypercall.HaltCall, g.store(le64s(uint64(at), 255)))
		res, err := runVM(t, newVM(t, g.config()))
		if err != nil || res.Status != 255 || res.Trap == nil || *res.Trap != frame {
			t.Errorf("Run() = %+v (%+v), %v; want status 255, %+v", res, res.Trap, err, frame)
		}
	})
	t.Run("at the end of memory", func(t *testing.T) {
		g := guest{ring: ring}
		g.call(hypercall.HaltCall, g.store(le64s(testMem-512, 0)))
		res, err := runVM(t, newVM(t, g.config()))
		if err != nil || res.Trap == nil || *res.Trap != (TrapFrame{}) {
			t.Errorf("Run() = %+v (%+v), %v; want a trap frame of zeros", res, res.Trap, err)
		}
	})
}

// TestGuestErrorText covers what no guest of the tests can bring about on every
// KVM.
func TestGuestErrorText(t *testing.T) {
	for _, tt := range []struct {
		err  GuestError
		want string
	}{
		{GuestError{Kind: FaultEntry, Code: 0x80000021, RIP: 0x100000}, "guest fault: KVM entry failure, hardware reason 0x80000021, rip=0x100000"},
		{GuestError{Kind: FaultExit, Exit: uint32(kvm.ExitDebug), RIP: 1}, "guest fault: unhandled KVM exit DEBUG, rip=0x1"},
		{GuestError{Kind: FaultExit, Exit: 99, RIP: 1}, "guest fault: unhandled KVM exit exit reason 99, rip=0x1"},
		{GuestError{Kind: FaultInternal, Code: 3}, "guest fault: KVM internal error 3, rip=0x0"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("Error() = %q; want %q", got, tt.want)
		}
	}
}

// TestUnknownExits calls exit and runError with what KVM does not answer here.
func TestUnknownExits(t *testing.T) { bothRings(t, testUnknownExits) }

func testUnknownExits(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.halt(0)
	vm := newVM(t, g.config())
	var e *GuestError
	// Before the first KVM_RUN the reason is KVM_EXIT_UNKNOWN.
	if err := vm.exit(vm.vcpu); !errors.As(err, &e) || e.Kind != FaultExit || e.RIP != codeAddr {
		t.Errorf("exit() = %v; want kind %q, rip %#x", err, FaultExit, codeAddr)
	}
	if err := vm.runError(vm.vcpu, syscall.EFAULT); !errors.As(err, &e) || e.Kind != FaultTranslation || e.Addr != noAddr {
		t.Errorf("runError(EFAULT) = %v; want kind %q without an address", err, FaultTranslation)
	}
	var h *HostError
	if err := vm.runError(vm.vcpu, syscall.EIO); !errors.As(err, &h) || !errors.Is(err, syscall.EIO) || h.Op != "KVM_RUN" {
		t.Errorf("runError(EIO) = %v; want a *HostError of KVM_RUN", err)
	}
	// A vCPU whose descriptor is gone.
	if err := vm.vcpu.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.loop(vm.vcpu); !errors.As(err, &h) || !errors.Is(err, syscall.EBADF) {
		t.Errorf("loop() = %v; want a *HostError of EBADF", err)
	}
	boom := errors.New("boom")
	if err := vm.portFault(vm.vcpu, boom); err != boom {
		t.Errorf("portFault(%v) = %v; want it unchanged", boom, err)
	}
}

// TestBytesAt reads the instruction that a fault is about, where the kernel
// does not tell it: never from where the guest itself may not read.
func TestBytesAt(t *testing.T) { bothRings(t, testBytesAt) }

func testBytesAt(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.halt(0)
	vm := newVM(t, g.config())
	for _, tt := range []struct {
		rip  uint64
		want []byte
	}{
		{codeAddr, append(bytes.Clone(g.code), 0, 0, 0, 0, 0)[:15]},
		{0x10000, le64s(testMem, dataAddr+0x1000)[:15]}, // boot information
		{testMem - 4, make([]byte, 4)},
		{testMem, nil},
		{1<<64 - 1, nil},
		{uint64(gpaPML4), nil},
	} {
		if got := vm.bytesAt(tt.rip); !bytes.Equal(got, tt.want) {
			t.Errorf("bytesAt(%#x) = % x; want % x", tt.rip, got, tt.want)
		}
	}
}
