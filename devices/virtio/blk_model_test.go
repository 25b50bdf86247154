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

// TestBlkLong: a request moves maxTransfer bytes in a round and goes on in the next
// one, also when the driver lies in between or is reset.
func TestBlkLong(t *testing.T) {
	const size = 3*maxTransfer + 512
	out := []int{1, maxTransfer, 511, 2*maxTransfer - 1, 1}
	start := func() (*blkRig, []byte) {
		r := newBlkRig(t, newFakeDisk(t, size), false, 0)
		header, data := blkHeader(blkOut, 0), bytes.Repeat([]byte("abc"), size)[:size]
		bufs, rest := [][]byte{header}, data
		for _, n := range out {
			bufs, rest = append(bufs, rest[:n]), rest[n:]
		}
		r.Add(bufs, 1)
		return r, data
	}
	round := func(r *blkRig) (done bool) {
		t.Helper()
		r.disk.calls = r.disk.calls[:0]
		r.q.left, r.q.more = roundBytes, false
		if err := r.b.Serve(); err != nil {
			t.Fatal(err)
		}
		_, _, done = r.driver.Done()
		if done == r.q.more {
			t.Errorf("the request is complete: %v, more is due: %v; want one of them", done, r.q.more)
		}
		return done
	}
	r, data := start()
	for i, want := range [][]string{
		{"write 0+1", "write 1+65535"}, {"write 65536+1", "write 65537+511", "write 66048+65024"}, {"write 131072+65536"},
		{"write 196608+511", "write 197119+1", "flush 0+0"},
	} {
		if done := round(r); !slices.Equal(r.disk.calls, want) || done != (i == 3) {
			t.Errorf("round %d: %q, complete %v; want %q", i, r.disk.calls, done, want)
		}
	}
	if !bytes.Equal(r.disk.synced, data) {
		t.Error("the disk has other bytes than were written")
	}
	if status, got, used := r.request([][]byte{blkHeader(blkIn, 0)}, size, 1); status != 0 || used != size+1 || !bytes.Equal(got, data) {
		t.Errorf("read of all: status %d, used length %d, or other bytes; want 0, %d", status, used, size+1)
	}

	// The chain gets shorter than what is done: it ends, within bounds.
	r, _ = start()
	round(r)
	r.Desc(2, bufBase, 511, descNext, 3)
	r.Desc(3, bufBase, 0, descNext, 4)
	r.Desc(4, bufBase, 0, descNext, 5)
	r.Desc(5, bufBase, 0, descNext, 6)
	if !round(r) {
		t.Error("a chain that became shorter is not complete")
	}
	// It becomes a read beyond the end, with the position of the write.
	r, _ = start()
	round(r)
	copy(r.At(bufBase, 16), blkHeader(blkOut, 4))
	if !round(r) || len(r.disk.calls) != 0 {
		t.Errorf("a request that moved beyond the end had the disk asked for %q; want nothing", r.disk.calls)
	}
	// A reset forgets the position, and so does a saved state.
	r, data = start()
	round(r)
	state, err := r.b.SaveState()
	r.restart(t, blkFlush)
	if status, got, _ := r.request([][]byte{blkHeader(blkIn, 0)}, 512, 1); status != 0 || err != nil || !bytes.Equal(got, data[:512]) {
		t.Errorf("first read after a reset in the middle: status %d, %q; want the first sector", status, got[:8])
	}
	r, data = start()
	if err := r.b.LoadState(state); err != nil {
		t.Errorf("LoadState = %v; want nil", err)
	}
	for !round(r) {
	}
	if !bytes.Equal(r.disk.data, data) {
		t.Error("after LoadState the request was not done from its start")
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
		if m.through {
			return flush(), nil
		}
		return blkOK, nil
	case blkSync:
		return flush(), nil
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
