package loader

import (
	"cmp"
	"fmt"
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
	entry, err := img.findPVH(phdrs)
	if entry != nil {
		img.Kind, img.Entry = KindPVH, *entry
	} else if err == nil && boot == KindPVH {
		err = img.errorf(ErrFormat, "no PVH note (Xen's PHYS32_ENTRY); if it has a 64-bit Linux entry point, use --boot linux")
	}
	return err
}

// findPVH returns the entry point that the PVH note names (Xen's
// public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY), or nil where there is none. All
// notes of all PT_NOTE entries are looked at.
func (img *Image) findPVH(phdrs []phdr) (entry *memory.Addr, err error) {
	left := uint64(maxNotes)
	for i, ph := range phdrs {
		if ph.typ != ptNote {
			continue
		}
		what := fmt.Sprintf("notes in program header %d", i)
		if ph.filesz > left {
			return nil, img.errorf(ErrFormat, "%s: %d bytes, a kernel has at most %d of notes", what, ph.filesz, maxNotes)
		}
		left -= ph.filesz
		b := make([]byte, ph.filesz)
		if err := img.readAt(b, ph.offset, what); err != nil {
			return nil, err
		}
		mask := min(max(ph.align, 4), 8) - 1 // name and descriptor are padded to 4 or 8 bytes
		for len(b) >= elfNoteHdr {
			// The sizes are 32-bit, so none of these sums wraps.
			name := elfNoteHdr + uint64(le.Uint32(b))
			desc := (name + mask) &^ mask
			end := desc + uint64(le.Uint32(b[4:]))
			if end > uint64(len(b)) {
				return nil, img.errorf(ErrFormat, "%s: a note of %d bytes, where %d are left (--boot linux does without notes)", what, end, len(b))
			}
			var v [8]byte
			copy(v[:], b[desc:end])
			switch at := memory.Addr(le.Uint64(v[:])); {
			case le.Uint32(b[8:]) != 18 || string(b[elfNoteHdr:name]) != "Xen\x00":
			case end-desc != 4 && end-desc != 8:
				return nil, img.errorf(ErrFormat, "%s: PVH entry point of %d bytes, need 4 or 8", what, end-desc)
			case entry != nil && *entry != at:
				return nil, img.errorf(ErrFormat, "%s: PVH entry point %v, but another note says %v", what, at, *entry)
			default:
				entry = &at
			}
			b = b[min((end+mask)&^mask, uint64(len(b))):]
		}
	}
	return entry, nil
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
