package loader_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

func TestOpen(t *testing.T) {
	testutil.CheckFDs(t)
	path := filepath.Join(t.TempDir(), "kernel.hvt")
	if err := os.WriteFile(path, base(), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := loader.Open(path, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := memory.New(memSize)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if _, err := img.Fit(memSize); err != nil {
		t.Fatal(err)
	}
	if err := img.Load(mem); err != nil || mem.Host()[0x100000] != 0xf4 {
		t.Errorf("Load() = %v, first byte %#x; want nil, 0xf4", err, mem.Host()[0x100000])
	}
	for i := range 2 {
		if err := img.Close(); err != nil {
			t.Errorf("Close() %d = %v; want nil", i, err)
		}
	}
	// The image still describes itself, but has nothing to read from.
	var le *loader.Error
	if err := img.Load(mem); !errors.As(err, &le) || le.Kind != loader.ErrOpen || !errors.Is(err, fs.ErrClosed) ||
		!strings.HasPrefix(err.Error(), "kernel "+path+": read segment 0: ") || strings.Count(err.Error(), path) != 1 {
		t.Errorf("Load() after Close = %v; want ErrOpen that names path and segment once", err)
	}
}

func TestOpenErrors(t *testing.T) {
	testutil.Watchdog(t) // opening a FIFO waits for a writer unless told not to
	testutil.CheckFDs(t)
	dir := t.TempDir()
	fifo, empty, noELF := filepath.Join(dir, "fifo"), filepath.Join(dir, "empty"), filepath.Join(dir, "text")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{empty: "", noELF: strings.Repeat("text\n", 100)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		path string
		kind loader.ErrorKind
		want string // after "kernel PATH: "
		err  error
	}{
		{missing, loader.ErrOpen, "no such file or directory", fs.ErrNotExist},
		{filepath.Join(empty, "below"), loader.ErrOpen, "not a directory", unix.ENOTDIR},
		{dir, loader.ErrFormat, "not a regular file", nil},
		{fifo, loader.ErrFormat, "not a regular file", nil},
		{"/dev/null", loader.ErrFormat, "not a regular file", nil},
		{empty, loader.ErrFormat, "truncated: ELF header needs 64 bytes at file offset 0x0, the file has 0 there", nil},
		{noELF, loader.ErrFormat, "not an ELF file, nor a Linux bzImage: kernels are Solo5 hvt unikernels, PVH or 64-bit Linux kernels in ELF, and bzImages", nil},
	} {
		img, err := loader.Open(c.path, nil, "")
		var le *loader.Error
		if img != nil || !errors.As(err, &le) || le.Kind != c.kind || le.Path != c.path || err.Error() != "kernel "+c.path+": "+c.want {
			t.Errorf("Open(%q) = %v, %v; want kind %d, %q", c.path, img, err, c.kind, c.want)
			continue
		}
		if c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("Open(%q) = %v; want it to wrap %v", c.path, err, c.err)
		}
	}
}

// TestClose: an Image from Parse owns no file.
func TestClose(t *testing.T) {
	img, mem, _, err := load(base(), memSize)
	if err != nil {
		t.Fatal(err)
	}
	mem.Close()
	if err := img.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
}

// failing is a disk with a bad sector.
type failing struct{ file }

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off >= 0x1000 {
		return 0, &fs.PathError{Op: "read", Path: "k", Err: unix.EIO}
	}
	return copy(b, f.file[off:]), nil
}

func TestReadError(t *testing.T) {
	img, err := loader.Open("k", failing{base()}, "")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := memory.New(memSize)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	err = img.Load(mem)
	var le *loader.Error
	if !errors.As(err, &le) || le.Kind != loader.ErrOpen || !errors.Is(err, unix.EIO) || err.Error() != "kernel k: read segment 0: input/output error" {
		t.Errorf("Load() = %v; want ErrOpen, kernel k: read segment 0: input/output error", err)
	}
}
