package loader

import (
	"fmt"

	"github.com/uvm-monitor/uvm/memory"
)

// Fit checks entry point and segments against a guest with memSize bytes of
// memory and returns the first address after the highest segment, kernel_end
// (hvt ABI 2, "Segments").
func (img *Image) Fit(memSize uint64) (end memory.Addr, err error) {
	if img.Entry < HVTMinBase {
		return 0, img.errorf(ErrFit, "entry point %v is below %v", img.Entry, HVTMinBase)
	}
	if uint64(img.Entry) >= memSize {
		return 0, img.tooSmall(fmt.Sprintf("entry point %v", img.Entry), uint64(img.Entry), memSize)
	}
	var last memory.Addr
	for i := range img.Segments {
		s := &img.Segments[i]
		bad := func(format string, args ...any) (memory.Addr, error) { return 0, img.segmentError(s, format, args...) }
		room := -uint64(s.Addr) // up to the end of the address space
		switch {
		case s.Addr < HVTMinBase:
			return bad("below %v, where guest memory starts", HVTMinBase)
		case s.Addr < last:
			return bad("not in ascending order, the one before is at %v", last)
		case s.Align == 0 || s.Align&(s.Align-1) != 0:
			return bad("alignment %#x is not a power of two", s.Align)
		case s.Start() < HVTMinBase:
			return bad("aligned start %v is below %v", s.Start(), HVTMinBase)
		case s.Start() < end:
			return bad("overlaps the one before, which ends at %v", end)
		case s.MemSize < s.FileSize:
			return bad("size in memory (%#x) is less than in the file (%#x)", s.MemSize, s.FileSize)
		case s.W && s.X:
			return bad("is both writable and executable")
		case room < s.Align || s.MemSize > room-s.Align:
			return bad("size %#x wraps around the address space", s.MemSize)
		case uint64(s.End()) > memSize:
			return 0, img.tooSmall(fmt.Sprintf("segment %d at %v: its end %v", s.Index, s.Addr, s.End()), uint64(s.End())-1, memSize)
		case !s.Start().Aligned(memory.PageSize) || !s.End().Aligned(memory.PageSize):
			return bad("aligned range %v-%v is not made of 4 KiB pages", s.Start(), s.End())
		}
		last, end = s.Addr, s.End()
	}
	return end, nil
}

func (img *Image) segmentError(s *Segment, format string, args ...any) *Error {
	return img.errorf(ErrFit, "segment %d at %v: %s", s.Index, s.Addr, fmt.Sprintf(format, args...))
}

// tooSmall says how much memory would do, where the ABI allows that much. last
// is the highest address that must be inside.
func (img *Image) tooSmall(what string, last, have uint64) *Error {
	hint := ""
	if last < img.MaxMemory() {
		hint = fmt.Sprintf(" (it would need %d MiB)", (last>>21+1)*2) // a multiple of 2 MiB, as the ABI wants
	}
	return img.errorf(ErrFit, "%s is beyond guest memory, which ends at %#x%s", what, have, hint)
}

// Load copies the segments into mem, which is fresh and therefore zero. Fit or
// FitPC has succeeded for mem's size. The pages' protection is the caller's work.
func (img *Image) Load(mem *memory.Memory) error {
	for i := range img.Segments {
		s := &img.Segments[i]
		if s.FileSize == 0 {
			continue // zeros only; its file offset means nothing
		}
		b, err := mem.At(s.Addr, s.FileSize)
		if err != nil {
			return err
		}
		if err := img.readAt(b, s.Offset, fmt.Sprintf("segment %d", s.Index)); err != nil {
			return err
		}
	}
	return nil
}
