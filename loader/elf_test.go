package loader_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

var le = binary.LittleEndian

// file is a kernel file that a test spoils in one place.
type file []byte

// Program headers of a base file and the offsets of their fields.
const (
	text, data, abi, mft = 0, 1, 2, 3

	phFlags, phOffset, phVaddr, phFilesz, phMemsz, phAlign = 4, 8, 16, 32, 40, 48
)

// memSize is the memory that the tests fit kernels into, unless they say so.
const memSize = 2 << 20

// base is a valid kernel: text at 0x100000, data at 0x110000, both notes.
func base() file {
	return hvtelf.Guest{
		Code: []byte{0xf4, 0xeb, 0xfd}, // hlt; jmp -3
		Data: []byte("data"),
		Devices: []loader.Device{
			{Name: "service", Type: loader.DeviceNet},
			{Name: "storage", Type: loader.DeviceBlock},
		},
	}.ELF()
}

func (f file) put16(off int, v uint16) file { le.PutUint16(f[off:], v); return f }
func (f file) put32(off int, v uint32) file { le.PutUint32(f[off:], v); return f }
func (f file) put64(off int, v uint64) file { le.PutUint64(f[off:], v); return f }

// ph is the place of a field of program header i.
func (f file) ph(i, field int) int { return int(le.Uint64(f[32:])) + i*56 + field }

// seg changes 64-bit fields of program header i: field, value, and so on.
func (f file) seg(i int, fieldsAndValues ...uint64) file {
	for ; len(fieldsAndValues) > 0; fieldsAndValues = fieldsAndValues[2:] {
		f.put64(f.ph(i, int(fieldsAndValues[0])), fieldsAndValues[1])
	}
	return f
}

// at is where the content of program header i lies in the file.
func (f file) at(i int) int { return int(le.Uint64(f[f.ph(i, phOffset):])) }

// insert puts a further program header of the given type before number i, with
// content at the end of the file.
func (f file) insert(i int, typ uint32, content []byte) file {
	n := int(le.Uint16(f[56:]))
	old := f[f.ph(0, 0):f.ph(n, 0)]
	var h [56]byte
	le.PutUint32(h[:], typ)
	le.PutUint64(h[phOffset:], uint64(len(f)))
	le.PutUint64(h[phFilesz:], uint64(len(content)))
	table := append(bytes.Clone(old[:i*56]), h[:]...)
	table = append(table, old[i*56:]...)
	f = append(f, content...)
	f.put64(32, uint64(len(f))).put16(56, uint16(n+1))
	return append(f, table...)
}

// note is an ELF note with its padding.
func note(name string, typ uint32, desc []byte) []byte {
	b := le.AppendUint32(nil, uint32(len(name)))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, typ)
	b = append(b, name...)
	b = append(b, make([]byte, -len(name)&3)...)
	return append(b, desc...)
}

// load does all that a monitor does with a kernel file.
func load(f file, size uint64) (img *loader.Image, mem *memory.Memory, end memory.Addr, err error) {
	if img, err = loader.Open("k", bytes.NewReader(f), loader.KindHVT); err != nil {
		return nil, nil, 0, err
	}
	if end, err = img.Fit(size); err != nil {
		return img, nil, 0, err
	}
	if mem, err = memory.New(size); err != nil {
		return img, nil, end, err
	}
	return img, mem, end, img.Load(mem)
}

// ok stands for success in the tables.
const ok loader.ErrorKind = -1

// check compares the outcome of loading with a kind and a part of the message.
func check(t *testing.T, name string, f file, kind loader.ErrorKind, text string) {
	t.Helper()
	_, mem, _, err := load(f, memSize)
	if mem != nil {
		defer mem.Close()
	}
	if kind == ok {
		if err != nil {
			t.Errorf("%s: load = %v; want nil", name, err)
		}
		return
	}
	var le *loader.Error
	if !errors.As(err, &le) || le.Kind != kind || le.Path != "k" || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: load = %v; want an error of kind %d with %q", name, err, kind, text)
	}
}

func TestBase(t *testing.T) {
	img, mem, end, err := load(base(), memSize)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if img.Kind != loader.KindHVT || img.Entry != hvtelf.CodeAddr || img.ABI != 2 || end != 0x111000 {
		t.Errorf("kernel = kind %v, entry %v, ABI %+v, end %v; want hvt, 0x100000, 2, 0x111000", img.Kind, img.Entry, img.ABI, end)
	}
	want := []loader.Segment{
		{Index: 0, Addr: 0x100000, Offset: 0x1000, FileSize: 3, MemSize: 3, Align: 4096, R: true, X: true},
		{Index: 1, Addr: 0x110000, Offset: 0x2000, FileSize: 4, MemSize: 4, Align: 4096, R: true, W: true},
	}
	if fmt.Sprint(img.Segments) != fmt.Sprint(want) {
		t.Errorf("Segments = %+v; want %+v", img.Segments, want)
	}
	if got := fmt.Sprint(img.Manifest.Entries[1:]); !strings.Contains(got, "service net") || !strings.Contains(got, "storage block") {
		t.Errorf("manifest = %v; want net device service and block device storage", got)
	}
	// Segments lie where they say, and all else stays zero.
	wantMem := make([]byte, memSize)
	copy(wantMem[0x100000:], []byte{0xf4, 0xeb, 0xfd})
	copy(wantMem[0x110000:], "data")
	if !bytes.Equal(mem.Host(), wantMem) {
		t.Error("memory after Load differs from the segments' bytes with zeros around")
	}
}

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		name string
		f    file
		kind loader.ErrorKind
		text string
	}{
		{"empty", nil, loader.ErrFormat, "kernel k: truncated: ELF header needs 64 bytes at file offset 0x0, the file has 0 there"},
		{"shell script", append(file("#!/bin/sh\n"), make([]byte, 64)...), loader.ErrFormat, "kernel k: not an ELF file"},
		{"magic", base().put16(2, 0x464d), loader.ErrFormat, "not an ELF file"},
		{"32-bit", base().put16(4, 0x0101), loader.ErrFormat, "not a 64-bit ELF file"},
		{"big-endian", base().put16(4, 0x0202), loader.ErrFormat, "not a little-endian ELF file"},
		{"OSABI and identity version are ignored", base().put32(6, 0xffffffff), ok, ""},
		{"e_version 0", base().put32(20, 0), loader.ErrFormat, "ELF version is 0, need 1"},
		{"e_version 2", base().put32(20, 2), loader.ErrFormat, "ELF version is 2, need 1"},
		{"e_ehsize 63", base().put16(52, 63), loader.ErrFormat, "ELF header size is 63, need 64"},
		{"e_ehsize 65", base().put16(52, 65), loader.ErrFormat, "ELF header size is 65, need 64"},
		{"e_phnum 0", base().put16(56, 0), loader.ErrFormat, "no program headers"},
		{"e_phnum 65535", base().put16(56, 65535), loader.ErrFormat, "truncated: program headers needs 3669960 bytes"},
		{"e_phentsize 55", base().put16(54, 55), loader.ErrFormat, "program header size is 55, need 56"},
		{"e_phentsize 57", base().put16(54, 57), loader.ErrFormat, "program header size is 57, need 56"},
		{"relocatable", base().put16(16, 1), loader.ErrFormat, "ELF type is 1, need 2"},
		{"PIE", base().put16(16, 3), loader.ErrFormat, "ELF type is 3, need 2 (a statically linked executable)"},
		{"core", base().put16(16, 4), loader.ErrFormat, "ELF type is 4, need 2"},
		{"aarch64", base().put16(18, 183), loader.ErrFormat, "machine is 183, need 62 (x86-64)"},
		{"i386", base().put16(18, 3), loader.ErrFormat, "machine is 3"},
		{"e_flags and section headers are ignored", base().put64(40, 1<<64-1).put32(48, 1<<32-1).put32(58, 1<<32-1), ok, ""},
		{"e_phoff at the end of the file", base().put64(32, uint64(len(base()))), loader.ErrFormat, "the file has 0 there"},
		{"e_phoff far out", base().put64(32, 1<<62), loader.ErrFormat, "truncated: program headers"},
		{"e_phoff 2^63-1", base().put64(32, 1<<63-1), loader.ErrFormat, "program headers: file offset 0x7fffffffffffffff is out of range"},
		{"e_phoff 2^63", base().put64(32, 1<<63), loader.ErrFormat, "is out of range"},
		{"e_phoff 2^64-1", base().put64(32, 1<<64-1), loader.ErrFormat, "is out of range"},
		{"e_phoff 0", base().put64(32, 0), loader.ErrFormat, ""}, // the file header read as program headers
		{"entry 0", base().put64(24, 0), loader.ErrFit, "entry point 0x0 is below 0x100000"},
		{"entry below", base().put64(24, 0xfffff), loader.ErrFit, "entry point 0xfffff is below 0x100000"},
		{"entry in the last byte", base().put64(24, memSize-1), ok, ""},
		{"entry at the end", base().put64(24, memSize), loader.ErrFit, "entry point 0x200000 is beyond guest memory, which ends at 0x200000 (it would need 4 MiB)"},
		{"entry in the last byte of 4 GiB", base().put64(24, 1<<32-1), loader.ErrFit, "(it would need 4096 MiB)"},
		{"entry beyond any memory", base().put64(24, 1<<64-1), loader.ErrFit, "entry point 0xffffffffffffffff is beyond guest memory, which ends at 0x200000"},
	} {
		check(t, c.name, c.f, c.kind, c.text)
	}
	// No size would help here, so none is named.
	for _, f := range []file{base().put64(24, 1<<64-1), base().put64(24, 1<<32), base().seg(data, phMemsz, 1<<32)} {
		if _, _, _, err := load(f, memSize); err == nil || strings.Contains(err.Error(), "would need") {
			t.Errorf("load of a kernel that needs more than 4 GiB = %v; want no advice", err)
		}
	}
}

// TestTruncated cuts the file at every length.
func TestTruncated(t *testing.T) {
	whole := base()
	mem, err := memory.New(memSize)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for n := range whole {
		img, err := loader.Open("k", bytes.NewReader(whole[:n]), loader.KindHVT)
		if err == nil {
			if _, err = img.Fit(memSize); err == nil {
				err = img.Load(mem)
			}
		}
		var le *loader.Error
		if !errors.As(err, &le) || le.Kind != loader.ErrFormat || !strings.Contains(err.Error(), "truncated: ") {
			t.Fatalf("load of the first %d bytes of %d = %v; want an error of kind ErrFormat that says truncated", n, len(whole), err)
		}
	}
}
