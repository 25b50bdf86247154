package main

import (
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// native is g's file with uvm's own note.
func (g *guest) native(t testing.TB, flags loader.NativeFlags) string {
	t.Helper()
	n := loader.Native{Version: 1, Flags: flags}
	return writeFile(t, "native.hvt", hvtelf.Guest{Code: g.code, Data: g.data, Devices: g.devices, Native: &n}.ELF())
}

// TestInspectNative shows the note, and only where there is one.
func TestInspectNative(t *testing.T) {
	path := new(guest).halt(0).native(t, loader.NativeSealed)
	const line = "\nnative   version 1, flags 0x1: starts without a privileged instruction\n"
	if got := uvm(t, "inspect", path); got.status != 0 || !strings.Contains(got.stdout, line) {
		t.Errorf("uvm inspect = %+v; want %q", got, line)
	}
	if got := uvm(t, "inspect", new(guest).halt(0).native(t, loader.NativeSealed|nativeHTTP)); !strings.Contains(got.stdout, "flags 0x10001: starts without a privileged instruction, serves HTTP\n") {
		t.Errorf("uvm inspect = %+v; want the hint http", got)
	}
	const object = `"native": {
    "version": 1,
    "flags": 3,
    "sealed": true,
    "keys": true
  },`
	path = new(guest).halt(0).native(t, loader.NativeSealed|loader.NativeKeys)
	if got := uvm(t, "inspect", "--json", path); got.status != 0 || !strings.Contains(got.stdout, object) {
		t.Errorf("uvm inspect --json = %+v; want %s", got, object)
	}
	if got := uvm(t, "inspect", hello(t)); strings.Contains(got.stdout, "native") {
		t.Errorf("uvm inspect = %+v; want nothing of a note", got)
	}
	wantLine(t, uvm(t, "inspect", new(guest).halt(0).native(t, 4)), exitKernel, "flags 0x4", "does not know")
}

// TestBootReportTraps has the number of exceptions of a sealed guest.
func TestBootReportTraps(t *testing.T) {
	testutil.RequireKVM(t)
	for _, tt := range []struct {
		guest *guest
		want  uint64
	}{
		{new(guest).halt(0), 0},
		{new(guest).emit(0xfa, 0xfb, 0xfa).halt(0), 3}, // cli; sti; cli
	} {
		got, r := reportOf(t, tt.guest.native(t, loader.NativeSealed), "--ring", "sealed")
		if got.status != 0 || r.Traps != tt.want {
			t.Errorf("status %d, %d traps; want 0, %d", got.status, r.Traps, tt.want)
		}
	}
}

// TestSealExecOnlyFlag sets the flag, by itself and in JSON. Where KVM has no
// keys, the host is to blame, with all that the user needs to know.
func TestSealExecOnlyFlag(t *testing.T) {
	path := hello(t)
	if got := uvm(t, "run", path, "--seal-exec-only", "--print-config"); !strings.Contains(got.stdout, `"seal-exec-only": true`) {
		t.Errorf("uvm run --print-config = %+v; want the flag's key", got)
	}
	wantLine(t, uvm(t, "run", path, "--seal-exec-only", "--ring", "0"), exitUsage, "--seal-exec-only", "needs the ring sealed")

	testutil.RequireKVM(t)
	config := writeFile(t, "c.json", []byte(`{"kernel": "`+path+`", "seal-exec-only": true}`))
	for _, args := range [][]string{{path, "--seal-exec-only"}, {"--config", config}} {
		got := uvm(t, append([]string{"run"}, args...)...)
		if got.status == exitHost {
			wantLine(t, got, exitHost, "protection keys: this KVM or its processor has none", "--seal-exec-only")
		} else {
			wantQuiet(t, got, 0, "hello\n")
		}
	}
}
