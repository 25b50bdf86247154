package loader_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
)

// native adds uvm's own note, with the given 32-bit words in its descriptor.
func (f file) native(words ...uint32) file { return f.insert(4, 4, nativeNote(words...)) }

func nativeNote(words ...uint32) []byte {
	var d []byte
	for _, w := range words {
		d = le.AppendUint32(d, w)
	}
	return note("uvm\x00", 1, d)
}

// flags sets p_flags of program header i.
func (f file) flags(i int, v uint32) file { return f.put32(f.ph(i, phFlags), v) }

// TestNativeNote tries each rule of uvm's own note. What is not a good one
// leaves the file what it was, or is an error; never something between.
func TestNativeNote(t *testing.T) {
	const format = loader.ErrFormat
	sealed, keys := uint32(loader.NativeSealed), uint32(loader.NativeKeys)
	want := func(flags uint32) *loader.Native { return &loader.Native{Version: 1, Flags: loader.NativeFlags(flags)} }
	own := 4 // program header of the note
	// The last 16 bytes of the file are a note's header (and fields of a program
	// header that mean nothing for a note).
	short := base().native(1, sealed)
	short.seg(own, phOffset, uint64(len(short))-16).tail(nativeNote(1, sealed)[:16])
	for _, c := range []struct {
		name string
		f    file
		want *loader.Native
		text string // of the error, "": none
	}{
		{"none", base(), nil, ""},
		{"sealed", base().native(1, sealed), want(sealed), ""},
		{"nothing promised", base().native(1, 0), want(0), ""},
		{"sealed with keys", base().native(1, sealed|keys), want(sealed | keys), ""},
		{"a flag that may be ignored", base().native(1, sealed|1<<16|1<<31), want(sealed | 1<<16 | 1<<31), ""},
		{"more fields than are known", base().native(1, sealed, 7, 8, 9), want(sealed), ""},
		{"4096 bytes", base().native(append([]uint32{1, sealed}, make([]uint32, 1022)...)...), want(sealed), ""},

		{"version 0", base().native(0, sealed), nil, "kernel k: uvm's note in program header 4: version 0, need 1"},
		{"version 2", base().native(2, sealed), nil, "version 2, need 1"},
		{"a flag that must be known", base().native(1, sealed|4), nil, "flags 0x5 have bits that this uvm does not know: 0x4"},
		{"the highest of them", base().native(1, 1<<15), nil, "does not know: 0x8000"},
		{"keys alone", base().native(1, keys), nil, "keys without the promise to be sealed"},
		{"descriptor of 0 bytes", base().native(), nil, "descriptor of 0 bytes, need 8 to 4096"},
		{"descriptor of 7 bytes", base().native(1, sealed).change(own, noteDescsz, 7), nil, "descriptor of 7 bytes, need 8 to 4096"},
		{"4097 bytes", base().native(1, sealed).change(own, noteDescsz, 4097), nil, "descriptor of 4097 bytes"},
		{"2^32-1 bytes", base().native(1, sealed).change(own, noteDescsz, 1<<32-1), nil, "descriptor of 4294967295 bytes"},
		{"segment one byte short", base().native(1, sealed).seg(own, phFilesz, 23), nil, "descriptor of 8 bytes in a segment of 23"},
		{"truncated file", short, nil, "truncated: uvm's note"},

		{"other owner", base().insert(4, 4, note("uvn\x00", 1, make([]byte, 8))), nil, ""},
		{"longer owner", base().insert(4, 4, note("uvmm\x00", 1, make([]byte, 8))), nil, ""},
		{"other type", base().insert(4, 4, note("uvm\x00", 2, make([]byte, 8))), nil, ""},
		{"segment of 15 bytes", base().native(1, sealed).seg(own, phFilesz, 15), nil, ""},
		{"segment of 0 bytes", base().native(1, sealed).seg(own, phFilesz, 0), nil, ""},
		{"behind the file", base().native(1, sealed).seg(own, phOffset, 1<<40), nil, ""},
		{"at 2^64-1", base().native(1, sealed).seg(own, phOffset, 1<<64-1), nil, ""},
		{"not the first of its segment", base().insert(4, 4, append(note("GNU\x00", 1, make([]byte, 4)), nativeNote(1, sealed)...)), nil, ""},
		{"the first of two counts", base().insert(4, 4, nativeNote(1, sealed|keys)).insert(4, 4, nativeNote(1, sealed)), want(sealed), ""},
		{"before Solo5's", base().insert(0, 4, nativeNote(1, sealed)), want(sealed), ""},
		{"foreign notes around", base().insert(4, 4, note("GNU\x00", 1, make([]byte, 16))).insert(5, 4, nativeNote(1, sealed)), want(sealed), ""},
	} {
		img, err := loader.Open("k", bytes.NewReader(c.f), "")
		if c.text != "" {
			var le *loader.Error
			if !errors.As(err, &le) || le.Kind != format || !bytes.Contains([]byte(err.Error()), []byte(c.text)) {
				t.Errorf("%s: Parse = %v; want an error of kind %d with %q", c.name, err, format, c.text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: Parse = %v; want nil", c.name, err)
		} else if (img.Native == nil) != (c.want == nil) || img.Native != nil && *img.Native != *c.want {
			t.Errorf("%s: Native = %+v; want %+v", c.name, img.Native, c.want)
		}
	}
}

// tail overwrites the end of the file.
func (f file) tail(b []byte) file {
	copy(f[len(f)-len(b):], b)
	return f
}

// TestSegmentKeys reads protection keys from p_flags, and only where the note
// says that they are there.
func TestSegmentKeys(t *testing.T) {
	const sealed, keys = uint32(loader.NativeSealed), uint32(loader.NativeKeys)
	for _, c := range []struct {
		name string
		f    file
		key  uint8 // of the data segment
		text string
	}{
		{"no note", base().flags(data, 6|3<<20), 0, ""},
		{"no note, every bit", base().flags(data, 6|0xff<<20), 0, ""},
		{"sealed only", base().native(1, sealed).flags(data, 6|3<<20), 0, ""},
		{"none", base().native(1, sealed|keys), 0, ""},
		{"1", base().native(1, sealed|keys).flags(data, 6|1<<20), 1, ""},
		{"14", base().native(1, sealed|keys).flags(data, 6|14<<20), 14, ""},
		{"15", base().native(1, sealed|keys).flags(data, 6|15<<20), 0, "kernel k: segment 1: protection key 15, the highest is 14"},
		{"a bit above", base().native(1, sealed|keys).flags(data, 6|1<<24), 0, "segment 1: flags 0x1000006 have bits that this uvm does not know"},
		{"PF_MASKPROC is not ours", base().native(1, sealed|keys).flags(data, 6|2<<20|0xf<<28), 2, ""},
	} {
		img, err := loader.Open("k", bytes.NewReader(c.f), "")
		if c.text != "" {
			check(t, c.name, c.f, loader.ErrFormat, c.text)
			continue
		}
		if err != nil {
			t.Errorf("%s: Parse = %v; want nil", c.name, err)
		} else if s := img.Segments; s[0].Key != 0 || s[1].Key != c.key || !s[1].R || !s[1].W || s[1].X {
			t.Errorf("%s: segments = %+v; want key %d for the second, which is rw-", c.name, s, c.key)
		}
	}
}

// TestMaxMemory has the limit of a guest's memory, and the hint of a kernel that
// does not fit, which goes no further.
func TestMaxMemory(t *testing.T) {
	const gib = 1 << 30
	sealed := base().native(1, uint32(loader.NativeSealed))
	for _, c := range []struct {
		name  string
		f     file
		entry uint64
		want  uint64
		hint  string // "": none
	}{
		{"hvt", base(), 4*gib - 1, 4 * gib, "(it would need 4096 MiB)"},
		{"hvt, too high", base(), 4 * gib, 4 * gib, ""},
		{"hint only", base().native(1, 1<<16), 4 * gib, 4 * gib, ""},
		{"native", sealed, 4 * gib, 64 * gib, "(it would need 4098 MiB)"},
		{"native, last byte", sealed, 64*gib - 1, 64 * gib, "(it would need 65536 MiB)"},
		{"native, too high", sealed, 64 * gib, 64 * gib, ""},
	} {
		img, err := loader.Open("k", bytes.NewReader(c.f.put64(24, c.entry)), "")
		if err != nil {
			t.Errorf("%s: Parse = %v; want nil", c.name, err)
			continue
		}
		if got := img.MaxMemory(); got != c.want {
			t.Errorf("%s: MaxMemory() = %#x; want %#x", c.name, got, c.want)
		}
		if _, err := img.Fit(2 << 20); err == nil || strings.Contains(err.Error(), "would need") != (c.hint != "") || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: Fit(2 MiB) = %v; want the hint %q", c.name, err, c.hint)
		}
	}
}
