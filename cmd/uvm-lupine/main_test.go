package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRun looks at this test's own program, which is Go's and static.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, c := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{[]string{"suggest", dir, "/app"}, 0, "\nCONFIG_FUTEX=y\n", ""},
		{[]string{"suggest", dir}, 0, "\nCONFIG_EPOLL=y\n", ""},
		{[]string{"--help"}, 0, "Usage: uvm lupine suggest [--run] SOURCE", ""},
		{[]string{"suggest", "--help"}, 0, "--for DURATION", ""},
		{nil, 125, "", "want suggest SOURCE"},
		{[]string{"suggest"}, 125, "", "no source given"},
		{[]string{"guess", dir}, 125, "", "want suggest SOURCE"},
		{[]string{"suggest", dir, "--frob"}, 125, "", "unknown flag: --frob"},
		{[]string{"suggest", dir, "--for", "3s"}, 125, "", "--for is for --run"},
		{[]string{"suggest", dir, "--", "/app"}, 125, "", "-- is for --run"},
		{[]string{"suggest", dir, "--run", "--for", "-3s", "--", "/app"}, 125, "", "--for -3s: want a positive time"},
		{[]string{"suggest", dir, "--run", "--kernel", "lupine-no", "--", "/app"}, 1, "", "make -C guests/lupine lupine-no builds it"},
		{[]string{"suggest", empty}, 1, "", "has no ELF program for x86-64"},
		{[]string{"suggest", dir, "/other"}, 1, "", "/other: no such file or directory"},
		{[]string{"suggest", dir + "/app"}, 1, "", "the tar file is damaged"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), c.args, &stdout, &stderr)
		if status != c.status || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("uvm-lupine %q = %d, %q, %q; want %d with %q and %q", c.args, status, &stdout, &stderr, c.status, c.stdout, c.stderr)
		}
	}
}
