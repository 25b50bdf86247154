package kvmprobe

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/vmm"
)

// TestProbe asks a KVM that works, and something that is none.
func TestProbe(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.CheckFDs(t)
	info, err := Probe(testutil.KVMDevice)
	if err != nil {
		t.Fatalf("Probe() = %v; want nil", err)
	}
	for _, c := range info.Capabilities {
		if c.Needed && c.Value == 0 {
			t.Errorf("capability %s = 0; want it, as VMs run here", c.Name)
		}
	}
	if info.TSCKHz < 1e5 || info.CPUIDEntries < 10 {
		t.Errorf("Probe() = TSC of %d kHz, %d CPUID entries; want at least 100 MHz, 10", info.TSCKHz, info.CPUIDEntries)
	}
	var h *vmm.HostError
	if _, err := Probe("/dev/null"); !errors.As(err, &h) {
		t.Errorf("Probe(/dev/null) = %v; want a *vmm.HostError", err)
	}
}

// TestHeader compiles a program against the real <linux/kvm.h> and compares the
// number of every capability.
func TestHeader(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatalf("%v; install compiler and header: apt-get install gcc linux-libc-dev", err)
	}
	var src, want strings.Builder
	src.WriteString("#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {\n")
	for _, c := range capabilities {
		fmt.Fprintf(&src, "printf(\"%s %%d\\n\", KVM_CAP_%s);\n", c.name, c.name)
		fmt.Fprintf(&want, "%s %d\n", c.name, c.number)
	}
	src.WriteString("return 0;\n}\n")
	dir := t.TempDir()
	file, prog := filepath.Join(dir, "caps.c"), filepath.Join(dir, "caps")
	if err := os.WriteFile(file, []byte(src.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-o", prog, file).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	got, err := exec.Command(prog).Output()
	if err != nil || string(got) != want.String() {
		t.Errorf("capabilities by the header = %v\n%s; want\n%s", err, got, want.String())
	}
}
