package main

import (
	"math"
	"testing"
	"time"
)

func TestMemSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want memSize // 0: an error
		text string
	}{
		{"64", 64 << 20, "64M"},
		{"64M", 64 << 20, "64M"},
		{"64m", 64 << 20, "64M"},
		{"64MiB", 64 << 20, "64M"},
		{"64mib", 64 << 20, "64M"},
		{"1G", 1 << 30, "1G"},
		{"1gib", 1 << 30, "1G"},
		{"1024", 1 << 30, "1G"},
		{"1025M", 1025 << 20, "1025M"},
		{"2048K", 2 << 20, "2M"},
		{"1KiB", 1 << 10, "1K"},
		{"064", 64 << 20, "64M"},
		{"17592186044415", math.MaxUint64 >> 20 << 20, "17592186044415M"},
		{"17179869183G", math.MaxUint64 >> 30 << 30, "17179869183G"},

		{in: ""}, {in: "0"}, {in: "0G"}, {in: "-1"}, {in: "+1"}, {in: "1.5G"}, {in: "1e3"}, {in: "0x40"}, {in: "1_000"},
		{in: "M"}, {in: "iB"}, {in: "64MM"}, {in: "64MB"}, {in: "64B"}, {in: "64iB"}, {in: "64 M"}, {in: " 64"}, {in: "64T"}, {in: "٤"},
		{in: "17592186044416"}, {in: "17179869184G"}, {in: "18446744073709551616K"}, {in: "99999999999999999999"},
	} {
		var got memSize
		err := got.Set(tt.in)
		if got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("memSize.Set(%q) = %d, %v; want %d", tt.in, got, err, tt.want)
		}
		if s := got.String(); s != tt.text {
			t.Errorf("memSize(%d).String() = %q; want %q", got, s, tt.text)
		}
	}
}

func TestDuration(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want time.Duration // 0: an error
		text string
	}{
		{"300ms", 300 * time.Millisecond, "300ms"},
		{"5s", 5 * time.Second, "5s"},
		{"1m30s", 90 * time.Second, "1m30s"},
		{"1.5h", 90 * time.Minute, "1h30m0s"},
		{"1ns", 1, "1ns"},
		{in: ""}, {in: "0"}, {in: "0s"}, {in: "-5s"}, {in: "5"}, {in: "5 s"}, {in: "s"}, {in: "5S"}, {in: "forever"}, {in: "300y"},
		{in: "9223372036854775808ns"},
	} {
		var got duration
		err := got.Set(tt.in)
		if got != duration(tt.want) || (err == nil) != (tt.want != 0) {
			t.Errorf("duration.Set(%q) = %d, %v; want %d", tt.in, got, err, tt.want)
		}
		if s := got.String(); s != tt.text {
			t.Errorf("duration(%d).String() = %q; want %q", got, s, tt.text)
		}
	}
}

func TestMACAddr(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want macAddr
		ok   bool
	}{
		{"02:00:00:00:00:01", macAddr{2, 0, 0, 0, 0, 1}, true},
		{"fe:DC:ba:98:76:54", macAddr{0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54}, true},
		{in: "00:00:00:00:00:00", ok: true}, // any address, as without mac=
		{in: ""},
		{in: "02:00:00:00:00"},
		{in: "02:00:00:00:00:01:02"},
		{in: "02:00:00:00:00:01:"},
		{in: "2:0:0:0:0:1"},
		{in: "002:00:00:00:00:1"},
		{in: "02-00-00-00-00-01"},
		{in: "0200.0000.0001"},
		{in: "02:00:00:00:00:0g"},
		{in: "02:00:00:00:00:+1"},
		{in: " 02:00:00:00:00:01"},
		{in: "01:00:00:00:00:00"}, // multicast
		{in: "ff:ff:ff:ff:ff:ff"},
	} {
		var got macAddr
		err := got.UnmarshalText([]byte(tt.in))
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("macAddr.UnmarshalText(%q) = %v, %v; want %v, ok %t", tt.in, got, err, tt.want, tt.ok)
		}
	}
	const text = "0a:0b:0c:00:ff:10"
	var m macAddr
	if err := m.UnmarshalText([]byte(text)); err != nil || m.String() != text {
		t.Errorf("macAddr %q = %q, %v; want the same text", text, m.String(), err)
	}
}
