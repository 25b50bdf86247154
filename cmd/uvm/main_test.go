package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// asProgram in the environment makes the test binary be the program itself, so
// that the tests run main with words, descriptors and signals of its own.
const asProgram = "UVM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		main()
	}
	// No test's VM lies with the user's own.
	runDir, err := os.MkdirTemp("", "uvm-run-")
	if err != nil {
		panic(err)
	}
	os.Setenv(control.RunDirEnv, runDir)
	status := m.Run()
	os.RemoveAll(runDir)
	os.RemoveAll(entryDir)
	os.RemoveAll(netDir)
	os.Exit(status)
}

// hangs bounds every run of the program. Nothing is expected to take that long.
const hangs = 50 * time.Second

// program is the command argv, whose first word decides which program it is.
// The test's end kills it.
func program(t testing.TB, argv ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hangs)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Args = argv
	// The race detector would wait a second at the end of every good run.
	cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return cmd
}

// ended is how a run of the program ended.
type ended struct {
	status         int            // exit status; -1 where a signal ended it
	signal         syscall.Signal // 0 where it ended by itself
	stdout, stderr string
}

// run runs cmd to its end.
func run(t testing.TB, cmd *exec.Cmd) ended {
	t.Helper()
	r := running{t: t, cmd: cmd}
	if cmd.Stdout == nil {
		cmd.Stdout = &r.stdout
	}
	r.start()
	return r.wait()
}

// uvm and solo5 run the program under each of its names.
func uvm(t testing.TB, args ...string) ended {
	t.Helper()
	return run(t, program(t, append([]string{"uvm"}, args...)...))
}

func solo5(t testing.TB, args ...string) ended {
	t.Helper()
	return run(t, program(t, append([]string{solo5Name}, args...)...))
}

// running is a program that was started and not waited for.
type running struct {
	t              testing.TB
	cmd            *exec.Cmd
	out            io.Reader // what it prints, for follow
	stdout, stderr bytes.Buffer
}

func (r *running) start() {
	r.t.Helper()
	if r.cmd.Stderr == nil {
		r.cmd.Stderr = &r.stderr
	}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
}

// follow starts cmd with its stdout on a pipe that the test reads.
func follow(t testing.TB, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{t: t, cmd: cmd}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	r.out, cmd.Stdout = out, in
	r.start()
	in.Close()
	return r
}

// expect reads exactly want from the program: the guest has come that far.
func (r *running) expect(want string) {
	r.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r.out, got)
	if string(got[:n]) != want {
		r.t.Fatalf("stdout = %q, %v; want %q", got[:n], err, want)
	}
}

func (r *running) kill(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) wait() ended {
	r.t.Helper()
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		r.t.Fatalf("%q: %v", r.cmd.Args, err)
	}
	e := ended{status: r.cmd.ProcessState.ExitCode(), stdout: r.stdout.String(), stderr: r.stderr.String()}
	if ws := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		e.signal = ws.Signal()
	}
	return e
}

// wantLine checks that a run ended with a status and with one line of uvm's
// own on stderr that contains every one of the parts.
func wantLine(t *testing.T, got ended, status int, parts ...string) {
	t.Helper()
	if got.status != status {
		t.Errorf("status = %d; want %d", got.status, status)
	}
	line, rest, _ := strings.Cut(got.stderr, "\n")
	details := status == exitGuest && strings.HasPrefix(rest, "  ") // a crash report
	if !strings.HasPrefix(line, "uvm: ") || rest != "" && !details {
		t.Errorf("stderr = %q; want one line that begins with %q", got.stderr, "uvm: ")
	}
	for _, p := range parts {
		if !strings.Contains(got.stderr, p) {
			t.Errorf("stderr = %q; want it to contain %q", got.stderr, p)
		}
	}
}

// wantQuiet checks the end of a run that has nothing to say on stderr.
func wantQuiet(t *testing.T, got ended, status int, stdout string) {
	t.Helper()
	if got != (ended{status: status, stdout: stdout}) {
		t.Errorf("run = %+v; want status %d, stdout %q and nothing on stderr", got, status, stdout)
	}
}

// TestProgram makes sure of what all end-to-end tests rest on.
func TestProgram(t *testing.T) {
	testutil.RequireKVM(t)
	wantQuiet(t, uvm(t, "run", hello(t)), 0, "hello\n")
	wantQuiet(t, solo5(t, hello(t)), 0, "hello\n")
}
