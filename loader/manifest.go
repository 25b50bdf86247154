package loader

import (
	"cmp"
	"fmt"
	"strings"
)

// Layout of an application manifest (hvt ABI 2, "Manifest").
const (
	mftVersion   = 1
	mftHdrSize   = 8
	mftEntrySize = 104
	mftMax       = 64 // entries
	mftNameSize  = 68

	mftOffType     = 68
	mftOffUnion    = 72
	mftOffAttached = 96
)

// DeviceType is the type of a manifest entry.
type DeviceType uint32

// Device types.
const (
	DeviceBlock    DeviceType = 1
	DeviceNet      DeviceType = 2
	DeviceReserved DeviceType = 1 << 30 // the first entry, and only that
)

func (t DeviceType) String() string {
	names := map[DeviceType]string{DeviceBlock: "block", DeviceNet: "net", DeviceReserved: "reserved"}
	return cmp.Or(names[t], fmt.Sprintf("type %#x", uint32(t)))
}

// Device is a manifest entry. Its index in Manifest.Entries is its handle in
// hypercalls.
type Device struct {
	Name string
	Type DeviceType

	// What the guest learns once the device is attached.
	Attached  bool
	Capacity  uint64  // block: bytes
	BlockSize uint16  // block: bytes
	MAC       [6]byte // net
	MTU       uint16  // net: bytes
}

// Manifest is the list of devices that a guest asks for.
type Manifest struct {
	Entries []Device // 1 to 64; entry 0 is reserved
}

// ParseManifest decodes the descriptor of an MFT1 note.
func ParseManifest(d []byte) (*Manifest, error) {
	if len(d) < mftHdrSize {
		return nil, fmt.Errorf("%d bytes, need at least %d", len(d), mftHdrSize)
	}
	version, n := le.Uint32(d), le.Uint32(d[4:])
	want := mftHdrSize + int(n)*mftEntrySize
	switch {
	case version != mftVersion:
		return nil, fmt.Errorf("version %d, need %d", version, mftVersion)
	case n < 1 || n > mftMax:
		return nil, fmt.Errorf("%d entries, need 1 to %d", n, mftMax)
	case len(d) != want:
		return nil, fmt.Errorf("%d bytes, %d entries need %d", len(d), n, want)
	}
	m := &Manifest{Entries: make([]Device, n)}
	for i := range m.Entries {
		e := d[mftHdrSize+i*mftEntrySize:][:mftEntrySize]
		switch {
		case e[mftNameSize-1] != 0:
			return nil, fmt.Errorf("entry %d: name is not terminated", i)
		case e[mftOffAttached] != 0:
			return nil, fmt.Errorf("entry %d: attached already", i)
		}
		name, _, _ := strings.Cut(string(e[:mftNameSize]), "\x00")
		m.Entries[i] = Device{Name: name, Type: DeviceType(le.Uint32(e[mftOffType:]))}
	}
	if f := &m.Entries[0]; f.Type != DeviceReserved || f.Name != "" {
		return nil, fmt.Errorf("entry 0 is %v %q, need the nameless reserved one", f.Type, f.Name)
	}
	return m, nil
}

// Encode is the manifest as the guest sees it at run time. The private bytes,
// which Solo5's tender leaks a file descriptor in, are zero.
func (m *Manifest) Encode() []byte {
	d := make([]byte, mftHdrSize+len(m.Entries)*mftEntrySize)
	le.PutUint32(d, mftVersion)
	le.PutUint32(d[4:], uint32(len(m.Entries)))
	for i := range m.Entries {
		dev, e := &m.Entries[i], d[mftHdrSize+i*mftEntrySize:][:mftEntrySize]
		copy(e[:mftNameSize-1], dev.Name)
		le.PutUint32(e[mftOffType:], uint32(dev.Type))
		switch dev.Type {
		case DeviceBlock:
			le.PutUint64(e[mftOffUnion:], dev.Capacity)
			le.PutUint16(e[mftOffUnion+8:], dev.BlockSize)
		case DeviceNet:
			copy(e[mftOffUnion:], dev.MAC[:])
			le.PutUint16(e[mftOffUnion+6:], dev.MTU)
		}
		if dev.Attached {
			e[mftOffAttached] = 1
		}
	}
	return d
}
