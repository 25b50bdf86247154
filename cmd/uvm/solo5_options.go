package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

// solo5Options reads the options from left to right. With a manifest, names
// that it does not declare are errors; without, every name passes. A second
// option for a name replaces the first.
func solo5Options(words []string, m *loader.Manifest) (*solo5Run, error) {
	r := &solo5Run{mem: 512 << 20}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		opt, name, _ := strings.Cut(key, ":")
		var err error
		switch {
		case key == "--mem" && len(w) > len(key):
			err = r.setMem(value)
		case w == "--no-net-ring":
			r.noRing = true
		case opt == "--net" || opt == "--net-mac":
			err = r.setNet(opt, name, value, w, m)
		case opt == "--block" || opt == "--block-sector-size":
			err = r.setDisk(opt, name, value, w, m)
		case key == "--dumpcore" && value != "":
			if r.core = value; unix.Access(value, unix.W_OK|unix.X_OK) != nil {
				err = solo5Invalid(w, "Cannot write to directory: "+value)
			}
		default:
			err = solo5Invalid(w, "")
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// setMem reads MiB as C's %zd does: spaces, sign, digits, and then anything.
func (r *solo5Run) setMem(s string) error {
	n, ok := scanInt(s)
	r.mem = uint64(n) << 20
	if !ok || r.mem == 0 {
		return solo5Fail("Malformed argument to --mem")
	}
	return nil
}

// scanInt reads a decimal number at the start of s, saturating at the ends of
// int64.
func scanInt(s string) (n int64, ok bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || end == 0 && (s[0] == '-' || s[0] == '+')) {
		end++
	}
	n, err := strconv.ParseInt(s[:end], 10, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

// checkName applies the rules that all device options share.
func checkName(name, value, word string, m *loader.Manifest, typ loader.DeviceType) error {
	if !isDeviceName(name) || value == "" {
		return solo5Invalid(word, "")
	}
	if m != nil && !declares(m, name, typ) {
		return solo5Invalid(word, fmt.Sprintf("Resource not declared in manifest: '%s'", name))
	}
	return nil
}

// declares says whether the manifest has a device of exactly that name and type.
func declares(m *loader.Manifest, name string, typ loader.DeviceType) bool {
	return slices.ContainsFunc(m.Entries, func(e loader.Device) bool { return e.Type == typ && e.Name == name })
}

func (r *solo5Run) setNet(opt, name, value, word string, m *loader.Manifest) error {
	if opt == "--net-mac" {
		mac, ok := scanMAC(value)
		if !ok {
			return solo5Invalid(word, "")
		}
		if err := checkName(name, value, word, m, loader.DeviceNet); err != nil {
			return err
		}
		r.net(name).MAC = mac
		return nil
	}
	if err := checkName(name, value, word, m, loader.DeviceNet); err != nil {
		return err
	}
	n := r.net(name)
	n.word, n.TAP, n.FD = word, value, nil
	if s, ok := strings.CutPrefix(value, "@"); ok {
		fd, err := strconv.ParseInt(s, 10, 64)
		if errors.Is(err, strconv.ErrRange) || err == nil && (fd < 0 || fd > math.MaxInt32) {
			return solo5Invalid(word, solo5Attach(value, "Numerical result out of range"))
		} else if err != nil {
			return solo5Invalid(word, solo5Attach(value, "Invalid argument"))
		}
		v := int(fd)
		n.TAP, n.FD = "", &v
	}
	return nil
}

func solo5Attach(iface, why string) string {
	return fmt.Sprintf("Could not attach interface: %s: %s", iface, why)
}

func (r *solo5Run) setDisk(opt, name, value, word string, m *loader.Manifest) error {
	if opt == "--block-sector-size" {
		n, ok := scanInt(value)
		if !ok || !isDeviceName(name) {
			return solo5Invalid(word, "")
		}
		if n < 512 || n > 32768 || n&(n-1) != 0 {
			return solo5Invalid(word, "Block size must be a multiple of 2 greater than or equal 512")
		}
		if err := checkName(name, value, word, m, loader.DeviceBlock); err != nil {
			return err
		}
		r.disk(name).BlockSize = int(n)
		return nil
	}
	if err := checkName(name, value, word, m, loader.DeviceBlock); err != nil {
		return err
	}
	d := r.disk(name)
	d.word, d.Path = word, value
	return nil
}

// net returns the entry for a name, a new one if there is none.
func (r *solo5Run) net(name string) *solo5Net {
	for i := range r.nets {
		if r.nets[i].Name == name {
			return &r.nets[i]
		}
	}
	r.nets = append(r.nets, solo5Net{Net: vmm.Net{Name: name}})
	return &r.nets[len(r.nets)-1]
}

func (r *solo5Run) disk(name string) *solo5Disk {
	for i := range r.disks {
		if r.disks[i].Name == name {
			return &r.disks[i]
		}
	}
	r.disks = append(r.disks, solo5Disk{Disk: vmm.Disk{Name: name}})
	return &r.disks[len(r.disks)-1]
}

// needManifest says that some option speaks of a device that no other option
// attaches: that run fails, and the manifest decides how. What is left are the
// attached ones.
func (r *solo5Run) needManifest() bool {
	all := len(r.nets) + len(r.disks)
	nets, disks := r.nets[:0], r.disks[:0]
	for _, n := range r.nets {
		if n.word != "" {
			nets = append(nets, n)
		}
	}
	for _, d := range r.disks {
		if d.word != "" {
			disks = append(disks, d)
		}
	}
	r.nets, r.disks = nets, disks
	return len(nets)+len(disks) != all
}

// scanMAC reads six groups of one or two hexadecimal digits; what follows the
// last one is not looked at, as with C's %02hhx.
func scanMAC(s string) (mac [6]byte, ok bool) {
	for i := range mac {
		if i > 0 {
			if s, ok = strings.CutPrefix(s, ":"); !ok {
				return mac, false
			}
		}
		n := 0
		for n < 2 && n < len(s) && strings.IndexByte("0123456789abcdefABCDEF", s[n]) >= 0 {
			n++
		}
		v, err := strconv.ParseUint(s[:n], 16, 8)
		if err != nil {
			return mac, false
		}
		mac[i], s = byte(v), s[n:]
	}
	return mac, true
}
