package loader_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// In a file of pc, program header 2 has the notes.
const (
	notes   = 2
	phPaddr = 24
	pcSize  = 4 << 20
)

var (
	pcCode = []byte{0xf4, 0xeb, 0xfd}
	entry4 = note("Xen\x00", 18, []byte{0, 0, 0x10, 0})
	entry8 = note("Xen\x00", 18, []byte{2, 0, 0x10, 0, 0, 0, 0, 0})
)

// pc is a valid ELF kernel: text at 0x100000, data with a page of BSS at
// 0x110000, notes with a PVH entry point of so many bytes.
func pc(pvh int) file { return hvtelf.PC{Code: pcCode, Data: []byte("data"), PVH: pvh}.ELF() }

// noted is a kernel with these bytes as its notes.
func noted(b []byte) file { return pc(0).drop(notes).insert(3, 4, b) }

// loadPC does all that a monitor does with a kernel for the PC-like machine.
func loadPC(f file, boot loader.Kind, size uint64) (*loader.Image, *memory.Memory, error) {
	img, err := loader.Open("k", bytes.NewReader(f), boot)
	if err != nil {
		return nil, nil, err
	}
	if err := img.FitPC(size); err != nil {
		return img, nil, err
	}
	mem, err := memory.New(pcSize)
	if err != nil {
		return img, nil, err
	}
	return img, mem, img.Load(mem)
}

// checkPC wants one outcome: the entry point where kind is one of a kernel, or
// an error with this text.
func checkPC(t *testing.T, name string, f file, boot, kind loader.Kind, entry memory.Addr, text string) {
	t.Helper()
	img, mem, err := loadPC(f, boot, pcSize)
	if mem != nil {
		defer mem.Close()
	}
	var le *loader.Error
	switch {
	case kind != "" && (err != nil || img.Kind != kind || img.Entry != entry):
		t.Errorf("%s: load = %+v, %v; want kind %s, entry %v", name, img, err, kind, entry)
	case kind == "" && (!errors.As(err, &le) || !strings.HasPrefix(err.Error(), "kernel k: ") || !strings.Contains(err.Error(), text)):
		t.Errorf("%s: load = %v; want an error with %q", name, err, text)
	}
}

// TestBootKind decides by the file, and follows the user where that can be.
func TestBootKind(t *testing.T) {
	const pvh, linux = loader.KindPVH, loader.KindLinux
	bz := file(hvtelf.BzImage(pcCode))
	for _, c := range []struct {
		name  string
		f     file
		boot  loader.Kind
		kind  loader.Kind
		entry memory.Addr
		text  string
	}{
		{"PVH note of 4 bytes", pc(4), "", pvh, 0x100000, ""},
		{"PVH note of 8 bytes", pc(8), "", pvh, 0x100000, ""},
		{"PVH by wish", pc(8), pvh, pvh, 0x100000, ""},
		{"PVH entry differs from e_entry", pc(8).put64(24, 0x100001), "", pvh, 0x100000, ""},
		{"Linux by wish", pc(8).put64(24, 0x100001), linux, linux, 0x100001, ""},
		{"no note", pc(0), "", linux, 0x100000, ""},
		{"no note, Linux by wish", pc(0), linux, linux, 0x100000, ""},
		{"no note, PVH by wish", pc(0), pvh, "", 0, "no PVH note (Xen's PHYS32_ENTRY); if it has a 64-bit Linux entry point, use --boot linux"},
		{"no note, hvt by wish", pc(8), loader.KindHVT, "", 0, "no Solo5 ABI note: not a Solo5 unikernel"},
		{"hvt, PVH by wish", base(), pvh, "", 0, "kernel k: is a Solo5 hvt unikernel, not one to boot with --boot pvh"},
		{"hvt, Linux by wish", base(), linux, "", 0, "is a Solo5 hvt unikernel"},
		{"hvt, PVH note too", base().insert(0, 4, entry4), pvh, "", 0, "is a Solo5 hvt unikernel"},
		{"another Solo5 target, PVH by wish", base().change(abi, noteABI, 6), pvh, "", 0, "target xen, need hvt"},
		{"bzImage", bz, "", linux, hvtelf.BzAddr + 0x200, ""},
		{"bzImage, Linux by wish", bz, linux, linux, hvtelf.BzAddr + 0x200, ""},
		{"bzImage, PVH by wish", bz, pvh, "", 0, "bzImage: boots by the Linux protocol only; use --boot linux, or for pvh the ELF kernel, vmlinux"},
		{"bzImage, hvt by wish", bz, loader.KindHVT, "", 0, "kernel k: not an ELF file"},
		{"neither", bytes.Repeat([]byte("text "), 200), "", "", 0, "not an ELF file, nor a Linux bzImage: kernels are Solo5 hvt unikernels, PVH or"},
		{"neither, by wish", bytes.Repeat([]byte("text "), 200), linux, "", 0, "nor a Linux bzImage"},
		{"only just an ELF header's size", make([]byte, 64), "", "", 0, "nor a Linux bzImage"},
		{"position-independent", pc(8).put16(16, 3), "", "", 0, "ELF type is 3, need 2 (a statically linked executable)"},
		{"32-bit", pc(8).put16(4, 0x0101), "", "", 0, "not a 64-bit ELF file"},
	} {
		checkPC(t, c.name, c.f, c.boot, c.kind, c.entry, c.text)
	}
	img, err := loader.Open("k", bytes.NewReader(base()), "")
	if err != nil || img.Kind != loader.KindHVT || img.Linux != nil || img.Manifest == nil {
		t.Errorf("Parse of an hvt unikernel = %+v, %v; want kind hvt", img, err)
	}
}

// TestPVHNote tries each rule for notes.
func TestPVHNote(t *testing.T) {
	join := func(n ...[]byte) []byte { return bytes.Join(n, nil) }
	pad8 := func(b []byte) []byte { return append(b, make([]byte, -len(b)&7)...) }
	of := func(desc ...byte) []byte { return note("Xen\x00", 18, desc) }
	gnu := note("GNU\x00", 3, make([]byte, 20))
	long := of(0, 0, 0x10, 0)
	le.PutUint32(long[4:], 1<<32-1)
	name := of(0, 0, 0x10, 0)
	le.PutUint32(name, 1<<32-1)
	for _, c := range []struct {
		name string
		f    file
		pvh  bool
		text string // "" and no pvh: a Linux kernel
	}{
		{"first note", noted(join(entry4, gnu)), true, ""},
		{"last note", noted(join(gnu, gnu, entry4)), true, ""},
		{"second header", noted(gnu).insert(1, 4, entry4), true, ""},
		{"a descriptor that needs padding before it", noted(join(note("Xen\x00", 6, make([]byte, 5)), make([]byte, 3), entry4)), true, ""},
		{"a name that needs padding before it", noted(join(note("a", 6, nil), entry4)), true, ""},
		{"aligned to 8", noted(join(pad8(gnu), entry4)).seg(3, phAlign, 8), true, ""},
		{"aligned to 8, read as to 4", noted(join(pad8(gnu), entry4)), false, ""},
		{"alignment 0", noted(entry4).seg(3, phAlign, 0), true, ""},
		{"alignment 2^64-1", noted(entry4).seg(3, phAlign, math.MaxUint64), true, ""},
		{"zeros after it", noted(join(entry4, make([]byte, 30))), true, ""},
		{"the same twice", noted(join(entry4, gnu, entry4)), true, ""},
		{"4 and 8 bytes, the same", noted(join(of(0, 0, 0x10, 0, 0, 0, 0, 0), entry4)), true, ""},
		{"two that differ", noted(join(entry4, gnu, entry8)), false, "notes in program header 3: PVH entry point 0x100002, but another note says 0x100000"},
		{"two in two headers that differ", noted(entry8).insert(0, 4, entry4), false, "but another note says 0x100000"},
		{"another name", noted(note("Xem\x00", 18, []byte{0, 0, 0x10, 0})), false, ""},
		{"name without NUL", noted(note("Xen", 18, []byte{0, 0, 0x10, 0})), false, ""},
		{"another type", noted(note("Xen\x00", 17, []byte{0, 0, 0x10, 0})), false, ""},
		{"no bytes", noted(of()), false, "notes in program header 3: PVH entry point of 0 bytes, need 4 or 8"},
		{"3 bytes", noted(join(of(0, 0, 0x10), []byte{0})), false, "PVH entry point of 3 bytes, need 4 or 8"},
		{"5 bytes", noted(join(of(0, 0, 0x10, 0, 0), make([]byte, 3))), false, "PVH entry point of 5 bytes"},
		{"9 bytes", noted(join(of(0, 0, 0x10, 0, 0, 0, 0, 0, 0), make([]byte, 3))), false, "PVH entry point of 9 bytes"},
		{"above 4 GiB", noted(of(0, 0, 0x10, 0, 1, 0, 0, 0)), false, "entry point 0x100100000 lies in no segment"},
		{"2^64-1", noted(of(255, 255, 255, 255, 255, 255, 255, 255)), false, "entry point 0xffffffffffffffff lies in no segment"},
		{"descriptor of 2^32-1 bytes", noted(long), false, "notes in program header 3: a note of 4294967311 bytes, where 20 are left"},
		{"name of 2^32-1 bytes", noted(name), false, "a note of 4294967312 bytes, where 20 are left"},
		{"cut in the descriptor", noted(entry8[:20]), false, "a note of 24 bytes, where 20 are left"},
		{"cut by a byte", noted(entry8[:23]), false, "a note of 24 bytes, where 23 are left"},
		{"cut in the header", noted(join(gnu, entry4[:11])), false, ""},
		{"64 KiB", noted(join(entry4, make([]byte, 64<<10-20))), true, ""},
		{"one byte more", noted(join(entry4, make([]byte, 64<<10-19))), false, "notes in program header 3: 65537 bytes, a kernel has at most 65536 of notes"},
		{"one byte more in two", noted(join(entry4, make([]byte, 64<<10-20))).insert(0, 4, make([]byte, 12)), false, "at most 65536 of notes"},
		{"size 2^64-1", noted(entry4).seg(3, phFilesz, math.MaxUint64), false, "18446744073709551615 bytes, a kernel has at most"},
		{"behind the file", noted(entry4).seg(3, phOffset, 1<<40), false, "truncated: note in program header 3"},
		{"offset 2^64-1", noted(entry4).seg(3, phOffset, math.MaxUint64), false, "out of range"},
		{"ends behind the file", noted(entry4).seg(3, phFilesz, 1<<15), false, "truncated: notes in program header 3 needs 32768 bytes"},
	} {
		kind := loader.KindLinux
		if c.pvh {
			kind = loader.KindPVH
		} else if c.text != "" {
			kind = ""
		}
		checkPC(t, c.name, c.f, "", kind, 0x100000, c.text)
	}
	// Whoever asks for the Linux protocol does not care about PVH's note.
	for _, b := range [][]byte{long, name, of(1, 2, 3), append(bytes.Clone(entry4), entry8...), make([]byte, 64<<10+1)} {
		checkPC(t, "Linux by wish", noted(b), loader.KindLinux, loader.KindLinux, 0x100000, "")
	}
}

// TestFitPC breaks one rule at a time, and comes as near to each as allowed.
func TestFitPC(t *testing.T) {
	const top = pcSize - 0x1000
	for _, c := range []struct {
		name string
		f    file
		text string // "" = fits
	}{
		{"base", pc(4), ""},
		{"virtual address is ignored", pc(4).seg(text, phVaddr, 5).seg(data, phVaddr, 5), ""},
		{"alignment is ignored", pc(4).seg(text, phAlign, 3).seg(data, phAlign, math.MaxUint64), ""},
		{"descending", pc(4).insert(0, 1, []byte("x")).seg(0, phPaddr, 0x150000, phMemsz, 1), ""},
		{"not page-aligned", pc(4).seg(data, phPaddr, 0x110123), ""},
		{"both in a page", pc(4).seg(data, phPaddr, 0x100003), ""},
		{"overlap by a byte", pc(4).seg(data, phPaddr, 0x100002), "kernel k: segment 0 at 0x100000: ends at 0x100003, in segment 1 at 0x100002"},
		{"overlap, descending", pc(4).seg(data, phPaddr, 0x100001).seg(text, phPaddr, 0x101000), "segment 1 at 0x100001: ends at 0x101005, in segment 0 at 0x101000"},
		{"same address", pc(4).seg(data, phPaddr, 0x100000), "at 0x100000: ends at "},
		{"below", pc(4).seg(data, phPaddr, 0xfffff), "kernel k: segment 1 at 0xfffff: below 0x100000, where the monitor's tables and a PC's legacy areas are"},
		{"all at 0", pc(4).seg(text, phPaddr, 0).seg(data, phPaddr, 0), "at 0x0: below 0x100000"},
		{"in unused low memory", pc(4).seg(data, phPaddr, 0x40000), "below 0x100000"},
		{"memory less than file", pc(4).seg(data, phMemsz, 3), "segment 1 at 0x110000: size in memory (0x3) is less than in the file (0x4)"},
		{"memory zero, file not", pc(4).seg(data, phMemsz, 0), "size in memory (0x0) is less"},
		{"exact fit", pc(4).seg(data, phPaddr, top, phMemsz, 0x1000), ""},
		{"one byte too many", pc(4).seg(data, phPaddr, top, phMemsz, 0x1001),
			"kernel k: segment 1 at 0x3ff000: its last byte 0x400000 is beyond guest memory, which ends at 0x400000 (it would need 6 MiB)"},
		{"advice for all segments", pc(4).seg(text, phPaddr, pcSize).seg(data, phPaddr, 2*pcSize), "segment 1 at 0x800000: its last byte 0x801003 is beyond guest memory, which ends at 0x400000 (it would need 10 MiB)"},
		{"at the end", pc(4).seg(data, phPaddr, pcSize), "is beyond guest memory"},
		{"in the device hole", pc(4).seg(data, phPaddr, 0xc0000000), "its last byte 0xc0001003 is beyond guest memory, which ends at 0x400000"},
		{"sum is 2^64", pc(4).seg(data, phMemsz, 1<<64-0x110000), "its last byte 0xffffffffffffffff is beyond"},
		{"sum is 2^64+1", pc(4).seg(data, phMemsz, 1<<64-0x10ffff), "segment 1 at 0x110000: size 0xffffffffffef0001 wraps around the address space"},
		{"sum lands in memory", pc(4).seg(data, phMemsz, 1<<64-0x10000), "wraps around"},
		{"size 2^64-1", pc(4).seg(data, phMemsz, math.MaxUint64, phFilesz, math.MaxUint64), "wraps around"},
		{"address 2^64-1", pc(4).seg(data, phPaddr, math.MaxUint64), "wraps around"},
		{"no segment", pc(4).drop(text).drop(data), "entry point 0x100000 lies in no segment's bytes from the file"},
		{"entry at the segment's last byte", pc(0).put64(24, 0x100002), ""},
		{"entry after it", pc(0).put64(24, 0x100003), "kernel k: entry point 0x100003 lies in no segment"},
		{"entry before it", pc(0).put64(24, 0xfffff), "entry point 0xfffff lies in no segment"},
		{"entry in the second segment", pc(0).put64(24, 0x110003), ""},
		{"entry in its BSS", pc(0).put64(24, 0x110004), "lies in no segment"},
		{"virtual entry", pc(0).put64(24, 1<<64-2<<30+0x100000), "entry point 0xffffffff80100000 lies in no segment"},
		{"file too short", pc(4)[:len(pc(4))-1], "truncated: segment 1 needs 4 bytes at file offset 0x2000, the file has 3 there"},
	} {
		kind, entry := loader.Kind(""), memory.Addr(0)
		if img, _ := loader.Open("k", bytes.NewReader(c.f), ""); c.text == "" && img != nil {
			kind, entry = img.Kind, img.Entry
		}
		checkPC(t, c.name, c.f, "", kind, entry, c.text)
	}
	// No size of low memory helps here, so none is named.
	if _, _, err := loadPC(pc(4).seg(data, phPaddr, 0xc0000000), "", pcSize); err == nil || strings.Contains(err.Error(), "would need") {
		t.Errorf("load into the device hole = %v; want no advice", err)
	}
}

// TestLoadPC looks at all that the machine is told, and at memory.
func TestLoadPC(t *testing.T) {
	bz := file(hvtelf.BzImage(pcCode))
	for _, c := range []struct {
		name string
		f    file
		want loader.Linux
		mem  map[int]string
	}{
		{"ELF", pc(8), loader.Linux{InitrdMax: 0x7fffffff, CmdlineMax: 2047, Start: 0x100000, End: 0x112000},
			map[int]string{0x100000: string(pcCode), 0x110000: "data"}},
		{"ELF in parts of pages, descending", pc(0).seg(text, phPaddr, 0x180fff).seg(data, phPaddr, 0x101234, phMemsz, 0x10).put64(24, 0x181000),
			loader.Linux{InitrdMax: 0x7fffffff, CmdlineMax: 2047, Start: 0x101000, End: 0x182000},
			map[int]string{0x180fff: string(pcCode), 0x101234: "data"}},
		{"bzImage", bz, loader.Linux{Header: bz[0x1f1:0x26c], InitrdMax: 0x7fffffff, CmdlineMax: 2047, Start: hvtelf.BzAddr, End: 0x324000},
			map[int]string{hvtelf.BzAddr + 0x200: string(pcCode)}},
	} {
		img, mem, err := loadPC(c.f, "", pcSize)
		if err != nil {
			t.Errorf("%s: load = %v; want nil", c.name, err)
			continue
		}
		defer mem.Close()
		if fmt.Sprint(*img.Linux) != fmt.Sprint(c.want) {
			t.Errorf("%s: Linux = %+v; want %+v", c.name, *img.Linux, c.want)
		}
		want := make([]byte, pcSize)
		for at, s := range c.mem {
			copy(want[at:], s)
		}
		if !bytes.Equal(mem.Host(), want) {
			t.Errorf("%s: memory after Load differs from the file's bytes with zeros around", c.name)
		}
	}
	// Memory that is not whole pages counts up to its last whole one.
	img, err := loader.Open("k", bytes.NewReader(pc(8)), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		size uint64
		ok   bool
	}{{0, false}, {0x100000, false}, {0x111fff, false}, {0x112000, true}, {0x112fff, true}, {3 << 30, true}, {math.MaxUint64, true}} {
		if err := img.FitPC(c.size); (err == nil) != c.ok {
			t.Errorf("FitPC(%#x) = %v; want success %v", c.size, err, c.ok)
		}
	}
}
