package rootfs

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func write(t testing.TB, b []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(file, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return file
}

// elfFor is the beginning of a program for a machine (elf.Machine).
func elfFor(machine byte) string {
	return "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00" + string([]byte{machine, 0}) + "\x01\x00\x00\x00"
}

func TestBadSources(t *testing.T) {
	good := makeTar(t, e{name: "bin/a", to: elfFor(62)})
	start := Start{Entrypoint: []string{"/bin/a"}}
	for _, tt := range []struct {
		name   string
		source string
		o      Options
		want   string
	}{
		{"nothing", "/no/such", Options{}, "no such file"},
		{"empty file", write(t, nil), Options{}, "the file is empty"},
		{"empty tar", write(t, makeTar(t)), Options{}, "there are no files in it"},
		{"empty directory", t.TempDir(), Options{}, "there are no files in it"},
		{"text", write(t, bytes.Repeat([]byte("text\n"), 1000)), Options{}, "damaged"},
		{"bad gzip", write(t, append(gzipped(t, good)[:30], 1, 2, 3, 4, 5, 6, 7, 8, 9)), Options{}, "damaged"},
		{"cut gzip", write(t, gzipped(t, good)[:40]), Options{}, "cut short"},
		{"gzip with a wrong sum", write(t, flip(gzipped(t, good), -6)), Options{}, "damaged"},
		{"zstd", write(t, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0}), Options{}, "packed with zstd"},
		{"device", "/dev/null", Options{}, "neither a directory nor a regular file"},
		{"unknown kind", write(t, good), Options{Kind: "zip"}, "dir, tar, oci and docker"},
		{"directory as tar", t.TempDir(), Options{Kind: "tar"}, "is a directory"},
		{"file as directory", write(t, good), Options{Kind: "dir"}, "is not a directory"},
		{"tar as layout", write(t, good), Options{Kind: "oci"}, "oci-layout"},
		{"tar as docker", write(t, good), Options{Kind: "docker"}, "manifest.json"},
		{"missing entry point", write(t, good), Options{Start: Start{Entrypoint: []string{"/bin/b"}}}, `entry point "/bin/b" is not an executable`},
		{"not on PATH", write(t, good), Options{Start: Start{Entrypoint: []string{"a"}, Env: []string{"PATH=/sbin"}}}, `"a" is not an executable file in the image (searched /sbin)`},
		{"program for another machine", write(t, makeTar(t, e{name: "bin/a", to: elfFor(183)})), Options{Start: start}, "EM_AARCH64"},
		{"unknown user", write(t, good), Options{Start: Start{Entrypoint: start.Entrypoint, User: "web"}}, `user "web" is not in the image`},
		{"unknown group", write(t, good), Options{Start: Start{Entrypoint: start.Entrypoint, User: "0:web"}}, `group "web" is not in the image`},
		{"bad environment", write(t, good), Options{Start: Start{Entrypoint: start.Entrypoint, Env: []string{"x"}}}, `"x" is not KEY=VALUE`},
		{"bad directory", write(t, good), Options{Start: Start{Entrypoint: start.Entrypoint, WorkDir: "srv"}}, `"srv" does not begin with /`},
		{"too many words", write(t, good), Options{Start: Start{Entrypoint: start.Entrypoint, Cmd: make([]string, 3000)}}, "at most 2048"},
		{"no init", write(t, good), Options{Start: start, Init: []byte{}}, "uvm-init is not there"},
		{"too small", write(t, good), Options{Size: 1 << 20}, "too small"},
		{"file called lost+found", write(t, makeTar(t, e{name: "lost+found"})), Options{}, "only a directory may have this name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Source = tt.source
			tt.o.NoInit = tt.o.Init == nil
			if _, err := build(t, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Build = %v; want one line with %q", err, tt.want)
			}
		})
	}
}

func flip(b []byte, at int) []byte { b[len(b)+at] ^= 0xff; return b }

func TestOutput(t *testing.T) {
	source := tarFile(t, e{name: "a"})
	file := filepath.Join(t.TempDir(), "out,?offset=1")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Build(t.Context(), Options{Source: source, Output: file}); err == nil || !strings.Contains(err.Error(), "exists (--force replaces it)") {
		t.Errorf("Build(over a file) = %v; want an error", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "mine" {
		t.Errorf("the file is now %.20q", b)
	}
	if err := Build(t.Context(), Options{Source: source, Output: file, Force: true}); err != nil {
		t.Error(err)
	}
	plain := filepath.Join(filepath.Dir(file), "plain") // e2fsck takes ? for the beginning of options
	if err := os.Rename(file, plain); err != nil {
		t.Fatal(err)
	}
	checkFolder(t, plain, nil)
	for out, want := range map[string]string{filepath.Dir(file): "not a regular file", "/no/such/folder/x": "no such file", "/dev/null": "not a regular file"} {
		if err := Build(t.Context(), Options{Source: source, Output: out, Force: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Build(-o %s) = %v; want %q", out, err, want)
		}
	}
}

// TestDir takes a directory with one of everything that a directory may hold.
func TestDir(t *testing.T) {
	testutil.RequireRoot(t)
	dir := filepath.Join(t.TempDir(), `src "x"`)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir+"/d/e", 0o755))
	must(os.WriteFile(dir+"/d/a", []byte("one"), 0o640))
	must(os.Chown(dir+"/d/a", 1000, 1001))
	must(os.Link(dir+"/d/a", dir+"/hard"))
	must(os.Symlink("/etc/shadow", dir+"/away"))
	must(os.Symlink("/etc", dir+"/etc"))
	must(unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mkfifo(dir+"/fifo", 0o600))
	must(unix.Setxattr(dir+"/d/a", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0))
	// What is mounted there belongs to the host.
	must(os.Mkdir(dir+"/mnt", 0o755))
	must(unix.Mount("t", dir+"/mnt", "tmpfs", 0, ""))
	defer unix.Unmount(dir+"/mnt", unix.MNT_DETACH)
	must(os.WriteFile(dir+"/mnt/x", nil, 0o600))
	file := mustBuild(t, Options{Source: dir})
	for request, want := range map[string]string{
		"cat /hard": "one", "stat /hard": "User:  1000   Group:  1001", "stat /d/a": "Links: 2", "stat /away": `"/etc/shadow"`, "stat /etc": `"/etc"`,
		"stat /null": "01:03", "stat /fifo": "FIFO", "ea_list /hard": "security.capability (20)",
	} {
		if got := debugfs(t, file, request); !strings.Contains(got, want) {
			t.Errorf("debugfs %s = %q; want %q in it", request, got, want)
		}
	}
	if got := debugfs(t, file, "ls -p /"); strings.Contains(got, "socket") {
		t.Errorf("ls / = %q; want no socket", got)
	}
	if got := debugfs(t, file, "ls -p /mnt"); strings.Contains(got, "/x/") {
		t.Errorf("ls /mnt = %q; want nothing of the tmpfs", got)
	}
	file = mustBuild(t, Options{Source: dir, Owner: &[2]int{7, 8}})
	if got := debugfs(t, file, "stat /hard"); !strings.Contains(got, "User:     7   Group:     8") {
		t.Errorf("stat /hard with an owner = %q; want 7 and 8", got)
	}
	// An image in the directory itself is not in the image.
	must(unix.Unmount(dir+"/mnt", 0))
	out := dir + "/self.ext4"
	must(Build(t.Context(), Options{Source: dir, Output: out}))
	fsck(t, out)
	if got := debugfs(t, out, "ls -p /"); strings.Contains(got, ".uvm-rootfs") || strings.Contains(got, "self") {
		t.Errorf("ls / = %q; want nothing of uvm's own", got)
	}
}

// TestFull builds on file systems that are too small, by little and by much: an error each time
// and nothing left, until one is large enough and the image is right.
func TestFull(t *testing.T) {
	testutil.RequireRoot(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	source := tarFile(t, e{name: "a", to: string(content)}, e{name: "b", to: string(content)})
	mnt := t.TempDir()
	made := false
	for size := 1 << 20; size <= 20<<20 && !made; size += 512 << 10 {
		if err := unix.Mount("t", mnt, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(mnt, "root.ext4")
		err := Build(t.Context(), Options{Source: source, Output: out})
		checkFolder(t, out, err)
		if made = err == nil; made {
			for _, name := range []string{"/a", "/b"} {
				if got := debugfs(t, out, "cat "+name); got != string(content) {
					t.Errorf("with %d KiB, %s has %d bytes of other content", size>>10, name, len(got))
				}
			}
		} else if !strings.Contains(strings.ToLower(err.Error()), "no space left") || strings.Contains(err.Error(), "\n") {
			t.Errorf("Build with %d KiB = %v; want one line that says so", size>>10, err)
		}
		t.Logf("%d KiB: %v", size>>10, err)
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Fatal(err)
		}
	}
	if !made {
		t.Error("20 MiB are not enough for an image of 6")
	}
}
