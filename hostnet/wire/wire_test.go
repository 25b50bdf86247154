package wire

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

func TestPrefix(t *testing.T) {
	for _, good := range []string{"10.0.0.2/24", "0.0.0.0/1", "255.255.255.255/32"} {
		var p Prefix
		if err := p.UnmarshalText([]byte(good)); err != nil || p.String() != good || !p.Set() {
			t.Errorf("UnmarshalText(%q) = %v, %v; want it back", good, p, err)
		}
	}
	for _, bad := range []string{"", "10.0.0.2", "10.0.0.2/0", "10.0.0.2/33", "10.0.0/24", "10.0.0.0.1/24", "10.0.0.02/24", "a.b.c.d/8", "10.0.0.1/", "::1/64", "10.0.0.-1/8", "10.0.0.256/8", "10.0.0.1/24/", "<nil>"} {
		p := Prefix{Bits: 3}
		if err := p.UnmarshalText([]byte(bad)); err == nil || p != (Prefix{Bits: 3}) {
			t.Errorf("UnmarshalText(%q) = %v, %v; want an error and nothing changed", bad, p, err)
		}
	}
}

func prefix(t *testing.T, s string) (p Prefix) {
	t.Helper()
	if err := p.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOverlaps(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"10.0.0.1/30", "10.0.0.2/30", true},
		{"10.0.0.3/30", "10.0.0.4/30", false},
		{"10.0.0.0/8", "10.255.255.255/32", true},
		{"10.0.0.0/8", "11.0.0.0/8", false},
		{"128.0.0.0/1", "192.168.0.0/16", true},
		{"128.0.0.0/1", "10.0.0.0/8", false},
		{"1.2.3.4/32", "1.2.3.4/32", true},
		{"1.2.3.4/32", "1.2.3.5/32", false},
	} {
		a, b := prefix(t, tt.a), prefix(t, tt.b)
		if a.Overlaps(b) != tt.want || b.Overlaps(a) != tt.want {
			t.Errorf("%v and %v overlap: %t, %t; want %t", a, b, a.Overlaps(b), b.Overlaps(a), tt.want)
		}
	}
	n := prefix(t, "10.1.2.130/25")
	if n.Mask() != (Addr{255, 255, 255, 128}) || !n.Contains(Addr{10, 1, 2, 255}) || n.Contains(Addr{10, 1, 2, 127}) {
		t.Errorf("%v has the mask %v; want 255.255.255.128, with 10.1.2.255 in it and 10.1.2.127 not", n, n.Mask())
	}
	if m := prefix(t, "10.0.0.1/32").Mask(); m != (Addr{255, 255, 255, 255}) {
		t.Errorf("mask of 32 bits = %v", m)
	}
}

func pair(t *testing.T) (a, b int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

// TestReceive passes a descriptor on, and refuses all but what was asked for without keeping a descriptor.
func TestReceive(t *testing.T) {
	testutil.CheckFDs(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	one := []Reply{{Interface: "uvm0", MTU: 1400, Guest: Prefix{Addr{10, 0, 0, 2}, 30}, Gateway: Addr{10, 0, 0, 1}}}
	for _, tt := range []struct {
		name string
		send func(sock int) error
		want int
		bad  string
	}{
		{"one", func(s int) error { return Send(s, one, []int{fd}) }, 1, ""},
		{"one of two", func(s int) error { return Send(s, one, []int{fd}) }, 2, "1 interfaces and 1 descriptors; want 2"},
		{"a descriptor too many", func(s int) error { return Send(s, one, []int{fd, fd}) }, 1, "1 interfaces and 2 descriptors; want 1"},
		{"far too many", func(s int) error { return Send(s, one, slices.Repeat([]int{fd}, MaxNets+40)) }, 1, "no whole answer"},
		{"no JSON", func(s int) error { return unix.Sendmsg(s, []byte("x"), unix.UnixRights(fd), nil, 0) }, 1, "invalid character"},
		{"too long", func(s int) error { return unix.Sendmsg(s, make([]byte, maxMessage+1), unix.UnixRights(fd), nil, 0) }, 1, "no whole answer"},
		{"nothing", func(s int) error { return nil }, 1, "no answer"},
		{"end", func(s int) error { return unix.Shutdown(s, unix.SHUT_WR) }, 1, "no answer"},
	} {
		a, b := pair(t)
		if err := tt.send(a); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		replies, fds, err := Receive(b, tt.want)
		if tt.bad == "" {
			if err != nil || !reflect.DeepEqual(replies, one) || len(fds) != 1 {
				t.Fatalf("%s: Receive = %+v, %v, %v; want what was sent", tt.name, replies, fds, err)
			}
			if flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s: the descriptor has flags %#x, %v; want it closed on exec", tt.name, flags, err)
			}
			unix.Close(fds[0])
		} else if err == nil || !strings.Contains(err.Error(), tt.bad) || fds != nil {
			t.Errorf("%s: Receive = %+v, %v, %v; want an error with %q", tt.name, replies, fds, err, tt.bad)
		}
	}
}
