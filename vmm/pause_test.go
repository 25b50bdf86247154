package vmm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/memory"
)

// pause pauses vm, which has to work.
func pause(t testing.TB, vm *VM) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	if err := vm.Pause(ctx); err != nil {
		t.Fatalf("Pause() = %v; want nil", err)
	}
	if s := vm.State(); s != Paused {
		t.Fatalf("State() after Pause = %v; want %v", s, Paused)
	}
}

func resume(t testing.TB, vm *VM) {
	t.Helper()
	if err := vm.Resume(); err != nil {
		t.Fatalf("Resume() = %v; want nil", err)
	}
}

// counter is a guest that counts in a word of its memory for ever.
func counter(t testing.TB, ring Ring) (vm *VM, count func() uint64) {
	g := guest{ring: ring}
	word := g.store(le64s(0))
	g.mark('!')
	loop := g.emit(append([]byte{0x48, 0xff, 0x04, 0x25}, imm32(word)...)...) // inc qword [word]
	g.jumpBack(0xeb, loop)                                                    // jmp loop
	vm = newVM(t, g.config())
	return vm, func() uint64 {
		b := make([]byte, 8)
		if err := vm.mem.Peek(memory.Addr(word), b); err != nil {
			t.Fatal(err)
		}
		return le.Uint64(b)
	}
}

// TestPause stops a guest that never exits, and has it go on, often.
func TestPause(t *testing.T) { bothRings(t, testPause) }

func testPause(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	vm, count := counter(t, ring)
	if err := vm.Pause(context.Background()); true {
		wantStateError(t, err, Created, Paused)
	}
	wantStateError(t, vm.Resume(), Created, Running)
	done := runAside(context.Background(), vm)
	testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
	for range 20 {
		pause(t, vm)
		before := count()
		wantStateError(t, vm.Pause(context.Background()), Paused, Paused)
		_, err := vm.Run(context.Background())
		wantStateError(t, err, Paused, Running)
		time.Sleep(time.Millisecond)
		if n := count(); n != before {
			t.Fatalf("a paused guest counted from %d to %d", before, n)
		}
		resume(t, vm)
		wantStateError(t, vm.Resume(), Running, Running)
		testutil.Until(t, "the guest to count on", func() bool { return count() > before })
	}
	pause(t, vm)
	if err := vm.Close(); err != nil { // a paused VM can be closed
		t.Errorf("Close() = %v; want nil", err)
	}
	if o := testutil.Wait(t, done, "Run"); o.err != ErrClosed {
		t.Errorf("Run() = %v; want %v", o.err, ErrClosed)
	}
	wantStateError(t, vm.Pause(context.Background()), Closed, Paused)
	wantStateError(t, vm.Resume(), Closed, Running)
	if err := vm.Inspect(nil); err != ErrNotPaused {
		t.Errorf("Inspect() of a closed VM = %v; want %v", err, ErrNotPaused)
	}
}

// TestPauseEnds: a Pause that waits learns of a VM that ends, and one whose context is
// done lets the VM go on.
func TestPauseEnds(t *testing.T) {
	testutil.Watchdog(t)
	blocked, enter := make(chan struct{}), make(chan struct{})
	g := guest{}
	g.print("x") // the console is a writer that does not return
	g.halt(7)
	cfg := g.config()
	cfg.Console = onWrite(func([]byte) { close(enter); <-blocked })
	vm := newVM(t, cfg)
	done := runAside(context.Background(), vm)
	testutil.Wait(t, enter, "console")
	cause := errors.New("too late")
	ctx, cancel := context.WithCancelCause(context.Background())
	paused := make(chan error, 2)
	go func() { paused <- vm.Pause(ctx) }()
	go func() { paused <- vm.Pause(context.Background()) }()
	cancel(cause)
	if err := testutil.Wait(t, paused, "Pause"); err != cause {
		t.Errorf("Pause() = %v; want the context's %v", err, cause)
	}
	wantState(t, vm, Running)
	vm.stop(errEnough)
	close(blocked)
	if o := testutil.Wait(t, done, "Run"); o.err != errEnough {
		t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, errEnough)
	}
	wantStateError(t, testutil.Wait(t, paused, "the other Pause"), Stopped, Paused)
}

// TestPausePoll: a POLL goes on where it was, and nothing is in its result before.
func TestPausePoll(t *testing.T) { bothRings(t, testPausePoll) }

func testPausePoll(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	g := guest{ring: ring}
	g.mark('!')
	const timeout = 300 * time.Millisecond
	at := g.poll(uint64(timeout))
	g.mark('.')
	g.puts(uint64(at), 24)
	g.halt(0)
	cfg := g.config()
	var out bytes.Buffer
	cfg.Console = &out
	vm := newVM(t, cfg)
	done := runAside(context.Background(), vm)
	testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
	var slept time.Duration
	for range 5 {
		pause(t, vm)
		if err := vm.Inspect(func(m *Machine) error {
			b := make([]byte, 24)
			err := m.Memory.Peek(memory.Addr(at), b)
			if want := le64s(uint64(timeout), 0xbad, 0xdeadbeef); !bytes.Equal(b, want) {
				t.Errorf("POLL's structure while it waits = %x; want %x", b, want)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(timeout / 3) // the guest's time does not run
		slept += timeout / 3
		resume(t, vm)
	}
	if o := testutil.Wait(t, done, "Run"); o.err != nil {
		t.Fatal(o.err)
	}
	if b := out.Bytes(); le.Uint64(b[8:]) != 0 || le.Uint32(b[16:]) != 0 {
		t.Errorf("POLL = %x; want no handle", b)
	}
	marks, _ := vm.Timeline()
	var guestMarks []time.Time
	for _, m := range marks {
		if m.Guest() {
			guestMarks = append(guestMarks, m.At)
		}
	}
	if d := guestMarks[1].Sub(guestMarks[0]); d < timeout+slept {
		t.Errorf("POLL took %v; want %v and what it was paused, %v", d, timeout, slept)
	}
}

// TestPauseConsole pauses guests that wait for the console's reader. Not a byte is lost
// or doubled.
func TestPauseConsole(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 512) // 8 KiB, twice what the pipe is to hold
	hvt := func(ring Ring) Config {
		g := guest{ring: ring}
		at := g.store(text)
		g.mark('!')
		g.puts(uint64(at), len(text))
		g.halt(0)
		return g.config()
	}
	var pc pcGuest
	pc.emit(0xb0, '!', 0x66, 0xba, 0xf0, 0x03, 0xee) // mov al, '!'; mov dx, 0x3f0; out dx, al
	pc.print(uint32(dataAddr), uint32(len(text)))
	pc.poweroff()
	pcCfg := pc.pcConfig()
	pcCfg.KernelFile = bytes.NewReader(hvtelf.PC{Code: pc.code, Data: text, PVH: 4}.ELF())
	for name, cfg := range map[string]Config{"ring 0": hvt(Ring0), "sealed": hvt(RingSealed), "UART": pcCfg} {
		t.Run(name, func(t *testing.T) {
			testutil.Watchdog(t)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
				t.Fatal(err)
			}
			cfg.Console = w
			vm := newVM(t, cfg)
			done := runAside(context.Background(), vm)
			testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
			var got bytes.Buffer
			for range 10 {
				pause(t, vm)
				resume(t, vm)
				if _, err := io.CopyN(&got, r, 300); err != nil {
					t.Fatal(err)
				}
			}
			go func() { <-done; w.Close() }()
			if _, err := io.Copy(&got, r); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), text) {
				t.Errorf("the console has %d bytes, equal to the guest's: %v; want all %d", got.Len(), bytes.Equal(got.Bytes(), text), len(text))
			}
		})
	}
}

// TestPauseRaces pauses, resumes and stops from several goroutines. Whatever comes of
// each call, nothing hangs, and the VM ends.
func TestPauseRaces(t *testing.T) { bothRings(t, testPauseRaces) }

func testPauseRaces(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	for range 10 {
		g := guest{ring: ring}
		loop := g.here()
		g.poll(1e5)
		g.call(hypercall.Walltime, g.store(le64s(0)))
		g.jumpBack(0xeb, loop)
		vm := newVM(t, g.config())
		done := runAside(context.Background(), vm)
		var stop atomic.Bool
		ended := make(chan struct{}, 6)
		for i := range cap(ended) {
			go func() {
				for !stop.Load() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*50*time.Microsecond)
					vm.Pause(ctx)
					cancel()
					vm.Inspect(func(m *Machine) error { _, err := m.VCPUs[0].Regs(); return err })
					vm.Resume()
				}
				ended <- struct{}{}
			}()
		}
		time.Sleep(10 * time.Millisecond)
		vm.stop(errEnough)
		if o := testutil.Wait(t, done, "Run"); o.err != errEnough {
			t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, errEnough)
		}
		stop.Store(true)
		for range cap(ended) {
			testutil.Wait(t, ended, "Pause and Resume")
		}
	}
}

// TestInspect changes registers and protected memory of a guest that spins, which then
// goes another way; and reads those of a VM before it runs and after its end.
func TestInspect(t *testing.T) { bothRings(t, testInspect) }

func testInspect(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	g := guest{ring: ring}
	g.mark('!')
	spin := g.here()
	g.spin()
	status := g.here() + 1
	g.halt(3)
	vm := newVM(t, g.config())
	rip := func() (r uint64) {
		if err := vm.Inspect(func(m *Machine) error {
			regs, err := m.VCPUs[0].Regs()
			r = regs.RIP
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if got := rip(); got != codeAddr {
		t.Errorf("rip before Run = %#x; want %#x", got, codeAddr)
	}
	done := runAside(context.Background(), vm)
	testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
	if err := vm.Inspect(nil); err != ErrNotPaused {
		t.Errorf("Inspect() of a running VM = %v; want %v", err, ErrNotPaused)
	}
	pause(t, vm)
	if got := rip(); got != spin {
		t.Errorf("rip of the paused guest = %#x; want %#x", got, spin)
	}
	if err := vm.Inspect(func(m *Machine) error {
		// Text, which is read-only for guest and monitor: mov eax, another structure.
		halt := g.store(le64s(0, 42))
		if err := m.Memory.Poke(memory.Addr(halt), le64s(0, 42)); err != nil {
			return err
		}
		if err := m.Memory.Poke(memory.Addr(status), imm32(halt)); err != nil {
			return err
		}
		regs, err := m.VCPUs[0].Regs()
		if err != nil {
			return err
		}
		regs.RIP = spin + 2
		return m.VCPUs[0].SetRegs(&regs)
	}); err != nil {
		t.Fatal(err)
	}
	resume(t, vm)
	if o := testutil.Wait(t, done, "Run"); o.err != nil || o.res.Status != 42 {
		t.Errorf("Run() = %+v, %v; want status 42", o.res, o.err)
	}
	if got := rip(); got < spin+2 || got > g.here() {
		t.Errorf("rip after Run = %#x; want one of the HALT at %#x", got, spin+2)
	}
}
