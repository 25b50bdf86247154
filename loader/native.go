package loader

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

const nativeVersion = 1

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
// those who do not know the note.
func (img *Image) readNative(phdrs []phdr) error {
	d, where, err := img.findNote(phdrs, &nativeNote)
	if d == nil {
		return err
	}
	n := Native{Version: le.Uint32(d), Flags: NativeFlags(le.Uint32(d[4:]))}
	switch {
	case n.Version != nativeVersion:
		return img.errorf(ErrFormat, "%s: version %d, need %d", where, n.Version, nativeVersion)
	case n.Flags&nativeMustKnown&^nativeKnown != 0:
		return img.errorf(ErrFormat, "%s: flags %#x have bits that this uvm does not know: %#x", where, uint32(n.Flags), uint32(n.Flags&nativeMustKnown&^nativeKnown))
	case n.Flags&NativeKeys != 0 && n.Flags&NativeSealed == 0:
		return img.errorf(ErrFormat, "%s: keys without the promise to be sealed", where)
	}
	img.Native = &n
	return nil
}

// segmentKey is the protection key that a segment asks for.
func (img *Image) segmentKey(i int, flags uint32) (uint8, error) {
	if img.Native == nil || img.Native.Flags&NativeKeys == 0 {
		return 0, nil // then those bits mean nothing
	}
	if flags&(pfMaskOS&^pfKey) != 0 {
		return 0, img.errorf(ErrFormat, "segment %d: flags %#x have bits that this uvm does not know", i, flags)
	}
	key := flags & pfKey >> pfKeyShift
	if key > MaxKey {
		return 0, img.errorf(ErrFormat, "segment %d: protection key %d, the highest is %d", i, key, MaxKey)
	}
	return uint8(key), nil
}
