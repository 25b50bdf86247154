package loader

import (
	"bytes"
	"fmt"
)

// Solo5's notes (hvt ABI 2, "Notes"). Each lies in a PT_NOTE of its own, of
// which only the first note counts.
const (
	noteName    = "Solo5\x00"
	elfNoteHdr  = 12 // Elf64_Nhdr
	noteHdrSize = 20 // Elf64_Nhdr and the name, padded to four bytes

	abi1Type  = 0x31494241
	abi1Align = 4
	abi1Max   = 32

	mft1Type  = 0x3154464d
	mft1Align = 8
	mft1Max   = 6668
)

// ABI is the content of the ABI1 note.
type ABI struct {
	Target  uint32 // 1 = hvt
	Version uint32
}

const (
	abiTargetHVT  = 1
	abiVersionHVT = 2
)

// targetName names Solo5's other targets, for messages.
func targetName(t uint32) string {
	names := [...]string{"?", "hvt", "spt", "virtio", "muen", "genode", "xen"}
	if int64(t) < int64(len(names)) {
		return names[t]
	}
	return fmt.Sprint(t)
}

// findNote returns the descriptor of the first Solo5 note of the given type,
// or nil where there is none.
func (img *Image) findNote(phdrs []phdr, typ uint32, align, maxDesc int) ([]byte, error) {
	for i, ph := range phdrs {
		if ph.typ != ptNote {
			continue
		}
		if ph.filesz < elfNoteHdr {
			return nil, img.formatError("program header %d: note does not fall within valid size: %d bytes, too small for a note header", i, ph.filesz)
		}
		if ph.filesz < noteHdrSize {
			continue
		}
		var h [noteHdrSize]byte
		if err := img.readAt(h[:], ph.offset, fmt.Sprintf("note in program header %d", i)); err != nil {
			return nil, err
		}
		if le.Uint32(h[0:]) != uint32(len(noteName)) || string(h[12:12+len(noteName)]) != noteName || le.Uint32(h[8:]) != typ {
			continue
		}
		descsz := le.Uint32(h[4:])
		pad := (noteHdrSize+align-1)/align*align - noteHdrSize
		switch {
		case descsz < 1 || descsz > uint32(maxDesc):
			return nil, img.formatError("program header %d: note does not fall within valid size: descriptor of %d bytes, need 1 to %d", i, descsz, maxDesc)
		case ph.filesz-noteHdrSize < uint64(descsz):
			return nil, img.formatError("program header %d: note does not fall within valid size: descriptor of %d bytes in a segment of %d", i, descsz, ph.filesz)
		case descsz <= uint32(pad):
			return nil, img.formatError("program header %d: note does not fall within valid size: descriptor of %d bytes is all padding", i, descsz)
		}
		desc := make([]byte, int(descsz)-pad)
		if err := img.readAt(desc, ph.offset+uint64(noteHdrSize+pad), fmt.Sprintf("note in program header %d", i)); err != nil {
			return nil, err
		}
		return desc, nil
	}
	return nil, nil
}

// readABI decodes the ABI1 note, d; nil where the file has none.
func (img *Image) readABI(d []byte) error {
	if d == nil {
		return &Error{Kind: ErrNoABI, Path: img.Path, Detail: "no Solo5 ABI note: not a Solo5 unikernel (link it for the hvt target)"}
	}
	if len(d) < 8 {
		return img.formatError("Solo5 ABI note has %d bytes, need 8", len(d))
	}
	img.ABI = ABI{Target: le.Uint32(d), Version: le.Uint32(d[4:])}
	if img.ABI.Target != abiTargetHVT {
		return &Error{Kind: ErrTarget, Path: img.Path, Detail: fmt.Sprintf("built for Solo5's target %s, need hvt", targetName(img.ABI.Target))}
	}
	if img.ABI.Version != abiVersionHVT {
		return &Error{Kind: ErrABIVersion, Path: img.Path, Version: img.ABI.Version, Detail: fmt.Sprintf("built for version %d of the hvt ABI, need %d", img.ABI.Version, abiVersionHVT)}
	}
	return nil
}

func (img *Image) readManifest(phdrs []phdr) error {
	d, err := img.findNote(phdrs, mft1Type, mft1Align, mft1Max)
	if err != nil {
		return err
	}
	if d == nil {
		return &Error{Kind: ErrNoManifest, Path: img.Path, Detail: "no Solo5 manifest note"}
	}
	if img.Manifest, err = ParseManifest(d); err != nil {
		return &Error{Kind: ErrManifest, Path: img.Path, Detail: "Solo5 manifest: " + err.Error()}
	}
	return nil
}

// cString is b up to its first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
