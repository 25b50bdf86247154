package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestSplitSpec(t *testing.T) {
	long := strings.Repeat("a", 67)
	for _, tt := range []struct {
		in, name string
		words    []string // nil: an error
	}{
		{`tap0`, "", []string{"tap0"}},
		{`service=tap0`, "service", []string{"tap0"}},
		{`service=tap0,mtu=1400,x`, "service", []string{"tap0", "mtu=1400", "x"}},
		{`a=b=c`, "a", []string{"b=c"}}, // only the first = names
		{`b,x=y`, "", []string{"b", "x=y"}},
		{`a\,b,ro`, "", []string{"a,b", "ro"}},
		{`a\=b`, "", []string{"a=b"}},
		{`n=a\=b`, "n", []string{"a=b"}},
		{`a\\,ro`, "", []string{`a\`, "ro"}},
		{`a\\\,b`, "", []string{`a\,b`}},
		{`a\b`, "", []string{"ab"}},
		{`a\`, "", []string{`a\`}}, // nothing follows that could be quoted
		{`n=\`, "n", []string{`\`}},
		{`a,`, "", []string{"a", ""}},
		{`a,,b`, "", []string{"a", "", "b"}},
		{long + `=x`, long, []string{"x"}},

		{in: ``},
		{in: `,ro`},
		{in: `n=`},
		{in: `n=,ro`},
		{in: `=x`},
		{in: `a.b=x`},
		{in: `a-b=x`},
		{in: `/dev/x=y`},
		{in: `é=x`},
		{in: long + `a=x`},
	} {
		name, words, err := splitSpec(tt.in)
		if name != tt.name || !reflect.DeepEqual(words, tt.words) || (err == nil) != (tt.words != nil) {
			t.Errorf("splitSpec(%q) = %q, %q, %v; want %q, %q", tt.in, name, words, err, tt.name, tt.words)
		}
	}
}

func fd(n int) *int { return &n }

func TestNetList(t *testing.T) {
	mac := macAddr{2, 0, 0, 0, 0, 0xff}
	for _, tt := range []struct {
		in   string
		want netSpec
	}{
		{"tap0", netSpec{TAP: "tap0"}},
		{"service=tap0", netSpec{Name: "service", TAP: "tap0"}},
		{"fd:0", netSpec{FD: fd(0)}},
		{"service=fd:7", netSpec{Name: "service", FD: fd(7)}},
		{"tap0,mac=02:00:00:00:00:ff", netSpec{TAP: "tap0", MAC: mac}},
		{"tap0,mac=02:00:00:00:00:FF,mtu=1400", netSpec{TAP: "tap0", MAC: mac, MTU: 1400}},
		{"n=tap0,mtu=9000", netSpec{Name: "n", TAP: "tap0", MTU: 9000}},
		{`a\,b`, netSpec{TAP: "a,b"}},
	} {
		var got netList
		if err := got.Set(tt.in); err != nil || !reflect.DeepEqual(got, netList{tt.want}) {
			t.Errorf("netList.Set(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{
		"", "service=", "a_b=tap0", "fd:", "fd:x", "fd:-1", "fd:1.5", "fd:99999999999999999999",
		"tap0,", "tap0,ro", "tap0,mac", "tap0,mac=", "tap0,mac=02:00:00:00:00", "tap0,mac=01:00:00:00:00:00",
		"tap0,mtu", "tap0,mtu=", "tap0,mtu=big", "tap0,MTU=1400",
	} {
		var got netList
		if err := got.Set(in); err == nil || got != nil {
			t.Errorf("netList.Set(%q) = %+v, %v; want an error and no entry", in, got, err)
		}
	}
}

func TestDiskList(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want diskSpec
	}{
		{"disk.img", diskSpec{Path: "disk.img"}},
		{"data=/a/b.img,ro", diskSpec{Name: "data", Path: "/a/b.img", RO: true}},
		{"d,block-size=4096", diskSpec{Path: "d", BlockSize: 4096}},
		{"d,block-size=4096,ro", diskSpec{Path: "d", BlockSize: 4096, RO: true}},
		{`n=/a\=b\,c\\d`, diskSpec{Name: "n", Path: `/a=b,c\d`}},
		{"a b", diskSpec{Path: "a b"}},
		{`d,serial=a\,b=c,cache=none`, diskSpec{Path: "d", Serial: "a,b=c", Cache: "none"}},
		{"d,cache=unsafe", diskSpec{Path: "d", Cache: "unsafe"}},
	} {
		var got diskList
		if err := got.Set(tt.in); err != nil || !reflect.DeepEqual(got, diskList{tt.want}) {
			t.Errorf("diskList.Set(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{
		"", "data=", "/a=b", "d,", "d,rw", "d,ro=1", "d,ro=", "d,block-size", "d,block-size=", "d,block-size=4k", "d,mtu=3", "d,serial", "d,serial=", "d,cache", "d,cache=",
	} {
		var got diskList
		if err := got.Set(in); err == nil || got != nil {
			t.Errorf("diskList.Set(%q) = %+v, %v; want an error and no entry", in, got, err)
		}
	}
}

// TestListsAppend repeats the flags.
func TestListsAppend(t *testing.T) {
	var nets netList
	var disks diskList
	for _, s := range []string{"b", "a"} {
		if err := nets.Set(s); err != nil {
			t.Fatal(err)
		}
		if err := disks.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if want := (netList{{TAP: "b"}, {TAP: "a"}}); !reflect.DeepEqual(nets, want) {
		t.Errorf("two --net = %+v; want %+v", nets, want)
	}
	if want := (diskList{{Path: "b"}, {Path: "a"}}); !reflect.DeepEqual(disks, want) {
		t.Errorf("two --disk = %+v; want %+v", disks, want)
	}
}

// FuzzSpec has any text parsed, and any path come back from its quoted form.
func FuzzSpec(f *testing.F) {
	for _, s := range []string{"", "tap0", "n=fd:3,mac=02:00:00:00:00:01,mtu=1", `a\`, `\,\=\\`, "é,ro", "x=,", "d,block-size=512"} {
		f.Add(s)
	}
	quote := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `=`, `\=`)
	f.Fuzz(func(t *testing.T, s string) {
		var nets netList
		if err := nets.Set(s); (err == nil) != (len(nets) == 1) {
			t.Errorf("netList.Set(%q) = %+v, %v; want an entry or an error", s, nets, err)
		}
		var disks diskList
		if err := disks.Set(s); (err == nil) != (len(disks) == 1) {
			t.Errorf("diskList.Set(%q) = %+v, %v; want an entry or an error", s, disks, err)
		}
		if s == "" {
			return
		}
		in := "name=" + quote.Replace(s) + ",ro"
		var got diskList
		if err := got.Set(in); err != nil || !reflect.DeepEqual(got, diskList{{Name: "name", Path: s, RO: true}}) {
			t.Errorf("diskList.Set(%q) = %+v, %v; want the path %q", in, got, err, s)
		}
	})
}
