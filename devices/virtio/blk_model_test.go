package virtio

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// TestBlkInFlight: requests complete in any order and while further ones come; what
// was not waited for stays in flight, and a reset waits for it.
func TestBlkInFlight(t *testing.T) {
	disk := newFakeDisk(t, 256*512)
	r := newBlkRig(t, disk, false, blkFlush)
	disk.hold = true
	serve := func() {
		t.Helper()
		if err := r.rounds(); err != nil {
			t.Fatal(err)
		}
	}
	var results [][]byte
	for i := range 40 {
		_, bufs := r.Add([][]byte{blkHeader(blkOut, uint64(i)), bytes.Repeat([]byte{byte(i)}, 512)}, 1)
		results = append(results, bufs[0])
		bufs[0][0] = 0x55
		serve()
	}
	if _, _, ok := r.driver.Done(); ok || r.b.PollFD() != 77 || len(disk.calls) != 0 {
		t.Errorf("a request is complete: %v, PollFD() = %d, after %q; want 40 in flight", ok, r.b.PollFD(), disk.calls)
	}
	disk.hold = false
	serve()
	for i := range 40 { // the fake takes the last one first
		if head, _, ok := r.driver.Done(); !ok || head != uint32(3*(39-i)) {
			t.Fatalf("used element %d = %d, %v; want the chain of request %d", i, head, ok, 39-i)
		}
		if results[i][0] != 0 || disk.data[512*i] != byte(i) {
			t.Errorf("request %d: status %d, the disk has %d", i, results[i][0], disk.data[512*i])
		}
	}
	if r.b.PollFD() != -1 {
		t.Errorf("PollFD() with nothing in flight = %d; want -1", r.b.PollFD())
	}

	// A flush that takes long holds nothing up, and a reset waits for all.
	r.restart(t, blkFlush)
	disk.hold, disk.calls = true, []string{}
	r.Add([][]byte{blkHeader(blkSync, 0)}, 1)
	r.Add([][]byte{blkHeader(blkOut, 3), make([]byte, 512)}, 1)
	serve()
	if len(disk.queue.all) != 2 {
		t.Errorf("%d requests in flight; want 2", len(disk.queue.all))
	}
	old := r.driver
	r.restart(t, blkFlush)
	if len(disk.queue.all) != 0 || len(disk.calls) != 2 {
		t.Errorf("%d requests in flight after a reset, which had %q done; want none and 2", len(disk.queue.all), disk.calls)
	}
	if _, _, ok := old.Done(); !ok {
		t.Error("a request that Reset waited for was not returned")
	}

	// A driver that breaks the rules while requests are in flight.
	r.Add([][]byte{blkHeader(blkOut, 3), make([]byte, 512)}, 1)
	r.Add([][]byte{{1}}, 1)
	if err := r.rounds(); err == nil {
		t.Error("Serve() with a short header = nil; want an error")
	}
	r.b.Drain()
	if len(disk.queue.all) != 0 {
		t.Error("a request is in flight after Drain")
	}
	if err := r.b.Close(); err != nil {
		t.Error(err)
	}
}

func TestBlkAllocs(t *testing.T) {
	r := newBlkRig(t, newFakeDisk(t, 4096), false, 0)
	r.disk.calls = nil
	write, _ := r.Add([][]byte{blkHeader(blkOut, 1), make([]byte, 100), make([]byte, 412)}, 1)
	read, _ := r.Add([][]byte{blkHeader(blkIn, 1)}, 412, 101)
	if n := testing.AllocsPerRun(100, func() {
		r.Offer(write)
		r.Offer(read)
		if err := r.rounds(); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a write and a read allocate %v times; want 0", n)
	}
}

// blkModel says what has to become of requests.
type blkModel struct {
	data, synced []byte
	ro, through  bool
	failWrite    bool
	failFlush    bool
}

// request returns the status and what the guest reads; nil leaves its buffer open.
func (m *blkModel) request(kind uint32, sector uint64, out []byte, in int) (status byte, data []byte) {
	sectors := uint64(len(m.data) / 512)
	inside := func(n int) bool { return n%512 == 0 && sector <= sectors && uint64(n/512) <= sectors-sector }
	flush := func() byte {
		if m.failFlush {
			return blkIOErr
		}
		m.synced = append(m.synced[:0], m.data...)
		return blkOK
	}
	switch kind {
	case blkIn:
		if !inside(in) {
			return blkIOErr, nil
		}
		return blkOK, m.data[sector*512:][:in]
	case blkOut:
		if m.ro || !inside(len(out)) || m.failWrite && len(out) > 0 {
			return blkIOErr, nil
		}
		copy(m.data[sector*512:], out)
		if m.through && len(out) > 0 {
			return flush(), nil
		}
		return blkOK, nil
	case blkSync:
		return flush(), nil
	case blkDiscardKind, blkZeroesKind:
		if len(out) != 16 {
			return blkIOErr, nil
		}
		sector, n, flags := le.Uint64(out), uint64(le.Uint32(out[8:])), le.Uint32(out[12:])
		switch {
		case flags > 1 || flags == 1 && kind == blkDiscardKind:
			return blkUnsupp, nil
		case m.ro || n > maxRange || sector > sectors || n > sectors-sector:
			return blkIOErr, nil
		}
		clear(m.data[512*sector:][:512*n])
		if m.through && n > 0 && kind == blkZeroesKind {
			return flush(), nil
		}
		return blkOK, nil
	case blkGetID:
		return blkOK, []byte("serial-0123456789abc")[:min(in, 20)]
	}
	return blkUnsupp, nil
}

// FuzzBlk has the device carry out requests of any kind, split in any way, and
// compares it with the model; then it is given a chain of arbitrary descriptors.
// Each request is 8 bytes: kind, sector, lengths, and what fails.
func FuzzBlk(f *testing.F) {
	f.Add(uint64(1), byte(0), []byte("\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x02\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00"), []byte{})
	f.Add(uint64(2), byte(3), []byte("\x08\x00\x01\x00\x14\x00\x00\x00\x01\x07\x04\x00\x00\x00\x02\x00\x07\xff\x04\x00\x00\x00\x04\x00"), []byte("\x00\x80\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x02\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, seed uint64, flags byte, requests, garbage []byte) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := blkModel{ro: flags&1 != 0, through: flags&2 != 0}
		features := uint64(blkFlush)
		if m.through {
			features = 0
		}
		disk := newFakeDisk(t, 16*512)
		m.data = slices.Clone(disk.data)
		disk.fail = func(op string, _ int) devices.Errno {
			if op == "write" && m.failWrite || op == "flush" && m.failFlush {
				return syscall.EIO
			}
			return 0
		}
		r := newBlkRig(t, disk, m.ro, features)
		for ; len(requests) >= 8 && r.Free < 200; requests = requests[8:] {
			q := requests[:8]
			kind, sector := uint32(q[0]), uint64(q[1])
			if sector >= 0x80 { // the far end too
				sector = uint64(int8(q[1]))
			}
			data := make([]byte, 512*int(q[2]%18)+int(q[3]%2))
			in := 512*int(q[5]%18) + int(q[4])
			if kind == blkDiscardKind || kind == blkZeroesKind {
				data = blkSegment(sector, uint32(q[2])<<(q[7]&24), uint32(q[3]%4))
			}
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			m.failWrite, m.failFlush = q[6]&1 != 0, q[6]&2 != 0
			want, read := m.request(kind, sector, data, in)
			status, got, used := r.request(cutBytes(rng, append(blkHeader(kind, sector), data...), 8), cutSizes(rng, in+1, 8)...)
			if status != want || used != uint32(1+len(read)) || !bytes.HasPrefix(got, read) {
				t.Fatalf("request %d at %d, %d bytes out, %d in: status %d, used length %d; want %d, %d and what the model has", kind, int64(sector), len(data), in, status, used, want, 1+len(read))
			}
			if !bytes.Equal(disk.data, m.data) || !bytes.Equal(disk.synced, m.synced) {
				t.Fatalf("request %d at %d: the disk differs from the model", kind, int64(sector))
			}
		}
		// The disk stays whole whatever comes now; the fake reports accesses outside.
		r.restart(t, features)
		disk.fail = nil
		copy(r.At(bufBase, 4096), garbage)
		copy(r.At(descBase, blkQueueSize*descSize), garbage)
		for i := range min(len(garbage), 32) {
			binary.LittleEndian.PutUint16(r.q.avail[4+2*i:], uint16(garbage[i]))
			r.Offer(uint16(garbage[i]))
		}
		for range 100 {
			r.q.left, r.q.more = roundBytes, false
			if err := r.b.Serve(); err != nil || !r.q.more {
				break
			}
		}
		if m.ro && !bytes.Equal(disk.data, m.data) {
			t.Error("a read-only disk was written")
		}
	})
}
