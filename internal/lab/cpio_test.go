package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestArchive unpacks an archive with busybox's cpio and compares.
func TestArchive(t *testing.T) {
	Require(t)
	from := t.TempDir()
	for name, mode := range map[string]os.FileMode{"dir/plain": 0o644, "dir/sub/program": 0o755} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	a := newArchive(&buf)
	for i, s := range []string{"", "1", "12", "123", "1234"} { // all paddings
		a.bytes("/a/b/"+strings.Repeat("x", i+1), modeFile, []byte(s))
	}
	a.link("/a/link", "b/x")
	a.file("/copy", filepath.Join(from, "dir"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	cmd := exec.Command("busybox", "cpio", "-i")
	cmd.Dir, cmd.Stdin = to, &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("busybox cpio: %v\n%s", err, out)
	}
	for name, want := range map[string]string{"a/b/x": "", "a/b/xx": "1", "a/b/xxxxx": "1234", "copy/plain": "dir/plain", "copy/sub/program": "dir/sub/program"} {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
	if target, err := os.Readlink(filepath.Join(to, "a/link")); target != "b/x" {
		t.Errorf("link = %q, %v; want b/x", target, err)
	}
	for name, want := range map[string]os.FileMode{"copy/plain": 0o644, "copy/sub/program": 0o755, "copy/sub": 0o755 | os.ModeDir} {
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || info.Mode() != want {
			t.Errorf("%s = %v, %v; want mode %v", name, info, err, want)
		}
	}
}

func TestArchiveErrors(t *testing.T) {
	for name, add := range map[string]func(a *archive){
		"two files for /x": func(a *archive) {
			a.bytes("/x", modeFile, nil)
			a.bytes("/x", modeFile, nil)
		},
		"no/such":        func(a *archive) { a.file("/x", "/no/such") },
		"neither a file": func(a *archive) { a.file("/x", "/dev/null") },
	} {
		a := newArchive(new(bytes.Buffer))
		add(a)
		if err := a.close(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("close() = %v; want %q in it", err, name)
		}
	}
}

func TestQuote(t *testing.T) {
	args := []string{"a", "", "b c", "it's", "$x", "k=v,w"}
	out, err := exec.Command("sh", "-c", `printf '%s\n' `+quote(args)).Output()
	if want := strings.Join(args, "\n") + "\n"; err != nil || string(out) != want {
		t.Errorf("the shell reads %s as %q, %v; want %q", quote(args), out, err, want)
	}
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		selects       bool
		inner         string
	}{
		{"", "TestLab/vmm", true, ""},
		{"TestLab", "TestLab/vmm", true, ""},
		{"^TestLab$/^vmm$", "TestLab/vmm", true, ""},
		{"^TestLab$/^vmm$", "TestLab/kvm", false, ""},
		{"TestLab/vmm/TestPoll/idle", "TestLab/vmm", true, "TestPoll/idle"},
		{"TestLab/cmd/uvm/TestNet", "TestLab/cmd/uvm", true, "TestNet"},
		{"TestLab/cmd/uvm/TestNet", "TestLab/cmd/other", false, "TestNet"},
		{"TestGuests/compute_sse", "TestGuests/compute sse", true, ""},
		{"TestLab/(vmm|kvm)/TestPoll", "TestLab/hypercall", true, ""},
		{"TestLab/a[", "TestLab/vmm", true, ""},
	} {
		f := parsePattern(c.pattern)
		if got, inner := f.selects(c.name), f.inner(c.name); got != c.selects || inner != c.inner {
			t.Errorf("-run %s: selects(%s) = %v, inner %q; want %v, %q", c.pattern, c.name, got, inner, c.selects, c.inner)
		}
	}
}

func TestPanicLine(t *testing.T) {
	for console, want := range map[string]string{
		"": "", "all well\n": "",
		"[    1.2] Kernel panic - not syncing: x\r\nmore": "Kernel panic - not syncing: x",
	} {
		if got := panicLine([]byte(console)); got != want {
			t.Errorf("panicLine(%q) = %q; want %q", console, got, want)
		}
	}
	if got, want := tail([]byte("1\r\n2\n3\n\n"), 2), "    2\n    3"; got != want {
		t.Errorf("tail() = %q; want %q", got, want)
	}
}
