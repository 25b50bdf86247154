package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asProgram in the environment makes the test binary be the program itself.
const asProgram = "UVM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		main()
	}
	os.Exit(m.Run())
}

func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return cmd
}

func result(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := program(t, args...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		want   string
	}{
		{"frob", exitUsage, `unknown command "frob"`},
		{"rootfs", exitUsage, "no source given"},
		{"rootfs x", exitUsage, "no output given"},
		{"rootfs x y -o z", exitUsage, `unexpected argument "y"`},
		{"rootfs x -o z --frob", exitUsage, "unknown flag: --frob"},
		{"rootfs x -o z --size big", exitUsage, "512M"},
		{"rootfs x -o z --size 0", exitUsage, "512M"},
		{"rootfs x -o z --size 99999999T", exitUsage, "512M"},
		{"rootfs x -o z --owner root", exitUsage, "as 0:0"},
		{"rootfs x -o z --owner 1:-1", exitUsage, "as 0:0"},
		{"rootfs x -o z --max-files 0", exitUsage, "positive"},
		{"rootfs x -o z --init /no/such", exitUsage, "--init: open /no/such"},
		{"rootfs /no/such -o /tmp/uvm-never --init none", exitSource, "no such file"},
		{"fill x", exitUsage, "want -- SOURCE -- ARGS"},
		{"fill -- x", exitUsage, "want -- SOURCE -- ARGS"},
	} {
		status, stdout, stderr := result(t, strings.Fields(tt.args)...)
		if status != tt.status || stdout != "" || !strings.HasPrefix(stderr, "uvm: ") || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.want) {
			t.Errorf("uvm-image %s = status %d, stdout %q, stderr %q; want %d and one line with %q", tt.args, status, stdout, stderr, tt.status, tt.want)
		}
	}
	status, stdout, stderr := result(t, "rootfs", "--help")
	if status != 0 || stderr != "" || !strings.HasPrefix(stdout, "Usage: uvm rootfs SOURCE -o FILE [flags]") || !strings.Contains(stdout, "--max-size SIZE") {
		t.Errorf("rootfs --help = %d, %q, %q; want the usage and the flags", status, stdout, stderr)
	}
}

// big writes a tar file that takes a while.
func big(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "big.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for i := range 3000 {
		if err := w.WriteHeader(&tar.Header{Name: filepath.Join("d", strings.Repeat("x", 1+i%200), string(rune('a'+i/200))), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSignal ends it in the middle of its work: nothing stays behind.
func TestSignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		dir := t.TempDir()
		cmd := program(t, "rootfs", big(t), "-o", filepath.Join(dir, "x.ext4"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for {
			if files, _ := filepath.Glob(dir + "/.uvm-rootfs-*/1??"); len(files) > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		files, err := os.ReadDir(dir)
		if got := cmd.ProcessState.ExitCode(); got != exitSignal+int(sig) || err != nil || len(files) != 0 || stderr.Len() > 0 {
			t.Errorf("after %v: status %d, files %v, stderr %q; want status %d and nothing else", sig, got, files, &stderr, exitSignal+int(sig))
		}
	}
}

// TestProgress has a clock of its own.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out, next: time.Now().Add(time.Hour)}
	p.show("reading", 1<<20, 0)
	if out.Len() > 0 {
		t.Errorf("progress before its time = %q; want nothing", &out)
	}
	p.next = time.Time{}
	p.show("reading", 7<<20, 0)
	p.show("reading", 8<<20, 0) // too soon again
	p.next = time.Time{}
	p.show("writing", 1, 4)
	p.clear()
	if want := "uvm: reading, 7 MiB\nuvm: writing, 25 %\n"; out.String() != want {
		t.Errorf("progress = %q; want %q", &out, want)
	}
	out.Reset()
	p = &progress{out: &out, terminal: true}
	p.show("reading", 7<<20, 0)
	p.clear()
	if want := "\r\x1b[Kuvm: reading, 7 MiB\r\x1b[K"; out.String() != want {
		t.Errorf("progress at a terminal = %q; want %q", &out, want)
	}
	out.Reset()
	p = &progress{out: &out, quiet: true}
	p.show("reading", 7<<20, 0)
	if out.Len() > 0 {
		t.Errorf("progress with --quiet = %q; want nothing", &out)
	}
}

func TestSizeFlag(t *testing.T) {
	for word, want := range map[string]sizeFlag{"64": 64 << 20, "64M": 64 << 20, "64MiB": 64 << 20, "2g": 2 << 30, "1T": 1 << 40} {
		var s sizeFlag
		if err := s.Set(word); err != nil || s != want {
			t.Errorf("Set(%q) = %v, %v; want %d", word, s, err, want)
		}
	}
}
