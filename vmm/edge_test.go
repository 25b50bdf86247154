package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// TestOpcodesAtTheEnd executes every opcode where memory ends, so that its
// operands are beyond: the VM ends with a report and the monitor goes on.
func TestOpcodesAtTheEnd(t *testing.T) {
	page := segmentAt(testMem-0x1000, 0x1000, "rx")
	run := func(t *testing.T, code ...byte) {
		t.Helper()
		at := testMem - uint64(len(code))
		g := guest{ring: RingSealed}
		g.emit(append([]byte{0xbc}, imm32(testMem-0x1000)...)...) // mov esp, imm32
		g.emit(0x68, 0, 0, 0x18, 0)                               // push 0x180000: a return ends on the heap
		g.pointAt(at)
		g.emit(0xff, 0xe3) // jmp rbx
		cfg := g.config()
		cfg.KernelFile = bytes.NewReader(withSegments(g.elf(), []loader.Segment{page}))
		vm := newVM(t, cfg)
		defer vm.Close()
		if err := vm.mem.Protect(page.Addr, page.MemSize, memory.ReadWrite); err != nil {
			t.Fatal(err)
		}
		b, err := vm.mem.At(memory.Addr(at), uint64(len(code)))
		if err != nil {
			t.Fatal(err)
		}
		copy(b, code)
		if err := vm.mem.Protect(page.Addr, page.MemSize, memory.Read); err != nil {
			t.Fatal(err)
		}
		_, err = runVM(t, vm)
		var e *GuestError
		if !errors.As(err, &e) {
			t.Errorf("% x at the end = %v; want a *GuestError", code, err)
			return
		}
		// What is at rip is shown as far as memory goes.
		if left := uint64(testMem) - min(e.RIP, testMem); e.RIP >= at && uint64(len(e.Insn)) > left {
			t.Errorf("% x at the end = %v; want at most %d bytes at rip", code, e, left)
		}
		// An opcode that lacks its operands has faulted by fetching them.
		if len(code) == 1 && code[0] == 0x0f && (e.Kind != FaultException || e.Vector != vecPF || e.Addr != testMem || e.Code&codeFetch == 0) {
			t.Errorf("% x at the end = %v; want a fetch at %#x", code, e, uint64(testMem))
		}
	}
	for op := range 256 {
		t.Run(fmt.Sprintf("%02x", op), func(t *testing.T) {
			run(t, byte(op))
			run(t, 0x0f, byte(op))
		})
	}
}
