package hostio

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

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
	for _, off := range []int64{0, 4 << 20} {
		if e := d.ReadAt(b, off); e != 0 || off == 0 && b[0] != 1 || off > 0 && b[0] != 0 {
			t.Errorf("ReadAt(64 KiB, %#x) = %v, first byte %d", off, e, b[0])
		}
	}
}
