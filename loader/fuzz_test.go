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
		img, err := loader.Open("k", bytes.NewReader(b), loader.KindHVT)
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

// FuzzParsePC takes any file through Parse with each boot protocol, FitPC and
// Load. Nothing panics, every refusal is an Error, and all that was accepted
// lies in low memory above the monitor's first MiB.
func FuzzParsePC(f *testing.F) {
	for _, seed := range []file{
		nil, base(), pc(0), pc(4), pc(8), bz(), bz()[:0x240],
		noted(entry8).insert(0, 4, entry4), noted(append(note("GNU\x00", 3, make([]byte, 20)), entry8...)),
		pc(4).seg(data, phPaddr, 0x180fff), pc(4).seg(data, phMemsz, 1<<64-0x110000), pc(0).seg(text, phPaddr, pcSize-4096),
		pc(4).seg(notes, phAlign, 8), pc(4).seg(notes, phFilesz, 1<<64-1), pc(4).seg(notes, phOffset, 1<<63-1),
		bz().put64(0x258, 1<<64-0x200000), bz().put32(0x260, 1<<32-1), bz().put32(0x1f4, 1<<32-1), bz().put8(0x201, 0x7f),
	} {
		f.Add([]byte(seed), uint32(pcSize))
		f.Add([]byte(seed), uint32(0x112fff))
	}
	f.Fuzz(func(t *testing.T, b []byte, low uint32) {
		refused := func(what string, err error) {
			var le *loader.Error
			if !errors.As(err, &le) || le.Error() == "" {
				t.Fatalf("%s = %v; want nil or an *Error", what, err)
			}
		}
		lowMem := uint64(low) % (pcSize + 1)
		for _, boot := range []loader.Kind{"", loader.KindPVH, loader.KindLinux, loader.KindHVT} {
			img, err := loader.Open("k", bytes.NewReader(b), boot)
			if err != nil {
				refused("Parse", err)
				continue
			}
			if boot != "" && img.Kind != boot {
				t.Fatalf("Parse for %s = kind %s", boot, img.Kind)
			}
			if (img.Linux == nil) != (img.Kind == loader.KindHVT) {
				t.Fatalf("Parse = kind %s, Linux %+v", img.Kind, img.Linux)
			}
			if img.Linux == nil {
				continue // FuzzParse
			}
			for _, n := range []uint64{0, 1 << 20, 3 << 30, 1<<64 - 1, lowMem} {
				if err = img.FitPC(n); err != nil {
					refused("FitPC", err)
					continue
				}
				l, inside := img.Linux, false
				for _, s := range img.Segments {
					inside = inside || img.Entry >= s.Addr && img.Entry < s.End()
					if s.Addr < l.Start || s.End() < s.Addr || s.End() > l.End {
						t.Fatalf("FitPC(%#x) sets %v-%v, segment %d is %v-%v", n, l.Start, l.End, s.Index, s.Addr, s.End())
					}
				}
				if l.Start < 1<<20 || l.Start >= l.End || uint64(l.End) > n || !(l.Start | l.End).Aligned(4096) || !inside {
					t.Fatalf("FitPC(%#x) sets %v-%v, entry %v; want pages in memory, the entry inside of a segment", n, l.Start, l.End, img.Entry)
				}
			}
			if err != nil {
				continue
			}
			mem, err := memory.New(pcSize)
			if err != nil {
				t.Fatal(err)
			}
			if err = img.Load(mem); err != nil {
				refused("Load", err)
			}
			host := mem.Host()
			for _, s := range img.Segments {
				got := host[s.Addr:][:s.FileSize]
				if err == nil && s.FileSize > 0 && !bytes.Equal(got, b[s.Offset:][:s.FileSize]) {
					t.Fatalf("segment %d differs from the file", s.Index)
				}
				clear(got)
			}
			if len(bytes.TrimLeft(host, "\x00")) != 0 {
				t.Fatal("Load wrote outside of the segments")
			}
			mem.Close()
		}
	})
}
