package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// withRunDir gives the test's programs a run directory of their own.
func withRunDir(t *testing.T) string {
	t.Helper()
	testutil.RequireKVM(t)
	dir := filepath.Join(t.TempDir(), "run")
	t.Setenv(control.RunDirEnv, dir)
	return dir
}

// sockets are the files of a run directory.
func sockets(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// spinning starts a VM whose guest has printed and spins.
func spinning(t testing.TB, flags ...string) *running {
	t.Helper()
	kernel := new(guest).print("up\n").spin().file(t)
	r := follow(t, program(t, append([]string{"uvm", "run", kernel}, flags...)...))
	r.expect("up\n")
	return r
}

// ps asks for all VMs.
func ps(t testing.TB, flags ...string) (infos []control.Info) {
	t.Helper()
	got := uvm(t, append([]string{"ps", "--json"}, flags...)...)
	d := json.NewDecoder(strings.NewReader(got.stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&infos); err != nil || got.status != 0 || got.stderr != "" {
		t.Fatalf("uvm ps --json = %+v, %v", got, err)
	}
	return infos
}

// TestPS: named VMs are there at once, others when they have run for a while, and none when it has ended.
func TestPS(t *testing.T) {
	dir := withRunDir(t)
	wantQuiet(t, uvm(t, "ps", "--json"), 0, "[]\n") // no run directory yet
	named, other := spinning(t, "--name", "web", "-m", "8M"), spinning(t)
	off := spinning(t, "--control", "off")
	if got := ps(t); len(got) == 0 || got[0].Name != "web" && got[len(got)-1].Name != "web" {
		t.Errorf("uvm ps = %+v; want web at once", got)
	}
	testutil.Until(t, "the other one to be listed", func() bool { return len(ps(t)) == 2 })
	for _, v := range ps(t) {
		want := control.Info{
			ID: v.ID, Name: v.Name, PID: named.cmd.Process.Pid, Version: version, Kernel: named.cmd.Args[2], State: "running",
			Memory: 8 << 20, CPUs: 1, Started: v.Started, Uptime: v.Uptime,
		}
		if v.Name == "" {
			want.PID, want.Kernel, want.Memory = other.cmd.Process.Pid, other.cmd.Args[2], 64<<20
		}
		began, err := time.Parse(time.RFC3339Nano, v.Started)
		if v != want || v.Uptime <= 0 || err != nil || time.Since(began) > hangs || len(v.ID) != 12 {
			t.Errorf("uvm ps --json has %+v, %v; want %+v", v, err, want)
		}
	}
	line := regexp.MustCompile(`(?m)^[0-9a-f]{12}  web +running +[0-9.]+m?s +8M +1 +\d+ +/.*guest.hvt$`)
	if got := uvm(t, "ps"); got.status != 0 || !line.MatchString(got.stdout) || strings.Count(got.stdout, "\n") != 3 || !strings.HasPrefix(got.stdout, "ID ") {
		t.Errorf("uvm ps = %+v; want a head, and %v", got, line)
	}
	for _, r := range []*running{named, other, off} {
		r.kill(syscall.SIGTERM)
		if got := r.wait(); got.status != exitSignal+15 || got.stderr != "" {
			t.Errorf("uvm run = %+v; want the signal's status", got)
		}
	}
	if got := sockets(t, dir); len(got) != 0 {
		t.Errorf("the run directory has %q; want nothing left", got)
	}
}

// TestShortRun: a guest that ends at once has neither a socket nor a run directory.
func TestShortRun(t *testing.T) {
	dir := withRunDir(t)
	for range 5 {
		start := time.Now()
		wantQuiet(t, uvm(t, "run", new(guest).halt(0).file(t)), 0, "")
		if _, err := os.Stat(dir); err == nil && time.Since(start) < controlDelay {
			t.Error("a run of less than the delay made a run directory")
		}
		os.Remove(dir) // on a busy machine it may take longer
	}
}

// TestStopVM: stop ends a VM as SIGTERM does, and returns when its process has ended; wait tells how.
func TestStopVM(t *testing.T) {
	dir := withRunDir(t)
	a, b := spinning(t, "--name", "a"), spinning(t, "--name", "b")
	waiting := waitFor(t, "wait", "a", "--json")
	wantQuiet(t, uvm(t, "stop", "a", "b"), 0, "")
	for _, r := range []*running{a, b} {
		if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid)); err != nil || !strings.Contains(string(state), ") Z") {
			t.Errorf("after uvm stop, the process is %.40q, %v; want it to have ended", state, err)
		}
		if got := r.wait(); got.status != exitSignal+15 || got.stderr != "" {
			t.Errorf("uvm run = %+v; want the status of SIGTERM", got)
		}
	}
	wantQuiet(t, waiting.wait(), exitSignal+15, "{\n  \"kind\": \"signal\",\n  \"status\": 143\n}\n")
	if got := sockets(t, dir); len(got) != 0 {
		t.Errorf("the run directory has %q; want nothing left", got)
	}
	wantLine(t, uvm(t, "stop", "a"), exitUsage, `no VM "a"`)
}

// TestWait passes the guest's own status and uvm's words on.
func TestWait(t *testing.T) {
	withRunDir(t)
	for status, end := range map[int]func(*guest) *guest{7: func(g *guest) *guest { return g.halt(7) }, exitGuest: (*guest).hlt} {
		long := strings.Repeat("x", 256<<10) // the guest ends when somebody has read that
		r := follow(t, program(t, "uvm", "run", "--name", "w", end(new(guest).print(long)).file(t)))
		testutil.Until(t, "the VM to have a socket", func() bool { return len(ps(t)) == 1 })
		waiting := waitFor(t, "wait", "w")
		r.expect(long)
		run, got := r.wait(), waiting.wait()
		if got.status != status || run.status != status || !strings.HasPrefix(run.stderr, got.stderr) || (got.stderr != "") != (status == exitGuest) {
			t.Errorf("uvm wait = %+v, uvm run %+v; want status %d, and the first of its words", got, run, status)
		}
	}
}

// waitFor starts uvm wait or the like, and returns when the VM has its request.
func waitFor(t *testing.T, command, name string, flags ...string) *running {
	t.Helper()
	w := &running{t: t, cmd: program(t, append([]string{"uvm", command, name}, flags...)...)}
	w.cmd.Stdout = &w.stdout
	w.start()
	testutil.Until(t, "uvm "+command+" to be heard", func() bool {
		return slices.ContainsFunc(ps(t), func(v control.Info) bool { return v.Name == name && v.Streams > 0 })
	})
	return w
}

// TestKilledMonitor: a VM whose process was killed is not listed, and what it left goes.
func TestKilledMonitor(t *testing.T) {
	dir := withRunDir(t)
	r := spinning(t, "--name", "web")
	waiting := waitFor(t, "wait", "web")
	r.kill(syscall.SIGKILL)
	r.wait()
	wantLine(t, waiting.wait(), exitHost, "has ended", "nobody knows how")
	if got := sockets(t, dir); len(got) != 1 {
		t.Errorf("the run directory has %q; want the socket that was left", got)
	}
	wantLine(t, uvm(t, "pause", "web"), exitHost, "(web): it has ended")
	if got := ps(t); len(got) != 0 {
		t.Errorf("uvm ps = %+v; want nothing", got)
	}
	if got := sockets(t, dir); len(got) != 0 {
		t.Errorf("after uvm ps the run directory has %q; want nothing", got)
	}
	// The same by the next run, which may have the name.
	r = spinning(t, "--name", "web")
	r.kill(syscall.SIGKILL)
	r.wait()
	wantQuiet(t, uvm(t, "run", "--name", "web", new(guest).halt(0).file(t)), 0, "")
	if got := sockets(t, dir); len(got) != 0 {
		t.Errorf("after uvm run the run directory has %q; want nothing", got)
	}
}

// TestSilentMonitor: one that is stopped (SIGSTOP) is listed as such, and can be killed.
func TestSilentMonitor(t *testing.T) {
	withRunDir(t)
	r := spinning(t, "--name", "web")
	r.kill(syscall.SIGSTOP)
	if got := ps(t); len(got) != 1 || got[0].State != control.StateSilent || got[0].PID != r.cmd.Process.Pid {
		t.Errorf("uvm ps = %+v; want web to be silent", got)
	}
	got := uvm(t, "stop", "--timeout", "100ms", "web")
	if got.status != 0 || !strings.Contains(got.stderr, "has not ended in 100ms and is killed") {
		t.Errorf("uvm stop = %+v; want it to kill", got)
	}
	if got := r.wait(); got.signal != syscall.SIGKILL {
		t.Errorf("uvm run = %+v; want it killed", got)
	}
	r = spinning(t, "--name", "web")
	wantQuiet(t, uvm(t, "stop", "--kill", "web"), 0, "")
	if got := r.wait(); got.signal != syscall.SIGKILL {
		t.Errorf("uvm run = %+v; want it killed", got)
	}
}

// TestPauseVM: a paused guest uses no CPU and goes on.
func TestPauseVM(t *testing.T) {
	withRunDir(t)
	r := spinning(t, "--name", "web")
	wantLine(t, uvm(t, "resume", "web"), exitHost, "a VM that is running cannot become running")
	wantQuiet(t, uvm(t, "pause", "web"), 0, "")
	wantLine(t, uvm(t, "pause", "web"), exitHost, "a VM that is paused cannot become paused")
	if got := ps(t); len(got) != 1 || got[0].State != "paused" {
		t.Errorf("uvm ps = %+v; want web to be paused", got)
	}
	wantQuiet(t, uvm(t, "resume", "web"), 0, "")
	if got := ps(t); len(got) != 1 || got[0].State != "running" {
		t.Errorf("uvm ps = %+v; want web to run", got)
	}
	wantQuiet(t, uvm(t, "pause", "web"), 0, "")
	wantQuiet(t, uvm(t, "stop", "web"), 0, "") // also while it is paused
	r.wait()
}

// TestControlErrors: a start that fails leaves nothing.
func TestControlErrors(t *testing.T) {
	dir := withRunDir(t)
	kernel := new(guest).halt(0).file(t)
	r := spinning(t, "--name", "web")
	defer func() { r.kill(syscall.SIGTERM); r.wait() }()
	console := filepath.Join(t.TempDir(), "console")
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--name", "a/b"}, exitHost, `name "a/b": want 1 to 63`},
		{[]string{"--name", "web"}, exitHost, `the name "web" is taken by VM `},
		{[]string{"--name", "x", "--control", "off"}, exitUsage, "--control off does not make at once"},
		{[]string{"--control", "x"}, exitUsage, "want auto, on or off"},
		{[]string{"--name", "x", "--run-dir", "/dev/null"}, exitHost, "/dev/null"},
		{[]string{"--name", "x", "--net", "none-such"}, exitUsage, "one too many"}, // fails later
	} {
		got := uvm(t, append([]string{"run", kernel, "--console", "file:" + console}, tt.args...)...)
		wantLine(t, got, tt.status, tt.want)
		if _, err := os.Stat(console); err == nil {
			t.Errorf("uvm run %q left %s", tt.args, console)
		}
	}
	if got := sockets(t, dir); len(got) != 1 || !strings.HasSuffix(got[0], ".web.sock") {
		t.Errorf("the run directory has %q; want that of web only", got)
	}
	wantLine(t, uvm(t, "stop"), exitUsage, "no VM given")
	wantLine(t, uvm(t, "wait", "web", "x"), exitUsage, `unexpected argument "x"`)
	wantLine(t, uvm(t, "ps", "x"), exitUsage, `unexpected argument "x"`)
	// Without a place for it, and without being asked for, a socket is no matter.
	cmd := program(t, "uvm", "run", new(guest).halt(3).file(t))
	cmd.Env = append(cmd.Env, control.RunDirEnv+"=/dev/null")
	wantQuiet(t, run(t, cmd), 3, "")
}
