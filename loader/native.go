package loader

import "fmt"

// uvm's own note (docs/abi.md, "uvm's own note").
const (
	nativeOwner   = "uvm\x00"
	nativeHdrSize = 16 // Elf64_Nhdr and the owner's name
	nativeType    = 1
	nativeVersion = 1
	nativeMin     = 8    // bytes of descriptor: version and flags
	nativeMax     = 4096 // bytes of descriptor
)

// NativeFlags are the promises and wishes of a native guest. A flag in the low
// half has to be understood; one in the high half may be ignored.
type NativeFlags uint32

// The flags that there are.
const (
	// NativeSealed promises a start without a privileged instruction.
	NativeSealed NativeFlags = 1 << 0
	// NativeKeys says that p_flags name the segments' protection keys. It needs
	// NativeSealed.
	NativeKeys NativeFlags = 1 << 1

	nativeKnown     = NativeSealed | NativeKeys
	nativeMustKnown = 0xffff
)

// Native is the content of uvm's own note.
type Native struct {
	Version uint32 // 1
	Flags   NativeFlags
}

// MaxMemory is the largest memory below the device hole that a PC's kernel can be
// given, in bytes; an hvt guest's is 64 GiB if its note promises to run sealed, else
// the 4 GiB of the ABI.
func (img *Image) MaxMemory() uint64 {
	if img.Linux != nil {
		return maxLowMem
	}
	if img.Native != nil && img.Native.Flags&NativeSealed != 0 {
		return 64 << 30
	}
	return 4 << 30
}

// Bits of p_flags that the System V ABI leaves to the operating system
// (PF_MASKOS), as a guest with NativeKeys uses them.
const (
	pfMaskOS   = 0x0ff00000
	pfKey      = 0x00f00000 // the segment's protection key
	pfKeyShift = 20
)

// MaxKey is the highest protection key that a segment may have. Key 0 is
// everybody's, and 15 is the monitor's own.
const MaxKey = 14

// readNative reads the note where there is one. The file stays what it is for
// those who do not know the note: what cannot be read cannot be ours.
func (img *Image) readNative(phdrs []phdr) error {
	for i, ph := range phdrs {
		if ph.typ != ptNote || ph.filesz < nativeHdrSize {
			continue
		}
		var h [nativeHdrSize]byte
		if err := img.readAt(h[:], ph.offset, "note"); err != nil {
			if err, ok := err.(*Error); ok && err.Kind == ErrFormat {
				continue
			}
			return err
		}
		if le.Uint32(h[0:]) != uint32(len(nativeOwner)) || string(h[12:]) != nativeOwner || le.Uint32(h[8:]) != nativeType {
			continue
		}
		bad := func(format string, args ...any) error {
			return img.formatError("uvm's note in program header %d: %s", i, fmt.Sprintf(format, args...))
		}
		size := le.Uint32(h[4:])
		switch {
		case size < nativeMin || size > nativeMax:
			return bad("descriptor of %d bytes, need %d to %d", size, nativeMin, nativeMax)
		case ph.filesz-nativeHdrSize < uint64(size):
			return bad("descriptor of %d bytes in a segment of %d", size, ph.filesz)
		}
		var d [nativeMin]byte
		if err := img.readAt(d[:], ph.offset+nativeHdrSize, "uvm's note"); err != nil {
			return err
		}
		n := Native{Version: le.Uint32(d[:]), Flags: NativeFlags(le.Uint32(d[4:]))}
		switch {
		case n.Version != nativeVersion:
			return bad("version %d, need %d", n.Version, nativeVersion)
		case n.Flags&nativeMustKnown&^nativeKnown != 0:
			return bad("flags %#x have bits that this uvm does not know: %#x", uint32(n.Flags), uint32(n.Flags&nativeMustKnown&^nativeKnown))
		case n.Flags&NativeKeys != 0 && n.Flags&NativeSealed == 0:
			return bad("keys without the promise to be sealed")
		}
		img.Native = &n
		return nil
	}
	return nil
}

// segmentKey is the protection key that a segment asks for.
func (img *Image) segmentKey(i int, flags uint32) (uint8, error) {
	if img.Native == nil || img.Native.Flags&NativeKeys == 0 {
		return 0, nil // then those bits mean nothing
	}
	if flags&(pfMaskOS&^pfKey) != 0 {
		return 0, img.formatError("segment %d: flags %#x have bits that this uvm does not know", i, flags)
	}
	key := flags & pfKey >> pfKeyShift
	if key > MaxKey {
		return 0, img.formatError("segment %d: protection key %d, the highest is %d", i, key, MaxKey)
	}
	return uint8(key), nil
}
