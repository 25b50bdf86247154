package loader

import (
	"bytes"
	"io"

	"github.com/uvm-monitor/uvm/memory"
)

// The setup header of a bzImage. Offsets and rules are those of the Linux/x86
// boot protocol (Documentation/arch/x86/boot.rst), "The Real-Mode Kernel
// Header"; a comment names the field.
const (
	bzHeader  = 0x1f1         // setup_sects, its first byte
	bzMagic   = 0x202         // "HdrS"; the byte before says how many bytes of header follow from here
	bzMaxEnd  = bzMagic + 127 // that byte is signed
	bzMinEnd  = 0x264         // after init_size
	bzEntry64 = 0x200         // from the load address
)

// readBzImage reads the setup header of a bzImage and makes one segment of its
// payload. The kernel goes where it prefers to be, relocatable or not.
func (img *Image) readBzImage(boot Kind) error {
	var h [bzMaxEnd]byte
	n, err := img.file.ReadAt(h[:], 0)
	if err != nil && err != io.EOF {
		return &Error{Kind: ErrOpen, Path: img.Path, Detail: "read setup header", Err: err}
	}
	if le.Uint16(h[0x1fe:]) != 0xaa55 || string(h[bzMagic:][:4]) != "HdrS" { // boot_flag, header
		return img.errorf(ErrFormat, "%s, nor a Linux bzImage: kernels are Solo5 hvt unikernels, PVH or 64-bit Linux kernels in ELF, and bzImages", notELF)
	}
	sects, size := uint64(h[bzHeader]), uint64(le.Uint32(h[0x1f4:]))*16 // setup_sects, syssize
	if sects == 0 {
		sects = 4
	}
	start, end := (sects+1)*512, bzMagic+int(h[bzMagic-1])
	pref, initSize := le.Uint64(h[0x258:]), uint64(le.Uint32(h[0x260:])) // pref_address, init_size
	align := uint64(le.Uint32(h[0x230:]))                                // kernel_alignment
	bad := func(format string, args ...any) error { return img.errorf(ErrFormat, "bzImage: "+format, args...) }
	switch v := le.Uint16(h[0x206:]); { // version
	case boot != "" && boot != KindLinux:
		return bad("boots by the Linux protocol only; use --boot linux, or for %s the ELF kernel, vmlinux", boot)
	case n < min(end, len(h)):
		return img.errorf(ErrFormat, "truncated: setup header ends at %#x, the file has %d bytes", end, n)
	case v < 0x20c:
		return bad("boot protocol %d.%02d, need 2.12 (Linux 3.8)", v>>8, v&0xff)
	case end < bzMinEnd || end > bzMaxEnd:
		return bad("setup header ends at %#x, need %#x to %#x", end, bzMinEnd, bzMaxEnd)
	case h[0x236]&1 == 0: // xloadflags, XLF_KERNEL_64
		return bad("has no 64-bit entry point")
	case sects > 63:
		return bad("setup of %d sectors, the 32 KiB that there are for it and the boot sector hold 63", sects)
	case size <= bzEntry64:
		return bad("payload of %d bytes ends before the 64-bit entry point", size)
	case h[0x234] != 0 && (align == 0 || pref%align != 0): // relocatable_kernel
		return bad("preferred address %#x is not a multiple of the kernel's alignment, %#x", pref, align)
	}
	if err := img.readAt(h[:1], start+size-1, "the payload's last byte"); err != nil {
		return err
	}
	img.Kind, img.Entry = KindLinux, memory.Addr(pref+bzEntry64)
	img.Segments = []Segment{{Addr: memory.Addr(pref), Offset: start, FileSize: size, MemSize: initSize, Align: 1, R: true, W: true, X: true}}
	img.Linux = &Linux{
		Header:     bytes.Clone(h[bzHeader:end]),
		InitrdMax:  memory.Addr(le.Uint32(h[0x22c:])),     // initrd_addr_max
		CmdlineMax: int(min(le.Uint32(h[0x238:]), 65535)), // cmdline_size
	}
	return nil
}
