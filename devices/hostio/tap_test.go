package hostio

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

var _ devices.NIC = (*Tap)(nil)

const (
	tapFlags = unix.IFF_TAP | unix.IFF_NO_PI
	tunFlags = unix.IFF_TUN | unix.IFF_NO_PI
)

func openTap(t *testing.T, name string) *Tap {
	t.Helper()
	tap, err := OpenTap(name, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	return tap
}

func checkTapError(t *testing.T, call string, tap *Tap, err error, name string, errno syscall.Errno, text string) {
	t.Helper()
	var te *Error
	if tap != nil || !errors.As(err, &te) || te.Name != name || !errors.Is(err, errno) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s = %v, %v; want an Error of %q with %v and %q", call, tap, err, name, errno, text)
	}
}

func TestOpenTapErrors(t *testing.T) {
	testutil.RequireRoot(t)
	testutil.CheckFDs(t)
	netns(t)
	addTap(t, "tap0", tapFlags)
	addTap(t, "down0", tapFlags)
	addTap(t, "tun0", tunFlags)
	for _, name := range []string{"tap0", "tun0", "lo"} {
		up(t, name)
	}
	busy := openTap(t, "tap0")
	for _, c := range []struct {
		name  string
		errno syscall.Errno
		text  string
	}{
		{"tap1", unix.ENOENT, "tap1: no such interface (make it: ip tuntap add tap1 mode tap; ip link set tap1 up)"},
		{"tap%d", unix.ENOENT, "tap%d: no such interface"}, // the driver would make tap1
		{"down0", unix.ENETDOWN, "down0: interface is down (ip link set down0 up)"},
		{"tap0", unix.EBUSY, "tap0: in use by another process"},
		{"tun0", unix.EINVAL, "tun0: not a TAP interface"},
		{"lo", unix.EINVAL, "lo: not a TAP interface"},
		{"a23456789012345", unix.ENOENT, "no such interface"}, // 15 characters
		{"a234567890123456", unix.ENAMETOOLONG, "name of 1 to 15 characters needed"},
		{strings.Repeat("x", 5000), unix.ENAMETOOLONG, "name of 1 to 15"},
		{"", unix.ENOENT, "no such interface"},
		{"tap0\x00x", unix.EBUSY, ""}, // the kernel sees tap0
	} {
		tap, err := OpenTap(c.name, false)
		checkTapError(t, "OpenTap("+c.name+")", tap, err, c.name, c.errno, c.text)
	}
	// A refused open makes no interface.
	for _, name := range []string{"tap1", "tap%d"} {
		if tap, err := OpenTap(name, false); !errors.Is(err, unix.ENOENT) {
			t.Errorf("second OpenTap(%q) = %v, %v; want ENOENT", name, tap, err)
		}
	}
	// And the one that is in use works on.
	if e := busy.WriteFrame(whole(frame("still"))); e != 0 {
		t.Errorf("WriteFrame after a second attach was refused = %v; want 0", e)
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	openTap(t, "tap0").Close() // Close detaches
}

func TestTapMTU(t *testing.T) {
	netns(t)
	addTap(t, "tap0", tapFlags)
	up(t, "tap0")
	for _, mtu := range []uint32{1500, 9000, 68} {
		setMTU(t, "tap0", mtu)
		tap := openTap(t, "tap0")
		if got := tap.MTU(); got != int(mtu) {
			t.Errorf("MTU() = %d; want %d", got, mtu)
		}
		setMTU(t, "tap0", 1400)
		if got := tap.MTU(); got != int(mtu) {
			t.Errorf("MTU() after a change = %d; want %d, as when it was opened", got, mtu)
		}
		tap.Close()
	}
}

// whole is a frame in one piece.
func whole(b []byte) [][]byte { return [][]byte{b} }

// receive returns the next frame of the test's own; the kernel sends others.
func receive(t *testing.T, tap *Tap, b []byte) int {
	t.Helper()
	n := 0
	testutil.Until(t, "a frame arrives", func() bool {
		for {
			var e syscall.Errno
			if n, e = tap.ReadFrame(whole(b)); e == unix.EAGAIN {
				return false
			} else if e != 0 {
				t.Fatalf("ReadFrame = %v; want 0 or EAGAIN", e)
			}
			if n >= 14 && b[12] == etherType>>8 && b[13] == etherType&0xff {
				return true
			}
		}
	})
	return n
}

func TestTapFrames(t *testing.T) {
	netns(t)
	addTap(t, "tap0", tapFlags)
	up(t, "tap0")
	tap, sock := openTap(t, "tap0"), peer(t, "tap0")
	b := make([]byte, 2048)
	for _, content := range []string{strings.Repeat("0", 46), "x", strings.Repeat("m", 1500)} {
		want := frame(content)
		if e := tap.WriteFrame(whole(want)); e != 0 {
			t.Fatalf("WriteFrame(%d bytes) = %v; want 0", len(want), e)
		}
		if n, err := unix.Read(sock, b); err != nil || !bytes.Equal(b[:n], want) {
			t.Errorf("the kernel received %x, %v; want %x", b[:max(n, 0)], err, want)
		}
		if _, err := unix.Write(sock, want); err != nil {
			t.Fatal(err)
		}
		if n := receive(t, tap, b); !bytes.Equal(b[:n], want) {
			t.Errorf("ReadFrame = %x; want %x, without any header", b[:n], want)
		}
	}
	// What does not fit is lost, and the next frame is whole again.
	for _, content := range []string{strings.Repeat("long", 100), "next"} {
		if _, err := unix.Write(sock, frame(content)); err != nil {
			t.Fatal(err)
		}
	}
	if n := receive(t, tap, b[:20]); n != 20 || string(b[14:20]) != "longlo" {
		t.Errorf("ReadFrame into 20 bytes = %d, %q; want 20, longlo", n, b[14:20])
	}
	if n := receive(t, tap, b); string(b[14:n]) != "next" {
		t.Errorf("ReadFrame after a cut one = %q; want next", b[14:n])
	}
}

func TestTapPoll(t *testing.T) {
	netns(t)
	addTap(t, "tap0", tapFlags)
	up(t, "tap0")
	tap, sock := openTap(t, "tap0"), peer(t, "tap0")
	b := make([]byte, 2048)
	// drain reads what the kernel sends by itself.
	drain := func() {
		for {
			if _, e := tap.ReadFrame(whole(b)); e == unix.EAGAIN {
				return
			} else if e != 0 {
				t.Fatalf("ReadFrame = %v; want 0 or EAGAIN", e)
			}
		}
	}
	if _, err := unix.Write(sock, frame("wake")); err != nil {
		t.Fatal(err)
	}
	testutil.Until(t, "PollFD is readable", func() bool { return signalled(t, tap.PollFD()) })
	// Again until a moment without the kernel's own frames.
	testutil.Until(t, "PollFD is quiet", func() bool { drain(); return !signalled(t, tap.PollFD()) })
}

func TestTapRefusals(t *testing.T) {
	netns(t)
	addTap(t, "tap0", tapFlags)
	up(t, "tap0")
	tap := openTap(t, "tap0")
	for _, n := range []int{0, 1, 13} { // less than an Ethernet header
		if e := tap.WriteFrame(whole(make([]byte, n))); e != unix.EINVAL {
			t.Errorf("WriteFrame(%d bytes) = %v; want EINVAL", n, e)
		}
	}
	down(t, "tap0")
	if e := tap.WriteFrame(whole(frame("down"))); e != unix.EIO {
		t.Errorf("WriteFrame on an interface that is down = %v; want EIO", e)
	}
	up(t, "tap0")
	if e := tap.WriteFrame(whole(frame("up"))); e != 0 {
		t.Errorf("WriteFrame after it is up again = %v; want 0", e)
	}
	f, b := frame("many"), make([]byte, 2048)
	if n := testing.AllocsPerRun(100, func() {
		if e := tap.WriteFrame(whole(f)); e != 0 {
			t.Error(e)
		}
		if _, e := tap.ReadFrame(whole(b)); e != 0 && e != unix.EAGAIN {
			t.Error(e)
		}
	}); n != 0 {
		t.Errorf("WriteFrame and ReadFrame allocate %v times; want 0", n)
	}
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	if _, e := tap.ReadFrame(whole(make([]byte, 64))); e != unix.EBADF {
		t.Errorf("ReadFrame after Close = %v; want EBADF", e)
	}
	if e := tap.WriteFrame(whole(frame("closed"))); e != unix.EBADF {
		t.Errorf("WriteFrame after Close = %v; want EBADF", e)
	}
}

func TestTapFromFDErrors(t *testing.T) {
	testutil.RequireRoot(t)
	testutil.CheckFDs(t)
	netns(t)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	unattached, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unattached.Close()
	r, _ := pipe(t, 0)
	for _, c := range []struct {
		what  string
		fd    int
		errno syscall.Errno
		text  string
	}{
		{"-1", -1, unix.EBADF, "not an open file descriptor"},
		{"closed", 1 << 20, unix.EBADF, "fd 1048576: not an open file descriptor"},
		{"/dev/null", int(null.Fd()), unix.ENOTTY, "not a TAP descriptor"},
		{"pipe", r, unix.ENOTTY, "not a TAP descriptor"},
		{"socket", peerless(t), 0, "not a TAP descriptor"},
		{"unattached", int(unattached.Fd()), unix.EBADFD, "an open /dev/net/tun without an interface attached"},
		{"tun", tun(t, "tun0", tunFlags), unix.EINVAL, "interface tun0 has flags"},
		{"with vnet header", tun(t, "vnet0", tapFlags|unix.IFF_VNET_HDR), unix.EINVAL, "interface vnet0 has flags 0x5002, need IFF_TAP"},
		// A descriptor with packet information cannot be told apart: TUNGETIFF
		// sets the bit of IFF_NO_PI, which is also that of IFF_NOFILTER, for all.
	} {
		tap, err := TapFromFD(c.fd, false)
		var te *Error
		if tap != nil || !errors.As(err, &te) || !strings.Contains(err.Error(), c.text) || c.errno != 0 && !errors.Is(err, c.errno) {
			t.Errorf("TapFromFD of %s = %v, %v; want an Error with %v and %q", c.what, tap, err, c.errno, c.text)
		}
	}
}

// peerless is some socket; which errno its ioctl gives is the family's choice.
func peerless(t *testing.T) int {
	t.Helper()
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(sock) })
	return sock
}

func TestTapFromFD(t *testing.T) {
	testutil.RequireRoot(t)
	testutil.CheckFDs(t)
	netns(t)
	fd := tun(t, "tap0", tapFlags) // blocking, as a parent may hand it down
	setMTU(t, "tap0", 9000)
	up(t, "tap0")
	tap, err := TapFromFD(fd, false)
	if err != nil {
		t.Fatal(err)
	}
	if tap.MTU() != 9000 || tap.PollFD() == fd {
		t.Errorf("TapFromFD = MTU %d, descriptor %d; want 9000, and not %d itself", tap.MTU(), tap.PollFD(), fd)
	}
	if flags, err := unix.FcntlInt(uintptr(tap.PollFD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags = %#x, %v; want FD_CLOEXEC", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(tap.PollFD()), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("status flags = %#x, %v; want O_NONBLOCK: ReadFrame must not wait", flags, err)
	}
	sock, b := peer(t, "tap0"), make([]byte, 256)
	if _, err := unix.Write(sock, frame("in")); err != nil {
		t.Fatal(err)
	}
	if n := receive(t, tap, b); string(b[14:n]) != "in" {
		t.Errorf("ReadFrame = %q; want in", b[14:n])
	}
	if e := tap.WriteFrame(whole(frame("out"))); e != 0 {
		t.Errorf("WriteFrame = %v; want 0", e)
	}
	if n, err := unix.Read(sock, b); err != nil || string(b[14:n]) != "out" {
		t.Errorf("the kernel received %q, %v; want out", b[:max(n, 0)], err)
	}
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	// The caller's descriptor is still there and attached.
	again, err := TapFromFD(fd, false)
	if err != nil {
		t.Fatalf("TapFromFD after Close of the first = %v; want nil", err)
	}
	again.Close()
}

// TestTapFromFDElsewhere takes a descriptor whose interface lies in another
// namespace, as container runtimes hand them over.
func TestTapFromFDElsewhere(t *testing.T) {
	netns(t)
	fd := tun(t, "tap0", tapFlags)
	setMTU(t, "tap0", 9000)
	netns(t)
	tap, err := TapFromFD(fd, false)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	if got := tap.MTU(); got != DefaultMTU {
		t.Errorf("MTU() = %d; want %d: the interface cannot be asked from here", got, DefaultMTU)
	}
}
