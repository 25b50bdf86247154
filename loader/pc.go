package loader

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/uvm-monitor/uvm/memory"
)

// Linux is what the PC-like machine has to know of a kernel, KindPVH or
// KindLinux, besides its segments.
type Linux struct {
	Header     []byte      // bzImage: the setup header, file bytes 0x1f1 to its end, for the zero page; nil for ELF
	InitrdMax  memory.Addr // highest address that an initrd's last byte may have
	CmdlineMax int         // longest command line, bytes without the NUL; 0 to 65535

	// The pages that the kernel needs from its start on, set by FitPC. For ELF
	// they hold all segments, for a bzImage init_size bytes.
	Start, End memory.Addr
}

const (
	maxNotes  = 64 << 10 // bytes in all PT_NOTE entries together
	maxLowMem = 3 << 30  // RAM that any size of PC has below its device hole; for advice only

	// pcMinBase is where memory begins that kernels are loaded to. All below is
	// the monitor's: boot information, tables, a PC's legacy areas.
	pcMinBase memory.Addr = 0x100000
)

// readPC finds out how to boot an ELF file without Solo5's note.
func (img *Image) readPC(phdrs []phdr, boot Kind) error {
	// ELF does not say what Linux on x86 takes: COMMAND_LINE_SIZE with the NUL
	// is 2048, and a bzImage says 2 GiB for its initrd.
	img.Kind, img.Linux = KindLinux, &Linux{InitrdMax: 0x7fffffff, CmdlineMax: 2047}
	if boot == KindLinux {
		return nil // the notes mean nothing then, and may be broken
	}
	if err := img.findPVH(phdrs); err != nil {
		return err
	}
	if boot == KindPVH && img.Kind != KindPVH {
		return img.errorf(ErrFormat, "no PVH note (Xen's PHYS32_ENTRY); if it has a 64-bit Linux entry point, use --boot linux")
	}
	return nil
}

// findPVH takes the entry point that the PVH note names (Xen's public/elfnote.h,
// XEN_ELFNOTE_PHYS32_ENTRY), where there is one. All notes of all PT_NOTE entries are
// looked at.
func (img *Image) findPVH(phdrs []phdr) error {
	left := uint64(maxNotes)
	for i, ph := range phdrs {
		if ph.typ != ptNote {
			continue
		}
		what := fmt.Sprintf("notes in program header %d", i)
		if ph.filesz > left {
			return img.errorf(ErrFormat, "%s: %d bytes, a kernel has at most %d of notes", what, ph.filesz, maxNotes)
		}
		left -= ph.filesz
		b := make([]byte, ph.filesz)
		if err := img.readAt(b, ph.offset, what); err != nil {
			return err
		}
		mask := min(max(ph.align, 4), 8) - 1 // name and descriptor are padded to 4 or 8 bytes
		for len(b) >= elfNoteHdr {
			// The sizes are 32-bit, so none of these sums wraps.
			name := elfNoteHdr + uint64(le.Uint32(b))
			desc := (name + mask) &^ mask
			end := desc + uint64(le.Uint32(b[4:]))
			if end > uint64(len(b)) {
				return img.errorf(ErrFormat, "%s: a note of %d bytes, where %d are left (--boot linux does without notes)", what, end, len(b))
			}
			var v [8]byte
			copy(v[:], b[desc:end])
			switch at := memory.Addr(le.Uint64(v[:])); {
			case le.Uint32(b[8:]) != 18 || string(b[elfNoteHdr:name]) != "Xen\x00":
			case end-desc != 4 && end-desc != 8:
				return img.errorf(ErrFormat, "%s: PVH entry point of %d bytes, need 4 or 8", what, end-desc)
			case img.Kind == KindPVH && img.Entry != at:
				return img.errorf(ErrFormat, "%s: PVH entry point %v, but another note says %v", what, at, img.Entry)
			default:
				img.Kind, img.Entry = KindPVH, at
			}
			b = b[min((end+mask)&^mask, uint64(len(b))):]
		}
	}
	return nil
}

// FitPC checks segments and entry point of a KindPVH or KindLinux image against
// a machine whose RAM below the device hole is [0, lowMem), and sets Start and
// End of img.Linux.
func (img *Image) FitPC(lowMem uint64) error {
	lowMem &^= memory.PageSize - 1
	segs := slices.Clone(img.Segments)
	// The highest first: its end says how much memory would do.
	slices.SortFunc(segs, func(a, b Segment) int { return cmp.Compare(b.Addr, a.Addr) })
	enters := false
	for i := range segs {
		s := &segs[i]
		switch {
		case s.Addr < pcMinBase:
			return img.segmentError(s, "below %v, where the monitor's tables and a PC's legacy areas are", pcMinBase)
		case s.MemSize < s.FileSize:
			return img.segmentError(s, "size in memory (%#x) is less than in the file (%#x)", s.MemSize, s.FileSize)
		case s.MemSize > -uint64(s.Addr): // all that is left of 2^64
			return img.segmentError(s, "size %#x wraps around the address space", s.MemSize)
		case uint64(s.Addr) >= lowMem || s.MemSize > lowMem-uint64(s.Addr):
			last := uint64(s.Addr) + s.MemSize - 1
			return img.tooSmall(fmt.Sprintf("segment %d at %v: its last byte %#x", s.Index, s.Addr, last), last, lowMem)
		case i > 0 && s.End() > segs[i-1].Addr:
			return img.segmentError(s, "ends at %v, in segment %d at %v", s.End(), segs[i-1].Index, segs[i-1].Addr)
		}
		enters = enters || uint64(img.Entry-s.Addr) < s.FileSize // false too where the difference wraps
	}
	if !enters {
		return img.errorf(ErrFit, "entry point %v lies in no segment's bytes from the file", img.Entry)
	}
	img.Linux.Start = segs[len(segs)-1].Addr &^ (memory.PageSize - 1)
	img.Linux.End = (segs[0].End() + memory.PageSize - 1) &^ (memory.PageSize - 1)
	return nil
}

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
