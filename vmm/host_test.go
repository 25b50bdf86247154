package vmm

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// image makes a disk image of size zero bytes.
func image(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// netNS moves the test's goroutine into a network namespace of its own, where
// it may make interfaces. The goroutine stays locked to its thread, which ends
// with it, and the namespace with the thread.
func netNS(t testing.TB) {
	t.Helper()
	testutil.RequireRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare(CLONE_NEWNET) = %v; want a network namespace (root needs CAP_SYS_ADMIN)", err)
	}
}

// makeTap makes a persistent TAP interface that is up, in the namespace of the
// calling thread.
func makeTap(t testing.TB, name string, mtu uint32) {
	t.Helper()
	fd := tapFD(t, name)
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		t.Fatalf("TUNSETPERSIST: %v", err)
	}
	tapUp(t, name, mtu)
}

// tapFD makes a TAP interface that lives as long as the descriptor.
func tapFD(t testing.TB, name string) int {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/net/tun: %v (sudo modprobe tun)", err)
	}
	ifr := ifreq(t, name)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("TUNSETIFF %s: %v", name, err)
	}
	return fd
}

// tapUp sets an interface's MTU and switches it on.
func tapUp(t testing.TB, name string, mtu uint32) {
	t.Helper()
	// Without IPv6 the host sends nothing on its own account. A kernel that
	// has no IPv6 has no such file either.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	ifr := ifreq(t, name)
	ifr.SetUint32(mtu)
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFMTU, ifr); err != nil {
		t.Fatalf("SIOCSIFMTU %s: %v", name, err)
	}
	ifr = ifreq(t, name)
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatalf("SIOCSIFFLAGS %s: %v", name, err)
	}
}

func ifreq(t testing.TB, name string) *unix.Ifreq {
	t.Helper()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	return ifr
}
