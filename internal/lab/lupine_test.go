//go:build measure

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// lupineKernels are those that docs/lupine.md compares.
var lupineKernels = []string{"microvm", "lupine-general", "lupine-base", "lupine-tiny"}

// withKernels adds kernels to the files of a lab, as /vm/NAME.
func withKernels(t *testing.T, files map[string]string, names []string) {
	t.Helper()
	for _, k := range names {
		file, err := LinuxKernel(k)
		if err != nil {
			t.Fatal(err)
		}
		files["/vm/"+k] = file
	}
}

// TestLupineBoot measures, in instructions, how long a kernel takes from its
// first entry to the mark of init: `go test -tags measure -v -run TestLupineBoot ./internal/lab`.
func TestLupineBoot(t *testing.T) {
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := (&LinuxGuest{Init: "uvm-mark 1\nuvm-mark --poweroff\n"}).Initramfs(initrd); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/vm/initrd": initrd}
	withKernels(t, files, lupineKernels)
	var jobs []Job
	for _, k := range lupineKernels {
		reports := []string{"/vm/" + k + ".1", "/vm/" + k + ".2", "/vm/" + k + ".3"}
		jobs = append(jobs, Job{
			Name: k, Dir: "/vm", Results: reports, Bound: 5 * time.Minute,
			Argv: []string{"sh", "-ec", "for n in 1 2 3; do uvm run " + k + " -m 256M --initrd initrd --cmdline quiet --boot-report " + k + ".$n; done"},
			Check: func(t *testing.T, r *Result) {
				if r.Status != 0 {
					t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
				}
				var took []float64
				for _, name := range reports {
					took = append(took, firstMark(t, r.Files[name]))
				}
				slices.Sort(took)
				t.Logf("%-16s %7.1f ms from the first entry to init's mark (least of %.1f)", k, took[0], took)
			},
		})
	}
	Run(t, Options{Memory: 2 << 30, ICount: true, Files: files}, jobs...)
}

// firstMark is when the first mark of the guest's was, in ms after the first entry.
func firstMark(t *testing.T, report []byte) float64 {
	t.Helper()
	var r struct {
		Marks []struct {
			Source string
			Value  *int
			Since  int64 `json:"since_first_entry_ns"`
		}
	}
	if err := json.Unmarshal(report, &r); err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Marks {
		if m.Source == "guest" && m.Value != nil {
			return float64(m.Since) / 1e6
		}
	}
	t.Fatalf("no mark of the guest in %s", report)
	return 0
}

// TestLupineLatency measures, in instructions, a system call that does nothing,
// a read and a write of one byte.
func TestLupineLatency(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	gcc := exec.Command("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector",
		"-o", filepath.Join(dir, "tree/bin/latency"), "testdata/latency.c")
	if out, err := gcc.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	initrd := filepath.Join(dir, "initrd")
	if err := (&LinuxGuest{Tree: filepath.Join(dir, "tree"), Init: "latency\nuvm-mark --poweroff\n"}).Initramfs(initrd); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/vm/initrd": initrd}
	withKernels(t, files, lupineKernels)
	var jobs []Job
	for _, k := range lupineKernels {
		jobs = append(jobs, Job{
			Name: k, Dir: "/vm", Bound: 2 * time.Minute, Argv: []string{"uvm", "run", k, "-m", "256M", "--initrd", "initrd", "--cmdline", "quiet", "--timeout", "100s"},
			Check: func(t *testing.T, r *Result) {
				var null, read, write float64
				i := strings.Index(r.Stdout, "null ")
				if i < 0 {
					t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
				}
				if _, err := fmt.Sscanf(strings.ReplaceAll(r.Stdout[i:], "\r", ""), "null %f\nread %f\nwrite %f\n", &null, &read, &write); err != nil {
					t.Fatalf("%v\n%s", err, r.Stdout)
				}
				t.Logf("%-16s null %6.0f ns, read %6.0f ns, write %6.0f ns", k, null/1000, read/1000, write/1000)
			},
		})
	}
	Run(t, Options{Memory: 2 << 30, ICount: true, Files: files}, jobs...)
}

// memoryScript finds by bisection the least memory, in MiB, in which redis
// answers: it works with $high and does not with $low. With too little a guest
// need not end, it may go on and never answer. So each attempt is over after 30 s,
// with all that it has started: processes of one group.
const memoryScript = `try() {
	MEMORY=$1M setsid bash -ec "$APPSCRIPT" >log 2>&1 &
	for ((n = 0; n < 150; n++)); do kill -0 $! 2>/dev/null || break; sleep 0.2; done
	if [ $n -lt 150 ]; then how="ended by itself"; else how="killed after 30 s"; fi
	kill -KILL -- -$! 2>/dev/null
	wait $! && grep -q value log && how=answers
	ip netns del app 2>/dev/null
	[ "$how" = answers ] || how="$how: $(tail -n 1 out)"
	echo "$1 MiB: $how"
	[ "$how" = answers ]
}
low=12 high=64
try $high || { cat log; exit 1; }
while [ $((high - low)) -gt 1 ]; do
	middle=$(((low + high) / 2))
	if try $middle; then high=$middle; else low=$middle; fi
done
echo least $high`

// TestLupineMemory measures the least memory in which redis answers a client.
func TestLupineMemory(t *testing.T) {
	kernels := []string{"microvm", "lupine-general", "lupine-base+redis"}
	i := slices.IndexFunc(appCases, func(c appCase) bool { return c.name == "redis" })
	c := &appCases[i]
	image := filepath.Join(t.TempDir(), "redis.ext4")
	if err := c.image(image); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/vm/redis.ext4": image}
	withKernels(t, files, kernels)
	var jobs []Job
	for _, k := range kernels {
		jobs = append(jobs, Job{
			Name: k, Dir: "/vm", Bound: 10 * time.Minute, Argv: []string{"bash", "-ec", memoryScript},
			Env: []string{"APPSCRIPT=" + appScript, "KERNEL=" + k, "APP=redis", "PORT=" + c.port, "CLIENT=" + c.client},
			Check: func(t *testing.T, r *Result) {
				if r.Status != 0 {
					t.Fatalf("status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
				}
				attempts, least, _ := strings.Cut(strings.TrimSpace(r.Stdout), "least ")
				t.Logf("%s%-18s redis answers with %s MiB", attempts, k, least)
			},
		})
	}
	Run(t, Options{Memory: 3 << 30, Files: files, Tools: []string{"bash", "ip"}}, jobs...)
}
