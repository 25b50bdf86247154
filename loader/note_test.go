package loader_test

import (
	"testing"

	"github.com/uvm-monitor/uvm/loader"
)

const (
	abi1 = 0x31494241
	mft1 = 0x3154464d
)

// Offsets in a Solo5 note.
const (
	noteNamesz, noteDescsz, noteType, noteName, noteABI = 0, 4, 8, 12, 20
	noteMFT                                             = 24 // after four bytes of padding
)

// change changes a 32-bit field of the note of program header i.
func (f file) change(i, off int, v uint32) file { return f.put32(f.at(i)+off, v) }

// size sets the descriptor size of note i and makes its segment just as long.
func (f file) size(i int, desc uint32) file {
	return f.change(i, noteDescsz, desc).seg(i, phFilesz, 20+uint64(desc))
}

// drop makes program header i one that nobody looks at.
func (f file) drop(i int) file { return f.put32(f.ph(i, 0), 0) }

// TestABINote tries each rule of the ABI1 note.
func TestABINote(t *testing.T) {
	const format, none = loader.ErrFormat, loader.ErrNoABI
	hvt := []byte{1, 0, 0, 0, 2, 0, 0, 0}
	for _, c := range []struct {
		name string
		f    file
		kind loader.ErrorKind
		text string
	}{
		{"missing", base().drop(abi), none, "kernel k: no Solo5 ABI note: not a Solo5 unikernel (link it for the hvt target)"},
		{"segment of 0 bytes", base().seg(abi, phFilesz, 0), format, "program header 2: note does not fall within valid size: 0 bytes, too small for a note header"},
		{"segment of 11 bytes", base().seg(abi, phFilesz, 11), format, "11 bytes, too small for a note header"},
		{"segment of 12 bytes is skipped", base().seg(abi, phFilesz, 12), none, ""},
		{"segment of 19 bytes is skipped", base().seg(abi, phFilesz, 19), none, ""},
		{"segment of 20 bytes", base().seg(abi, phFilesz, 20), format, "descriptor of 16 bytes in a segment of 20"},
		{"segment behind the file", base().seg(abi, phOffset, 1<<40), format, "truncated: note in program header 2"},
		{"segment at 2^64-1", base().seg(abi, phOffset, 1<<64-1), format, "note in program header 2: file offset 0xffffffffffffffff is out of range"},
		{"segment at 2^64-20", base().seg(abi, phOffset, 1<<64-20), format, "out of range"},
		{"segment at 2^63-21", base().seg(abi, phOffset, 1<<63-21), format, "truncated"},
		{"huge segment", base().seg(abi, phFilesz, 1<<64-1), ok, ""},
		{"alignment of the segment is ignored", base().seg(abi, phAlign, 0), ok, ""},
		{"short name size", base().change(abi, noteNamesz, 5), none, ""},
		{"long name size", base().change(abi, noteNamesz, 7), none, ""},
		{"huge name size", base().change(abi, noteNamesz, 1<<32-1), none, ""},
		{"other name", base().change(abi, noteName, 0x6f6c6f73), none, ""}, // "solo5"
		{"name without NUL", base().change(abi, noteName+4, 0x3535), none, ""},
		{"padding of the name is ignored", base().change(abi, noteName+4, 0xffff0035), ok, ""},
		{"other type", base().change(abi, noteType, abi1+1), none, ""},

		{"descriptor of 0 bytes", base().size(abi, 0), format, "descriptor of 0 bytes, need 1 to 32"},
		{"descriptor of 1 byte", base().size(abi, 1), format, "kernel k: Solo5 ABI note has 1 bytes, need 8"},
		{"descriptor of 7 bytes", base().size(abi, 7), format, "Solo5 ABI note has 7 bytes, need 8"},
		{"descriptor of 8 bytes", base().size(abi, 8), ok, ""},
		{"descriptor of 32 bytes", base().size(abi, 32), ok, ""},
		{"descriptor of 33 bytes", base().size(abi, 33), format, "descriptor of 33 bytes, need 1 to 32"},
		{"descriptor of 2^32-1 bytes", base().change(abi, noteDescsz, 1<<32-1), format, "descriptor of 4294967295 bytes, need 1 to 32"},
		{"segment one byte short", base().seg(abi, phFilesz, 35), format, "descriptor of 16 bytes in a segment of 35"},

		{"target 0", base().change(abi, noteABI, 0), loader.ErrTarget, "built for Solo5's target ?, need hvt"},
		{"target spt", base().change(abi, noteABI, 2), loader.ErrTarget, "kernel k: built for Solo5's target spt, need hvt"},
		{"target xen", base().change(abi, noteABI, 6), loader.ErrTarget, "target xen, need hvt"},
		{"target 7", base().change(abi, noteABI, 7), loader.ErrTarget, "target 7, need hvt"},
		{"target 2^32-1", base().change(abi, noteABI, 1<<32-1), loader.ErrTarget, "target 4294967295, need hvt"},
		{"version 1", base().change(abi, noteABI+4, 1), loader.ErrABIVersion, "kernel k: built for version 1 of the hvt ABI, need 2"},
		{"version 3", base().change(abi, noteABI+4, 3), loader.ErrABIVersion, "version 3 of the hvt ABI"},
		{"target is looked at before version", base().change(abi, noteABI, 2).change(abi, noteABI+4, 9), loader.ErrTarget, ""},
		{"reserved words are ignored", base().change(abi, noteABI+8, 9).change(abi, noteABI+12, 9), ok, ""},

		{"foreign note before", base().insert(2, 4, note("GNU\x00", 1, make([]byte, 16))), ok, ""},
		{"foreign note after", base().insert(4, 4, note("GNU\x00", 1, make([]byte, 16))), ok, ""},
		{"only the first note counts", base().drop(abi).insert(2, 4, append(note("GNU\x00", 3, make([]byte, 20)), note("Solo5\x00", abi1, hvt)...)), none, ""},
		{"the first of two counts", base().insert(2, 4, note("Solo5\x00", abi1, []byte{2, 0, 0, 0, 2, 0, 0, 0})), loader.ErrTarget, "spt"},
		{"the second of two does not", base().insert(4, 4, note("Solo5\x00", abi1, []byte{2, 0, 0, 0, 2, 0, 0, 0})), ok, ""},
		{"broken note of another owner", base().insert(0, 4, []byte("short")), format, "program header 0: note does not fall within valid size: 5 bytes"},
		{"order of the notes does not matter", base().drop(abi).insert(4, 4, note("Solo5\x00", abi1, hvt)), ok, ""},
	} {
		check(t, c.name, c.f, c.kind, c.text)
	}
}

// TestManifestNote tries each rule of the MFT1 note; TestParseManifest has
// those of its content.
func TestManifestNote(t *testing.T) {
	const format, none = loader.ErrFormat, loader.ErrNoManifest
	full := (&loader.Manifest{Entries: append([]loader.Device{{Type: loader.DeviceReserved}}, make([]loader.Device, 63)...)}).Encode()
	padded := func(m []byte) []byte { return append(make([]byte, 4), m...) }
	const size = 4 + 8 + 3*104 // of the base's descriptor
	for _, c := range []struct {
		name string
		f    file
		kind loader.ErrorKind
		text string
	}{
		{"missing", base().drop(mft), none, "kernel k: no Solo5 manifest note"},
		{"segment of 11 bytes", base().seg(mft, phFilesz, 11), format, "program header 3: note does not fall within valid size: 11 bytes"},
		{"segment of 19 bytes is skipped", base().seg(mft, phFilesz, 19), none, ""},
		{"other type", base().change(mft, noteType, mft1+1), none, ""},
		{"descriptor of 0 bytes", base().size(mft, 0), format, "descriptor of 0 bytes, need 1 to 6668"},
		{"descriptor all padding", base().size(mft, 4), format, "program header 3: note does not fall within valid size: descriptor of 4 bytes is all padding"},
		{"descriptor of 1 byte", base().size(mft, 1), format, "descriptor of 1 bytes is all padding"},
		{"content of 1 byte", base().size(mft, 5), loader.ErrManifest, "kernel k: Solo5 manifest: 1 bytes, need at least 8"},
		{"content one byte short", base().size(mft, size-1), loader.ErrManifest, "Solo5 manifest: 319 bytes, 3 entries need 320"},
		{"content one byte long", base().size(mft, size+1), loader.ErrManifest, "Solo5 manifest: 321 bytes, 3 entries need 320"},
		{"segment one byte short", base().seg(mft, phFilesz, 20+size-1), format, "descriptor of 324 bytes in a segment of 343"},
		{"64 entries, the most there can be", base().drop(mft).insert(4, 4, note("Solo5\x00", mft1, padded(full))), ok, ""},
		{"one byte more", base().drop(mft).insert(4, 4, note("Solo5\x00", mft1, append(padded(full), 0))), format, "descriptor of 6669 bytes, need 1 to 6668"},
		{"alignment of the segment is ignored", base().seg(mft, phAlign, 4), ok, ""},
		{"padding is ignored", base().change(mft, 20, 0xffffffff), ok, ""},
		{"content", base().change(mft, noteMFT, 2), loader.ErrManifest, "kernel k: Solo5 manifest: version 2, need 1"},
		{"truncated file", base().seg(mft, phOffset, uint64(len(base()))-30), format, "truncated: note in program header 3"},
	} {
		f := c.f
		if c.name == "truncated file" {
			copy(f[len(f)-30:], note("Solo5\x00", mft1, []byte{64, 0, 0, 0, 1, 0, 0, 0, 0, 0}))
			f.change(mft, noteDescsz, 324)
		}
		check(t, c.name, f, c.kind, c.text)
	}
}
