package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenDir(t *testing.T) {
	base := t.TempDir()
	path := filepath.Join(base, "a", "b")
	if _, err := OpenDir(path, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenDir(missing) = %v; want ErrNotExist", err)
	}
	d, err := OpenDir(path, true)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("Stat = %v, %v; want mode 0700", info.Mode(), err)
	}
	os.Chmod(path, 0o750)
	if _, err := OpenDir(path, true); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("OpenDir(0750) = %v; want it to name the remedy", err)
	}
	link, file := filepath.Join(base, "link"), filepath.Join(base, "file")
	os.Symlink(base, link)
	os.WriteFile(file, nil, 0o600)
	for _, p := range []string{link, file} {
		if d, err := OpenDir(p, true); err == nil {
			d.Close()
			t.Errorf("OpenDir(%s) succeeded; want an error", p)
		}
	}
	if os.Geteuid() == 0 {
		os.Chmod(path, 0o700)
		os.Chown(path, 12345, 12345)
		if _, err := OpenDir(path, true); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("OpenDir(another user's) = %v; want an error", err)
		}
		d, err := OpenDir(path, false) // root may look
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/xdg")
	t.Setenv(RunDirEnv, "")
	want := "/xdg/uvm"
	if os.Geteuid() == 0 {
		want = "/run/uvm"
	}
	if got, err := DefaultDir(); got != want || err != nil {
		t.Errorf("DefaultDir() = %q, %v; want %q", got, err, want)
	}
	t.Setenv(RunDirEnv, "/x")
	if got, err := DefaultDir(); got != "/x" || err != nil {
		t.Errorf("DefaultDir() = %q, %v; want what %s says", got, err, RunDirEnv)
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "web-1.example_x": true, "7": true, strings.Repeat("x", 63): true,
		"": false, "-x": false, ".x": false, "a/b": false, "a b": false, "é": false, "a\n": false, strings.Repeat("x", 64): false,
	} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v; want ok = %t", name, err, ok)
		}
	}
}

// TestSocketMode: the file is for this user only, whatever the umask.
func TestSocketMode(t *testing.T) {
	d := runDir(t)
	defer unix.Umask(unix.Umask(0))
	s := serve(t, d, "web")
	info, err := os.Lstat(s.Entry().path())
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("Lstat = %v, %v; want a socket of mode 0600", info.Mode(), err)
	}
}

// leave makes the socket that a killed monitor leaves behind.
func leave(t testing.TB, d *Dir, id, name string) Entry {
	t.Helper()
	e := Entry{ID: id, Name: name, dir: d.path}
	l, err := listen(d.path, e.file())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return e
}

func TestFind(t *testing.T) {
	d := runDir(t)
	a, b := serve(t, d, "web"), serve(t, d, "web-2")
	c := serve(t, d, "db")
	os.WriteFile(filepath.Join(d.path, "other"), nil, 0o600)
	for _, tt := range []struct {
		ref  string
		want *Server
	}{
		{"web", a}, {"web-2", b}, {"web-", b}, {"d", c}, {a.Entry().ID, a}, {b.Entry().ID[:11], b},
		{"we", nil}, {"", nil}, {"x", nil}, {"other", nil},
	} {
		// An ID begins with d by chance.
		if e, err := d.Find(tt.ref); tt.ref != "d" && (err == nil) != (tt.want != nil) || err == nil && tt.want != nil && e != tt.want.Entry() {
			t.Errorf("Find(%q) = %v, %v; want %v", tt.ref, e, err, tt.want != nil)
		}
	}
	if _, err := d.Find("we"); err == nil || !strings.Contains(err.Error(), a.Entry().ID+" (web)") {
		t.Errorf("Find(we) = %v; want it to name those that there are", err)
	}
	// A dead one does not make it ambiguous.
	leave(t, d, "00000000000f", "db-old")
	if e, err := d.Find("db-"); err != nil || e.Name != "db-old" { // the only one; Dial tells
		t.Errorf("Find(db-) = %v, %v", e, err)
	}
	leave(t, d, "00000000000e", "web-20")
	if e, err := d.Find("web-2"); err != nil || e != b.Entry() {
		t.Errorf("Find(web-2) = %v, %v; want web-2", e, err)
	}
}

// TestStale: sockets of killed monitors go, and those of living ones stay.
func TestStale(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "web")
	dead := leave(t, d, "00000000000a", "")
	if _, err := dead.Dial(); !errors.Is(err, ErrGone) {
		t.Errorf("Dial() = %v; want ErrGone", err)
	}
	if err := d.Clean(); err != nil {
		t.Fatal(err)
	}
	if all, err := d.List(); err != nil || len(all) != 1 || all[0] != s.Entry() {
		t.Errorf("List() = %v, %v; want the living one", all, err)
	}
	// A start removes some of them, and the name of a dead one is free.
	for i := range 5 {
		leave(t, d, fmt.Sprintf("%012x", i), fmt.Sprintf("n%d", i))
	}
	leave(t, d, "ffffffffffff", "db")
	other := serve(t, d, "db")
	if all, err := d.List(); err != nil || len(all) != 2 {
		t.Errorf("List() = %v, %v; want %v and %v", all, err, s.Entry(), other.Entry())
	}
}

// TestNames: of those who want a name at the same time, one gets it.
func TestNames(t *testing.T) {
	d := runDir(t)
	var wg sync.WaitGroup
	servers, errs := make([]*Server, 8), make([]error, 8)
	for i := range servers {
		wg.Go(func() {
			mine, err := OpenDir(d.path, true)
			if err != nil {
				errs[i] = err
				return
			}
			defer mine.Close()
			servers[i], errs[i] = Listen(mine, fmt.Sprintf("%012x", i), "web")
		})
	}
	wg.Wait()
	got := 0
	for i, s := range servers {
		if s != nil {
			got++
			defer s.Close()
		} else if !strings.Contains(errs[i].Error(), `the name "web" is taken by VM `) {
			t.Errorf("Listen = %v; want it to say who has the name", errs[i])
		}
	}
	if got != 1 {
		t.Errorf("%d servers have the name; want 1", got)
	}
	if _, err := Listen(d, "000000000001", "a/b"); err == nil {
		t.Error("Listen with a bad name succeeded")
	}
}

// TestLongPath: a run directory may have a path that no socket address holds.
func TestLongPath(t *testing.T) {
	runDir(t)
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 200))
	d, err := OpenDir(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := serve(t, d, strings.Repeat("n", mostName))
	wellServed(t, s)
}

// TestKill: a held process is killed once, and one that has ended is gone.
func TestKill(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	c := dialTest(t, s)
	if err := c.Hold(); err != nil {
		t.Fatal(err)
	}
	if c.WaitGone(0) {
		t.Error("WaitGone = true; want this process to be there")
	}
	other := dialTest(t, s)
	s.Close()
	if err := other.Hold(); !errors.Is(err, ErrGone) {
		t.Errorf("Hold() after the socket has gone = %v; want ErrGone, since the number may be another's", err)
	}
}
