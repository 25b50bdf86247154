package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/uvm-monitor/uvm/hostnet/wire"
)

// netSpec is one --net: [NAME=]auto|tap0|fd:N[,mac=…][,mtu=…][,ip=…][,gw=…][,bridge=…][,netns=…][,args=mirage] and limits.
type netSpec struct {
	Name   string      `json:"name,omitempty"`
	TAP    string      `json:"tap,omitempty"` // wire.Auto, or an interface
	FD     *int        `json:"fd,omitempty"`
	MAC    macAddr     `json:"mac,omitzero"`
	MTU    int         `json:"mtu,omitempty"`
	IP     wire.Prefix `json:"ip,omitzero"` // the guest's own
	GW     wire.Addr   `json:"gw,omitzero"`
	Bridge string      `json:"bridge,omitempty"`
	Netns  string      `json:"netns,omitempty"`
	Args   string      `json:"args,omitempty"` // mirage
	netLimit
}

// diskSpec is one --disk: [NAME=]path[,ro][,cache=writeback|none|unsafe][,serial=S][,block-size=N] and limits.
type diskSpec struct {
	Name      string `json:"name,omitempty"`
	Path      string `json:"path"`
	RO        bool   `json:"ro,omitempty"`
	Cache     string `json:"cache,omitempty"`
	Serial    string `json:"serial,omitempty"`
	BlockSize int    `json:"block-size,omitempty"`
	diskLimit
}

// netList and diskList collect repeated flags. The first one on the command
// line replaces what a --config file said.
type (
	netList  []netSpec
	diskList []diskSpec
)

func (l *netList) String() string  { return "" }
func (l *diskList) String() string { return "" }

// Type is the placeholder in help texts.
func (l *netList) Type() string { return "[NAME=]TAP" }

// Type is the placeholder in help texts.
func (l *diskList) Type() string { return "[NAME=]FILE" }

// Set parses and appends one --net.
func (l *netList) Set(s string) error {
	name, words, err := splitSpec(s)
	if err != nil {
		return err
	}
	n := netSpec{Name: name}
	if fd, ok := strings.CutPrefix(words[0], "fd:"); ok {
		v, err := strconv.Atoi(fd)
		if err != nil || v < 0 {
			return fmt.Errorf("fd:%s: want a file descriptor number", fd)
		}
		n.FD = &v
	} else {
		n.TAP = words[0]
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		is, err := n.words().set(key, value)
		switch key {
		case "bridge", "netns", "args":
			if value == "" {
				err = fmt.Errorf("%s= names nothing", key)
			}
			*map[string]*string{"bridge": &n.Bridge, "netns": &n.Netns, "args": &n.Args}[key] = value
		case "mac":
			err = n.MAC.UnmarshalText([]byte(value))
		case "mtu":
			if n.MTU, err = strconv.Atoi(value); err != nil {
				err = fmt.Errorf("mtu=%s: want a number of bytes", value)
			}
		case "ip":
			err = n.IP.UnmarshalText([]byte(value))
		case "gw":
			err = n.GW.UnmarshalText([]byte(value))
		default:
			if !is {
				err = fmt.Errorf("unknown option %q (there are mac=, mtu=, ip=, gw=, bridge=, netns=, args=, bps=, pps=, their rx-… and tx-…, and burst=)", w)
			}
		}
		if err != nil {
			return err
		}
	}
	if n.GW != (wire.Addr{}) && !n.IP.Set() {
		return fmt.Errorf("gw=%s without ip=", n.GW)
	}
	*l = append(*l, n)
	return nil
}

// Set parses and appends one --disk.
func (l *diskList) Set(s string) error {
	name, words, err := splitSpec(s)
	if err != nil {
		return err
	}
	d := diskSpec{Name: name, Path: words[0]}
	for _, w := range words[1:] {
		key, value, hasValue := strings.Cut(w, "=")
		is, err := d.words().set(key, value)
		switch {
		case err != nil:
			return err
		case is:
		case key == "ro" && !hasValue:
			d.RO = true
		case key == "cache" && value != "":
			d.Cache = value
		case key == "serial" && value != "":
			d.Serial = value
		case key == "block-size":
			if d.BlockSize, err = strconv.Atoi(value); err != nil {
				return fmt.Errorf("block-size=%s: want a number of bytes", value)
			}
		default:
			return fmt.Errorf("unknown option %q (there are ro, cache=writeback|none|unsafe, serial=, block-size=, bps=, iops= and burst=)", w)
		}
	}
	*l = append(*l, d)
	return nil
}

// splitSpec splits [NAME=]word,word… at commas. A backslash takes the special
// meaning from the character after it, so that paths may contain , = and \.
func splitSpec(s string) (name string, words []string, err error) {
	var word strings.Builder
	named := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			word.WriteByte(s[i])
		case c == ',':
			words = append(words, word.String())
			word.Reset()
		case c == '=' && len(words) == 0 && !named:
			if name = word.String(); !isDeviceName(name) {
				return "", nil, fmt.Errorf("%q before = is not a device name of letters and digits (write \\= for a = in a path)", name)
			}
			named = true
			word.Reset()
		default:
			word.WriteByte(c)
		}
	}
	words = append(words, word.String())
	if words[0] == "" {
		return "", nil, fmt.Errorf("%q names nothing to attach", s)
	}
	return name, words, nil
}

// isDeviceName says whether s can name a device in a Solo5 manifest:
// [A-Za-z0-9]{1,67}.
func isDeviceName(s string) bool {
	if len(s) < 1 || len(s) > 67 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return false
		}
	}
	return true
}
