package hostio

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// IORING_OP_FSYNC and IORING_FSYNC_DATASYNC of linux/io_uring.h.
const opFsync, fsyncDatasync = 3, 1

// TestRingFlush looks at the entry that the kernel gets for a flush, and sees that the flush is
// complete only when the kernel has said so.
func TestRingFlush(t *testing.T) {
	d, q := openQueue(t, 1<<20, newRing)
	r := q.engine.(*ring)
	buf := [][]byte{make([]byte, 4096)}
	for round := range uint32(300) { // around the ring
		if e := q.one(t, devices.DiskWrite, buf, 0, 4096); e != 0 {
			t.Fatalf("write = %v; want 0", e)
		}
		place := *r.sqTail & uint32(len(r.sqes)-1)
		q.Do(5, devices.DiskFlush, nil, 0, 0)
		want := sqe{opcode: opFsync, fd: int32(d.fd), opFlags: fsyncDatasync, userData: 5}
		if got := r.sqes[place]; got != want || unsafe.Sizeof(got) != 64 {
			t.Fatalf("entry of flush %d = %+v; want %+v", round, got, want)
		}
		if done := *r.cqTail - *r.cqHead; done != 0 {
			t.Fatalf("%d requests are complete before the kernel was called; want 0", done)
		}
		tail := *r.cqTail
		if tag, e := q.Done(true); tag != 5 || e != 0 || *r.cqTail != tail+1 {
			t.Fatalf("Done = %d, %v with %d entries by the kernel; want 5, 0 and 1", tag, e, *r.cqTail-tail)
		}
	}
}

// TestRingFlushWaits has one flush fail at the kernel: its result is the flush's, and so is not
// made up.
func TestRingFlushWaits(t *testing.T) {
	testFD, err := os.Open("/dev/null") // which has no fsync: EINVAL
	if err != nil {
		t.Fatal(err)
	}
	defer testFD.Close()
	for name, newEngine := range engines {
		_, q := openQueue(t, 1<<20, newEngine)
		q.engine.Close()
		if q.engine, err = newEngine(int(testFD.Fd()), queueSize); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if e := q.one(t, devices.DiskFlush, nil, 0, 0); e != unix.EINVAL {
				t.Errorf("%s: flush of what has no fsync = %v; want EINVAL", name, e)
			}
		}
	}
}
