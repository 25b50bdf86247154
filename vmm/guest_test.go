package vmm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

const (
	codeAddr = hvtelf.CodeAddr
	dataAddr = hvtelf.DataAddr
	testMem  = 2 << 20 // bytes of a test guest's memory: the least there is
)

// guest is a unikernel in the making. Its methods emit machine code and lay
// out data; they return where things are, so that tests can say what they
// expect there.
type guest struct {
	code, data []byte
	devices    []loader.Device
	readOnly   bool // data segment without the write flag
	ring       Ring // "" = the default
}

// emit appends machine code and returns its address.
func (g *guest) emit(code ...byte) uint64 {
	at := codeAddr + uint64(len(g.code))
	g.code = append(g.code, code...)
	return at
}

// here is the address of the next instruction.
func (g *guest) here() uint64 { return codeAddr + uint64(len(g.code)) }

// store puts data into the data segment, aligned to eight bytes, and returns
// its address.
func (g *guest) store(b []byte) uint32 {
	for len(g.data)%8 != 0 {
		g.data = append(g.data, 0)
	}
	at := dataAddr + uint32(len(g.data))
	g.data = append(g.data, b...)
	return at
}

func imm32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// out emits a port write and returns the address of the OUT itself, which is
// one byte long.
//
//	b8 imm32    mov eax, arg
//	66 ba imm16 mov dx, port
//	ef          out dx, eax
func (g *guest) out(port uint16, arg uint32) uint64 {
	g.emit(hvtelf.Out(port, arg)...)
	return g.here() - 1
}

// call emits a hypercall with its structure at arg.
func (g *guest) call(c hypercall.Call, arg uint32) uint64 {
	return g.out(hypercall.PortBase+uint16(c), arg)
}

// puts emits a PUTS of n bytes at addr.
func (g *guest) puts(addr uint64, n int) {
	g.call(hypercall.Puts, g.store(le64s(addr, uint64(n))))
}

// print emits a PUTS of s.
func (g *guest) print(s string) { g.puts(uint64(g.store([]byte(s))), len(s)) }

// halt emits a HALT.
func (g *guest) halt(status int32) {
	g.call(hypercall.HaltCall, g.store(le64s(0, uint64(uint32(status)))))
}

// spin emits an endless loop.
//
//	eb fe  jmp .
func (g *guest) spin() { g.emit(0xeb, 0xfe) }

// elf is the finished file.
func (g *guest) elf() []byte {
	file := hvtelf.Guest{Code: g.code, Data: g.data, Devices: g.devices}.ELF()
	if g.readOnly {
		const dataFlags = 64 + 56 + 4 // p_flags of the second program header
		le.PutUint32(file[dataFlags:], 4)
	}
	return file
}

// kernel is the file as Config.KernelFile takes it.
func (g *guest) kernel() io.ReaderAt { return bytes.NewReader(g.elf()) }

// config is the least Config that runs g.
func (g *guest) config() Config {
	return Config{Kernel: "test.hvt", KernelFile: g.kernel(), Memory: testMem, Ring: g.ring, TSSAvailable: inLab}
}

// inLab says that KVM is QEMU's emulation of SVM, where the task register wants another type.
var inLab = os.Getenv("UVM_LAB") == "1"

// bothRings runs a test in ring 0 and sealed. What has to differ is written
// down in the test.
func bothRings(t *testing.T, f func(t *testing.T, ring Ring)) {
	for _, ring := range []Ring{Ring0, RingSealed} {
		t.Run("ring="+string(ring), func(t *testing.T) { f(t, ring) })
	}
}

// newVM builds a VM that the test's end closes.
func newVM(t testing.TB, cfg Config) *VM {
	t.Helper()
	testutil.RequireKVM(t)
	vm, err := New(cfg)
	if err != nil {
		t.Fatalf("New(%q) = %v; want a VM", cfg.Kernel, err)
	}
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	return vm
}

// hangs bounds every run that should end by itself. Nothing is expected to
// take that long.
const hangs = 50 * time.Second

// runVM runs vm to its end, which the time limit must not be.
func runVM(t testing.TB, vm *VM) (Result, error) {
	t.Helper()
	testutil.Watchdog(t) // for a guest that the time limit does not stop
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	res, err := vm.Run(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Run() did not end within %v", hangs)
	}
	return res, err
}

// runGuest runs g, which has to halt with status 0, and returns its output.
// change, where not nil, completes the configuration.
func runGuest(t testing.TB, g *guest, change func(*Config)) []byte {
	t.Helper()
	var console bytes.Buffer
	cfg := g.config()
	cfg.Console = &console
	if change != nil {
		change(&cfg)
	}
	res, err := runVM(t, newVM(t, cfg))
	if err != nil || res.Status != 0 || res.Trap != nil {
		t.Fatalf("Run() = %+v, %v; want status 0 without a trap", res, err)
	}
	return console.Bytes()
}

// faultOf runs g, which has to break, and returns how it did.
func faultOf(t testing.TB, g *guest, change func(*Config)) *GuestError {
	t.Helper()
	cfg := g.config()
	if change != nil {
		change(&cfg)
	}
	res, err := runVM(t, newVM(t, cfg))
	var e *GuestError
	if !errors.As(err, &e) {
		t.Fatalf("Run() = %+v, %v; want a *GuestError", res, err)
	}
	return e
}
