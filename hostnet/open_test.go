package hostnet

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hostnet/wire"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestNamed uses an interface that exists, and makes one that does not.
func TestNamed(t *testing.T) {
	netNS(t)
	testutil.CheckFDs(t)
	ip(t, "tuntap add tap0 mode tap", "link set tap0 mtu 1300 up", "addr add 10.1.0.1/24 dev tap0")
	a := open(t, Request{Name: "tap0", Guest: prefix(t, "10.1.0.2/24"), Gateway: addr(t, "10.1.0.1")})
	if a.Made || a.MTU != 1300 || a.Guest.String() != "10.1.0.2/24" {
		t.Errorf("Open(tap0) = %+v; want the interface that there is, with its MTU", a)
	}
	a.File.Close()
	b := open(t, Request{Name: "tap1", Guest: prefix(t, "10.2.0.9/16"), Gateway: addr(t, "10.2.0.7")})
	c := open(t, Request{Name: "tap2", Guest: prefix(t, "10.3.0.9/16")})
	got := ip(t, "-o addr show dev tap1", "-o addr show dev tap2")
	if !b.Made || !c.Made || !strings.Contains(got, "inet 10.2.0.7/16") || strings.Contains(got, "10.3.") {
		t.Errorf("Open = %+v, %+v, and ip shows %s; want the gateway's address on tap1 and none on tap2", b, c, got)
	}
	b.File.Close()
	c.File.Close()
	if got := interfaces(t); got != "tap0" {
		t.Errorf("interfaces = %q; want tap0, which was there before", got)
	}
	if got := ip(t, "-o -d link show tap0"); strings.Contains(got, "alias") {
		t.Errorf("ip shows %s; want tap0 without an alias", got)
	}
}

// TestBridge makes ports of a bridge, which keeps its MTU and its MAC address.
func TestBridge(t *testing.T) {
	netNS(t)
	testutil.CheckFDs(t)
	ip(t, "link add d0 address 02:00:00:00:00:05 type veth peer name d1", "link set d1 up", "link set d0 mtu 1400 up", "link add br0 type bridge", "link set br0 up", "link set d0 master br0", "link set br0 mtu 1400")
	a, b := open(t, Request{Name: wire.Auto, Bridge: "br0"}), open(t, Request{Name: "port", Bridge: "br0", MTU: 1280})
	if a.MTU != 1400 || b.MTU != 1280 || a.Guest.Set() || a.Interface != "uvm0" {
		t.Errorf("Open = %+v, %+v; want uvm0 with the bridge's MTU, and a guest with 1280", a, b)
	}
	if got := ip(t, "-o link show br0"); !strings.Contains(got, "mtu 1400") || !strings.Contains(got, "02:00:00:00:00:05") {
		t.Errorf("the bridge = %s; want its MTU and MAC address as before", got)
	}
	if got := ip(t, "-o link show master br0"); !strings.Contains(got, "uvm0:") || !strings.Contains(got, "port:") || strings.Count(got, "link/ether fe:") != 2 {
		t.Errorf("the bridge's ports = %s; want uvm0 and port, with MAC addresses that begin with fe", got)
	}
	a.File.Close()
	b.File.Close()
	ip(t, "tuntap add tap0 mode tap", "link set tap0 up master br0", "tuntap add tap1 mode tap", "link set tap1 up")
	open(t, Request{Name: "tap0", Bridge: "br0"}).File.Close()
	before := interfaces(t)
	ip(t, "link add br1 type bridge")
	for bridge, want := range map[string]string{
		"br9": "there is no bridge br9 (make it: ip link add br9 type bridge",
		"d0":  "d0 is not a bridge: its kind is veth",
		"br1": "bridge br1 is down (ip link set br1 up)",
	} {
		wantError(t, Request{Name: wire.Auto, Bridge: bridge}, want)
		wantError(t, Request{Name: "tap7", Bridge: bridge}, want)
	}
	wantError(t, Request{Name: "tap1", Bridge: "br0"}, "tap1 is not a port of bridge br0 (ip link set tap1 master br0)")
	if got := interfaces(t); got != before+" br1" {
		t.Errorf("interfaces = %q; want %q as before", got, before)
	}
}

func wantError(t *testing.T, r Request, want string) {
	t.Helper()
	r.Label = "service"
	tap, err := Open(r, 1)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), `net "service": `) {
		t.Errorf("Open(%+v) = %+v, %v; want an error with %q", r, tap, err, want)
	}
}

// TestTaken are interfaces and networks that are another's.
func TestTaken(t *testing.T) {
	netNS(t)
	testutil.CheckFDs(t)
	ip(t, "link add d0 type veth peer name d1", "link set d0 up", "link set d1 up", "addr add 10.5.0.1/16 dev d0", "tuntap add tun0 mode tun", "tuntap add down0 mode tap")
	busy := open(t, Request{Name: "busy0"})
	before := interfaces(t)
	for _, tt := range []struct {
		r    Request
		want string
	}{
		{Request{Name: "d0"}, "d0 is not a TAP interface: its kind is veth"},
		{Request{Name: "lo"}, "lo is not a TAP interface"},
		{Request{Name: "tun0"}, "tun0 is not a TAP interface"},
		{Request{Name: "down0"}, "down0 is down (ip link set down0 up)"},
		{Request{Name: "busy0"}, "busy0 is in use by another process"},
		{Request{Name: wire.Auto, Guest: prefix(t, "10.5.7.2/24"), Gateway: addr(t, "10.5.7.1")}, "10.5.7.2/24 is in use on this host: interface d0 has 10.5.0.1/16"},
		{Request{Name: "tap7", Guest: prefix(t, "10.0.0.2/8"), Gateway: addr(t, "10.0.0.1")}, "is in use on this host"},
		{Request{Name: wire.Auto, Netns: "uvm-no-such"}, "there is no network namespace uvm-no-such (make it: ip netns add uvm-no-such)"},
		{Request{Name: wire.Auto, Netns: "/dev/null"}, "/dev/null is not a network namespace"},
		{Request{Name: wire.Auto, Netns: "/proc/self/ns/uts"}, "/proc/self/ns/uts is not a network namespace"},
	} {
		wantError(t, tt.r, tt.want)
	}
	if got := interfaces(t); got != before {
		t.Errorf("interfaces = %q; want %q as before", got, before)
	}
	busy.File.Close()
}

// TestRequests are those that no host can serve.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		r    Request
		want string
	}{
		{Request{}, "no interface named"},
		{Request{Name: "a234567890123456"}, "is not an interface name: 1 to 15 characters"},
		{Request{Name: "tap%d"}, "is not an interface name"},
		{Request{Name: "a/b"}, "is not an interface name"},
		{Request{Name: "a b"}, "is not an interface name"},
		{Request{Name: ".."}, "is not an interface name"},
		{Request{Name: "täp"}, "is not an interface name"},
		{Request{Name: "tap0", Bridge: "a234567890123456"}, `"a234567890123456" is not an interface name`},
		{Request{Name: "tap0", MTU: 67}, "mtu=67: want 68 to 65521 bytes"},
		{Request{Name: "tap0", MTU: 65522}, "mtu=65522: want 68 to 65521 bytes"},
		{Request{Name: "tap0", MTU: -1}, "mtu=-1"},
		{Request{Name: wire.Auto, Guest: prefix(t, "10.0.0.2/24")}, "ip=10.0.0.2/24 needs gw="},
		{Request{Name: wire.Auto, Guest: prefix(t, "10.0.0.2/24"), Gateway: addr(t, "10.0.1.1")}, "gw=10.0.1.1 is not another address"},
		{Request{Name: "tap0", Guest: prefix(t, "10.0.0.2/24"), Gateway: addr(t, "10.0.0.2")}, "gw=10.0.0.2 is not another address"},
		{Request{Name: "tap0", Netns: ".."}, "netns=.. is not a name"},
	} {
		wantError(t, tt.r, tt.want)
		var bad *RequestError
		if _, err := Open(tt.r, 1); !errors.As(err, &bad) {
			t.Errorf("Open(%+v) = %v; want a RequestError", tt.r, err)
		}
	}
}

// TestMTU makes interfaces with the smallest and the largest MTU.
func TestMTU(t *testing.T) {
	netNS(t)
	for _, mtu := range []int{minMTU, maxMTU} {
		tap := open(t, Request{Name: "tap0", MTU: mtu})
		if tap.MTU != mtu {
			t.Errorf("MTU = %d; want %d", tap.MTU, mtu)
		}
		tap.File.Close()
	}
}

// TestClean removes what was made here and stayed, and nothing else.
func TestClean(t *testing.T) {
	ns := netNS(t)
	testutil.CheckFDs(t)
	persist := func(r Request) *Tap {
		tap := open(t, r)
		if err := unix.IoctlSetInt(int(tap.File.Fd()), unix.TUNSETPERSIST, 1); err != nil {
			t.Fatal(err)
		}
		return tap
	}
	left1, left2, used := persist(Request{Name: wire.Auto}), persist(Request{Name: "mine", Vnet: true}), persist(Request{Name: wire.Auto})
	running := open(t, Request{Name: "running"})
	ip(t, "link add uvm10-192-9 type bridge", // no TAP
		"tuntap add uvm10-192-8 mode tap",                               // no alias
		"tuntap add other mode tap", "link set other alias uvm-someone") // another alias
	if l, err := netlink.LinkByName("uvm10-192-9"); err != nil || netlink.LinkSetAlias(l, aliasPrefix+"1") != nil {
		t.Fatal("alias of uvm10-192-9", err)
	}
	left1.File.Close()
	left2.File.Close()
	before := interfaces(t)
	removed, err := Clean("")
	if got := strings.Join(removed, " "); err != nil || got != "uvm10-192-0 mine" {
		t.Errorf("Clean = %q, %v; want uvm10-192-0 and mine, of %q", got, err, before)
	}
	if got := interfaces(t); got != "uvm10-192-1 running uvm10-192-9 uvm10-192-8 other" {
		t.Errorf("after Clean there are %q, of %q", got, before)
	}
	used.File.Close()
	running.File.Close()
	if removed, err := Clean(ns); err != nil || len(removed) != 1 || removed[0] != "uvm10-192-1" {
		t.Errorf("Clean(%s) = %q, %v; want uvm10-192-1, which nobody uses any more", ns, removed, err)
	}
	if removed, err := Clean(ns); err != nil || len(removed) != 0 {
		t.Errorf("Clean = %q, %v; want nothing left", removed, err)
	}
	if _, err := Clean("uvm-no-such"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Clean(uvm-no-such) = %v; want ErrNotExist", err)
	}
}
