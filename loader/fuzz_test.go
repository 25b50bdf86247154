package loader_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// FuzzParse takes any file through Parse, Fit and Load. Nothing panics, every
// refusal is an Error, and what was loaded lies in the segments.
func FuzzParse(f *testing.F) {
	for _, seed := range []file{
		nil, base()[:64], base(),
		hvtelf.Guest{}.ELF(),
		base().seg(text, phMemsz, 1<<64-0x100000),
		base().seg(data, phFilesz, 0, phMemsz, 0x1000),
		base().seg(data, phVaddr, 4<<20-4),
		base().seg(data, phAlign, 1<<63),
		base().seg(text, phVaddr, 1<<64-0x1000),
		base().seg(abi, phOffset, 1<<63-1),
		base().size(abi, 33), base().size(mft, 4),
		base().insert(2, 4, note("GNU\x00", 1, make([]byte, 16))),
		base().put16(56, 65535), base().put64(32, 1<<64-56),
		base().native(1, 3).flags(data, 6|1<<20), base().native(1, 1, 9), base().native(2, 4), base().native(),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		refused := func(what string, err error) {
			var le *loader.Error
			if !errors.As(err, &le) || le.Error() == "" {
				t.Fatalf("%s = %v; want nil or an *Error", what, err)
			}
		}
		img, err := loader.Parse("k", bytes.NewReader(b))
		if err != nil {
			refused("Parse", err)
			return
		}
		const size = 4 << 20
		fits := false
		for _, n := range []uint64{0, 4096, 1 << 20, 2 << 20, size, 4 << 30, 1<<64 - 1} {
			end, err := img.Fit(n)
			if err != nil {
				refused("Fit", err)
			} else if uint64(end) > n || uint64(img.Entry) >= n || img.Entry < loader.HVTMinBase {
				t.Fatalf("Fit(%#x) = %v with entry %v; want both in memory", n, end, img.Entry)
			}
			if n == size {
				fits = err == nil
			}
		}
		if !fits {
			return
		}
		mem, err := memory.New(size)
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		err = img.Load(mem)
		if err != nil {
			refused("Load", err)
		}
		// What lies outside of the segments must still be zero.
		host := mem.Host()
		for i := range img.Segments {
			s := &img.Segments[i]
			end := s.Addr + memory.Addr(s.FileSize)
			if err == nil && !bytes.Equal(host[s.Addr:end], b[s.Offset:][:s.FileSize]) {
				t.Fatalf("segment %d differs from the file", s.Index)
			}
			clear(host[s.Addr:end])
		}
		if len(bytes.TrimLeft(host, "\x00")) != 0 {
			t.Fatal("Load wrote outside of the segments")
		}
	})
}

// FuzzManifest: what was decoded and encoded decodes to the same, and encodes
// to the same bytes.
func FuzzManifest(f *testing.F) {
	for _, seed := range []file{
		nil, manifest(1), manifest(2), manifest(64), manifest(65),
		manifest(2).set(8+104, 'a', 0, 'b'),
		manifest(2).set(8+104+67, 'x'),
		manifest(2).put32(8+104+68, 2),
		manifest(2).set(8+104+72, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
		manifest(1).put32(4, 1<<32-1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, d []byte) {
		m, err := loader.ParseManifest(d)
		if err != nil {
			return
		}
		enc := m.Encode()
		if len(enc) != len(d) {
			t.Fatalf("Encode() = %d bytes; want %d, as decoded", len(enc), len(d))
		}
		m2, err := loader.ParseManifest(enc)
		if err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("ParseManifest of the encoding = %+v, %v; want %+v", m2, err, m)
		}
		if !bytes.Equal(m2.Encode(), enc) {
			t.Fatal("the second Encode differs from the first")
		}
		// What the guest put where the tender has its own numbers is gone.
		for i := range m.Entries {
			e := enc[entry0+i*entrySize:][:entrySize]
			if len(bytes.TrimLeft(e[offUnion:], "\x00")) != 0 {
				t.Fatalf("entry %d carries bytes of the file in what the tender fills in: %x", i, e[offUnion:])
			}
		}
	})
}
