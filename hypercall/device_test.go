package hypercall

import (
	"bytes"
	"math"
	"syscall"
	"testing"
)

// Where the arguments lie in these tests, and their results.
const (
	arg      = dataAddr + 8 // needs no alignment
	blockRet = arg + 32
	netLen   = arg + 16
	netRet   = arg + 24
	buf      = heapAddr + 3
	dirty    = 77<<32 | 77 // where a result goes: both words
)

// badHandles belong to no disk and no NIC. Of the large ones the low bits or
// the shifted-out bits do.
var badHandles = []uint64{0, 3, 62, 64, 65, 255, 256 + hDisk, 1<<32 + 1, 1<<32 + hDisk, 1 << 63, 1<<64 - 1}

func TestBlock(t *testing.T) {
	r := newRig(t)
	const size = 4096
	type test struct{ handle, off, len, want uint64 }
	tests := []test{
		{hDisk, 0, 512, resultOK},
		{hDisk, 1, 3, resultOK}, // alignment is the guest's affair
		{hDisk, 0, size, resultOK},
		{hDisk, size - 1, 1, resultOK},
		{hDisk, size - 1, 0, resultOK},
		{hDisk, 0, 0, resultOK},
		{hDisk, 0, size + 1, resultInval},
		{hDisk, size - 1, 2, resultInval},
		{hDisk, size, 0, resultInval}, // as Solo5's tender
		{hDisk, size, 1, resultInval},
		{hDisk, size + 1, 0, resultInval},
		{hDisk, 1, 1<<64 - 1, resultInval}, // the sum wraps to 0
		{hDisk, 512, 1<<64 - 512, resultInval},
		{hDisk, 1<<64 - 512, 512, resultInval},
		{hDisk, 1<<64 - 1, 1, resultInval},
		{hDisk, 0, math.MaxInt64, resultInval},
		{hDisk, 0, math.MaxInt64 + 1, resultInval},
		{hDisk, math.MaxInt64, 1, resultInval},
		{hDisk, 1 << 63, 512, resultInval},
		{hNIC, 0, 512, resultInval}, // not a disk
		{hNIC63, 0, 512, resultInval},
	}
	for _, h := range badHandles {
		tests = append(tests, test{h, 0, 512, resultInval})
	}
	for _, c := range tests {
		r.disk.reads, r.disk.wrote, r.disk.off, r.disk.got = 0, 0, -1, nil
		r.put(arg, c.handle, c.off, buf, c.len, dirty)
		copy(r.mem.Host()[buf:], "written")
		r.ok(BlockWrite, arg, blockRet, 4)
		if got := r.i32(blockRet); got != int32(c.want) {
			t.Errorf("BLOCK_WRITE(%d, %#x, %#x bytes) = %d; want %d", c.handle, c.off, c.len, got, c.want)
		}
		if c.want == resultOK {
			if r.disk.wrote != 1 || r.disk.off != int64(c.off) || !bytes.Equal(r.disk.got, r.mem.Host()[buf:buf+c.len]) {
				t.Errorf("BLOCK_WRITE(%d, %#x, %#x bytes) stored %d bytes at %#x; want the buffer there", c.handle, c.off, c.len, len(r.disk.got), r.disk.off)
			}
		}
		changed := []uint64{blockRet, 4}
		if c.want == resultOK {
			changed = append(changed, buf, c.len)
		}
		r.put(blockRet, dirty)
		r.ok(BlockRead, arg, changed...)
		if got := r.i32(blockRet); got != int32(c.want) {
			t.Errorf("BLOCK_READ(%d, %#x, %#x bytes) = %d; want %d", c.handle, c.off, c.len, got, c.want)
		}
		if c.want == resultOK {
			if r.disk.reads != 1 || r.disk.off != int64(c.off) || !bytes.Equal(r.mem.Host()[buf:buf+c.len], bytes.Repeat([]byte{0xdd}, int(c.len))) {
				t.Errorf("BLOCK_READ(%d, %#x, %#x bytes) did not fill the buffer from %#x", c.handle, c.off, c.len, r.disk.off)
			}
		} else if r.disk.reads+r.disk.wrote != 0 {
			t.Errorf("BLOCK calls with (%d, %#x, %#x bytes) reached the disk", c.handle, c.off, c.len)
		}
	}
	r.hostErrs()
	r.disk.size = 0
	r.put(arg, hDisk, 0, buf, 0, dirty)
	r.ok(BlockRead, arg, blockRet, 4)
	if got := r.i32(blockRet); got != resultInval {
		t.Errorf("BLOCK_READ of a disk of 0 bytes = %d; want %d", got, resultInval)
	}
}

func TestBlockHostError(t *testing.T) {
	r := newRig(t)
	r.disk.err = syscall.EIO
	for call, op := range map[Call]string{BlockWrite: "write", BlockRead: "read"} {
		r.put(arg, hDisk, 0, buf, 512, dirty)
		r.ok(call, arg, blockRet, 4)
		if got := r.i32(blockRet); got != resultError {
			t.Errorf("%v on a failing disk = %d; want %d", call, got, resultError)
		}
		r.hostErrs(hostErr{"disk", hDisk, op, syscall.EIO})
	}
}

func TestNetWrite(t *testing.T) {
	r := newRig(t)
	copy(r.mem.Host()[buf:], "frame")
	for _, c := range []struct {
		handle, len uint64
		err         syscall.Errno
		want        int32
		sent        bool
	}{
		{hNIC, 5, 0, resultOK, true},
		{hNIC, 0, 0, resultOK, true}, // what a frame needs is the NIC's to say
		{hNIC, 5, syscall.EIO, resultError, true},
		{hNIC, 5, syscall.EINVAL, resultError, true},
		{hNIC, 5, syscall.EAGAIN, resultError, true},
		{hDisk, 5, 0, resultInval, false},
	} {
		r.nic.writes, r.nic.out, r.nic.writeErr = 0, nil, c.err
		r.put(arg, c.handle, buf, c.len, dirty)
		r.ok(NetWrite, arg, netRet, 4)
		if got := r.i32(netRet); got != c.want {
			t.Errorf("NET_WRITE(%d, %d bytes) with %v = %d; want %d", c.handle, c.len, c.err, got, c.want)
		}
		if got := r.nic.writes == 1; got != c.sent || got && string(r.nic.out) != "frame"[:c.len] {
			t.Errorf("NET_WRITE(%d, %d bytes) sent %q %d times; want sent %v", c.handle, c.len, r.nic.out, r.nic.writes, c.sent)
		}
		if c.err != 0 {
			r.hostErrs(hostErr{"net", int(c.handle), "write", c.err})
		}
	}
	r.hostErrs()
}

func TestNetRead(t *testing.T) {
	r := newRig(t)
	r.nic.in, r.nic63.in = []byte("frame"), []byte("sixty-three")
	for _, c := range []struct {
		handle, len uint64
		err         syscall.Errno
		want        int32
		got         string
	}{
		{hNIC, 1514, 0, resultOK, "frame"},
		{hNIC, 5, 0, resultOK, "frame"},
		{hNIC, 3, 0, resultOK, "fra"},
		{hNIC, 0, 0, resultOK, ""},
		{hNIC63, 100, 0, resultOK, "sixty-three"},
		{hNIC, 100, syscall.EAGAIN, resultAgain, ""},
		{hNIC, 100, syscall.EBADFD, resultError, ""},
		{hDisk, 100, 0, resultInval, ""},
	} {
		r.nic.readErr, r.nic.len = c.err, -1
		r.put(arg, c.handle, buf, c.len, dirty)
		clear(r.mem.Host()[buf : buf+2000])
		// The length is a result on success only.
		changed := []uint64{netRet, 4}
		if c.want == resultOK {
			changed = append(changed, netLen, 8, buf, uint64(len(c.got)))
		}
		r.ok(NetRead, arg, changed...)
		if got := r.i32(netRet); got != c.want {
			t.Errorf("NET_READ(%d, %d bytes) with %v = %d; want %d", c.handle, c.len, c.err, got, c.want)
		}
		if n := r.u64(netLen); c.want == resultOK && (n != uint64(len(c.got)) || string(r.mem.Host()[buf:buf+n]) != c.got) {
			t.Errorf("NET_READ(%d, %d bytes) gave %d bytes; want %q", c.handle, c.len, n, c.got)
		}
		if c.want == resultError {
			r.hostErrs(hostErr{"net", int(c.handle), "read", c.err})
		}
	}
	r.hostErrs()
}

func TestNetHandles(t *testing.T) {
	r := newRig(t)
	for _, h := range badHandles {
		for _, call := range []Call{NetWrite, NetRead} {
			// A bad pointer does not matter any more.
			r.put(arg, h, 1<<64-1, 1<<64-1, dirty)
			r.ok(call, arg, netRet, 4)
			if got := r.i32(netRet); got != resultInval {
				t.Errorf("%v(handle %#x) = %d; want %d", call, h, got, resultInval)
			}
		}
	}
	if n := r.nic.reads + r.nic.writes + r.nic63.reads + r.nic63.writes; n != 0 {
		t.Errorf("calls with bad handles reached a NIC %d times; want 0", n)
	}
}

// TestOverlap lets the buffer lie on the structure. The request is decided on
// from the copy, and the result is written last.
func TestOverlap(t *testing.T) {
	r := newRig(t)
	r.put(arg, hDisk, 16, arg, 40, dirty)
	r.ok(BlockRead, arg, arg, 40)
	for i, want := range []uint64{0xdddddddddddddddd, 0xdddddddddddddddd, 0xdddddddddddddddd, 0xdddddddddddddddd, 0xdddddddd_00000000} {
		if got := r.u64(arg + uint64(i)*8); got != want {
			t.Errorf("word %d after BLOCK_READ over its own structure = %#x; want %#x", i, got, want)
		}
	}
	if r.disk.off != 16 {
		t.Errorf("BLOCK_READ over its own structure read from %d; want 16", r.disk.off)
	}
	r.nic.in = bytes.Repeat([]byte{0xee}, 32)
	r.put(arg, hNIC, arg, 32, dirty)
	r.ok(NetRead, arg, arg, 32)
	for i, want := range []uint64{0xeeeeeeeeeeeeeeee, 0xeeeeeeeeeeeeeeee, 32, 0xeeeeeeee_00000000} {
		if got := r.u64(arg + uint64(i)*8); got != want {
			t.Errorf("word %d after NET_READ over its own structure = %#x; want %#x", i, got, want)
		}
	}
	// The failing disk is named by the copy's handle, not by what lies there.
	r.disk.err = syscall.EIO
	r.put(arg, hDisk, 0, arg, 40, dirty)
	r.ok(BlockRead, arg, blockRet, 4)
	r.hostErrs(hostErr{"disk", hDisk, "read", syscall.EIO})
}
