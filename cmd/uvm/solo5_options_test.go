package main

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

func TestSolo5Split(t *testing.T) {
	type split struct {
		kernel        string
		options, args string // joined by |
		err           error
	}
	missing := errors.New("Missing KERNEL operand")
	for _, tt := range []struct {
		in   string
		want split
	}{
		{"k", split{kernel: "k"}},
		{"k|a|b", split{kernel: "k", args: "a|b"}},
		{"--mem=4|k", split{kernel: "k", options: "--mem=4"}},
		{"--mem|4", split{kernel: "4", options: "--mem"}}, // values are never words of their own
		{"-x|-|--y|k|--mem=4", split{kernel: "k", options: "-x|-|--y", args: "--mem=4"}},
		{"k|--|a", split{kernel: "k", args: "--|a"}},
		{"k|--help|--version", split{kernel: "k", args: "--help|--version"}},
		{"--|k", split{kernel: "k"}},
		{"--mem=4|--|k|x", split{kernel: "k", options: "--mem=4", args: "x"}},
		{"--|--help", split{kernel: "--help"}},
		{"--|--|x", split{kernel: "--", args: "x"}},
		{"--|-x", split{kernel: "-x"}},
		{"|a", split{kernel: "", args: "a"}}, // an empty word is a kernel too
		{"k||", split{kernel: "k", args: "|"}},
		{"--help", split{err: errSolo5Help}},
		{"--version", split{err: errSolo5Version}},
		{"--help|--version", split{err: errSolo5Help}},
		{"--version|--help", split{err: errSolo5Version}},
		{"--bogus|--mem=0|--version|k", split{err: errSolo5Version}},
		{"--version=1|k", split{kernel: "k", options: "--version=1"}},
		{"--mem=4", split{err: missing}},
		{"--mem=4|--", split{err: missing}},
		{"--", split{err: missing}},
	} {
		in := strings.Split(tt.in, "|")
		kernel, options, args, err := solo5Split(in)
		got := split{kernel, strings.Join(options, "|"), strings.Join(args, "|"), err}
		if err != nil && tt.want.err != nil && err.Error() == tt.want.err.Error() {
			got.err = tt.want.err
		}
		if got != tt.want {
			t.Errorf("solo5Split(%q) = %+v; want %+v", in, got, tt.want)
		}
	}
	if _, _, _, err := solo5Split(nil); err == nil || err.Error() != missing.Error() {
		t.Errorf("solo5Split() = %v; want %v", err, missing)
	}
}

func TestScanInt(t *testing.T) {
	const most, least = 1<<63 - 1, -1 << 63
	for _, tt := range []struct {
		in   string
		want int64
		ok   bool
	}{
		{"32", 32, true},
		{"032", 32, true},
		{"+32", 32, true},
		{"-32", -32, true},
		{" \t\n\v\f\r32", 32, true},
		{"32abc", 32, true},
		{"32.9", 32, true},
		{"32 ", 32, true},
		{"0x20", 0, true},
		{"3-2", 3, true},
		{"9223372036854775807", most, true},
		{"9223372036854775808", most, true},
		{"-9223372036854775809", least, true},
		{"99999999999999999999999M", most, true},
		{in: ""}, {in: " "}, {in: "-"}, {in: "+"}, {in: "+-1"}, {in: "- 1"}, {in: "abc"}, {in: "é1"}, {in: ".5"},
	} {
		got, ok := scanInt(tt.in)
		if got != tt.want || ok != tt.ok {
			t.Errorf("scanInt(%q) = %d, %t; want %d, %t", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

// TestScanMAC leaves out what C's scanf takes besides: white space, signs and
// 0x before a group.
func TestScanMAC(t *testing.T) {
	full := [6]byte{2, 0xab, 0, 1, 0xcd, 0xef}
	for _, tt := range []struct {
		in   string
		want [6]byte
		ok   bool
	}{
		{"02:ab:00:01:cd:ef", full, true},
		{"2:AB:0:1:CD:EF", full, true},
		{"02:ab:00:01:cd:ef:99", full, true},
		{"02:ab:00:01:cd:ef0", full, true}, // a third digit is garbage behind the last group
		{"02:ab:00:01:cd:ef xyz", full, true},
		{"01:00:00:00:00:00", [6]byte{1}, true}, // multicast is not looked at
		{"00:00:00:00:00:00", [6]byte{}, true},
		{in: ""}, {in: "02"}, {in: "02:ab:00:01:cd"}, {in: "02:ab:00:01:cd:"}, {in: "002:ab:00:01:cd:ef"},
		{in: "02-ab-00-01-cd-ef"}, {in: "02ab0001cdef"}, {in: "xx:ab:00:01:cd:ef"}, {in: "02::00:01:cd:ef"},
	} {
		got, ok := scanMAC(tt.in)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("scanMAC(%q) = %x, %t; want %x, %t", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}

var netDiskManifest = &loader.Manifest{Entries: append([]loader.Device{{Type: loader.DeviceReserved}}, netDisk...)}

func TestSolo5Options(t *testing.T) {
	const mib = 1 << 20
	net := func(n vmm.Net, word string) []solo5Net { return []solo5Net{{n, word}} }
	disk := func(d vmm.Disk, word string) []solo5Disk { return []solo5Disk{{d, word}} }
	for _, tt := range []struct {
		in   string
		want solo5Run
	}{
		{"", solo5Run{mem: 512 * mib}},
		{"--mem=32", solo5Run{mem: 32 * mib}},
		{"--mem=32 --mem=64", solo5Run{mem: 64 * mib}},
		{"--mem=32abc", solo5Run{mem: 32 * mib}},
		{"--no-net-ring --mem=32", solo5Run{mem: 32 * mib, noRing: true}},
		{"--mem=-1", solo5Run{mem: 1<<64 - mib}},
		{"--mem=17592186044448", solo5Run{mem: 32 * mib}}, // the shift wraps
		{"--net:service=tap0", solo5Run{mem: 512 * mib, nets: net(vmm.Net{Name: "service", TAP: "tap0"}, "--net:service=tap0")}},
		{"--net:service=a=b", solo5Run{mem: 512 * mib, nets: net(vmm.Net{Name: "service", TAP: "a=b"}, "--net:service=a=b")}},
		{"--net:service=@3", solo5Run{mem: 512 * mib, nets: net(vmm.Net{Name: "service", FD: fd(3)}, "--net:service=@3")}},
		{"--net:service=a --net:service=b", solo5Run{mem: 512 * mib, nets: net(vmm.Net{Name: "service", TAP: "b"}, "--net:service=b")}},
		{"--net:service=@3 --net:service=b", solo5Run{mem: 512 * mib, nets: net(vmm.Net{Name: "service", TAP: "b"}, "--net:service=b")}},
		{"--net-mac:service=2:0:0:0:0:1 --net:service=t",
			solo5Run{mem: 512 * mib, nets: net(vmm.Net{Name: "service", TAP: "t", MAC: [6]byte{2, 5: 1}}, "--net:service=t")}},
		{"--block:storage=/a:b=c", solo5Run{mem: 512 * mib, disks: disk(vmm.Disk{Name: "storage", Path: "/a:b=c"}, "--block:storage=/a:b=c")}},
		{"--block-sector-size:storage=4096 --block:storage=d",
			solo5Run{mem: 512 * mib, disks: disk(vmm.Disk{Name: "storage", Path: "d", BlockSize: 4096}, "--block:storage=d")}},
		{"--block:storage=d --block-sector-size:storage=32768x",
			solo5Run{mem: 512 * mib, disks: disk(vmm.Disk{Name: "storage", Path: "d", BlockSize: 32768}, "--block:storage=d")}},
	} {
		for _, m := range []*loader.Manifest{nil, netDiskManifest} {
			got, err := solo5Options(strings.Fields(tt.in), m)
			if err != nil || !reflect.DeepEqual(*got, tt.want) {
				t.Errorf("solo5Options(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
			}
			if got.needManifest() {
				t.Errorf("solo5Options(%q).needManifest() = true; want false", tt.in)
			}
		}
	}
}

// TestSolo5OptionErrors has the lines before the usage text, joined by |, of
// options that are refused. Lines that depend on the manifest come with it
// only.
func TestSolo5OptionErrors(t *testing.T) {
	const (
		syntax     = "Invalid option: `%'"
		undeclared = "Resource not declared in manifest: '"
		malformed  = "Malformed argument to --mem"
		sector     = "Block size must be a multiple of 2 greater than or equal 512|" + syntax
	)
	long := strings.Repeat("a", 68)
	for _, tt := range []struct {
		word, want string // % in want stands for the word
		manifest   bool   // an error with a manifest only
	}{
		{word: "--mem=", want: malformed},
		{word: "--mem=0", want: malformed},
		{word: "--mem=0x20", want: malformed},
		{word: "--mem=MB", want: malformed},
		{word: "--mem=17592186044416", want: malformed},
		{word: "--mem", want: syntax},
		{word: "--me=32", want: syntax},
		{word: "-mem=32", want: syntax},
		{word: "--memory=3", want: syntax},
		{word: "--Help", want: syntax},
		{word: "--version=1", want: syntax},
		{word: "-", want: syntax},
		{word: "--no-net-ring=1", want: syntax},
		{word: "--net-ring=on", want: syntax},
		{word: "--gdb", want: syntax},
		{word: "--dumpcore=", want: syntax},
		{word: "--dumpcore", want: syntax},
		{word: "--dumpcore=/nonexistent", want: "Cannot write to directory: /nonexistent|" + syntax},
		{word: "--net", want: syntax},
		{word: "--net=tap0", want: syntax},
		{word: "--net:", want: syntax},
		{word: "--net:=tap0", want: syntax},
		{word: "--net:service", want: syntax},
		{word: "--net:service=", want: syntax},
		{word: "--net:ser-vice=tap0", want: syntax},
		{word: "--net:" + long + "=tap0", want: syntax},
		{word: "--net:service=@", want: "Could not attach interface: @: Invalid argument|" + syntax},
		{word: "--net:service=@3x", want: "Could not attach interface: @3x: Invalid argument|" + syntax},
		{word: "--net:service=@-1", want: "Could not attach interface: @-1: Numerical result out of range|" + syntax},
		{word: "--net:service=@2147483648", want: "Could not attach interface: @2147483648: Numerical result out of range|" + syntax},
		{word: "--net:service=@99999999999999999999", want: "Could not attach interface: @99999999999999999999: Numerical result out of range|" + syntax},
		{word: "--net-mac:service=", want: syntax},
		{word: "--net-mac:service=02:00:00:00:00", want: syntax},
		{word: "--net-mac:bogus=02:00:00:00:00", want: syntax}, // the address comes before the name
		{word: "--net-mac:ser_vice=02:00:00:00:00:01", want: syntax},
		{word: "--block:storage=", want: syntax},
		{word: "--block:sto.rage=d", want: syntax},
		{word: "--block-sector-size:storage=", want: syntax},
		{word: "--block-sector-size:storage=big", want: syntax},
		{word: "--block-sector-size:storage=0", want: sector},
		{word: "--block-sector-size:storage=256", want: sector},
		{word: "--block-sector-size:storage=513", want: sector},
		{word: "--block-sector-size:storage=65536", want: sector},
		{word: "--block-sector-size:bogus=256", want: sector}, // the size comes before the name

		{word: "--net:bogus=tap0", want: undeclared + "bogus'|" + syntax, manifest: true},
		{word: "--net:storage=tap0", want: undeclared + "storage'|" + syntax, manifest: true},
		{word: "--net:bogus=@x", want: undeclared + "bogus'|" + syntax, manifest: true},
		{word: "--net-mac:bogus=02:00:00:00:00:01", want: undeclared + "bogus'|" + syntax, manifest: true},
		{word: "--block:service=d", want: undeclared + "service'|" + syntax, manifest: true},
		{word: "--block-sector-size:bogus=512", want: undeclared + "bogus'|" + syntax, manifest: true},
	} {
		want := strings.ReplaceAll(tt.want, "%", tt.word)
		words := []string{"--mem=4", tt.word, "--unread"}
		if _, err := solo5Options(words, nil); tt.manifest && strings.Contains(err.Error(), undeclared) {
			t.Errorf("solo5Options(%q) without a manifest = %v; want any name to pass", words, err)
		}
		_, err := solo5Options(words, netDiskManifest)
		var exit *solo5Exit
		if !errors.As(err, &exit) || strings.Join(exit.lines, "|") != want || exit.usage != (tt.want != malformed) {
			t.Errorf("solo5Options(%q) = %q; want %q", words, err, want)
		}
	}
}

// TestNeedManifest has options for devices that nothing attaches.
func TestNeedManifest(t *testing.T) {
	for _, in := range []string{"--net-mac:service=2:0:0:0:0:1", "--block-sector-size:storage=512",
		"--block:storage=d --net-mac:service=2:0:0:0:0:1", "--net:a=t --net-mac:b=2:0:0:0:0:1"} {
		r, err := solo5Options(strings.Fields(in), nil)
		if err != nil || !r.needManifest() {
			t.Errorf("solo5Options(%q), needManifest() = %v, false; want true", in, err)
		}
		for _, n := range r.nets {
			if n.TAP == "" {
				t.Errorf("after needManifest() of %q nets = %+v; want the attached ones", in, r.nets)
			}
		}
		for _, d := range r.disks {
			if d.Path == "" {
				t.Errorf("after needManifest() of %q disks = %+v; want the attached ones", in, r.disks)
			}
		}
	}
}

// FuzzSolo5Options has any words parsed: what passes with a manifest passes
// without one and means the same.
func FuzzSolo5Options(f *testing.F) {
	for _, s := range []string{"k", "--mem=4\nk\na", "--\n--help", "--net:service=@3\n--net-mac:service=2:0:0:0:0:1\nk",
		"--block:storage=d\n--block-sector-size:storage=512\n--\nk", "--mem=-\nk", "--net-mac:service=::::: \nk", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words := strings.Split(s, "\n")
		kernel, options, args, err := solo5Split(words)
		if err != nil {
			return
		}
		back := append(slices.Clone(options), kernel)
		if len(options)+1+len(args) < len(words) {
			back = append(slices.Clone(options), "--", kernel)
		}
		if back = append(back, args...); !slices.Equal(back, words) {
			t.Errorf("solo5Split(%q) = %q, %q, %q; want all words", words, kernel, options, args)
		}
		with, err := solo5Options(options, netDiskManifest)
		if err != nil {
			return
		}
		without, err := solo5Options(options, nil)
		if err != nil || !reflect.DeepEqual(with, without) {
			t.Errorf("solo5Options(%q) = %+v, %v without a manifest; want %+v", options, without, err, with)
		}
	})
}

// TestDeclares goes by exact name and type only.
func TestDeclares(t *testing.T) {
	m := &loader.Manifest{Entries: []loader.Device{
		{Type: loader.DeviceReserved}, {Name: "service", Type: loader.DeviceNet}, {Name: "storage", Type: loader.DeviceBlock},
	}}
	for _, c := range []struct {
		name string
		typ  loader.DeviceType
		want bool
	}{
		{"service", loader.DeviceNet, true}, {"storage", loader.DeviceBlock, true},
		{"service", loader.DeviceBlock, false}, {"storage", loader.DeviceNet, false}, {"", loader.DeviceNet, false},
		{"servic", loader.DeviceNet, false}, {"service\x00", loader.DeviceNet, false}, {"", loader.DeviceReserved, true},
	} {
		if got := declares(m, c.name, c.typ); got != c.want {
			t.Errorf("declares(%q, %v) = %v; want %v", c.name, c.typ, got, c.want)
		}
	}
}
