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
		{[]string{"--help"}, 0, "Usage: uvm lupine suggest DIR", ""},
		{[]string{"suggest", "--help"}, 0, "Usage: uvm lupine suggest DIR", ""},
		{nil, 125, "", "Usage: uvm lupine suggest DIR"},
		{[]string{"suggest"}, 125, "", "Usage:"},
		{[]string{"guess", dir}, 125, "", "Usage:"},
		{[]string{"suggest", empty}, 1, "", "has no ELF program for x86-64"},
		{[]string{"suggest", dir, "/other"}, 1, "", "/other: no such file or directory"},
		{[]string{"suggest", dir + "/app"}, 1, "", "is not a folder: unpack it first"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(c.args, &stdout, &stderr)
		if status != c.status || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("uvm-lupine %q = %d, %q, %q; want %d with %q and %q", c.args, status, &stdout, &stderr, c.status, c.stdout, c.stderr)
		}
	}
}
