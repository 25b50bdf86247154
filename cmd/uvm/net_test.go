package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// netNS gives the calling test a network namespace of its own, where programs
// that it starts are too. Its goroutine stays locked to a thread that ends
// with it, and takes the namespace along.
func netNS(t *testing.T) {
	t.Helper()
	testutil.RequireRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare(CLONE_NEWNET) = %v; want a network namespace (root needs CAP_SYS_ADMIN)", err)
	}
}

func ifreq(t *testing.T, name string) *unix.Ifreq {
	t.Helper()
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	return ifr
}

// makeTap makes a TAP interface that is up and returns its descriptor.
func makeTap(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open /dev/net/tun: %v (sudo modprobe tun)", err)
	}
	tap := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { tap.Close() })
	ifr := ifreq(t, name)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("TUNSETIFF %s: %v", name, err)
	}
	// Without IPv6 the host sends nothing on its own account. A kernel that
	// has no IPv6 has no such file either.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	setUp(t, name, true)
	return tap
}

func setUp(t *testing.T, name string, up bool) {
	t.Helper()
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	ifr := ifreq(t, name)
	if up {
		ifr.SetUint16(unix.IFF_UP)
	}
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatalf("SIOCSIFFLAGS %s: %v", name, err)
	}
}

// free lets go of a TAP's descriptor; the interface stays.
func free(t *testing.T, tap *os.File) {
	t.Helper()
	if err := unix.IoctlSetInt(int(tap.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		t.Fatalf("TUNSETPERSIST: %v", err)
	}
	tap.Close()
}

// etherType is one that nobody answers (local experimental, IEEE 802).
const etherType = 0x88b5

// ether is the host's side of an interface.
type ether struct {
	t    *testing.T
	sock int
}

func openEther(t *testing.T, name string) *ether {
	t.Helper()
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType))
	sock, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(sock) })
	probe, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(probe)
	ifr := ifreq(t, name)
	if err := unix.IoctlIfreq(probe, unix.SIOCGIFINDEX, ifr); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(sock, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: int(ifr.Uint32())}); err != nil {
		t.Fatal(err)
	}
	// An interface that got its carrier a moment ago drops what comes through
	// its queue; straight to the driver nothing is lost.
	if err := unix.SetsockoptInt(sock, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		t.Fatal(err)
	}
	return &ether{t, sock}
}

// echo sends a frame and waits until it comes back.
func (w *ether) echo(frame []byte) {
	w.t.Helper()
	if _, err := unix.Write(w.sock, frame); err != nil {
		w.t.Fatalf("send to the guest: %v", err)
	}
	tv := unix.NsecToTimeval(hangs.Nanoseconds())
	if err := unix.SetsockoptTimeval(w.sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		w.t.Fatal(err)
	}
	buf := make([]byte, 2048)
	n, from, err := unix.Recvfrom(w.sock, buf, 0)
	for err == unix.EINTR { // the Go runtime's own signals
		n, from, err = unix.Recvfrom(w.sock, buf, 0)
	}
	if err != nil {
		w.t.Fatalf("the guest's answer: %v; want the frame back", err)
	}
	if kind := from.(*unix.SockaddrLinklayer).Pkttype; kind == unix.PACKET_OUTGOING || !bytes.Equal(buf[:n], frame) {
		w.t.Errorf("the guest's answer = % x; want % x", buf[:n], frame)
	}
}

// echoGuest prints its MAC address and MTU, and gives the first frame back:
// NET_WRITE takes the structure as NET_READ leaves it.
func echoGuest(t *testing.T) string {
	t.Helper()
	g := &guest{devices: oneNet}
	buf := g.store(make([]byte, 2048))
	poll := g.store(words(1<<62, 0, 0))
	frame := g.store(words(1, uint64(buf), 2048, 0))
	g.puts(gpaEntry(1)+offMAC, 8)
	g.call(hypercall.Poll, poll).call(hypercall.NetRead, frame).call(hypercall.NetWrite, frame)
	return g.halt(5).file(t)
}

// TestNet has a guest echo a frame over every way to attach an interface, and
// learn the MAC address and the MTU that it was given.
func TestNet(t *testing.T) {
	testutil.RequireKVM(t)
	kernel := echoGuest(t)
	const mac = "\x02\x00\x00\x0a\x0b\x0c"
	for _, tt := range []struct {
		name     string
		argv     []string // before the kernel
		fd       bool     // the program inherits the TAP as 3
		mac, mtu string   // "" = a random one
	}{
		{"uvm, by name", []string{"uvm", "run", "--net", "tap7,mac=02:00:00:0a:0b:0c"}, false, mac, "\xdc\x05"},
		{"uvm, random address", []string{"uvm", "run", "--net", "service=tap7,mtu=1400"}, false, "", "\x78\x05"},
		{"uvm, inherited", []string{"uvm", "run", "--net", "fd:3,mac=02:00:00:0a:0b:0c"}, true, mac, "\xdc\x05"},
		{"solo5-hvt, by name", []string{solo5Name, "--mem=2", "--net:service=tap7", "--net-mac:service=02:00:00:0a:0b:0c", "--"}, false, mac, "\xdc\x05"},
		{"solo5-hvt, random address", []string{solo5Name, "--net:service=tap7"}, false, "", "\xdc\x05"},
		{"solo5-hvt, zero address", []string{solo5Name, "--net:service=tap7", "--net-mac:service=0:0:0:0:0:0"}, false, "", "\xdc\x05"},
		{"solo5-hvt, inherited", []string{solo5Name, "--net-mac:service=2:0:0:a:b:c", "--net:service=@3"}, true, mac, "\xdc\x05"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testutil.Watchdog(t)
			netNS(t)
			cmd := program(t, append(tt.argv, kernel)...)
			tap := makeTap(t, "tap7")
			if tt.fd {
				cmd.ExtraFiles = []*os.File{tap}
			} else {
				free(t, tap)
			}
			w := openEther(t, "tap7")
			r := follow(t, cmd)
			var told [8]byte
			if n, err := io.ReadFull(r.out, told[:]); err != nil {
				t.Fatalf("stdout = %q, %v, run = %+v; want MAC address and MTU", told[:n], err, r.wait())
			}
			gotMAC, gotMTU := string(told[:6]), string(told[6:])
			if tt.mac == "" && (gotMAC[0]&3 != 2 || gotMAC == mac) || tt.mac != "" && gotMAC != tt.mac {
				t.Errorf("MAC address = % x; want % x, or a random local one", gotMAC, tt.mac)
			}
			if gotMTU != tt.mtu {
				t.Errorf("MTU = % x; want % x", gotMTU, tt.mtu)
			}
			w.echo(append([]byte(gotMAC+mac+"\x88\xb5"), bytes.Repeat([]byte("frame "), 20)...))
			if got, want := r.wait(), (ended{status: 5}); got != want {
				t.Errorf("run = %+v; want %+v", got, want)
			}
		})
	}
}

// TestNetRefused are interfaces that are there and cannot be used.
func TestNetRefused(t *testing.T) {
	netNS(t)
	makeTap(t, "busy0")
	down := makeTap(t, "down0")
	setUp(t, "down0", false)
	free(t, down)
	// lo is no TAP, and a namespace starts with it down.
	setUp(t, "lo", true)
	kernel := withDevices(t, oneNet)
	for _, tt := range []struct{ name, uvm, solo5 string }{
		{"busy0", "in use by another process", "Device or resource busy"},
		{"down0", "ip link set down0 up", "Network is down"},
		{"lo", "not a TAP interface", "Invalid argument"},
	} {
		wantLine(t, uvm(t, "run", kernel, "--net", tt.name), exitHost, tt.name, tt.uvm)
		word := "--net:service=" + tt.name
		want := ended{status: 1, stderr: "solo5-hvt: Could not attach interface: " + tt.name + ": " + tt.solo5 + "\n" +
			"solo5-hvt: Invalid option: `" + word + "'\n" + solo5Usage}
		if got := solo5(t, word, kernel); got != want {
			t.Errorf("solo5-hvt %s = %+v; want %+v", word, got, want)
		}
	}
}
