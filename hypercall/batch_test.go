package hypercall

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// Where the tests' batches lie: in data, their structures at arg. The buffers are in the heap.
const (
	batchAt  = dataAddr + 0x1000
	batchRet = arg + 16
)

// request is a block request of a batch, as the guest lays it out; frame is a net request.
type request struct{ handle, off, ptr, len, op uint64 }

func frame(handle, ptr, n uint64, call Call) request {
	return request{handle, ptr, n, dirty, uint64(call)}
}

const opRead, opWrite = uint64(BlockRead), uint64(BlockWrite)

// putBatch stores requests at ptr and the structure of a batch of n of them.
func (r *rig) putBatch(ptr, n uint64, requests ...request) {
	for i, q := range requests {
		r.put(ptr+uint64(i)*48, q.handle, q.off, q.ptr, q.len, 0, q.op)
	}
	r.put(arg, ptr, n, dirty)
}

// wantBatch compares how many requests went well and the result of the batch.
func (r *rig) wantBatch(what string, done uint64, ret int32) {
	r.t.Helper()
	if d, got := r.u64(arg+8), r.i32(batchRet); d != done || got != ret {
		r.t.Errorf("BATCH of %s = %d done, result %d; want %d, %d", what, d, got, done, ret)
	}
}

// modelDisk is a disk with content.
type modelDisk struct {
	devices.Disk
	data  []byte
	calls []string
}

func (d *modelDisk) Size() int64 { return int64(len(d.data)) }

func (d *modelDisk) ReadAt(b []byte, off int64) syscall.Errno {
	d.calls = append(d.calls, "read")
	copy(b, d.data[off:])
	return 0
}

func (d *modelDisk) WriteAt(b []byte, off int64) syscall.Errno {
	d.calls = append(d.calls, "write")
	copy(d.data[off:], b)
	return 0
}

// TestBatch: all of a batch is done, in its order.
func TestBatch(t *testing.T) {
	r := newRig(t)
	d := &modelDisk{data: make([]byte, 4096)}
	r.Disks[3] = d
	copy(r.mem.Host()[buf:], "abcdef")
	r.putBatch(batchAt, 4,
		request{3, 512, buf, 3, opWrite},
		request{3, 515, buf + 3, 3, opWrite}, // a scatter list: the ranges adjoin, the buffers need not
		request{3, 513, buf + 100, 4, opRead},
		request{3, 4096 - 4, buf + 100, 4, opWrite}) // what the one before has read
	r.ok(Batch, arg, arg+8, 12, batchAt, 4*48, buf+100, 4)
	r.wantBatch("four requests", 4, resultOK)
	if got, end := string(d.data[512:518]), string(d.data[4092:]); got != "abcdef" || end != "bcde" {
		t.Errorf("the disk has %q and %q; want %q and %q", got, end, "abcdef", "bcde")
	}
	if want := []string{"write", "write", "read", "write"}; !slices.Equal(d.calls, want) {
		t.Errorf("the disk saw %v; want %v", d.calls, want)
	}
}

// TestBatchSizes: from none to the most, and more.
func TestBatchSizes(t *testing.T) {
	r := newRig(t)
	for _, n := range []uint64{0, 1, 2, 63, 64} {
		r.disk.reads = 0
		r.putBatch(heapAddr, n, slices.Repeat([]request{{hDisk, 0, dataAddr + 0x2000, 1, opRead}}, 64)...)
		r.ok(Batch, arg, arg+8, 12, heapAddr, 64*48, dataAddr+0x2000, 1)
		r.wantBatch("that many requests", n, resultOK)
		if r.disk.reads != int(n) {
			t.Errorf("BATCH of %d requests made %d; want all", n, r.disk.reads)
		}
	}
	// 1<<60+1 and the like times 48 bytes is little again in 64 bits.
	for _, n := range []uint64{65, 1 << 32, 1<<60 + 1, 1 << 63, math.MaxUint64, math.MaxUint64/48 + 1} {
		r.disk.reads = 0
		r.putBatch(math.MaxUint64, n) // the pointer does not matter any more
		r.ok(Batch, arg, arg+8, 12)
		r.wantBatch("too many requests", 0, resultInval)
	}
	if r.disk.reads != 0 {
		t.Errorf("batches that are too long reached the disk")
	}
}

// TestBatchEndsAtFailure: nothing behind the request that fails is done.
func TestBatchEndsAtFailure(t *testing.T) {
	good := request{hDisk, 0, buf, 8, opRead}
	for _, c := range []struct {
		name string
		bad  request
		err  syscall.Errno
		want int32
	}{
		{"past the end", request{hDisk, 4096, buf, 8, opRead}, 0, resultInval},
		{"wrapping", request{hDisk, 1<<64 - 4, buf, 8, opWrite}, 0, resultInval},
		{"no disk", request{hNIC, 0, buf, 8, opRead}, 0, resultInval},
		{"large handle", request{1<<32 + hDisk, 0, buf, 8, opRead}, 0, resultInval},
		{"operation 0", request{hDisk, 0, buf, 8, 0}, 0, resultInval},
		{"another hypercall", request{hDisk, 0, buf, 8, uint64(HaltCall)}, 0, resultInval},
		{"POLL", request{hDisk, 0, buf, 8, uint64(Poll)}, 0, resultInval},
		{"a frame to a disk", frame(hDisk, buf, 8, NetWrite), 0, resultInval},
		{"a batch in the batch", request{hDisk, 0, buf, 8, uint64(Batch)}, 0, resultInval},
		{"operation with high bits", request{hDisk, 0, buf, 8, 1<<32 | opRead}, 0, resultInval},
		{"operation that is one in 8 bits", request{hDisk, 0, buf, 8, 256 + opRead}, 0, resultInval},
		{"host error", request{hDisk, 0, buf, 8, opWrite}, syscall.EIO, resultError},
		{"host error of a bad range", request{hDisk, 4097, buf, 8, opWrite}, syscall.EIO, resultInval},
	} {
		r := newRig(t)
		r.putBatch(batchAt, 4, good, good, c.bad, good)
		failing := &failingWrites{fakeDisk: r.disk, err: c.err}
		r.Disks[hDisk] = failing
		r.ok(Batch, arg, arg+8, 12, batchAt, 4*48, buf, 8)
		r.wantBatch(c.name, 2, c.want)
		if r.disk.reads != 2 {
			t.Errorf("BATCH with %s third of four: %d reads; want 2", c.name, r.disk.reads)
		}
		if c.want == resultError {
			r.hostErrs(hostErr{"disk", hDisk, "write", c.err})
		}
		r.hostErrs()
	}
}

// failingWrites is a disk that cannot be written.
type failingWrites struct {
	*fakeDisk
	err syscall.Errno
}

func (d *failingWrites) WriteAt([]byte, int64) syscall.Errno { return d.err }

// TestBatchEndsEarly: what moves much ends with fewer done, and OK, so that the VM
// can be stopped between; the guest comes back for the rest.
func TestBatchEndsEarly(t *testing.T) {
	r := newRig(t)
	r.disk.size = math.MaxInt64
	const n = 0x6f00 // bytes of a request
	r.putBatch(dataAddr+0x100, 64, slices.Repeat([]request{{hDisk, 0, heapAddr, n, opWrite}}, 64)...)
	r.ok(Batch, arg, arg+8, 12, dataAddr+0x100, 64*48)
	want := uint64((batchBytes + n - 1) / n)
	r.wantBatch("many bytes", want, resultOK)
	if r.disk.wrote != int(want) {
		t.Errorf("BATCH of many bytes made %d requests; want %d", r.disk.wrote, want)
	}
}

// TestBatchPointers puts requests and their buffers at every edge.
func TestBatchPointers(t *testing.T) {
	r := newRig(t)
	r.disk.size = math.MaxInt64
	var refused int
	check := func(what string, ptr, n uint64, perm memory.Perm) {
		t.Helper()
		err := r.call(Batch, arg)
		want := PointerError{Batch, what, memory.AccessError{Addr: memory.Addr(ptr), Len: n, Want: perm, End: memSize}}
		var e *PointerError
		if allowed(ptr, n, perm) {
			if err != nil {
				t.Fatalf("BATCH with %s of %#x bytes at %#x = %v; want nil", what, n, ptr, err)
			}
		} else if refused++; !errors.As(err, &e) || *e != want {
			t.Fatalf("BATCH with %s of %#x bytes at %#x = %v; want %v", what, n, ptr, err, &want)
		}
	}
	ptrs := append(edges(97), 1<<63, 1<<64-96, 1<<64-1)
	for _, ptr := range ptrs {
		clear(r.mem.Host()) // requests that lie where they may are all zero: EINVAL
		r.put(arg, ptr, 2, dirty)
		check("requests", ptr, 96, memory.ReadWrite)
		for op, perm := range map[uint64]memory.Perm{opRead: memory.Write, opWrite: memory.Read} {
			clear(r.mem.Host())
			r.putBatch(batchAt, 2, request{hDisk, 0, heapAddr + 0x1000, 8, opRead}, request{hDisk, 0, ptr, 80, op})
			check("buffer of request 1", ptr, 80, perm)
			if got := r.mem.Host()[heapAddr+0x1000]; got != 0xdd {
				t.Fatalf("BATCH with a buffer at %#x did not do what was in front of it", ptr)
			}
		}
	}
	if refused < 100 {
		t.Errorf("%d pointers were refused; want many", refused)
	}
}

// TestBatchOverItself reads over the requests and the structure while they are
// carried out: all was copied before, and the results are written last.
func TestBatchOverItself(t *testing.T) {
	r := newRig(t)
	r.putBatch(batchAt, 3, request{hDisk, 0, batchAt, 144, opRead}, request{hDisk, 8, arg, 24, opRead}, request{hDisk, 16, buf, 4, opWrite})
	requests := bytes.Clone(r.mem.Host()[batchAt : batchAt+144])
	r.ok(Batch, arg, arg, 24, batchAt, 144)
	r.wantBatch("itself", 3, resultOK)
	if r.disk.wrote != 1 || r.disk.off != 16 || !bytes.Equal(r.disk.got, make([]byte, 4)) {
		t.Errorf("BATCH over itself: %d writes, the last of %x at %d; want the third request as it was", r.disk.wrote, r.disk.got, r.disk.off)
	}
	if got := r.mem.Host()[batchAt : batchAt+144]; !bytes.Equal(got, requests) {
		t.Errorf("requests after a BATCH over itself = %x; want them as they were", got)
	}
}

// TestBatchFrames: frames are sent and taken, until none waits. Each request has the
// results of the single call.
func TestBatchFrames(t *testing.T) {
	r := newRig(t)
	r.nic.in, r.nic63.readErr = []byte("frame"), syscall.EAGAIN
	copy(r.mem.Host()[buf:], "reply")
	r.putBatch(batchAt, 4, frame(hNIC63, buf, 5, NetWrite), frame(hNIC, buf+100, 1514, NetRead), frame(hNIC63, buf+200, 100, NetRead), frame(hNIC, buf, 5, NetWrite))
	r.ok(Batch, arg, arg+8, 12, batchAt, 4*48, buf+100, 5)
	r.wantBatch("frames", 2, resultAgain)
	if got := string(r.nic63.out); got != "reply" || r.nic63.writes != 1 || r.nic.writes != 0 {
		t.Errorf("BATCH of frames sent %q, %d and %d frames; want %q, 1 and 0", got, r.nic63.writes, r.nic.writes, "reply")
	}
	for i, want := range []struct {
		len uint64
		ret uint32
	}{{5, resultOK}, {5, resultOK}, {100, resultAgain}, {5, dirty & 0xffffffff}} {
		at := batchAt + uint64(i)*48
		if n, ret := r.u64(at+netOffLen), uint32(r.i32(at+netOffRet)); n != want.len || ret != want.ret {
			t.Errorf("request %d of the BATCH of frames: length %d, result %d; want %d, %d", i, n, ret, want.len, want.ret)
		}
	}
}

// TestBatchWithoutNIC: calls that do not exist as single ones do not in a batch.
func TestBatchWithoutNIC(t *testing.T) {
	r := newRig(t)
	for _, c := range []Call{BlockWrite, BlockRead, NetWrite, NetRead} {
		r.exists[c] = false
		r.putBatch(batchAt, 1, request{hDisk, 0, buf, 8, uint64(c)})
		r.ok(Batch, arg, arg+8, 12)
		r.wantBatch("a call that does not exist", 0, resultInval)
	}
}

// TestNoBatch: for a guest without our note the port is none, as in Solo5's tender.
func TestNoBatch(t *testing.T) {
	r := newRig(t)
	r.HasBatch = false
	err := r.call(Batch, arg)
	var pe *devices.PortError
	if want := (devices.PortError{Port: 0x509, Size: 4, Count: 1, Out: true}); !errors.As(err, &pe) || *pe != want {
		t.Errorf("BATCH without the note = %v; want %v", err, &want)
	}
}
