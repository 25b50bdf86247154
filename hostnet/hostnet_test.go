package hostnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hostnet/wire"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// netNS gives the calling test a network namespace of its own, where programs that it starts are too, and returns its
// path. Its goroutine stays locked to a thread that ends with it, and takes the namespace along.
func netNS(t *testing.T) string {
	t.Helper()
	testutil.RequireRoot(t)
	testutil.Watchdog(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare(CLONE_NEWNET) = %v; want a network namespace (root needs CAP_SYS_ADMIN)", err)
	}
	return fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
}

// ip runs the command of that name with the words of each line.
func ip(t *testing.T, lines ...string) string {
	t.Helper()
	var all strings.Builder
	for _, line := range lines {
		out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
		all.Write(out)
	}
	return all.String()
}

// interfaces are the names of all but lo.
func interfaces(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		if n := l.Attrs().Name; n != "lo" {
			names = append(names, n)
		}
	}
	return strings.Join(names, " ")
}

func open(t *testing.T, r Request) *Tap {
	t.Helper()
	tap, err := Open(r, 77)
	if err != nil {
		t.Fatalf("Open(%+v) = %v", r, err)
	}
	t.Cleanup(func() { tap.File.Close() })
	return tap
}

func addr(t *testing.T, s string) (a wire.Addr) {
	t.Helper()
	if err := a.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return a
}

func prefix(t *testing.T, s string) (p wire.Prefix) {
	t.Helper()
	if err := p.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAuto makes two interfaces with networks of their own, which are gone with their descriptors.
func TestAuto(t *testing.T) {
	netNS(t)
	testutil.CheckFDs(t)
	a, b := open(t, Request{Name: wire.Auto}), open(t, Request{Name: wire.Auto, MTU: 1400, Vnet: true})
	if a.Interface != "uvm10-192-0" || a.Guest.String() != "10.192.0.2/30" || a.Gateway.String() != "10.192.0.1" || a.MTU != 1500 || !a.Made {
		t.Errorf("the first interface = %+v; want uvm10-192-0 with 10.192.0.2/30 and 10.192.0.1", a)
	}
	if b.Interface != "uvm10-192-1" || b.Guest.String() != "10.192.1.2/30" || b.MTU != 1400 {
		t.Errorf("the second interface = %+v; want uvm10-192-1 with 10.192.1.2/30 and an MTU of 1400", b)
	}
	got := ip(t, "-d -o addr show dev uvm10-192-0", "-d -o link show dev uvm10-192-0", "-d -o link show dev uvm10-192-1")
	for _, want := range []string{"inet 10.192.0.1/30", "LOWER_UP", "alias uvm pid 77", "type tap pi off vnet_hdr off persist off", "type tap pi off vnet_hdr on persist off", "mtu 1400"} {
		if !strings.Contains(got, want) {
			t.Errorf("ip shows %s; want %q in it", got, want)
		}
	}
	a.File.Close()
	if got := interfaces(t); got != "uvm10-192-1" {
		t.Errorf("interfaces = %q; want the second alone", got)
	}
	if c := open(t, Request{Name: wire.Auto}); c.Interface != "uvm10-192-0" {
		t.Errorf("the third interface = %+v; want the first's name again", c)
	} else {
		c.File.Close()
	}
	b.File.Close()
}

// TestAvoid finds networks around those that the host uses.
func TestAvoid(t *testing.T) {
	for _, tt := range []struct {
		name  string
		setup []string // d0 and d1 are the ends of a line, and up
		want  string   // guest
	}{
		{"an address", []string{"addr add 10.192.0.77/24 dev d0"}, "10.192.1.2/30"},
		{"an address of an interface that is down", []string{"link set d0 down", "addr add 10.192.0.77/24 dev d0"}, "10.192.1.2/30"},
		{"the other end of a line", []string{"addr add 1.2.3.4 peer 10.192.0.0/22 dev d0"}, "10.192.4.2/30"},
		{"a neighbour in the same /24", []string{"addr add 10.192.0.5/30 dev d0"}, "10.192.0.2/30"},
		{"a large network", []string{"addr add 10.193.0.1/15 dev d0"}, "10.194.0.2/30"},
		{"a route", []string{"route add 10.192.0.0/20 dev d0"}, "10.192.16.2/30"},
		{"a route that refuses", []string{"route add unreachable 10.192.0.0/20"}, "10.192.16.2/30"},
		{"a route in another table", []string{"route add 10.192.0.0/20 dev d1 table 1234"}, "10.192.16.2/30"},
		{"a host's route", []string{"route add 10.192.0.2/32 dev d1"}, "10.192.1.2/30"},
		{"all of 10.0.0.0/8", []string{"route add 10.0.0.0/8 dev d1"}, "172.16.0.2/30"},
		{"and 172.16.0.0/12", []string{"route add 10.0.0.0/8 dev d1", "route add 172.16.0.0/12 dev d1"}, "192.168.0.2/30"},
		{"default routes", []string{"route add default dev d0", "route add 0.0.0.0/1 dev d1", "route add 128.0.0.0/1 dev d1"}, "10.192.0.2/30"},
		{"all", []string{"route add 10.0.0.0/8 dev d1", "route add 172.16.0.0/12 dev d1", "route add 192.168.0.0/16 dev d0"}, ""},
		{"a name", []string{"link add uvm10-192-0 type bridge"}, "10.192.1.2/30"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netNS(t)
			testutil.CheckFDs(t)
			ip(t, append([]string{"link add d0 type veth peer name d1", "link set d0 up", "link set d1 up"}, tt.setup...)...)
			before := interfaces(t)
			tap, err := Open(Request{Label: "service", Name: wire.Auto}, 1)
			if tt.want == "" {
				if err == nil || !strings.Contains(err.Error(), "no network is free") || !strings.Contains(err.Error(), "10.192.0.0/10 172.16.0.0/12 192.168.0.0/16") {
					t.Errorf("Open = %v; want an error that names the ranges", err)
				}
			} else if err != nil || tap.Guest.String() != tt.want {
				t.Errorf("Open = %+v, %v; want the guest at %s", tap, err, tt.want)
			}
			if err == nil {
				tap.File.Close()
			}
			if got := interfaces(t); got != before {
				t.Errorf("interfaces = %q; want %q as before", got, before)
			}
		})
	}
}

// TestTogether has 50 make interfaces at the same time, each in a thread that enters the namespace.
func TestTogether(t *testing.T) {
	ns := netNS(t)
	testutil.CheckFDs(t)
	taps := make([]*Tap, 50)
	var wg sync.WaitGroup
	for i := range taps {
		wg.Go(func() {
			var err error
			if taps[i], err = Open(Request{Name: wire.Auto, Netns: ns}, 1); err != nil {
				t.Errorf("Open: %v", err)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, tap := range taps {
		if tap == nil {
			continue
		}
		if seen[tap.Guest.String()] {
			t.Errorf("two guests have %v", tap.Guest)
		}
		seen[tap.Guest.String()] = true
	}
	if n := len(strings.Fields(interfaces(t))); n != len(taps) {
		t.Errorf("there are %d interfaces; want %d", n, len(taps))
	}
	for _, tap := range taps {
		if tap != nil {
			tap.File.Close()
		}
	}
	if got := interfaces(t); got != "" {
		t.Errorf("interfaces = %q; want none", got)
	}
}

// TestSubnets looks at all networks that there are.
func TestSubnets(t *testing.T) {
	names := map[string]bool{}
	for s := range subnets {
		name := s.name()
		if names[name] || !isInterfaceName(name) {
			t.Fatalf("%q is the name of two networks, or none", name)
		}
		names[name] = true
		in := false
		for _, r := range ranges {
			in = in || r.Overlaps(s.prefix()) && s.prefix().Contains(s.host)
		}
		if !in || s.host == s.guest {
			t.Fatalf("%v and %v are not two addresses of %v in %v", s.host, s.guest, s.prefix(), ranges)
		}
	}
	if want := 64*256 + 16*256 + 256; len(names) != want {
		t.Errorf("there are %d networks; want %d", len(names), want)
	}
}

// TestUnprivileged says what is missing and what root can do about it.
func TestUnprivileged(t *testing.T) {
	netNS(t)
	testutil.CheckFDs(t)
	ip(t, "link add br0 type bridge", "link set br0 up")
	before := interfaces(t)
	// Of this thread alone, which ends with the test.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if none := [2]unix.CapUserData{}; unix.Capset(&hdr, &none[0]) != nil {
		t.Fatal("capset failed")
	}
	user := fmt.Sprintf("user %d", os.Getuid())
	for _, tt := range []struct {
		r    Request
		want []string
	}{
		{Request{Name: wire.Auto}, []string{"CAP_NET_ADMIN", "ip tuntap add tap0 mode tap " + user, "ip addr add 10.192.0.1/30 dev tap0", "ip link set tap0 up", "--net tap0,ip=10.192.0.2/30,gw=10.192.0.1"}},
		{Request{Name: "tap5"}, []string{"CAP_NET_ADMIN", "ip tuntap add tap5 mode tap " + user + "; ip link set tap5 up), for --net tap5:"}},
		{Request{Name: wire.Auto, Bridge: "br0"}, []string{"CAP_NET_ADMIN", "ip tuntap add tap0 mode tap " + user + "; ip link set tap0 master br0"}},
	} {
		tap, err := Open(tt.r, 1)
		if !errors.Is(err, unix.EPERM) {
			t.Fatalf("Open(%+v) = %+v, %v; want EPERM", tt.r, tap, err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("Open(%+v) = %v; want %q in it", tt.r, err, want)
			}
		}
	}
	if got := interfaces(t); got != before {
		t.Errorf("interfaces = %q; want %q as before", got, before)
	}
}
