package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/bootpic"
)

const report = `{"version":1,"kernel":"k","outcome":{"kind":"exit","status":0},"marks":[
{"source":"monitor","label":"exec","since_exec_ns":0},{"source":"monitor","label":"first-entry","since_exec_ns":5},
{"source":"guest","label":"A","since_exec_ns":7},{"source":"monitor","label":"exit","since_exec_ns":9}],"dropped_marks":0}`

// captured runs the program, and returns what it prints.
func captured(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
	}
	out, errs := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = files[0], files[1]
	status = run(args)
	os.Stdout, os.Stderr = out, errs
	var texts [2]string
	for i, f := range files {
		f.Seek(0, 0)
		b, _ := io.ReadAll(f)
		texts[i] = string(b)
		f.Close()
	}
	return status, texts[0], texts[1]
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "b.json"), filepath.Join(dir, "b.svg")
	os.WriteFile(in, []byte(report), 0o600)
	if status, stdout, stderr := captured(t, in, "-o", out); status != 0 || stdout+stderr != "" {
		t.Fatalf("run = %d, %q, %q", status, stdout, stderr)
	}
	svg, err := os.ReadFile(out)
	if err != nil || !strings.HasPrefix(string(svg), "<svg ") {
		t.Fatalf("the picture is %.40q, %v", svg, err)
	}
	if status, stdout, _ := captured(t, in, "-o", "-"); status != 0 || stdout != string(svg) {
		t.Errorf("run -o - = %d, %.40q; want the same picture", status, stdout)
	}
	status, stdout, _ := captured(t, in, in, "--json")
	var all []bootpic.Report
	if err := json.Unmarshal([]byte(stdout), &all); err != nil || status != 0 || len(all) != 2 || len(all[1].Phases) != 2 || all[1].Marks[0] != (bootpic.Mark{Label: "A", At: 7}) {
		t.Errorf("run --json = %d, %s, %v", status, stdout, err)
	}
	if status, stdout, _ := captured(t, "--help"); status != 0 || !strings.HasPrefix(stdout, "Usage: uvm boot-report ") {
		t.Errorf("run --help = %d, %q", status, stdout)
	}
}

// TestErrors: a failure leaves the picture that was there.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	in, out, bad := filepath.Join(dir, "b.json"), filepath.Join(dir, "b.svg"), filepath.Join(dir, "bad.json")
	os.WriteFile(in, []byte(report), 0o600)
	os.WriteFile(bad, []byte(report[:50]), 0o600)
	os.WriteFile(out, []byte("before"), 0o600)
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{nil, exitUsage, "no report given"},
		{[]string{in}, exitUsage, "-o FILE.svg"},
		{[]string{in, bad, "-o", out}, exitUsage, "bad.json: no boot report"},
		{[]string{in, in, in, in, in, in, in, "-o", out}, exitUsage, "at most 6"},
		{[]string{in, "-o", "/dev/full"}, exitHost, "no space left"},
		{[]string{in, "-o", filepath.Join(dir, "none", "x.svg")}, exitHost, "no such file"},
		{[]string{"--x"}, exitUsage, "unknown flag"},
	} {
		status, stdout, stderr := captured(t, tt.args...)
		if status != tt.status || stdout != "" || !strings.HasPrefix(stderr, "uvm: ") || !strings.Contains(stderr, tt.want) {
			t.Errorf("run(%q) = %d, %q, %q; want %d and %q", tt.args, status, stdout, stderr, tt.status, tt.want)
		}
	}
	if got, _ := os.ReadFile(out); string(got) != "before" {
		t.Errorf("the picture is %q; want it untouched", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".boot-report-*")); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}
