package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestLogs shows what the guest printed before it was asked, and follows it to its end.
func TestLogs(t *testing.T) {
	withRunDir(t)
	r := spinning(t, "--name", "web", "--console", "stdio")
	wantQuiet(t, uvm(t, "logs", "web"), 0, "up\n")
	follower := follow(t, program(t, "uvm", "logs", "-f", "web"))
	follower.expect("up\n")
	r.kill(syscall.SIGTERM)
	r.wait()
	wantQuiet(t, follower.wait(), 0, "")
	wantLine(t, uvm(t, "logs", "web"), exitUsage, `no VM "web"`)
}

// TestLogsEnd: the last words of guest and monitor reach who follows, whatever the guest printed.
func TestLogsEnd(t *testing.T) {
	withRunDir(t)
	text := strings.Repeat("0123456789abcdef\xff\x00\n", 20_000)
	g := new(guest).print(text).hlt()
	r := follow(t, program(t, "uvm", "run", "--name", "web", g.file(t)))
	testutil.Until(t, "the VM", func() bool { return len(ps(t)) == 1 })
	follower := waitFor(t, "logs", "web", "-f")
	r.expect(text)
	end := r.wait()
	got := follower.wait()
	// It may have come too late for all but the last 64 KiB.
	if got.status != 0 || !strings.HasSuffix(text, got.stdout) && got.stdout != "" && !strings.Contains(got.stderr, "faster") {
		t.Errorf("uvm logs -f = status %d, %d bytes, %q", got.status, len(got.stdout), got.stderr)
	}
	if end.status != exitGuest || got.status == 0 && got.stdout != "" && !strings.HasSuffix(got.stderr, end.stderr) {
		t.Errorf("uvm logs -f has stderr %q; want it to end in that of uvm run, %q", got.stderr, end.stderr)
	}
}

// TestConsoleLog makes records of a guest's lines, in a file of bounded size.
func TestConsoleLog(t *testing.T) {
	withRunDir(t)
	path := filepath.Join(t.TempDir(), "log")
	kernel := new(guest).print("one\ntw").print("o\n\"three\"").halt(3).file(t)
	wantQuiet(t, uvm(t, "run", "--name", "web", "--console", "log", "--log-file", path, "--log-format", "json", kernel), 3, "")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(data)) {
		var r struct{ Level, Msg, VM, Line, Outcome string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(r))
	}
	want := `[{INFO console web one } {INFO console web two } {INFO console web "three" } {INFO the VM has ended web  exit}]`
	if fmt.Sprint(got) != want {
		t.Errorf("the log has %v; want %s", got, want)
	}
	// On stderr, with the ID where there is no name.
	e := uvm(t, "run", "--console", "log", kernel)
	if e.status != 3 || e.stdout != "" || !strings.Contains(e.stderr, ` msg=console vm=`) || !strings.Contains(e.stderr, ` line="\"three\""`) {
		t.Errorf("uvm run --console log = %+v", e)
	}
}

// TestConsoleLogFlood: a guest that prints for ever fills no disk.
func TestConsoleLogFlood(t *testing.T) {
	withRunDir(t)
	path := filepath.Join(t.TempDir(), "log")
	g := new(guest)
	text := strings.Repeat(strings.Repeat("x", 63)+"\n", 1000)
	at := uint64(g.store([]byte(text)))
	for range 200 {
		g.puts(at, uint64(len(text)))
	}
	got := uvm(t, "run", "--console", "log", "--log-file", path, "--log-size", "64K", "--log-rate", "16K", g.halt(0).file(t))
	wantQuiet(t, got, 0, "")
	data, err := os.ReadFile(path)
	if err != nil || len(data) > 64<<10 || !strings.Contains(string(data), `msg="console: suppressed lines" vm=`) {
		t.Errorf("the log has %d bytes, %v: %.200q; want at most 64 KiB, and to tell what was suppressed", len(data), err, data)
	}
}

// TestConsoleLogBlocked: a log that nobody reads does not stop a guest.
func TestConsoleLogBlocked(t *testing.T) {
	testutil.RequireKVM(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	g := new(guest)
	text := strings.Repeat(strings.Repeat("x", 1023)+"\n", 1000)
	at := uint64(g.store([]byte(text)))
	g.puts(at, uint64(len(text))).puts(at, uint64(len(text)))
	cmd := program(t, "uvm", "run", "--console", "log", "--log-rate", "1G", g.halt(4).file(t))
	cmd.Stderr = w
	if got := run(t, cmd); got.status != 4 {
		t.Errorf("uvm run = %+v; want the guest's status", got)
	}
}

func TestLogErrors(t *testing.T) {
	kernel := new(guest).halt(0).file(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--log-level", "x"}, exitUsage, `--log-level "x"`},
		{[]string{"--log-format", "x"}, exitUsage, `--log-format "x"`},
		{[]string{"--log-size", "1M"}, exitUsage, "for --log-file"},
		{[]string{"--log-size", "1K", "--log-file", path}, exitUsage, "at least 64K"},
		{[]string{"--log-rate", "1K"}, exitUsage, "it is for --console log"},
		{[]string{"--log-file", dir}, exitHost, "is a directory"},
		{[]string{"--log-file", path, "--net", "x"}, exitUsage, "one too many"}, // later
	} {
		wantLine(t, uvm(t, append([]string{"run", kernel}, tt.args...)...), tt.status, tt.want)
		if _, err := os.Stat(path); err == nil {
			t.Errorf("uvm run %q left %s", tt.args, path)
		}
	}
}

// TestRingOff: where nobody can ask, nothing is kept.
func TestRingOff(t *testing.T) {
	for _, tt := range []struct {
		s    settings
		want bool
	}{{settings{Control: controlOff}, false}, {settings{}, true}, {settings{Control: controlOff, Console: consoleLog}, true}} {
		c, err := tt.s.newController()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.openLogs(); err != nil {
			t.Fatal(err)
		}
		if got := c.log.console() != nil; got != tt.want {
			t.Errorf("with %+v there is a copy of the console: %t; want %t", tt.s, got, tt.want)
		}
		c.undo()
	}
}
