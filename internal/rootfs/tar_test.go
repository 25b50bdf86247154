package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// e is an entry of a tar file in a test.
type e struct {
	kind byte // of archive/tar; 0 is a file
	name string
	to   string // target of a link, content of a file
	mode int64
	edit func(*tar.Header)
}

const when = 1_600_000_000

// makeTar writes a tar file.
func makeTar(t testing.TB, entries ...e) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, x := range entries {
		h := &tar.Header{Typeflag: x.kind, Name: x.name, Mode: x.mode, ModTime: time.Unix(when, 0)}
		content := ""
		switch x.kind {
		case 0:
			h.Typeflag, h.Size, content = tar.TypeReg, int64(len(x.to)), x.to
		case tar.TypeLink, tar.TypeSymlink:
			h.Linkname = x.to
		}
		if x.mode == 0 {
			h.Mode = 0o755
		}
		if x.edit != nil {
			x.edit(h)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// list writes a tree down, one line for each name.
func list(t testing.TB, tree *Tree) string {
	t.Helper()
	var b strings.Builder
	err := tree.Walk(func(path, name string, n *Node) error {
		switch n.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			path += "/"
		case unix.S_IFLNK:
			path += " -> " + n.Target
		case unix.S_IFREG:
			content, err := n.Data.read(100)
			if err != nil {
				return err
			}
			path += " = " + string(content)
			if n.links > 1 {
				path += fmt.Sprintf(" (%d)", n.links)
			}
		case unix.S_IFCHR, unix.S_IFBLK:
			path += fmt.Sprintf(" %d:%d", n.Major, n.Minor)
		}
		b.WriteString(path[1:] + "\n")
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func testTree(t testing.TB, limits Limits) *Tree {
	return NewTree(NewSpool(t.Context(), t.TempDir(), limits.Bytes, nil), limits)
}

const (
	dir   = tar.TypeDir
	link  = tar.TypeLink
	sym   = tar.TypeSymlink
	small = 1 << 20
)

func TestLayers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		layers [][]e
		want   string
	}{
		{"files", [][]e{{{name: "./b", to: "1"}, {name: "/a", to: "2"}, {name: "c/d/e", to: "3"}}}, "a = 2\nb = 1\nc/\nc/d/\nc/d/e = 3\n"},
		{"duplicates", [][]e{{{name: "a", to: "1"}, {name: "./a", to: "2"}, {dir, "d", "", 0, nil}, {name: "d/x"}, {dir, "d/", "", 0o700, nil}}}, "a = 2\nd/\nd/x = \n"},
		{"absolute and escaping symlinks", [][]e{{{sym, "a", "/etc/passwd", 0, nil}, {sym, "b", "../../../etc", 0, nil}}}, "a -> /etc/passwd\nb -> ../../../etc\n"},
		{"through symlinks", [][]e{{{dir, "usr/lib", "", 0, nil}, {sym, "lib", "usr/lib", 0, nil}, {sym, "abs", "/usr", 0, nil}, {sym, "up", "../../..", 0, nil}},
			{{name: "lib/x", to: "1"}, {name: "abs/lib/y", to: "2"}, {name: "up/usr/lib/z", to: "3"}}},
			"abs -> /usr\nlib -> usr/lib\nup -> ../../..\nusr/\nusr/lib/\nusr/lib/x = 1\nusr/lib/y = 2\nusr/lib/z = 3\n"},
		{"into a dangling symlink", [][]e{{{sym, "a", "/../../b/c", 0, nil}, {name: "a/x", to: "1"}}}, "a -> /../../b/c\nb/\nb/c/\nb/c/x = 1\n"},
		{"hard links", [][]e{{{name: "a", to: "1"}, {link, "b", "a", 0, nil}, {link, "c/d", "/b", 0, nil}}, {{link, "e", "c/d", 0, nil}, {name: "a", to: "2"}}},
			"a = 2\nb = 1 (3)\nc/\nc/d = 1 (3)\ne = 1 (3)\n"},
		{"hard link to itself", [][]e{{{name: "a", to: "1"}, {link, "a", "./a", 0, nil}}}, "a = 1\n"},
		{"hard link through a symlink", [][]e{{{name: "d/a", to: "1"}, {sym, "s", "d", 0, nil}, {link, "b", "s/a", 0, nil}}}, "b = 1 (2)\nd/\nd/a = 1 (2)\ns -> d\n"},
		{"hard link to a symlink", [][]e{{{sym, "s", "x", 0, nil}, {link, "b", "s", 0, nil}}}, "b -> x\ns -> x\n"},
		{"hard link replaces its directory", [][]e{{{name: "d/a", to: "1"}, {link, "d", "d/a", 0, nil}}}, "d = 1\n"},
		{"whiteouts", [][]e{{{name: "a", to: "1"}, {name: "d/x"}, {name: "d/y"}, {name: "e/z"}}, {{name: ".wh.a"}, {name: "d/.wh.x"}, {name: ".wh.e"}, {name: ".wh.none"}, {name: "no/.wh.x"}}},
			"d/\nd/y = \n"},
		{"a whiteout spares its own layer", [][]e{{{name: "a", to: "1"}, {name: "d/x"}}, {{name: "a", to: "2"}, {name: ".wh.a"}, {name: "d/y"}, {name: ".wh.d"}}}, "a = 2\nd/\nd/y = \n"},
		{"opaque", [][]e{{{name: "d/x"}, {name: "d/e/x"}, {name: "d/f/x"}}, {{name: "d/e/y"}, {name: "d/.wh..wh..opq"}, {name: "d/z"}}}, "d/\nd/e/\nd/e/y = \nd/z = \n"},
		{"whiteout in a plain tar", nil, ""},
		{"books of AUFS", [][]e{{{name: ".wh..wh.plnk", to: "x"}, {name: "a"}}}, "a = \n"},
		{"a directory becomes a file and back", [][]e{{{name: "d/x"}}, {{name: "d", to: "1"}}, {{name: "d/y"}}}, "error: \"d\" on the way is not a directory"},
		{"a symlink becomes a directory", [][]e{{{sym, "d", "/etc", 0, nil}}, {{dir, "d", "", 0, nil}, {name: "d/x"}}}, "d/\nd/x = \n"},
		{"whiteout through a symlink", [][]e{{{name: "r/x"}, {sym, "s", "/../r", 0, nil}}, {{name: "s/.wh.x"}}}, "r/\ns -> /../r\n"},
		{"devices", [][]e{{{tar.TypeChar, "n", "", 0o666, dev(1, 3)}, {tar.TypeBlock, "b", "", 0, dev(253, 1)}, {tar.TypeFifo, "f", "", 0, nil}}}, "b 253:1\nf\nn 1:3\n"},
		{"odd names", [][]e{{{name: "<12>"}, {name: `a "b" \ #`}, {name: "ü\x80\t"}}}, "<12> = \na \"b\" \\ # = \nü\x80\t = \n"},

		{"dots", [][]e{{{name: "a/../../b"}}}, `error: has .. in its name`},
		{"dots in a hard link", [][]e{{{link, "a", "../etc/passwd", 0, nil}}}, `error: hard link: "../etc/passwd" has ..`},
		{"hard link to nothing", [][]e{{{link, "a", "/etc/passwd", 0, nil}}}, `error: tar entry "a": hard link to "/etc/passwd": "etc" is not in the image`},
		{"hard link to a later file", [][]e{{{link, "a", "b", 0, nil}, {name: "b"}}}, `error: hard link to "b", which is not in the image`},
		{"hard link to a directory", [][]e{{{dir, "d", "", 0, nil}, {link, "a", "d", 0, nil}}}, `error: hard link to a directory`},
		{"hard link to the root", [][]e{{{link, "a", "/", 0, nil}}}, `error: hard link to a directory`},
		{"hard link to what is hidden", [][]e{{{name: "b"}}, {{name: ".wh.b"}, {link, "a", "b", 0, nil}}}, `error: not in the image`},
		{"a loop of symlinks", [][]e{{{sym, "a", "b", 0, nil}, {sym, "b", "a", 0, nil}, {name: "a/x"}}}, `error: more than 40 symlinks`},
		{"a root that is a file", [][]e{{{tar.TypeFifo, ".", "", 0, nil}}}, `error: the root can only be a directory`},
		{"line break", [][]e{{{name: "a\nb"}}}, `error: line break`},
		{"line break in a target", [][]e{{{sym, "a", "b\rc", 0, nil}}}, `error: line break`},
		{"long name", [][]e{{{name: strings.Repeat("n", 256)}}}, `error: longer than 255 bytes`},
		{"long path", [][]e{{{name: strings.Repeat("n/", 2100) + "n"}}}, `error: longer than 4095`},
		{"nameless whiteout", [][]e{{{name: "d/x"}}, {{name: "d/.wh."}}}, "error: whiteout without a name"},
		{"whiteout of the parent", [][]e{{{name: "d/x"}}, {{name: "d/.wh..."}}}, "error: whiteout without a name"},
		{"owner", [][]e{{{name: "a", edit: func(h *tar.Header) { h.Uid = 1 << 33 }}}}, "error: owner 8589934592:0"},
		{"device number", [][]e{{{tar.TypeChar, "n", "", 0, dev(1, 65536)}}}, "error: device 1:65536"},
		{"huge", [][]e{{{name: "a", to: strings.Repeat("x", small/2)}, {name: "b", to: strings.Repeat("x", small/2+1)}}}, "error: more than 1 MiB (--max-size)"},
		{"huge in layers that hide each other", [][]e{{{name: "a", to: strings.Repeat("x", small)}}, {{name: "a", to: "x"}}}, "error: more than 1 MiB (--max-size)"},
		{"many", [][]e{many(1001)}, "error: more than 1000 files (--max-files)"},
		{"many implied", [][]e{{{name: strings.Repeat("d/", 1001) + "x"}}}, "error: more than 1000 files (--max-files)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tree := testTree(t, Limits{small, 1000})
			got, layer := "", true
			if tt.layers == nil {
				tt.layers, tt.want, layer = [][]e{{{name: ".wh.a"}}}, ".wh.a = \n", false
			}
			for _, l := range tt.layers {
				if err := tree.AddTar(bytes.NewReader(makeTar(t, l...)), layer); err != nil {
					got = "error: " + err.Error()
					break
				}
			}
			if want, isErr := strings.CutPrefix(tt.want, "error: "); isErr {
				if !strings.HasPrefix(got, "error: ") || !strings.Contains(got, want) {
					t.Errorf("AddTar = %q; want an error with %q", got, want)
				}
				return
			}
			if got == "" {
				got = list(t, tree)
			}
			if got != tt.want {
				t.Errorf("tree =\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func dev(major, minor int64) func(*tar.Header) {
	return func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor }
}

func many(n int) (l []e) {
	for i := range n {
		l = append(l, e{name: fmt.Sprint(i)})
	}
	return l
}

// TestDepth leads deeper than any path by symlinks into what they made.
func TestDepth(t *testing.T) {
	deep := strings.TrimSuffix(strings.Repeat("d/", 600), "/")
	tree := testTree(t, Limits{small, 1 << 20})
	err := tree.AddTar(bytes.NewReader(makeTar(t, e{dir, deep, "", 0, nil}, e{sym, "s", deep, 0, nil}, e{dir, "s/" + deep, "", 0, nil})), true)
	if err == nil || !strings.Contains(err.Error(), "deeper than 1024") {
		t.Errorf("AddTar(1200 directories in each other) = %v; want an error with the limit", err)
	}
}

// TestTarDamage cuts a tar file at every place, and breaks a header.
func TestTarDamage(t *testing.T) {
	whole := makeTar(t, e{name: "a", to: "content"}, e{name: "b", to: strings.Repeat("x", 600)})
	add := func(b []byte) error { return testTree(t, Limits{small, 1000}).AddTar(bytes.NewReader(b), false) }
	if err := add(whole); err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndexByte(whole, 'x') + 1
	for n := 0; n < end+424; n += 61 {
		if err := add(whole[:n]); err == nil || !strings.Contains(err.Error(), "cut short") {
			t.Errorf("AddTar(the first %d bytes) = %v; want that it is cut short", n, err)
		}
	}
	whole[100] ^= 1
	if err := add(whole); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("AddTar(a broken header) = %v; want that it is damaged", err)
	}
}

// TestSparse reads a sparse file of 8 EiB in 2 KiB of tar, and one that fits.
func TestSparse(t *testing.T) {
	sparse := func(size string) []byte {
		return makeTar(t, e{name: "a", to: "0\n", edit: nil}, e{name: "s", to: "1\n0\n0\n" + strings.Repeat("\x00", 506), edit: func(h *tar.Header) {
			h.Format = tar.FormatPAX
			h.PAXRecords = map[string]string{"UVM.x": size}
		}})
	}
	for size, want := range map[string]string{"1048000": "", "9223372036854775807": "--max-size"} {
		// archive/tar does not write sparse files; the record gets its name afterwards.
		b := sparse(size)
		record := func(key string) string { return fmt.Sprintf(" %s=%s\n", key, size) }
		old := fmt.Sprintf("%d%s", len(record("UVM.x"))+2, record("UVM.x"))
		all := ""
		for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=" + size} {
			all += fmt.Sprintf("%d %s\n", len(kv)+4, kv)
		}
		b = replaceRecord(t, b, old, all)
		tree := testTree(t, Limits{small, 1000})
		err := tree.AddTar(bytes.NewReader(b), false)
		if want == "" {
			n := tree.Lookup("/s")
			if err != nil || n == nil || n.Data.Size != 1048000 || n.Data.blocks != 0 {
				t.Errorf("AddTar(a hole of %s bytes) = %v; want a file without blocks", size, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("AddTar(a hole of %s bytes) = %v; want an error with %q", size, err, want)
		}
	}
}

// replaceRecord puts other PAX records into the block that holds old, and corrects the size and
// checksum in the header before it.
func replaceRecord(t *testing.T, b []byte, old, records string) []byte {
	t.Helper()
	at := bytes.Index(b, []byte(old))
	if at < 512 || len(records) > 512 {
		t.Fatalf("no record %q", old)
	}
	at = at / 512 * 512
	copy(b[at:at+512], append([]byte(records), make([]byte, 512)...))
	h := b[at-512 : at]
	copy(h[124:136], fmt.Sprintf("%011o\x00", len(records)))
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func FuzzTar(f *testing.F) {
	f.Add(makeTar(f, e{dir, "d", "", 0, nil}, e{name: "d/a", to: "x"}, e{link, "b", "d/a", 0, nil}, e{sym, "s", "../d", 0, nil}, e{name: "s/x"}))
	f.Add(makeTar(f, e{name: "d/.wh..wh..opq"}, e{name: ".wh.d"}, e{tar.TypeChar, "c", "", 0, dev(1, 3)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		tree := testTree(t, Limits{small, 1000})
		for range 2 {
			if tree.AddTar(bytes.NewReader(b), true) != nil {
				return
			}
		}
		check(t, tree)
	})
}

// check wants a tree to be one: names that can be written, links counted, contents there.
func check(t *testing.T, tree *Tree) {
	t.Helper()
	names := map[*Node]int{}
	err := tree.Walk(func(path, name string, n *Node) error {
		names[n]++
		if parts, err := clean(name); err != nil || len(parts) != 1 || parts[0] != name {
			t.Errorf("%q is no name (%v)", name, err)
		}
		if n.is(unix.S_IFREG) {
			if b, err := n.Data.read(small + 1); err != nil || int64(len(b)) != n.Data.Size {
				t.Errorf("%q has %d bytes, %v; want %d", path, len(b), err, n.Data.Size)
			}
		}
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n, count := range names {
		if n.links != count {
			t.Errorf("a node (%o) has %d links; want %d", n.Mode, n.links, count)
		}
	}
}
