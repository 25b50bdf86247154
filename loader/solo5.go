package loader

import (
	"cmp"
	"fmt"
)

// noteKind is a note that uvm looks for.
type noteKind struct {
	what  string // for messages
	owner string // with its NUL
	typ   uint32
	// The descriptor: where its content begins to be aligned, and its size with
	// the padding, all in bytes.
	align, min, max int
	optional        bool // a note that cannot be read is somebody else's, and no error
}

// Solo5's notes (hvt ABI 2, "Notes") and uvm's own (docs/abi.md). Each lies in a
// PT_NOTE of its own, of which only the first note counts.
var (
	abi1Note   = noteKind{what: "note", owner: "Solo5\x00", typ: 0x31494241, align: 4, min: 1, max: 32}
	mft1Note   = noteKind{what: "note", owner: "Solo5\x00", typ: 0x3154464d, align: 8, min: 1, max: 6668}
	nativeNote = noteKind{what: "uvm's note", owner: "uvm\x00", typ: 1, align: 4, min: 8, max: 4096, optional: true}
)

const elfNoteHdr = 12 // Elf64_Nhdr

// Of the ABI1 note.
const (
	abiTargetHVT  = 1
	abiVersionHVT = 2
)

// targetNames are Solo5's other targets, for messages.
var targetNames = map[uint32]string{0: "?", 2: "spt", 3: "virtio", 4: "muen", 5: "genode", 6: "xen"}

// findNote returns the content of the first note of the kind and where it is, for
// messages; nil where there is none.
func (img *Image) findNote(phdrs []phdr, k *noteKind) (content []byte, where string, err error) {
	head := elfNoteHdr + (len(k.owner)+3)&^3
	pad := (head+k.align-1)/k.align*k.align - head
	h := make([]byte, head)
	for i, ph := range phdrs {
		if ph.typ != ptNote {
			continue
		}
		bad := func(format string, args ...any) ([]byte, string, error) {
			return nil, "", img.errorf(ErrFormat, "program header %d: note does not fall within valid size: %s", i, fmt.Sprintf(format, args...))
		}
		if ph.filesz < elfNoteHdr && !k.optional {
			return bad("%d bytes, too small for a note header", ph.filesz)
		}
		if ph.filesz < uint64(head) {
			continue
		}
		where = fmt.Sprintf("%s in program header %d", k.what, i)
		if err := img.readAt(h, ph.offset, where); err != nil {
			if k.optional && err.(*Error).Kind == ErrFormat {
				continue
			}
			return nil, "", err
		}
		if le.Uint32(h) != uint32(len(k.owner)) || string(h[elfNoteHdr:][:len(k.owner)]) != k.owner || le.Uint32(h[8:]) != k.typ {
			continue
		}
		size := le.Uint32(h[4:])
		switch {
		case size < uint32(k.min) || size > uint32(k.max):
			return bad("descriptor of %d bytes, need %d to %d", size, k.min, k.max)
		case ph.filesz-uint64(head) < uint64(size):
			return bad("descriptor of %d bytes in a segment of %d", size, ph.filesz)
		case size <= uint32(pad):
			return bad("descriptor of %d bytes is all padding", size)
		}
		content = make([]byte, int(size)-pad)
		if err := img.readAt(content, ph.offset+uint64(head+pad), where); err != nil {
			return nil, "", err
		}
		return content, where, nil
	}
	return nil, "", nil
}

// readHVT reads the notes of a Solo5 unikernel. abi is its ABI1 note; nil where the
// file has none.
func (img *Image) readHVT(phdrs []phdr, abi []byte, boot Kind) error {
	switch {
	case abi == nil:
		return img.errorf(ErrNoABI, "no Solo5 ABI note: not a Solo5 unikernel (link it for the hvt target)")
	case len(abi) < 8:
		return img.errorf(ErrFormat, "Solo5 ABI note has %d bytes, need 8", len(abi))
	}
	target := le.Uint32(abi)
	img.ABI = le.Uint32(abi[4:])
	switch {
	case target != abiTargetHVT:
		return img.errorf(ErrTarget, "built for Solo5's target %s, need hvt", cmp.Or(targetNames[target], fmt.Sprint(target)))
	case img.ABI != abiVersionHVT:
		err := img.errorf(ErrABIVersion, "built for version %d of the hvt ABI, need %d", img.ABI, abiVersionHVT)
		err.Version = img.ABI
		return err
	case boot != "" && boot != KindHVT:
		return img.errorf(ErrFormat, "is a Solo5 hvt unikernel, not one to boot with --boot %s", boot)
	}
	d, _, err := img.findNote(phdrs, &mft1Note)
	if err != nil {
		return err
	}
	if d == nil {
		return img.errorf(ErrNoManifest, "no Solo5 manifest note")
	}
	if img.Manifest, err = ParseManifest(d); err != nil {
		return img.errorf(ErrManifest, "Solo5 manifest: %v", err)
	}
	return img.readNative(phdrs)
}
