package vmm

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// What every hvt guest finds in memory, whatever ring it runs in.

var le = binary.LittleEndian

// hvtCmdlineSize is the room for the command line with its NUL.
const hvtCmdlineSize = 8192

// hvtBootInfoSize is the size of struct hvt_boot_info (hvt ABI 2) in bytes, with the
// tail that newer guests read.
const hvtBootInfoSize = 56

// checkCommandLine holds the line that messages call what against its limit.
func checkCommandLine(what, line string, limit int) error {
	if len(line) > limit {
		return &CommandLineError{Len: len(line), Max: limit}
	}
	if i := strings.IndexByte(line, 0); i >= 0 {
		return configError("%s: a NUL byte at position %d", what, i)
	}
	return nil
}

// CommandLineError is a guest command line that is too long.
type CommandLineError struct{ Len, Max int } // bytes

func (e *CommandLineError) Error() string {
	return fmt.Sprintf("guest arguments: %d bytes, the limit is %d", e.Len, e.Max)
}

// writeBootInfo stores the structure that the guest finds by RDI, the manifest and
// the command line one after the other from gpaBootInfo on.
func writeBootInfo(mem *memory.Memory, kernelEnd memory.Addr, tscHz uint64, m *loader.Manifest, cmdline string) error {
	mft, at := m.Encode(), uint64(gpaBootInfo)+hvtBootInfoSize
	// The last two words are zero and say that there is no network ring. Memory is zero:
	// the command line is terminated.
	info := le64s(mem.Size(), uint64(kernelEnd), tscHz, at+uint64(len(mft)), at, 0, 0)
	return mem.Put(gpaBootInfo, info, mft, []byte(cmdline))
}

// hvtView is what an hvt guest may reach: the boot information, its segments
// as they ask for, and the rest of memory above 1 MiB. Low memory with the
// page tables stays out, though a guest in ring 0 could map it; so does memory
// with a protection key, since whether the guest may reach that changes with PKRU.
func hvtView(mem *memory.Memory, img *loader.Image) (*memory.View, error) {
	return viewOf(mem, img, func(m *mapping) bool { return m.key == 0 })
}

// viewOf grants the mappings that may be in the view.
func viewOf(mem *memory.Memory, img *loader.Image, may func(*mapping) bool) (v *memory.View, err error) {
	v = memory.NewView(mem)
	for _, m := range hvtMap(img, mem.Size()) {
		if may(&m) {
			err = cmp.Or(err, v.Grant(m.start, m.end, m.perm))
		}
	}
	return v, err
}

// protectSegments gives the host's pages the permissions of the segments, so
// that they hold for a ring-0 guest too.
func protectSegments(mem *memory.Memory, img *loader.Image) (err error) {
	for i := range img.Segments {
		if s := &img.Segments[i]; s.Perm() != memory.ReadWrite {
			err = cmp.Or(err, mem.Protect(s.Start(), uint64(s.End()-s.Start()), s.Perm()))
		}
	}
	return err
}
