package main

import (
	"fmt"
	"strconv"
	"strings"
)

// ipAddr is an IPv4 address. (Package net could, but costs every start of uvm.)
type ipAddr [4]byte

func (a ipAddr) String() string { return fmt.Sprintf("%d.%d.%d.%d", a[0], a[1], a[2], a[3]) }

// MarshalText writes 10.0.0.1.
func (a ipAddr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads it.
func (a *ipAddr) UnmarshalText(b []byte) error {
	groups := strings.Split(string(b), ".")
	var addr ipAddr
	for i, g := range groups {
		v, err := strconv.ParseUint(g, 10, 8)
		if err != nil || len(groups) != len(addr) || g != strconv.FormatUint(v, 10) {
			return fmt.Errorf("%q is not an IPv4 address, as 10.0.0.1", b)
		}
		addr[i] = byte(v)
	}
	*a = addr
	return nil
}

// ipNet is an IPv4 address with the length of its network's prefix, 1 to 32.
type ipNet struct {
	addr ipAddr
	bits int
}

func (n ipNet) set() bool { return n.bits > 0 }

func (n ipNet) String() string { return fmt.Sprintf("%s/%d", n.addr, n.bits) }

// MarshalText writes 10.0.0.2/24.
func (n ipNet) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads it.
func (n *ipNet) UnmarshalText(b []byte) error {
	addr, bits, ok := strings.Cut(string(b), "/")
	var v ipNet
	err := v.addr.UnmarshalText([]byte(addr))
	if err == nil {
		v.bits, err = strconv.Atoi(bits)
	}
	if err != nil || !ok || v.bits < 1 || v.bits > 32 {
		return fmt.Errorf("%q is not an IPv4 address with a prefix, as 10.0.0.2/24", b)
	}
	*n = v
	return nil
}

// words make Linux set the address of its n-th network device (Documentation/admin-guide/nfs/nfsroot.rst;
// CONFIG_IP_PNP).
func (n *netSpec) words(i int) string {
	mask := ^uint32(0) << (32 - n.IP.bits)
	gw := ""
	if n.GW != (ipAddr{}) {
		gw = n.GW.String()
	}
	return fmt.Sprintf(" ip=%s::%s:%s::eth%d:off", n.IP.addr, gw, ipAddr{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}, i)
}
