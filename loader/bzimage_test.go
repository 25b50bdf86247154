package loader_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

func bz() file { return hvtelf.BzImage(pcCode) }

func (f file) put8(off int, v byte) file { f[off] = v; return f }

// TestBzImage breaks one rule for the setup header at a time.
func TestBzImage(t *testing.T) {
	const entry = hvtelf.BzAddr + 0x200
	moved := append(append(bz()[:5*512], make([]byte, 59*512)...), bz()[5*512:]...) // setup of 63 sectors
	for _, c := range []struct {
		name string
		f    file
		text string // "" = loads
	}{
		{"base", bz(), ""},
		{"setup_sects 0 is 4", bz().put8(0x1f1, 0), ""},
		{"setup_sects 63", file(bytes.Clone(moved)).put8(0x1f1, 63), ""},
		{"setup_sects 64", file(bytes.Clone(moved)).put8(0x1f1, 64), "kernel k: bzImage: setup of 64 sectors, the 32 KiB that there are for it and the boot sector hold 63"},
		{"setup_sects 255", bz().put8(0x1f1, 255), "setup of 255 sectors"},
		{"setup longer than the file", bz().put8(0x1f1, 60), "truncated: the payload's last byte needs 1 bytes at file offset 0x7c0f, the file has 0 there"},
		{"boot_flag", bz().put16(0x1fe, 0x55aa), "not an ELF file, nor a Linux bzImage"},
		{"HdrS", bz().put8(0x205, 's'), "not an ELF file, nor a Linux bzImage"},
		{"protocol 2.00", bz().put16(0x206, 0x200), "bzImage: boot protocol 2.00, need 2.12 (Linux 3.8)"},
		{"protocol 2.11", bz().put16(0x206, 0x20b), "boot protocol 2.11, need 2.12"},
		{"protocol 2.12", bz().put16(0x206, 0x20c), ""},
		{"protocol 255.255", bz().put16(0x206, 0xffff), ""},
		{"32-bit only", bz().put16(0x236, 0xfffe), "bzImage: has no 64-bit entry point"},
		{"header ends before init_size does", bz().put8(0x201, 0x61), "bzImage: setup header ends at 0x263, need 0x264 to 0x281"},
		{"header ends after init_size", bz().put8(0x201, 0x62), ""},
		{"longest header", bz().put8(0x201, 0x7f), ""},
		{"jump backwards", bz().put8(0x201, 0x80), "setup header ends at 0x282"},
		{"jump by -1", bz().put8(0x201, 0xff), "setup header ends at 0x301"},
		{"not relocatable", bz().put8(0x234, 0), ""},
		{"not relocatable, alignment means nothing", bz().put8(0x234, 0).put32(0x230, 3), ""},
		{"alignment 0", bz().put32(0x230, 0), "preferred address 0x200000 is not a multiple of the kernel's alignment, 0x0"},
		{"alignment above the address", bz().put32(0x230, 0x400000), "not a multiple of the kernel's alignment, 0x400000"},
		{"syssize 0", bz().put32(0x1f4, 0), "bzImage: payload of 0 bytes ends before the 64-bit entry point"},
		{"payload of 512 bytes", bz().put32(0x1f4, 0x20), "payload of 512 bytes ends before"},
		{"syssize beyond the file", bz().put32(0x1f4, 0x22), "truncated: the payload's last byte needs 1 bytes at file offset 0xc1f, the file has 0 there"},
		{"syssize 2^32-1", bz().put32(0x1f4, math.MaxUint32), "truncated: the payload's last byte needs 1 bytes at file offset 0x10000009ef"},
		{"more in the file", append(bz(), make([]byte, 5000)...), ""},
		{"init_size 0", bz().put32(0x260, 0), "segment 0 at 0x200000: size in memory (0x0) is less than in the file (0x210)"},
		{"init_size less than the payload", bz().put32(0x260, 0x20f), "size in memory (0x20f) is less"},
		{"init_size of the payload", bz().put32(0x260, 0x210), ""},
		{"init_size to the end of memory", bz().put32(0x260, pcSize-hvtelf.BzAddr), ""},
		{"one byte more", bz().put32(0x260, pcSize-hvtelf.BzAddr+1), "segment 0 at 0x200000: its last byte 0x400000 is beyond guest memory, which ends at 0x400000 (it would need 6 MiB)"},
		{"init_size 2^32-1", bz().put32(0x260, math.MaxUint32), "its last byte 0x1001ffffe is beyond guest memory"},
		{"pref_address 0", bz().put64(0x258, 0), "segment 0 at 0x0: below 0x100000"},
		{"pref_address behind memory", bz().put64(0x258, 1<<40), "segment 0 at 0x10000000000: its last byte"},
		{"init_size wraps", bz().put64(0x258, 1<<64-0x200000).put32(0x260, 0x200001), "size 0x200001 wraps around the address space"},
		{"entry point wraps", bz().put64(0x258, 1<<64-0x100).put8(0x234, 0), "size 0x123456 wraps around"},
		{"ELF wins", bz().put32(0, 0x464c457f), "not a 64-bit ELF file"},
		{"MZ of the EFI stub", bz().put16(0, 0x5a4d), ""},
	} {
		kind := loader.KindLinux
		if c.text != "" {
			kind = ""
		}
		checkPC(t, c.name, c.f, "", kind, entry, c.text)
	}
	for n := range bz() { // truncated everywhere
		if n < 64 {
			continue // TestTruncated
		}
		text := "truncated: the payload's last byte"
		if n < 0x206 {
			text = "nor a Linux bzImage"
		} else if n < 0x26c {
			text = "truncated: setup header ends at 0x26c"
		}
		checkPC(t, "truncated", bz()[:n], "", "", 0, text)
	}
}

// TestBzImageLimits looks at the fields that are handed on.
func TestBzImageLimits(t *testing.T) {
	for _, c := range []struct{ cmdline, initrd uint32 }{{0, 0}, {255, 0x37ffffff}, {65535, 1}, {65536, 2}, {math.MaxUint32, math.MaxUint32}} {
		img, err := loader.Open("k", bytes.NewReader(bz().put32(0x238, c.cmdline).put32(0x22c, c.initrd)), "")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := img.Linux.CmdlineMax, int(min(c.cmdline, 65535)); got != want || img.Linux.InitrdMax != memory.Addr(c.initrd) {
			t.Errorf("CmdlineMax, InitrdMax of %+v = %d, %v; want %d, %#x", c, got, img.Linux.InitrdMax, want, c.initrd)
		}
	}
	// The header is a copy: the file may change afterwards.
	f := bz()
	img, err := loader.Open("k", bytes.NewReader(f), "")
	if err != nil {
		t.Fatal(err)
	}
	clear(f)
	if want := bz()[0x1f1:0x26c]; !bytes.Equal(img.Linux.Header, want) {
		t.Errorf("Header = %x; want %x", img.Linux.Header, want)
	}
}

// failsAt fails its n-th read.
type failsAt struct {
	r io.ReaderAt
	n int
}

func (f *failsAt) ReadAt(b []byte, off int64) (int, error) {
	if f.n--; f.n < 0 {
		return 0, unix.EIO
	}
	return f.r.ReadAt(b, off)
}

// TestReadErrorPC fails each read in turn.
func TestReadErrorPC(t *testing.T) {
	for name, f := range map[string]file{"ELF": pc(8), "bzImage": bz()} {
		n := 0
		for ; ; n++ {
			img, err := loader.Open("k", &failsAt{bytes.NewReader(f), n}, "")
			if err == nil {
				break
			}
			var le *loader.Error
			if img != nil || !errors.As(err, &le) || le.Kind != loader.ErrOpen || !errors.Is(err, unix.EIO) || !strings.HasPrefix(err.Error(), "kernel k: read ") {
				t.Errorf("%s: Parse when read %d fails = %v, %v; want ErrOpen with EIO", name, n, img, err)
			}
		}
		if n < 3 {
			t.Errorf("%s: Parse reads %d times; want at least 3", name, n)
		}
	}
}
