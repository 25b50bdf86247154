package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// envChild names the run that TestChild does in a process of its own: one that
// has to fail.
const envChild = "UVM_LAB_TEST_CHILD"

const brokenPackage = "internal/lab/testdata/broken"

// children are the runs that TestChild does; they fail.
var children = map[string]func(t *testing.T){
	"jobs": func(t *testing.T) {
		test := func(how string) Job {
			return Job{Name: how, Package: brokenPackage, Env: []string{"BROKEN=" + how}, Bound: 8 * time.Second}
		}
		Run(t, Options{},
			test("assertion"), test("panic"), test("exit"), test("hang"),
			Job{Name: "status", Argv: []string{"sh", "-c", "echo said; echo complained >&2; exit 3"}},
			Job{Name: "missing", Argv: []string{"/no/such/program"}},
			Job{Name: "no result", Argv: []string{"true"}, Results: []string{"/no/such/file"}},
			Job{Name: "slow", Argv: []string{"sleep", "100"}, Bound: time.Second},
			Job{Name: "again", Argv: []string{"sh", "-c", "echo a try; test -e /tmp/tried && exit 3; touch /tmp/tried; sleep 100"}, Bound: time.Second, Again: true},
			Job{Name: "good", Argv: []string{"sh", "-c", "printf '\\377\\n' >/tmp/result"}, Results: []string{"/tmp/result"}, Check: func(t *testing.T, r *Result) {
				if got := string(r.Files["/tmp/result"]); got != "\xff\n" || r.Status != 0 {
					t.Errorf("result = %q, status %d", got, r.Status)
				}
			}},
			Job{Name: "kernel", Argv: []string{"sh", "-c", "echo c >/proc/sysrq-trigger"}},
			Job{Name: "after", Argv: []string{"true"}},
		)
	},
	"no kvm-amd": func(t *testing.T) {
		Run(t, Options{omitModules: []string{"kvm-amd"}}, Job{Argv: []string{"true"}})
	},
	"too small": func(t *testing.T) {
		Run(t, Options{Memory: 48 << 20, BootBound: 30 * time.Second}, Job{Argv: []string{"true"}})
	},
	"slow boot": func(t *testing.T) {
		Run(t, Options{BootBound: 300 * time.Millisecond}, Job{Argv: []string{"true"}})
	},
	// This one ends well; see TestShell.
	"shell": func(t *testing.T) {
		if err := Shell(Options{}); err != nil {
			t.Error(err)
		}
	},
	"killed": func(t *testing.T) {
		Run(t, Options{}, Job{Argv: []string{"sleep", "100"}, Bound: 2 * time.Minute})
	},
}

// TestChild is what runChild runs.
func TestChild(t *testing.T) {
	if name := os.Getenv(envChild); name != "" {
		children[name](t)
	}
}

func childCommand(t *testing.T, name string) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	Require(t)
	tmp = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), envChild+"="+name, "TMPDIR="+tmp)
	return cmd, tmp
}

// runChild runs a child, which has to fail, and returns what it printed.
func runChild(t *testing.T, name string) (output, tmp string) {
	t.Helper()
	cmd, tmp := childCommand(t, name)
	out, err := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != 1 || !bytes.Contains(out, []byte("--- FAIL: TestChild")) {
		t.Errorf("%s: status %d, %v; want a failing test\n%s", name, status, err, out)
	}
	return string(out), tmp
}

// want checks that the output has a match for each pattern.
func want(t *testing.T, output string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).MatchString(output) {
			t.Errorf("the output has no %q", p)
		}
	}
	if t.Failed() {
		t.Logf("the output:\n%s", output)
	}
}

// TestFailures shows that what fails inside the lab fails outside, each for
// the reason that it has.
func TestFailures(t *testing.T) {
	t.Parallel()
	out, tmp := runChild(t, "jobs")
	const at = `^ *--- FAIL: TestChild/`
	want(t, out,
		at+`assertion `, at+`assertion/TestAssertion `, at+`assertion/TestAssertion/below `,
		`^ *--- PASS: TestChild/assertion/TestAssertion/beside `, `^ *--- PASS: TestChild/assertion/TestGood/sub/test `,
		`broken_test.go:\d+: got 1; want 2$`,
		`^ *--- PASS: TestChild/assertion/TestParallel/a `, at+`assertion/TestParallel/b `,
		at+`assertion/TestSkip `, `no mood$`, `skipped inside the lab`,
		at+`panic/TestPanic `, `panic: on purpose`, `ended with status 2`,
		at+`exit/TestExit `, `no verdict from inside`,
		at+`hang/TestHang `, `test timed out after 3s`,
		at+`status `, `status 3; want 0`, `stdout: said$`, `stderr: complained$`,
		at+`missing `, `/no/such/program: no such file`,
		at+`no_result `, `/no/such/file: no such file`,
		at+`slow `, `killed after its bound of 1s`, `^ *stderr: the job has taken too long`, `\d+ \(sleep\) S user 0 `, `KVM for 500ms`, `tracer: nop`,
		at+`again `, `HUNG ONCE, and runs again$`, `status 3; want 0`,
		`^ *--- PASS: TestChild/good `,
		at+`kernel `, `Kernel panic - not syncing: sysrq triggered crash`, `Call Trace:`,
		at+`after `, `did not run: the lab was lost before`,
	)
	m := regexp.MustCompile(`repeat it by hand: (\S+)`).FindStringSubmatch(out)
	if m == nil || !strings.HasPrefix(m[1], tmp) {
		t.Fatalf("no command to repeat it below %s:\n%s", tmp, out)
	}
	console, err := os.ReadFile(filepath.Join(filepath.Dir(m[1]), consoleName))
	if err != nil || !bytes.Contains(console, []byte("sysrq triggered crash")) {
		t.Errorf("the kept console = %.200q, %v; want the crash in it", console, err)
	}
	// The script does the same again, to the same end.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	again := exec.CommandContext(ctx, m[1])
	again.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	events, err := again.Output()
	if err != nil || bytes.Count(events, []byte(`"event":"exit"`)) != 10 || !bytes.Contains(events, []byte("got 1; want 2")) {
		t.Errorf("%s: %v; want the verdicts of 10 jobs:\n%s", m[1], err, events)
	}
}

// TestNoKVM boots a lab without its reason to be.
func TestNoKVM(t *testing.T) {
	t.Parallel()
	out, _ := runChild(t, "no kvm-amd")
	want(t, out, `/dev/kvm in the lab: .*kvm-amd is not there`, "repeat it by hand", "the console's end")
}

// TestTooSmall gives the kernel less memory than it needs.
func TestTooSmall(t *testing.T) {
	t.Parallel()
	out, _ := runChild(t, "too small")
	want(t, out, `lab: booting: the lab (ended|hangs)`, "repeat it by hand")
}

// TestBootBound gives the boot less time than it needs.
func TestBootBound(t *testing.T) {
	t.Parallel()
	out, _ := runChild(t, "slow boot")
	want(t, out, `lab: booting: the lab hangs: no verdict within 300ms`, "repeat it by hand")
}

// TestKilled kills a test in the middle: its QEMU has to go with it.
func TestKilled(t *testing.T) {
	t.Parallel()
	cmd, tmp := childCommand(t, "killed")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := func() bool { return len(processesIn(t, tmp)) > 0 }
	testutil.Until(t, "QEMU runs", running)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	testutil.Until(t, "QEMU has ended", func() bool { return !running() })
}

// processesIn finds the processes that work in a folder below dir.
func processesIn(t *testing.T, dir string) (pids []string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if cwd, err := os.Readlink(l); err == nil && strings.HasPrefix(cwd, dir+"/uvm-lab-") {
			pids = append(pids, filepath.Base(filepath.Dir(l)))
		}
	}
	return pids
}

// TestNoLab skips where that is meant.
func TestNoLab(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^(TestLab|TestDisk)$", "-test.v")
	cmd.Env = append(os.Environ(), EnvNoLab+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- SKIP: ") != 2 || !strings.Contains(string(out), fmt.Sprintf("skipped by %s=1", EnvNoLab)) {
		t.Errorf("with %s=1: %v; want two skipped tests\n%s", EnvNoLab, err, out)
	}
}
