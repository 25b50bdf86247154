package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/internal/trace"
)

// untimed takes the times out of a trace.
func untimed(s string) string {
	s = regexp.MustCompile(`(?m)^ *\d+\.\d{6} `).ReplaceAllString(s, "")
	return regexp.MustCompile(`<[\d.]+[µm]?s>`).ReplaceAllString(s, "<>")
}

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// walltimes is a guest that asks for the time and polls, for ever.
func walltimes(t testing.TB) string {
	g := new(guest).print("up\n")
	at := g.store(words(0, 0, 0))
	size := len(g.code)
	g.call(hypercall.Walltime, at).call(hypercall.Poll, g.store(words(0, 0, 0)))
	return g.emit(0xeb, byte(size-len(g.code)-2)).file(t) // jmp to the call
}

func TestTrace(t *testing.T) {
	testutil.RequireKVM(t)
	kernel := new(guest).mark('A').print("hi\n").halt(3).file(t)
	const want = "outb 0x3f0 <- 0x41 'A' (boot mark) <>\nPUTS(\"hi\\n\", 3) <>\nHALT(status=3) = ended <>\n"
	if got := uvm(t, "trace", kernel); got.status != 3 || got.stdout != "hi\n" || untimed(got.stderr) != want {
		t.Errorf("uvm trace = %+v; want status 3 and\n%s", got, want)
	}
	if got := uvm(t, "trace", "-e", "!port,HALT", kernel, "--", "guest", "words"); untimed(got.stderr) != "PUTS(\"hi\\n\", 3) <>\n" {
		t.Errorf("uvm trace -e = %+v; want PUTS alone", got)
	}
	// A file is written anew, and nothing goes to stderr.
	out := filepath.Join(t.TempDir(), "trace")
	for _, before := range []string{"", strings.Repeat("old\n", 1000)} {
		if before != "" {
			overwrite(t, out, before)
		}
		got := uvm(t, "trace", kernel, "-o", out)
		b, err := os.ReadFile(out)
		if got.stderr != "" || err != nil || untimed(string(b)) != want {
			t.Errorf("uvm trace -o = %+v, %v, and the file\n%s\nwant\n%s", got, err, b, want)
		}
	}
	got := uvm(t, "trace", "--json", kernel)
	for i, line := range strings.Split(strings.TrimSuffix(got.stderr, "\n"), "\n") {
		var l struct {
			At   int64  `json:"t_ns"`
			Took int64  `json:"took_ns"`
			Name string `json:"name"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.At <= 0 || l.Took <= 0 || l.Name != []string{"boot mark", "PUTS", "HALT"}[i] {
			t.Errorf("line %d = %s, %v; want an event with times", i, line, err)
		}
	}
	if got := uvm(t, "trace", "-c", kernel); !regexp.MustCompile(`(?s)^% time .* 1           PUTS\n.*100.00 .* 3           total\n$`).MatchString(got.stderr) {
		t.Errorf("uvm trace -c = %+v; want a table", got)
	}
	var rows []trace.Row
	if got := uvm(t, "trace", "-c", "--json", kernel); json.Unmarshal([]byte(got.stderr), &rows) != nil || len(rows) != 3 {
		t.Errorf("uvm trace -c --json = %+v; want 3 rows", got)
	}
}

func TestTraceErrors(t *testing.T) {
	testutil.RequireKVM(t)
	kernel := hello(t)
	wantLine(t, uvm(t, "trace"), exitUsage, "no kernel given")
	wantLine(t, uvm(t, "trace", kernel, "-e", "POLL,none"), exitUsage, `"none" is no kind of event`)
	wantLine(t, uvm(t, "trace", "--attach", "x", kernel), exitUsage, "unexpected argument")
	wantLine(t, uvm(t, "trace", kernel, "-o", "/nowhere/x"), exitHost, "/nowhere/x")
	// A start that fails leaves nothing, and keeps what was there.
	out := filepath.Join(t.TempDir(), "trace")
	wantLine(t, uvm(t, "trace", "/missing", "-o", out), exitKernel, "/missing")
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a start that failed has made %s", out)
	}
	overwrite(t, out, "mine")
	wantLine(t, uvm(t, "trace", "/missing", "-o", out), exitKernel, "/missing")
	if b, err := os.ReadFile(out); string(b) != "mine" {
		t.Errorf("a start that failed has left %q, %v; want what was there", b, err)
	}
	// A full disk: the guest runs to its end.
	if got := uvm(t, "trace", kernel, "-o", "/dev/full"); got.status != exitHost || got.stdout != "hello\n" || !strings.Contains(got.stderr, "no space left") {
		t.Errorf("uvm trace -o /dev/full = %+v; want the guest's output and an error", got)
	}
}

// TestTraceNotRead: nobody reads the trace. The guest goes on, and what was lost is told.
func TestTraceNotRead(t *testing.T) {
	withRunDir(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	g := new(guest).emit(0xb9, 0x60, 0xea, 0, 0) // mov ecx, 60000
	at, loop := g.store(words(0)), len(g.code)
	g.call(hypercall.Walltime, at).emit(0xff, 0xc9) // dec ecx
	g.emit(0x75, byte(loop-len(g.code)-2)).halt(0)  // jnz to the call
	cmd := program(t, "uvm", "trace", g.file(t), "-o", "/dev/fd/3")
	cmd.ExtraFiles = []*os.File{w}
	run := follow(t, cmd)
	w.Close()
	got := run.wait() // after what the end waits for a reader
	if got.status != 0 || !regexp.MustCompile(`uvm: trace: \d+ events dropped`).MatchString(got.stderr) {
		t.Errorf("uvm trace = %+v; want status 0, and how many events were dropped", got)
	}
}

// TestTraceAttach traces a VM that runs, by name, and ends without it.
func TestTraceAttach(t *testing.T) {
	withRunDir(t)
	vm := follow(t, program(t, "uvm", "run", walltimes(t), "--name", "web"))
	vm.expect("up\n")
	for _, how := range []string{"text", "json", "table"} {
		args := map[string][]string{"text": {"-e", "POLL"}, "json": {"--json"}, "table": {"-c"}}[how]
		out := filepath.Join(t.TempDir(), "trace")
		tr := follow(t, program(t, append([]string{"uvm", "trace", "--attach", "web", "-o", out}, args...)...))
		wants := map[string]string{"text": " POLL(timeout_ns=0) = 0 ready <", "json": `"name":"POLL","args":{"timeout_ns":0},"result":"0 ready",`}
		if how == "table" {
			time.Sleep(3 * rowsEvery / 2)
		} else {
			testutil.Until(t, "events", func() bool {
				b, _ := os.ReadFile(out)
				return strings.Contains(string(b), wants[how])
			})
		}
		tr.kill(syscall.SIGINT)
		got := tr.wait()
		b, err := os.ReadFile(out)
		if err != nil || got.status != 0 || how == "table" && !strings.Contains(string(b), " WALLTIME\n") {
			t.Errorf("uvm trace --attach (%s) = %+v, %v, %d bytes; want status 0", how, got, err, len(b))
		}
	}
	// One that begins, and never reads.
	dir, err := control.OpenDir(os.Getenv(control.RunDirEnv), false)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	e, err := dir.Find("web")
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stalled, release := make(chan struct{}), make(chan struct{})
	go c.Stream(context.Background(), "trace", nil, func(json.RawMessage) error {
		close(stalled)
		<-release
		return errors.New("enough")
	}, nil)
	testutil.Wait(t, stalled, "a first part")
	defer close(release)
	// Others are served, and the VM ends when it is told to.
	if got := ps(t); len(got) != 1 || got[0].State != "running" {
		t.Errorf("uvm ps = %+v; want one that runs", got)
	}
	if got := uvm(t, "trace", "--attach", "web", "-e", "bad"); got.status != exitUsage {
		t.Errorf("uvm trace --attach -e bad = %+v; want status %d", got, exitUsage)
	}
	wantQuiet(t, uvm(t, "stop", "web"), 0, "")
	vm.wait()
}

// TestTraceEndsWithVM: the trace of a VM that ends is whole.
func TestTraceEndsWithVM(t *testing.T) {
	withRunDir(t)
	vm := spinning(t, "--name", "web")
	out := filepath.Join(t.TempDir(), "trace")
	tr := follow(t, program(t, "uvm", "trace", "--attach", "web", "--json", "-o", out))
	attached := func(flags ...string) {
		t.Helper()
		testutil.Until(t, "a VM that is traced", func() bool { v := ps(t, flags...); return len(v) == 1 && v[0].Streams == 1 })
	}
	attached()
	wantQuiet(t, uvm(t, "stop", "web"), 0, "")
	vm.wait()
	if got := tr.wait(); got.status != 0 || got.stderr != "" {
		t.Errorf("uvm trace --attach of a VM that ended = %+v; want status 0", got)
	}
	wantLine(t, uvm(t, "trace", "--attach", "web"), exitUsage, "no VM \"web\"")
	dir := os.Getenv(control.RunDirEnv)
	t.Setenv(control.RunDirEnv, t.TempDir())
	vm = spinning(t, "--name", "web", "--run-dir", dir)
	if got := uvm(t, "trace", "--attach", "web", "--run-dir", dir, "-e", "none"); got.status != exitUsage {
		t.Errorf("uvm trace --run-dir = %+v; want status %d", got, exitUsage)
	}
	tr = follow(t, program(t, "uvm", "trace", "--attach", "web", "--run-dir", dir))
	attached("--run-dir", dir)
	wantQuiet(t, uvm(t, "stop", "web", "--run-dir", dir), 0, "")
	vm.wait()
	if got := tr.wait(); got.status != 0 {
		t.Errorf("uvm trace --run-dir = %+v; want status 0", got)
	}
}
