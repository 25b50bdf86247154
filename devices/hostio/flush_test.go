package hostio

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestDiskFlush has fdatasync give these answers, one for each time that it is
// called, in three flushes.
func TestDiskFlush(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []error
		want    [3]syscall.Errno
	}{
		{"good", []error{nil, nil, nil}, [3]syscall.Errno{}},
		{"interrupted", []error{unix.EINTR, unix.EINTR, nil, nil, unix.EINTR, nil}, [3]syscall.Errno{}},
		// The kernel says it once. A success afterwards would be a lie.
		{"EIO", []error{unix.EIO}, [3]syscall.Errno{unix.EIO, unix.EIO, unix.EIO}},
		{"full", []error{nil, unix.ENOSPC}, [3]syscall.Errno{0, unix.ENOSPC, unix.ENOSPC}},
		{"interrupted, then EIO", []error{nil, nil, unix.EINTR, unix.EIO}, [3]syscall.Errno{0, 0, unix.EIO}},
		{"not an errno", []error{errors.New("strange")}, [3]syscall.Errno{unix.EIO, unix.EIO, unix.EIO}},
	} {
		d := &Disk{fd: 77}
		for i, want := range c.want {
			got := d.flush(func(fd int) error {
				if fd != 77 || len(c.answers) == 0 {
					t.Fatalf("%s: flush %d calls fdatasync(%d); want none after a failure, and descriptor 77", c.name, i, fd)
				}
				err := c.answers[0]
				c.answers = c.answers[1:]
				return err
			})
			if got != want {
				t.Errorf("%s: flush %d = %v; want %v", c.name, i, got, want)
			}
		}
		if len(c.answers) != 0 {
			t.Errorf("%s: %d answers of fdatasync were not asked for", c.name, len(c.answers))
		}
	}
}

// TestDiskFlushTogether: a flush that starts while another one fails must not
// succeed: the kernel would tell only the first.
func TestDiskFlushTogether(t *testing.T) {
	testutil.Watchdog(t)
	d := &Disk{}
	var wg sync.WaitGroup
	first := d.flush(func(int) error {
		wg.Go(func() {
			if e := d.flush(func(int) error { return nil }); e != unix.EIO {
				t.Errorf("flush during one that fails = %v; want EIO", e)
			}
		})
		for range 1000 {
			runtime.Gosched() // the other one has every chance to come first
		}
		return unix.EIO
	})
	wg.Wait()
	if first != unix.EIO {
		t.Errorf("flush = %v; want EIO", first)
	}
}

// TestDiskFlushFile flushes real files; that the system call is made is seen by
// its refusal of a closed descriptor.
func TestDiskFlushFile(t *testing.T) {
	path := image(t, 8192)
	d := openDisk(t, path, false)
	want := bytes.Repeat([]byte{7}, 512)
	if n := testing.AllocsPerRun(20, func() {
		if e := d.WriteAt(want, 512); e != 0 {
			t.Fatalf("WriteAt = %v; want 0", e)
		}
		if e := d.Flush(); e != 0 {
			t.Fatalf("Flush() = %v; want 0", e)
		}
	}); n != 0 {
		t.Errorf("WriteAt and Flush allocate %v times; want 0", n)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[512:1024], want) {
		t.Errorf("the file has other bytes than were written (%v)", err)
	}
	d.Close()
	if e := d.Flush(); e != unix.EBADF {
		t.Errorf("Flush after Close = %v; want EBADF", e)
	}
	ro := openDisk(t, path, true)
	if e := ro.Flush(); e != 0 {
		t.Errorf("Flush of a read-only disk = %v; want 0", e)
	}
}

// TestDiskFull writes a sparse image on a filesystem that has no room for it.
func TestDiskFull(t *testing.T) {
	testutil.RequireRoot(t)
	dir := t.TempDir()
	// In a mount namespace of the test's own, which ends with its thread.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatalf("unshare(CLONE_NEWNS) = %v; want a mount namespace (root needs CAP_SYS_ADMIN)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8<<20); err != nil {
		t.Fatal(err)
	}
	d := openDisk(t, path, false)
	b := bytes.Repeat([]byte{1}, 64<<10)
	full := false
	for off := int64(0); off < d.Size(); off += int64(len(b)) {
		e := d.WriteAt(b, off)
		if off < 512<<10 && e != 0 || e != 0 && e != unix.ENOSPC || full && e == 0 {
			t.Fatalf("WriteAt(64 KiB, %#x) = %v; want success in the first half MiB, then ENOSPC at some point and ever after", off, e)
		}
		full = full || e == unix.ENOSPC
	}
	if !full {
		t.Error("8 MiB fitted on a filesystem of 1 MiB")
	}
	// What is there is still there, and the rest reads as zeroes.
	if e := d.Flush(); e != 0 {
		t.Errorf("Flush() = %v; want 0: the failed writes were reported", e)
	}
	for _, off := range []int64{0, 4 << 20} {
		if e := d.ReadAt(b, off); e != 0 || off == 0 && b[0] != 1 || off > 0 && b[0] != 0 {
			t.Errorf("ReadAt(64 KiB, %#x) = %v, first byte %d", off, e, b[0])
		}
	}
}
