package vmm

import (
	"encoding/binary"
	"strings"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// What every hvt guest finds in memory, whatever ring it runs in.

var le = binary.LittleEndian

// hvtCmdlineSize is the room for the command line with its NUL.
const hvtCmdlineSize = 8192

// hvtBootInfo is struct hvt_boot_info (hvt ABI 2): what the guest is told in
// RDI. Cmdline and Manifest are addresses. The last three fields are the tail
// that newer guests read; all zero says that there is no network ring.
type hvtBootInfo struct {
	MemSize, KernelEnd, TSCHz   uint64
	Cmdline, Manifest           uint64
	HostFeatures, GuestFeatures uint32
	NetRing                     uint64
}

// hvtBootInfoSize is the structure's size in the guest, in bytes.
const hvtBootInfoSize = 56

// hvtCommandLine joins the arguments as Solo5's tender does; empty ones leave
// consecutive spaces.
func hvtCommandLine(args []string) (string, error) {
	s := strings.Join(args, " ")
	if len(s) >= hvtCmdlineSize {
		return "", &CommandLineError{Len: len(s), Max: hvtCmdlineSize - 1}
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return "", configError("guest arguments: a NUL byte at position %d", i)
	}
	return s, nil
}

// CommandLineError is a guest command line that is too long.
type CommandLineError struct{ Len, Max int } // bytes

func (e *CommandLineError) Error() string {
	return configError("guest arguments: %d bytes, the limit is %d", e.Len, e.Max).Error()
}

// writeBootInfo stores the structure, the manifest and the command line one
// after the other from gpaBootInfo on.
func writeBootInfo(mem *memory.Memory, bi hvtBootInfo, m *loader.Manifest, cmdline string) error {
	mft := m.Encode()
	bi.Manifest = uint64(gpaBootInfo) + hvtBootInfoSize
	bi.Cmdline = bi.Manifest + uint64(len(mft))
	b, err := mem.At(gpaBootInfo, uint64(hvtBootInfoSize+len(mft)+hvtCmdlineSize))
	if err != nil {
		return err
	}
	for i, v := range [...]uint64{bi.MemSize, bi.KernelEnd, bi.TSCHz, bi.Cmdline, bi.Manifest} {
		le.PutUint64(b[i*8:], v)
	}
	le.PutUint32(b[40:], bi.HostFeatures)
	le.PutUint32(b[44:], bi.GuestFeatures)
	le.PutUint64(b[48:], bi.NetRing)
	copy(b[hvtBootInfoSize:], mft)
	copy(b[hvtBootInfoSize+len(mft):], cmdline) // memory is zero: terminated
	return nil
}

// hvtView is what an hvt guest may reach: the boot information, its segments
// as they ask for, and the rest of memory above 1 MiB. Low memory with the
// page tables stays out, though a guest in ring 0 could map it; so does memory
// with a protection key, since whether the guest may reach that changes with PKRU.
func hvtView(mem *memory.Memory, img *loader.Image) (*memory.View, error) {
	return viewOf(mem, img, func(m *mapping) bool { return m.key == 0 })
}

// viewOf grants the mappings that may be in the view.
func viewOf(mem *memory.Memory, img *loader.Image, may func(*mapping) bool) (*memory.View, error) {
	v := memory.NewView(mem)
	for _, m := range hvtMap(img, mem.Size()) {
		if !may(&m) {
			continue
		}
		if err := v.Grant(m.start, m.end, m.perm); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// protectSegments gives the host's pages the permissions of the segments, so
// that they hold for a ring-0 guest too.
func protectSegments(mem *memory.Memory, img *loader.Image) error {
	for i := range img.Segments {
		s := &img.Segments[i]
		if s.Perm() == memory.ReadWrite {
			continue
		}
		if err := mem.Protect(s.Start(), uint64(s.End()-s.Start()), s.Perm()); err != nil {
			return err
		}
	}
	return nil
}
