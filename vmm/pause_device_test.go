package vmm

import (
	"bytes"
	"context"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/kvm"
)

// TestPausePC stops a PC with two vCPUs, one of which waits to be started, and its
// devices: what the guest asks of them meanwhile comes afterwards.
func TestPausePC(t *testing.T) {
	testutil.Watchdog(t)
	testutil.RequireKVM(t)
	var g pcGuest
	g.emit(0xb0, '!', 0x66, 0xba, 0xf0, 0x03, 0xee) // mov al, '!'; mov dx, 0x3f0; out dx, al
	g.emit(0xeb, 0xfe)                              // jmp .
	cfg := g.pcConfig()
	cfg.CPUs, cfg.Virtio, cfg.Disks = 2, []VirtioDevice{rngDevice}, []Disk{{Path: image(t, 1<<20)}}
	vm := newVM(t, cfg)
	done := runAside(context.Background(), vm)
	testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
	for range 5 {
		pause(t, vm)
		if timeout, fd := vm.pc.virtio[0].mmio.Serve(); timeout != -1 || fd != -1 {
			t.Errorf("Serve() of a paused device = %d, %d; want -1, -1", timeout, fd)
		}
		if err := vm.Inspect(func(m *Machine) error {
			if len(m.VCPUs) != 2 || !m.PC || m.Sealed {
				t.Errorf("Inspect() shows %d vCPUs, PC %v, sealed %v; want 2, true, false", len(m.VCPUs), m.PC, m.Sealed)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		resume(t, vm)
	}
	pause(t, vm)
	vm.stop(errEnough)
	if o := testutil.Wait(t, done, "Run"); o.err != errEnough {
		t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, errEnough)
	}
}

// TestInterruptedPort: a vCPU's output that a pause cuts short is not mixed with what another
// vCPU writes, and nothing is lost or done twice.
func TestInterruptedPort(t *testing.T) {
	var out bytes.Buffer
	full := true
	uart := devices.NewUART(onWriteSome(func(b []byte) (int, error) {
		if full {
			out.Write(b[:1])
			return 1, devices.ErrInterrupted
		}
		return out.Write(b)
	}), func() {})
	p := &pc{}
	if err := p.ports.Add(devices.COM1, devices.COM1+7, uart); err != nil {
		t.Fatal(err)
	}
	do := func(id int, out bool, port uint16, data string, want error) string {
		t.Helper()
		io := kvm.IO{Port: port, Out: out, Size: 1, Count: len(data), Data: []byte(data)}
		if err := p.port(id, &io); err != want {
			t.Errorf("vCPU %d at port %#x: %v; want %v", id, port, err, want)
		}
		return string(io.Data)
	}
	const scratch = devices.COM1 + 7
	do(0, true, devices.COM1, "hello", devices.ErrInterrupted)
	do(1, true, scratch, "s", devices.ErrInterrupted)
	do(1, true, devices.COM1, "X", devices.ErrInterrupted)
	if got := do(1, false, scratch, "?", nil); got != "\x00" {
		t.Errorf("scratch register = %q; want it as it was", got)
	}
	do(0, true, devices.COM1, "hello", devices.ErrInterrupted)
	full = false
	do(1, true, scratch, "s", devices.ErrInterrupted)
	do(0, true, devices.COM1, "hello", nil)
	do(1, true, scratch, "s", nil)
	do(1, true, devices.COM1, "X", nil)
	if got := do(0, false, scratch, "?", nil); out.String() != "helloX" || got != "s" {
		t.Errorf("output %q, scratch register %q; want helloX, s", out.String(), got)
	}
}

// onWriteSome is a Writer that need not write all.
type onWriteSome func([]byte) (int, error)

func (f onWriteSome) Write(b []byte) (int, error) { return f(b) }
