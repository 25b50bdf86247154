package loader

import (
	"io"
	"os"
	"syscall"

	"github.com/uvm-monitor/uvm/memory"
)

// Kind is what a kernel expects of the machine it boots on.
type Kind string

// KindHVT is a unikernel for the Solo5 hvt ABI.
const KindHVT Kind = "hvt"

// HVTMinBase is the lowest address at which an hvt guest may be loaded; all
// below belongs to the monitor (hvt ABI 2, HVT_GUEST_MIN_BASE).
const HVTMinBase memory.Addr = 0x100000

// Image is a kernel that was opened and found well-formed.
type Image struct {
	Path     string
	Kind     Kind
	Entry    memory.Addr
	Segments []Segment // all PT_LOAD entries with memsz > 0, in file order
	ABI      ABI
	Manifest *Manifest
	Native   *Native // nil: the file has no note of uvm's own

	file io.ReaderAt
	shut io.Closer
}

// Segment is one PT_LOAD program header.
type Segment struct {
	Index    int         // number of the program header
	Addr     memory.Addr // p_vaddr; hvt guests run where they were linked
	Offset   uint64      // in the file, bytes
	FileSize uint64      // bytes copied from the file
	MemSize  uint64      // bytes in memory, the rest is zero
	Align    uint64      // p_align
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

// Open opens the file at path. The caller closes the Image.
func Open(path string) (*Image, error) {
	// O_NONBLOCK keeps the open of a FIFO from waiting for a writer; it means
	// nothing for the regular files that are accepted.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &Error{Kind: ErrOpen, Path: path, Err: err}
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &Error{Kind: ErrFormat, Path: path, Detail: "not a regular file"}
	} else if err != nil {
		err = &Error{Kind: ErrOpen, Path: path, Err: err}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	img, err := Parse(path, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	img.shut = f
	return img, nil
}

// Parse reads a kernel from r; path is used in messages only.
func Parse(path string, r io.ReaderAt) (*Image, error) {
	img := &Image{Path: path, Kind: KindHVT, file: r}
	phdrs, err := img.readHeaders()
	if err != nil {
		return nil, err
	}
	if err := img.readABI(phdrs); err != nil {
		return nil, err
	}
	if err := img.readManifest(phdrs); err != nil {
		return nil, err
	}
	if err := img.readNative(phdrs); err != nil {
		return nil, err
	}
	for i, ph := range phdrs {
		if ph.typ == ptLoad && ph.memsz|ph.filesz != 0 {
			key, err := img.segmentKey(i, ph.flags)
			if err != nil {
				return nil, err
			}
			img.Segments = append(img.Segments, Segment{
				Index: i, Addr: memory.Addr(ph.vaddr), Offset: ph.offset,
				FileSize: ph.filesz, MemSize: ph.memsz, Align: ph.align,
				R: ph.flags&pfR != 0, W: ph.flags&pfW != 0, X: ph.flags&pfX != 0, Key: key,
			})
		}
	}
	return img, nil
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
