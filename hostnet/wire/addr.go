// Package wire is what uvm and its companion program uvm-net say to each other: which interfaces
// uvm wants, and their descriptors. It links nothing that would slow the start of uvm.
package wire

import (
	"fmt"
	"strconv"
	"strings"
)

// Addr is an IPv4 address. (Package net could, but costs every start of uvm.)
type Addr [4]byte

func (a Addr) String() string { return fmt.Sprintf("%d.%d.%d.%d", a[0], a[1], a[2], a[3]) }

// MarshalText writes 10.0.0.1.
func (a Addr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads it.
func (a *Addr) UnmarshalText(b []byte) error {
	groups := strings.Split(string(b), ".")
	var addr Addr
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

func (a Addr) number() uint32 {
	return uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
}

// Prefix is an IPv4 address with the length of its network's prefix, 1 to 32; the zero value is none.
type Prefix struct {
	Addr Addr
	Bits int
}

// Set says that it is not the zero value.
func (p Prefix) Set() bool { return p.Bits > 0 }

func (p Prefix) String() string { return fmt.Sprintf("%s/%d", p.Addr, p.Bits) }

// Mask is the network's mask, as 255.255.255.0.
func (p Prefix) Mask() Addr {
	m := p.mask()
	return Addr{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}
}

func (p Prefix) mask() uint32 { return ^uint32(0) << (32 - p.Bits) }

// Contains says whether an address is in the network.
func (p Prefix) Contains(a Addr) bool { return (p.Addr.number()^a.number())&p.mask() == 0 }

// Overlaps says whether two networks have an address in common.
func (p Prefix) Overlaps(q Prefix) bool {
	return (p.Addr.number()^q.Addr.number())&p.mask()&q.mask() == 0
}

// MarshalText writes 10.0.0.2/24.
func (p Prefix) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads it.
func (p *Prefix) UnmarshalText(b []byte) error {
	addr, bits, ok := strings.Cut(string(b), "/")
	var v Prefix
	err := v.Addr.UnmarshalText([]byte(addr))
	if err == nil {
		v.Bits, err = strconv.Atoi(bits)
	}
	if err != nil || !ok || v.Bits < 1 || v.Bits > 32 {
		return fmt.Errorf("%q is not an IPv4 address with a prefix, as 10.0.0.2/24", b)
	}
	*p = v
	return nil
}
