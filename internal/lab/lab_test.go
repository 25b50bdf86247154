package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// skips are the tests that do not run in the lab though their package does.
// Each says why it could not hold there; that it is slow is no reason.
var skips = map[string]map[string]string{
	"kvm":               {"TestHeader": "compiles a program against <linux/kvm.h>; no compiler in the lab, nothing of it depends on the KVM"},
	"internal/kvmprobe": {"TestHeader": "as kvm's"},
	"vmm":               {"TestDiskDirect": "the lab's files are in memory, where there is no direct I/O; TestMonitorKill and TestDiskFaults have it in the lab"},
	"cmd/uvm": {
		"TestGDBSealed": gdbTest, "TestGDBSteps": gdbTest, "TestGDBFault": gdbTest, "TestGDBRing0": gdbTest, "TestGDBAttach": gdbTest, "TestGDBListen": gdbTest,
		"TestCore": gdbTest, "TestCrashReport": gdbTest,
		"TestNetAuto": hostNet, "TestNetAutoMany": hostNet, "TestNetStartFails": hostNet,
		"TestNetUnprivileged": hostNet, "TestNetNamespace": hostNet, "TestNetPersistent": hostNet, "TestNetWords": hostNet,
	},
}

// elsewhere are packages whose tests with a KVM do not run in the lab at all.
var elsewhere = map[string]string{
	"cmd/uvm-exporter": "runs a Prometheus, and programs that it builds; nothing of it depends on the KVM",
}

const gdbTest = "builds guests and runs gdb on them; TestGDB of this package has gdb in the lab"

const hostNet = "makes interfaces with a program that it builds; no Go in the lab, nothing of it depends on the KVM"

// TestLab runs every package that has tests with a real KVM once more, on the
// lab's KVM, in one boot.
func TestLab(t *testing.T) {
	t.Parallel()
	var jobs []Job
	for _, p := range kvmPackages(t) {
		if elsewhere[p] != "" {
			continue
		}
		jobs = append(jobs, Job{Package: p, Skips: skips[p], Bound: 9 * time.Minute})
	}
	Run(t, Options{Tools: []string{"bash", "ip"}}, jobs...)
}

// kvmPackages finds the packages whose tests ask for a KVM.
func kvmPackages(t *testing.T) []string {
	t.Helper()
	const module = "github.com/uvm-monitor/uvm/"
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var found []string
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if name := strings.TrimPrefix(p.ImportPath, module); bytes.Contains(src, []byte("testutil.Require"+"KVM(")) && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	// The two that there have been from the first day: is the search right?
	for _, p := range []string{"kvm", "vmm"} {
		if !slices.Contains(found, p) {
			t.Fatalf("packages with KVM tests = %v; want %s among them", found, p)
		}
	}
	return found
}
