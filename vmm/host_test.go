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
// with it. The result takes the goroutine of a subtest there too.
func netNS(t testing.TB) (enter func(testing.TB)) {
	t.Helper()
	testutil.RequireRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare(CLONE_NEWNET) = %v; want a network namespace (root needs CAP_SYS_ADMIN)", err)
	}
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ns) })
	return func(t testing.TB) {
		t.Helper()
		runtime.LockOSThread()
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
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
	ifr := ifreq(t, name)
	ifr.SetUint32(mtu)
	setInterface(t, unix.SIOCSIFMTU, ifr)
	setFlags(t, name, unix.IFF_UP)
}

// setFlags sets an interface's flags; 0 switches it off.
func setFlags(t testing.TB, name string, flags uint16) {
	t.Helper()
	ifr := ifreq(t, name)
	ifr.SetUint16(flags)
	setInterface(t, unix.SIOCSIFFLAGS, ifr)
}

// waitRunning waits until the interface, to which a VM has attached, sends:
// until then the kernel drops what it is given and says nothing.
func waitRunning(t testing.TB, name string) {
	t.Helper()
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	testutil.Until(t, name+" is running", func() bool {
		ifr := ifreq(t, name)
		if err := unix.IoctlIfreq(sock, unix.SIOCGIFFLAGS, ifr); err != nil {
			t.Fatal(err)
		}
		return ifr.Uint16()&unix.IFF_RUNNING != 0
	})
	// The kernel sets that flag a moment before it lets frames through, under a
	// lock that this takes too.
	setFlags(t, name, unix.IFF_UP)
}

func setInterface(t testing.TB, req uint, ifr *unix.Ifreq) {
	t.Helper()
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	if err := unix.IoctlIfreq(sock, req, ifr); err != nil {
		t.Fatalf("ioctl %#x on %s: %v", req, ifr.Name(), err)
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
