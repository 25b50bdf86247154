package hypercall

import (
	"math"
	"testing"

	"github.com/uvm-monitor/uvm/memory"
)

// edges are addresses at which something changes, with all that lie up to width
// around them.
func edges(width uint64) []uint64 {
	var e []uint64
	for _, at := range []uint64{0, bootAddr, holeAddr, textAddr, dataAddr, gapAddr, heapAddr, memSize} {
		for d := range 2*width + 1 {
			if a := at + d - width; a < math.MaxUint32 { // not below 0
				e = append(e, a)
			}
		}
	}
	return append(e, 1<<20, 1<<31, 1<<32-42, 1<<32-8, 1<<32-1)
}

// calls are the hypercalls with their structure's size and what it is for.
var calls = []struct {
	call Call
	size uint64
	perm memory.Perm
}{
	{Walltime, 8, memory.Write},
	{Puts, 16, memory.Read},
	{Poll, 24, memory.ReadWrite},
	{BlockWrite, 40, memory.ReadWrite},
	{BlockRead, 40, memory.ReadWrite},
	{NetWrite, 32, memory.ReadWrite},
	{NetRead, 32, memory.ReadWrite},
	{HaltCall, 16, memory.Read},
	{Batch, 24, memory.ReadWrite},
}

// TestStructurePointer puts each structure at every edge. Memory is zero but
// for a frame that ends POLL: all fields are 0, which is valid or EINVAL.
func TestStructurePointer(t *testing.T) {
	r := newRig(t)
	signal(t, r.ready)
	for _, c := range calls {
		good := 0
		for _, gpa := range edges(42) {
			clear(r.mem.Host())
			if !allowed(gpa, c.size, c.perm) {
				r.refused(c.call, uint32(gpa), "argument", gpa, c.size, c.perm)
				continue
			}
			good++
			switch err := r.call(c.call, uint32(gpa)); err.(type) {
			case nil:
				if c.call == HaltCall {
					t.Fatalf("%v at %#x = nil; want a Halt", c.call, gpa)
				}
			case *Halt:
				if c.call != HaltCall {
					t.Fatalf("%v at %#x = %v; want nil", c.call, gpa, err)
				}
			default:
				t.Fatalf("%v at %#x = %v; want it to work", c.call, gpa, err)
			}
		}
		if good == 0 {
			t.Errorf("%v worked nowhere", c.call)
		}
		// The last place of all, spelled out: it ends with memory.
		clear(r.mem.Host())
		if err := r.call(c.call, uint32(memSize-c.size)); err != nil && c.call != HaltCall {
			t.Errorf("%v with a structure that ends with memory = %v; want nil", c.call, err)
		}
		r.refused(c.call, uint32(memSize-c.size+1), "argument", memSize-c.size+1, c.size, c.perm)
	}
}

// TestBufferPointer puts each buffer at every edge, with lengths that reach the
// next ones.
func TestBufferPointer(t *testing.T) {
	r := newRig(t)
	r.disk.size = math.MaxInt64
	r.nic.in = make([]byte, memSize)
	const gpa = dataAddr + 0x100
	for _, c := range []struct {
		call Call
		perm memory.Perm
		put  func(ptr, n uint64)
		ret  uint64 // where the result is, 0 = none
	}{
		{Puts, memory.Read, func(ptr, n uint64) { r.put(gpa, ptr, n) }, 0},
		{BlockWrite, memory.Read, func(ptr, n uint64) { r.put(gpa, hDisk, 0, ptr, n, dirty) }, gpa + 32},
		{BlockRead, memory.Write, func(ptr, n uint64) { r.put(gpa, hDisk, 0, ptr, n, dirty) }, gpa + 32},
		{NetWrite, memory.Read, func(ptr, n uint64) { r.put(gpa, hNIC, ptr, n, dirty) }, gpa + 24},
		{NetRead, memory.Write, func(ptr, n uint64) { r.put(gpa, hNIC, ptr, n, dirty) }, gpa + 24},
	} {
		block := c.call == BlockWrite || c.call == BlockRead
		good, bad := 0, 0
		try := func(ptr, n uint64) {
			c.put(ptr, n)
			ok := allowed(ptr, n, c.perm)
			inval := block && n > math.MaxInt64 // decided on before the pointer
			if !ok && !inval {
				bad++
				r.refused(c.call, gpa, "buffer", ptr, n, c.perm)
				return
			}
			good++
			if err := r.call(c.call, gpa); err != nil {
				t.Fatalf("%v of %#x bytes at %#x = %v; want nil", c.call, n, ptr, err)
			}
			want := int32(resultOK)
			if inval {
				want = resultInval
			}
			if c.ret != 0 && r.i32(c.ret) != want {
				t.Fatalf("%v of %#x bytes at %#x = %d; want %d", c.call, n, ptr, r.i32(c.ret), want)
			}
		}
		ptrs := append(edges(5), 1<<63, 1<<64-memSize, 1<<64-2, 1<<64-1)
		for _, ptr := range ptrs {
			for _, n := range []uint64{0, 1, 2, 41, 1<<63 - 1, 1 << 63, 1<<64 - 1, -ptr, memSize - ptr, memSize - ptr + 1} {
				try(ptr, n)
			}
			for _, end := range []uint64{holeAddr, dataAddr, gapAddr, heapAddr} {
				for d := range uint64(3) {
					try(ptr, end+d-1-ptr)
				}
			}
		}
		if good < 50 || bad < 50 {
			t.Errorf("%v: %d buffers were good, %d bad; want many of both", c.call, good, bad)
		}
	}
	r.hostErrs()
}
