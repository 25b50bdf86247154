package loader

import (
	"io"
	"os"
	"syscall"

	"github.com/uvm-monitor/uvm/memory"
)

// Kind is what a kernel expects of the machine it boots on.
type Kind string

// The kinds of kernels.
const (
	KindHVT   Kind = "hvt"   // Solo5 hvt ABI
	KindPVH   Kind = "pvh"   // Xen PVH entry point, 32-bit protected mode
	KindLinux Kind = "linux" // Linux 64-bit boot protocol
)

// HVTMinBase is the lowest address at which an hvt guest may be loaded; all
// below belongs to the monitor (hvt ABI 2, HVT_GUEST_MIN_BASE).
const HVTMinBase memory.Addr = 0x100000

// Image is a kernel that was opened and found well-formed.
type Image struct {
	Path     string
	Kind     Kind
	Entry    memory.Addr
	Segments []Segment // all PT_LOAD entries with memsz > 0, in file order; the payload of a bzImage
	ABI      uint32    // version of the hvt ABI; KindHVT only, like Manifest and Native
	Manifest *Manifest
	Native   *Native // nil: the file has no note of uvm's own
	Linux    *Linux  // KindPVH and KindLinux, otherwise nil

	file io.ReaderAt
	shut *os.File // file, unless that is the caller's or closed
}

// Segment is one PT_LOAD program header.
type Segment struct {
	Index    int         // number of the program header
	Addr     memory.Addr // hvt guests run where they were linked, p_vaddr; others are loaded at p_paddr
	Offset   uint64      // in the file, bytes
	FileSize uint64      // bytes copied from the file
	MemSize  uint64      // bytes in memory, the rest is zero
	Align    uint64      // p_align for hvt, 1 for others, which need no alignment
	R, W, X  bool
	Key      uint8 // protection key, 0 to MaxKey; 0 unless the guest has NativeKeys
}

// Start and End are the segment's range widened to its alignment: the pages
// whose protection it decides. Valid after Fit.
func (s *Segment) Start() memory.Addr { return s.Addr &^ memory.Addr(s.Align-1) }

// End is the first address after the widened range. Valid after Fit.
func (s *Segment) End() memory.Addr {
	return (s.Addr + memory.Addr(s.MemSize+s.Align-1)) &^ memory.Addr(s.Align-1)
}

// Perm is what data accesses to the segment may do. Executable pages are
// always readable: neither EPT nor NPT offers less to a ring-0 guest.
func (s *Segment) Perm() memory.Perm {
	var p memory.Perm
	if s.R || s.X {
		p |= memory.Read
	}
	if s.W {
		p |= memory.Write
	}
	return p
}

// Open reads the kernel in the file at path, or where r is not nil, from that; path is
// then used in messages only. boot is the protocol that the user wants, an error where
// the kernel does not have it: KindPVH, KindLinux, KindHVT (which no other file
// passes), or "" to decide by the kernel. The caller closes the Image, and r.
func Open(path string, r io.ReaderAt, boot Kind) (*Image, error) {
	img := &Image{Path: path, Kind: KindHVT, file: r}
	if r == nil {
		// O_NONBLOCK keeps the open of a FIFO from waiting for a writer; it means
		// nothing for the regular files that are accepted.
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, &Error{Kind: ErrOpen, Path: path, Err: err}
		}
		img.file, img.shut = f, f
	}
	if err := img.parse(boot); err != nil {
		img.Close()
		return nil, err
	}
	return img, nil
}

func (img *Image) parse(boot Kind) error {
	if img.shut != nil {
		if st, err := img.shut.Stat(); err != nil {
			return &Error{Kind: ErrOpen, Path: img.Path, Err: err}
		} else if !st.Mode().IsRegular() {
			return img.errorf(ErrFormat, "not a regular file")
		}
	}
	var h [ehdrSize]byte
	if err := img.readAt(h[:], 0, "ELF header"); err != nil {
		return err
	}
	if string(h[:4]) != elfMagic && boot != KindHVT {
		return img.readBzImage(boot)
	}
	phdrs, err := img.readHeaders(&h)
	if err != nil {
		return err
	}
	abi, _, err := img.findNote(phdrs, &abi1Note)
	if err == nil && abi == nil && boot != KindHVT {
		err = img.readPC(phdrs, boot)
	} else if err == nil {
		err = img.readHVT(phdrs, abi, boot)
	}
	if err != nil {
		return err
	}
	for i, ph := range phdrs {
		if ph.typ != ptLoad || ph.memsz|ph.filesz == 0 {
			continue
		}
		s := Segment{
			Index: i, Addr: memory.Addr(ph.vaddr), Offset: ph.offset,
			FileSize: ph.filesz, MemSize: ph.memsz, Align: ph.align,
			R: ph.flags&pfR != 0, W: ph.flags&pfW != 0, X: ph.flags&pfX != 0,
		}
		if s.Key, err = img.segmentKey(i, ph.flags); err != nil {
			return err
		}
		if img.Linux != nil {
			s.Addr, s.Align = memory.Addr(ph.paddr), 1
		}
		img.Segments = append(img.Segments, s)
	}
	return nil
}

// Close closes the file. The Image can be described afterwards, not loaded.
func (img *Image) Close() error {
	if img.shut == nil {
		return nil
	}
	err := img.shut.Close()
	img.shut = nil
	return err
}
