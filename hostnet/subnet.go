package hostnet

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hostnet/wire"
)

// ranges are where guests' networks come from: each is an A.B.C.0/30 with the host at .1 and the guest
// at .2. The first is the part of 10.0.0.0/8 that is least in use elsewhere; the others (RFC 1918 has all
// three) are for hosts that route 10.0.0.0/8 as a whole, into a VPN for example.
var ranges = []wire.Prefix{
	{Addr: wire.Addr{10, 192, 0, 0}, Bits: 10},
	{Addr: wire.Addr{172, 16, 0, 0}, Bits: 12},
	{Addr: wire.Addr{192, 168, 0, 0}, Bits: 16},
}

const guestBits = 30

// subnet is a network for one guest.
type subnet struct{ host, guest wire.Addr }

// name is that of the interface that has the network. The kernel lets no two interfaces of a namespace have one
// name, and so no two guests one network.
func (s subnet) name() string {
	return fmt.Sprintf("%s%d-%d-%d", namePrefix, s.host[0], s.host[1], s.host[2])
}

func (s subnet) prefix() wire.Prefix { return wire.Prefix{Addr: s.guest, Bits: guestBits} }

// subnets are all there are, in order.
func subnets(yield func(subnet) bool) {
	for _, r := range ranges {
		for i := range 1 << (24 - r.Bits) {
			a, n := r.Addr, int(r.Addr[1])<<8+int(r.Addr[2])+i
			a[1], a[2] = byte(n>>8), byte(n)
			if !yield(subnet{host: wire.Addr{a[0], a[1], a[2], 1}, guest: wire.Addr{a[0], a[1], a[2], 2}}) {
				return
			}
		}
	}
}

// used is a network that an address or a route of the host has.
type used struct {
	wire.Prefix
	index int // of its interface; 0 for routes without one
}

// usedNets lists the networks of all addresses, and of the routes in all tables.
func usedNets(h *netlink.Handle) (nets []used, err error) {
	add := func(network fmt.Stringer, index int) {
		var p wire.Prefix
		// What has no bits is the default route, and what has few is part of one, as 0.0.0.0/1.
		if p.UnmarshalText([]byte(network.String())) == nil && p.Bits >= 8 {
			nets = append(nets, used{p, index})
		}
	}
	err = dump(func() error {
		nets = nil
		addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		for _, a := range addrs {
			add(a.IPNet, a.LinkIndex)
			add(a.Peer, a.LinkIndex)
		}
		routes, err2 := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			add(r.Dst, r.LinkIndex)
		}
		return errors.Join(err, err2)
	})
	return nets, err
}

// dump asks the kernel for a list. One that changes meanwhile is asked for again, a few times: what it still
// lacks then is new, and found when the address is set.
func dump(list func() error) (err error) {
	for range 8 {
		if err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return nil
}

// conflict finds a network of another interface that overlaps.
func conflict(nets []used, p wire.Prefix, index int) (used, bool) {
	for _, u := range nets {
		if u.index != index && u.Overlaps(p) {
			return u, true
		}
	}
	return used{}, false
}
