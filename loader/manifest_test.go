package loader_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
)

// Offsets in a manifest: the first entry, the size of each, and its fields.
const (
	entry0, entrySize                     = 8, 104
	offType, offUnion, offPriv, offAttach = 68, 72, 88, 96
)

// manifest encodes n entries: the reserved one, then block devices.
func manifest(n int) file {
	m := loader.Manifest{Entries: []loader.Device{{Type: loader.DeviceReserved}}}
	for i := 1; i < n; i++ {
		m.Entries = append(m.Entries, loader.Device{Name: fmt.Sprint("disk", i), Type: loader.DeviceBlock})
	}
	return m.Encode()
}

func (f file) set(off int, b ...byte) file { copy(f[off:], b); return f }

func TestParseManifest(t *testing.T) {
	const entry1 = entry0 + entrySize
	for _, c := range []struct {
		name string
		d    file
		want string // part of the error, "" for success
	}{
		{"empty", nil, "0 bytes, need at least 8"},
		{"7 bytes", manifest(1)[:7], "7 bytes, need at least 8"},
		{"header only", manifest(1)[:8], "8 bytes, 1 entries need 112"},
		{"version 0", manifest(1).put32(0, 0), "version 0, need 1"},
		{"version 2", manifest(1).put32(0, 2), "version 2, need 1"},
		{"no entries", manifest(1).put32(4, 0), "0 entries, need 1 to 64"},
		{"no entries, right size", manifest(1)[:8].put32(4, 0), "0 entries, need 1 to 64"},
		{"1 entry", manifest(1), ""},
		{"64 entries", manifest(64), ""},
		{"65 entries", manifest(65), "65 entries, need 1 to 64"},
		{"2^32-1 entries", manifest(1).put32(4, 1<<32-1), "4294967295 entries"},
		{"as many as make the size wrap", manifest(1).put32(4, 1<<32/104+1), "entries, need 1 to 64"},
		{"one byte short", manifest(2)[:8+2*104-1], "215 bytes, 2 entries need 216"},
		{"one byte long", append(manifest(2), 0), "217 bytes, 2 entries need 216"},
		{"entry more than counted", manifest(3).put32(4, 2), "320 bytes, 2 entries need 216"},
		{"entry less than counted", manifest(3).put32(4, 4), "320 bytes, 4 entries need 424"},
		{"name not terminated", manifest(2).set(entry1+67, 'x'), "entry 1: name is not terminated"},
		{"name of entry 0 not terminated", manifest(2).set(entry0+67, 'x'), "entry 0: name is not terminated"},
		{"name of 67 bytes", manifest(2).set(entry1, bytes.Repeat([]byte{'n'}, 67)...), ""},
		{"attached", manifest(2).set(entry1+offAttach, 1), "entry 1: attached already"},
		{"attached with another value", manifest(2).set(entry1+offAttach, 0x80), "entry 1: attached already"},
		{"entry 0 attached", manifest(1).set(entry0+offAttach, 1), "entry 0: attached already"},
		{"last of 64 attached", manifest(64).set(entry0+63*104+offAttach, 1), "entry 63: attached already"},
		{"entry 0 has a name", manifest(1).set(entry0, 'x'), `entry 0 is reserved "x", need the nameless reserved one`},
		{"entry 0 is a block device", manifest(1).put32(entry0+offType, 1), `entry 0 is block ""`},
		{"entry 0 has type 0", manifest(1).put32(entry0+offType, 0), `entry 0 is type 0x0 ""`},
		{"private bytes and padding are ignored", manifest(2).set(entry1+offPriv, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 9, 9, 9, 9, 9, 9), ""},
	} {
		m, err := loader.ParseManifest(c.d)
		if c.want == "" {
			if err != nil || len(m.Entries) != (len(c.d)-8)/104 {
				t.Errorf("%s: ParseManifest = %v, %v; want all entries", c.name, m, err)
			}
		} else if m != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: ParseManifest = %v, %v; want an error with %q", c.name, m, err, c.want)
		}
	}
}

// TestParseManifestFields decodes names and types, and nothing that the monitor
// is to decide itself.
func TestParseManifestFields(t *testing.T) {
	d := manifest(4)
	const entry1, entry2, entry3 = entry0 + entrySize, entry0 + 2*entrySize, entry0 + 3*entrySize
	d.set(entry1, bytes.Repeat([]byte{'n'}, 67)...).set(entry1+offUnion, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	d.set(entry2, []byte("a\x00b\x00")...).put32(entry2+offType, 2)
	d.put32(entry3+offType, 77)
	m, err := loader.ParseManifest(d)
	if err != nil {
		t.Fatal(err)
	}
	want := []loader.Device{
		{Type: loader.DeviceReserved},
		{Name: strings.Repeat("n", 67), Type: loader.DeviceBlock},
		{Name: "a", Type: loader.DeviceNet}, // up to the first NUL
		{Name: "disk3", Type: 77},
	}
	if fmt.Sprint(m.Entries) != fmt.Sprint(want) {
		t.Errorf("ParseManifest = %+v; want %+v", m.Entries, want)
	}
}

// TestEncode holds the guest's copy against bytes written by hand.
func TestEncode(t *testing.T) {
	m := loader.Manifest{Entries: []loader.Device{
		{Type: loader.DeviceReserved},
		{Name: "b", Type: loader.DeviceBlock, Attached: true, Capacity: 0x1122334455667788, BlockSize: 0x200, MTU: 9, MAC: [6]byte{9}},
		{Name: "n", Type: loader.DeviceNet, Attached: true, MAC: [6]byte{2, 1, 2, 3, 4, 5}, MTU: 1500, Capacity: 9, BlockSize: 9},
		{Name: strings.Repeat("n", 80), Type: loader.DeviceNet},
		{Name: "?", Type: 77, Attached: true, Capacity: 9, BlockSize: 9, MTU: 9, MAC: [6]byte{9}},
	}}
	want := make(file, 8+5*104)
	want.put32(0, 1).put32(4, 5)
	e := func(i, off int) int { return entry0 + i*entrySize + off }
	want.put32(e(0, offType), 1<<30)
	want.set(e(1, 0), 'b').put32(e(1, offType), 1).put64(e(1, offUnion), 0x1122334455667788).put16(e(1, 80), 0x200).set(e(1, offAttach), 1)
	want.set(e(2, 0), 'n').put32(e(2, offType), 2).set(e(2, offUnion), 2, 1, 2, 3, 4, 5).put16(e(2, 78), 1500).set(e(2, offAttach), 1)
	want.set(e(3, 0), bytes.Repeat([]byte{'n'}, 67)...).put32(e(3, offType), 2) // cut, so that a NUL ends it
	want.set(e(4, 0), '?').put32(e(4, offType), 77).set(e(4, offAttach), 1)
	got := m.Encode()
	if !bytes.Equal(got, want) {
		for i := range want {
			if i < len(got) && got[i] != want[i] {
				t.Fatalf("Encode()[%d] = %#x; want %#x", i, got[i], want[i])
			}
		}
		t.Fatalf("Encode() = %d bytes; want %d", len(got), len(want))
	}
}

func TestDeviceTypeString(t *testing.T) {
	for typ, want := range map[loader.DeviceType]string{
		loader.DeviceBlock: "block", loader.DeviceNet: "net", loader.DeviceReserved: "reserved", 0: "type 0x0", 1<<32 - 1: "type 0xffffffff",
	} {
		if got := typ.String(); got != want {
			t.Errorf("DeviceType(%d).String() = %q; want %q", uint32(typ), got, want)
		}
	}
}
