package hostio

import (
	"encoding/binary"
	"math/bits"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// netns moves the test into an empty network namespace. Its goroutine stays
// locked to the thread, which therefore ends with the test and takes the
// namespace and all its interfaces with it.
func netns(t *testing.T) {
	t.Helper()
	testutil.RequireRoot(t)
	testutil.Watchdog(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare(CLONE_NEWNET): %v; run as real root, or set %s=1 to skip", err, testutil.EnvNoRoot)
	}
}

// tun opens /dev/net/tun and attaches it to an interface that it makes.
func tun(t *testing.T, name string, flags uint16) int {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/net/tun: %v; load the module (modprobe tun)", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("TUNSETIFF %s: %v", name, err)
	}
	return fd
}

// addTap makes an interface that stays, as `ip tuntap add` does.
func addTap(t *testing.T, name string, flags uint16) {
	t.Helper()
	fd := tun(t, name, flags)
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		t.Fatal(err)
	}
	// Detach now, not at the test's end.
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if null != fd { // keep the number taken for the Cleanup of tun
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.Close(null)
	}
}

// ifreq does an interface ioctl; set fills the request, the result has the
// answer.
func ifreq(t *testing.T, name string, req uint, set func(*unix.Ifreq)) *unix.Ifreq {
	t.Helper()
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(ifr)
	}
	if err := unix.IoctlIfreq(sock, req, ifr); err != nil {
		t.Fatalf("ioctl %#x on %s: %v", req, name, err)
	}
	return ifr
}

// up sets the interface up, down sets it down.
func up(t *testing.T, name string) {
	t.Helper()
	ifreq(t, name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(unix.IFF_UP) })
}

func down(t *testing.T, name string) {
	t.Helper()
	ifreq(t, name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) { r.SetUint16(0) })
}

func setMTU(t *testing.T, name string, mtu uint32) {
	t.Helper()
	ifreq(t, name, unix.SIOCSIFMTU, func(r *unix.Ifreq) { r.SetUint32(mtu) })
}

// etherType is a local experimental one (IEEE 802): nobody else on a fresh
// interface uses it, unlike IPv6, which the kernel starts on its own.
const etherType = 0x88b5

// frame is an Ethernet broadcast with that type and the given content.
func frame(content string) []byte {
	f := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // to all
		2, 0, 0, 0, 0, 1,
		etherType >> 8, etherType & 0xff,
	}
	return append(f, content...)
}

// peer is a packet socket on the kernel's side of the interface, which somebody
// has attached to. It waits until the interface sends: before that the kernel
// drops what it is given and says nothing.
func peer(t *testing.T, name string) int {
	t.Helper()
	proto := bits.ReverseBytes16(etherType)
	sock, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(sock) })
	testutil.Until(t, name+" is running", func() bool {
		return ifreq(t, name, unix.SIOCGIFFLAGS, nil).Uint16()&unix.IFF_RUNNING != 0
	})
	// The kernel sets that flag a moment before it lets frames through, under a
	// lock that this takes too.
	up(t, name)
	index := ifreq(t, name, unix.SIOCGIFINDEX, nil).Uint32()
	if err := unix.Bind(sock, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: int(index)}); err != nil {
		t.Fatal(err)
	}
	return sock
}

// deleteLink removes the interface, as `ip link del` does (rtnetlink(7)).
func deleteLink(t *testing.T, name string) {
	t.Helper()
	index := ifreq(t, name, unix.SIOCGIFINDEX, nil).Uint32()
	sock, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	msg := make([]byte, 32) // struct nlmsghdr, struct ifinfomsg
	le := binary.LittleEndian
	le.PutUint32(msg, uint32(len(msg)))
	le.PutUint16(msg[4:], unix.RTM_DELLINK)
	le.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	le.PutUint32(msg[20:], index)
	if err := unix.Sendto(sock, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	var ack [256]byte
	if n, err := unix.Read(sock, ack[:]); err != nil || n < 20 || le.Uint32(ack[16:]) != 0 {
		t.Fatalf("RTM_DELLINK of %s = %v, error %d; want 0", name, err, int32(le.Uint32(ack[16:])))
	}
}
