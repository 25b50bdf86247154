package hostio

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

var _ devices.Disk = (*Disk)(nil)

// image makes a sparse file of size bytes.
func image(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func openDisk(t testing.TB, path string, ro bool) *Disk {
	t.Helper()
	d, err := OpenDisk(path, ro, "", 512)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestDiskLock opens one image twice: flock belongs to the open file, so one
// process can stand for two.
func TestDiskLock(t *testing.T) {
	for _, c := range []struct {
		firstRO, secondRO, ok bool
	}{{false, false, false}, {false, true, false}, {true, false, false}, {true, true, true}} {
		testutil.CheckFDs(t)
		path := image(t, 512)
		first, err := OpenDisk(path, c.firstRO, "", 512)
		if err != nil {
			t.Fatal(err)
		}
		second, err := OpenDisk(path, c.secondRO, "", 512)
		if c.ok != (err == nil) {
			t.Errorf("OpenDisk(readOnly %v) of a disk open with readOnly %v = %v; want success %v", c.secondRO, c.firstRO, err, c.ok)
		}
		if err == nil {
			second.Close()
		} else if want := path + ": open: " + ErrDiskBusy.Error(); !errors.Is(err, ErrDiskBusy) || err.Error() != want {
			t.Errorf("OpenDisk of a busy disk = %v; want %q", err, want)
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		if again, err := OpenDisk(path, c.secondRO, "", 512); err != nil {
			t.Errorf("OpenDisk after Close = %v; want nil: the lock ends with the descriptor", err)
		} else {
			again.Close()
		}
	}
}

func TestOpenDiskErrors(t *testing.T) {
	testutil.Watchdog(t) // a FIFO must not hang it
	testutil.CheckFDs(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		path string
		ro   bool
		want string // after the path
		err  error
	}{
		{missing, false, "open for writing: no such file or directory", fs.ErrNotExist},
		{missing, true, "open: no such file or directory", fs.ErrNotExist},
		{"", true, "open: no such file or directory", fs.ErrNotExist},
		{dir, false, "open for writing: is a directory", unix.EISDIR},
		{dir, true, "open: is a directory, need a regular file or a block device", nil},
		{fifo, false, "open: is a FIFO, need a regular file or a block device", nil},
		{fifo, true, "open: is a FIFO, need a regular file or a block device", nil},
		{"/dev/null", false, "open: is a character device, need a regular file or a block device", nil},
		// Root can write to anything but a program that runs.
		{os.Args[0], false, "open for writing: text file busy", unix.ETXTBSY},
	} {
		d, err := OpenDisk(c.path, c.ro, "", 512)
		var de *Error
		if d != nil || !errors.As(err, &de) || de.Name != c.path || err.Error() != c.path+": "+c.want {
			t.Errorf("OpenDisk(%q, %v) = %v, %v; want %q", c.path, c.ro, d, err, c.want)
		} else if c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("OpenDisk(%q, %v) = %v; want it to wrap %v", c.path, c.ro, err, c.err)
		}
	}
}

func TestDiskSize(t *testing.T) {
	for _, size := range []int64{0, 1, 513, 5 << 30} {
		if got := openDisk(t, image(t, size), false).Size(); got != size {
			t.Errorf("Size() = %d; want %d", got, size)
		}
	}
}

func TestDiskTransfer(t *testing.T) {
	const size = 3 << 20
	path := image(t, size)
	d := openDisk(t, path, false)
	model := make([]byte, size)
	for i, c := range []struct{ off, n int64 }{
		{0, 1}, {size - 1, 1}, {511, 2}, {0, size}, {size - 4096, 4096}, {4095, 1 << 20}, {size, 0}, {7, 0},
	} {
		b := bytes.Repeat([]byte{byte(i + 1)}, int(c.n))
		if e := d.WriteAt(b, c.off); e != 0 {
			t.Fatalf("WriteAt(%d bytes, %d) = %v; want 0", c.n, c.off, e)
		}
		copy(model[c.off:], b)
		got := make([]byte, c.n)
		if e := d.ReadAt(got, c.off); e != 0 || !bytes.Equal(got, b) {
			t.Fatalf("ReadAt(%d bytes, %d) = %v, or other bytes than were written", c.n, c.off, e)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, model) {
		t.Errorf("the file differs from what was written (%d bytes, %v)", len(got), err)
	}
}

// TestDiskTransferLoop has the kernel move less than was asked for, as it does
// above 0x7ffff000 bytes.
func TestDiskTransferLoop(t *testing.T) {
	const intr, eio, nospc = -int(unix.EINTR), -int(unix.EIO), -int(unix.ENOSPC)
	for _, c := range []struct {
		name  string
		steps []int
		want  syscall.Errno
		moved int
	}{
		{"at once", []int{10}, 0, 10},
		{"in pieces", []int{1, 8, 1}, 0, 10},
		{"interrupted", []int{intr, 4, intr, 6}, 0, 10},
		{"error", []int{nospc}, unix.ENOSPC, 0},
		{"error in the middle", []int{4, eio}, unix.EIO, 4},
		{"end of file", []int{0}, unix.EIO, 0},
		{"end of file in the middle", []int{4, 0}, unix.EIO, 4},
	} {
		d, moved := &Disk{fd: 77}, 0
		got := d.transfer(func(fd int, s *slot) int {
			if fd != 77 || s.op != devices.DiskWrite || s.off != 1000+int64(moved) || s.left != int64(10-moved) || s.part[0].Len != uint64(s.left) {
				t.Errorf("%s: call(%d, %d of %d bytes at %d) after %d bytes; want fd 77 and a write of the rest", c.name, fd, s.part[0].Len, s.left, s.off, moved)
			}
			n := c.steps[0]
			c.steps = c.steps[1:]
			moved += max(n, 0)
			return n
		}, devices.DiskWrite, make([]byte, 10), 1000)
		if got != c.want || moved != c.moved || len(c.steps) != 0 {
			t.Errorf("%s: transfer = %v after %d bytes, %d steps left; want %v after %d, none", c.name, got, moved, len(c.steps), c.want, c.moved)
		}
	}
}

func TestDiskReadOnly(t *testing.T) {
	d := openDisk(t, image(t, 512), true)
	if e := d.WriteAt([]byte{1}, 0); e != syscall.EROFS {
		t.Errorf("WriteAt on a read-only disk = %v; want EROFS", e)
	}
	b := []byte{9}
	if e := d.ReadAt(b, 511); e != 0 || b[0] != 0 {
		t.Errorf("ReadAt(1 byte, 511) = %v, %d; want 0, 0", e, b[0])
	}
}

// TestDiskCutShort: the file shrinks while a guest uses it.
func TestDiskCutShort(t *testing.T) {
	path := image(t, 8192)
	d := openDisk(t, path, false)
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	for _, c := range []struct {
		off  int64
		want syscall.Errno
	}{{0, 0}, {1, syscall.EIO}, {4096, syscall.EIO}} {
		if got := d.ReadAt(b, c.off); got != c.want {
			t.Errorf("ReadAt(4096 bytes, %d) of a file cut to 4096 = %v; want %v", c.off, got, c.want)
		}
	}
	if d.Size() != 8192 {
		t.Errorf("Size() = %d; want 8192, as when it was opened", d.Size())
	}
}

func TestDiskClosed(t *testing.T) {
	d := openDisk(t, image(t, 512), false)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if e := d.ReadAt(make([]byte, 1), 0); e != syscall.EBADF {
		t.Errorf("ReadAt after Close = %v; want EBADF", e)
	}
}

func TestDiskAllocs(t *testing.T) {
	d := openDisk(t, image(t, 4096), false)
	b := make([]byte, 512)
	if n := testing.AllocsPerRun(100, func() {
		if d.WriteAt(b, 512) != 0 || d.ReadAt(b, 512) != 0 {
			t.Error("transfer failed")
		}
	}); n != 0 {
		t.Errorf("WriteAt and ReadAt allocate %v times; want 0", n)
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{{nil, 0}, {unix.EPIPE, unix.EPIPE}, {errors.New("other"), unix.EIO}} {
		if got := errno(c.err); got != c.want {
			t.Errorf("errno(%v) = %v; want %v", c.err, got, c.want)
		}
	}
	if !strings.Contains(ErrDiskBusy.Error(), "in use") {
		t.Errorf("ErrDiskBusy = %q; want it to say that the disk is in use", ErrDiskBusy)
	}
}
