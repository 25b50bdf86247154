package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// system runs a program of e2fsprogs'.
func system(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "LC_ALL=C", "TZ=UTC"}
	if _, err := exec.LookPath(name); err != nil {
		cmd.Path = "/usr/sbin/" + name
		cmd.Err = nil
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s%s", cmd.Args, err, out, stderr.Bytes())
	}
	return string(out)
}

func debugfs(t testing.TB, file, request string) string {
	t.Helper()
	return system(t, "debugfs", "-R", request, file)
}

// fsck wants a clean file system.
func fsck(t testing.TB, file string) { t.Helper(); system(t, "e2fsck", "-f", "-n", file) }

// tarFile writes a tar file to disk.
func tarFile(t testing.TB, entries ...e) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "source.tar")
	if err := os.WriteFile(file, makeTar(t, entries...), 0o666); err != nil {
		t.Fatal(err)
	}
	return file
}

// build makes an image in a folder of its own, in which then nothing else may lie.
func build(t testing.TB, o Options) (string, error) {
	t.Helper()
	o.Output = filepath.Join(t.TempDir(), "root.ext4")
	err := Build(t.Context(), o)
	checkFolder(t, o.Output, err)
	return o.Output, err
}

// checkFolder wants a folder to hold the image after a success, and nothing after an error.
func checkFolder(t testing.TB, image string, err error) {
	t.Helper()
	var want []string
	if err == nil {
		want = []string{filepath.Base(image)}
		fsck(t, image)
	}
	files, _ := os.ReadDir(filepath.Dir(image))
	var got []string
	for _, f := range files {
		got = append(got, f.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("after %v the folder holds %q; want %q", err, got, want)
	}
}

func mustBuild(t testing.TB, o Options) string {
	t.Helper()
	file, err := build(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestExt4 writes one of everything, and has debugfs read it back.
func TestExt4(t *testing.T) {
	long := "../" + strings.Repeat("target/", 100)
	source := tarFile(t,
		e{dir, ".", "", 0o711, nil},
		e{dir, "lost+found", "", 0o700, nil},
		e{name: "lost+found/x", to: "kept"},
		e{name: `odd "name" # \`, to: "odd\n"},
		e{name: "d/<12>", to: "not an inode number", mode: 0o4755, edit: func(h *tar.Header) { h.Uid, h.Gid = 70000, 1<<31 }},
		e{dir, "d/<2>", "", 0o1777, nil},
		e{name: "d/<2>/x", to: "below"},
		e{link, "d/<2>/hard", "d/<12>", 0, nil},
		e{name: "cap", edit: func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00", "SCHILY.xattr.security.selinux": "label"}
		}},
		e{sym, "short", "/etc/x y", 0, nil},
		e{sym, "long", long, 0, nil},
		e{tar.TypeChar, "null", "", 0o666, dev(1, 3)},
		e{tar.TypeBlock, "disk", "", 0o660, dev(300, 65535)},
		e{tar.TypeFifo, "fifo", "", 0o600, nil},
		e{name: "hole", to: strings.Repeat("\x00", 1<<20) + "end"},
		e{name: "old", edit: func(h *tar.Header) { h.ModTime = h.ModTime.AddDate(-100, 0, 0); h.Format = tar.FormatPAX }},
		e{name: "big", to: strings.Repeat("0123456789abcde\n", 1<<17)},
	)
	file := mustBuild(t, Options{Source: source})
	for _, tt := range []struct{ request, want string }{
		{"stat /", "Mode:  0711"},
		{"stat /", fmt.Sprintf("mtime: 0x%x", when)},
		{"stat /lost+found", "Mode:  0700"},
		{"cat /lost+found/x", "kept"},
		{`cat "/odd ""name"" # \"`, "odd\n"},
		{"cat /d/<12>", "not an inode number"},
		{"stat /d/<12>", "Mode:  04755"},
		{"stat /d/<12>", "User: 70000   Group: -2147483648"},
		{"stat /d/<12>", "Links: 2"},
		{"cat /d/<2>/hard", "not an inode number"},
		{"stat /d/<2>", "Mode:  01777"},
		{"cat /d/<2>/x", "below"},
		{"ea_list /cap", "security.capability (5) = 01 00 00 02 00"},
		{"stat /short", `Fast link dest: "/etc/x y"`},
		{"stat /short", "Mode:  0777"},
		{"cat /long", long},
		{"stat /null", "Device major/minor number: 01:03"},
		{"stat /null", "Type: character special    Mode:  0666"},
		{"stat /disk", "Device major/minor number: 300:65535"},
		{"stat /disk", "Type: block special"},
		{"stat /fifo", "Type: FIFO    Mode:  0600"},
		{"stat /hole", "Blockcount: 8\n"},
		{"stat /hole", "Size: 1048579"},
		{"stat /old", "mtime: 0x00000000"},
		{"stats", "has_journal"},
		{"stats", "Filesystem state:         clean"},
	} {
		if got := debugfs(t, file, tt.request); !strings.Contains(got, tt.want) {
			t.Errorf("debugfs %s = %q; want %q in it", tt.request, got, tt.want)
		}
	}
	if got := debugfs(t, file, "ea_list /cap"); strings.Contains(got, "selinux") {
		t.Errorf("ea_list /cap = %q; want no label of the host's", got)
	}
	if got := debugfs(t, file, "cat /big"); got != strings.Repeat("0123456789abcde\n", 1<<17) {
		t.Errorf("cat /big = %d bytes; want those that went in", len(got))
	}
	if got := debugfs(t, file, "stats"); strings.Contains(got, "read-only") {
		t.Errorf("stats = %q; want a file system that can be written", got)
	}
}

// TestSame makes an image twice, in the order of the source and the other way round.
func TestSame(t *testing.T) {
	entries := []e{{name: "a", to: "1"}, {dir, "d", "", 0, nil}, {name: "d/b", to: "2"}, {sym, "s", "d", 0, nil}, {name: "z", to: strings.Repeat("z", 100000)}}
	first, err := os.ReadFile(mustBuild(t, Options{Source: tarFile(t, entries...)}))
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(entries)
	again, err := os.ReadFile(mustBuild(t, Options{Source: tarFile(t, entries...)}))
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the second image of the same files differs from the first (%v)", err)
	}
	entries[0].to = "zz"
	other, err := os.ReadFile(mustBuild(t, Options{Source: tarFile(t, entries...)}))
	if err != nil || bytes.Equal(first[1024+104:1024+120], other[1024+104:1024+120]) {
		t.Errorf("an image with another file has the same UUID % x (%v)", first[1024+104:1024+120], err)
	}
}

// TestSizes fills file systems with what their sizes were computed for: many small files, long
// names, large directories, holes.
func TestSizes(t *testing.T) {
	var small, long, holes []e
	for i := range 2500 {
		small = append(small, e{name: fmt.Sprintf("d/%d", i), to: "x"})
	}
	for i := range 600 {
		long = append(long, e{dir, fmt.Sprintf("%0251d", i), "", 0, nil}, e{sym, fmt.Sprintf("%0251d/%0250d", i, i), strings.Repeat("t", 1000), 0, nil})
	}
	for i := range 3 {
		holes = append(holes, e{name: fmt.Sprint(i), to: strings.Repeat("x"+strings.Repeat("\x00", 8191), 700)})
	}
	for name, entries := range map[string][]e{"many": small, "long": long, "holes": holes} {
		t.Run(name, func(t *testing.T) {
			file := mustBuild(t, Options{Source: tarFile(t, entries...)})
			stats := debugfs(t, file, "stats")
			for line := range strings.Lines(stats) {
				if strings.HasPrefix(line, "Free ") || strings.HasPrefix(line, "Block count") || strings.HasPrefix(line, "Inode count") {
					t.Log(strings.TrimSpace(line))
				}
			}
			// The least size that plan accepts has to be enough.
			_, err := build(t, Options{Source: tarFile(t, entries...), Size: 1 << 20})
			var least int64
			if _, e := fmt.Sscanf(after(err, "need "), "%d", &least); e != nil {
				t.Fatalf("Build(1 MiB) = %v; want the least size", err)
			}
			mustBuild(t, Options{Source: tarFile(t, entries...), Size: least << 20})
		})
	}
	info, err := os.Stat(mustBuild(t, Options{Source: tarFile(t, e{name: "a"}), Size: 3 << 30}))
	if err != nil || info.Size() != 3<<30 {
		t.Errorf("an image of 3 GiB has %v, %v", info.Size(), err)
	}
}

func after(err error, words string) string {
	if err == nil {
		return ""
	}
	_, rest, _ := strings.Cut(err.Error(), words)
	return rest
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	out := filepath.Join(t.TempDir(), "root.ext4")
	err := Build(ctx, Options{Source: tarFile(t, many(1000)...), Output: out, Progress: func(stage string, done, _ int64) {
		if stage == "writing" {
			cancel(why)
		}
	}})
	if !errors.Is(err, why) {
		t.Errorf("Build = %v; want %v", err, why)
	}
	checkFolder(t, out, err)
}
