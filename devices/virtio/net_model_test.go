package virtio

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// TestNetFlood: a NIC that always has a frame, and a driver that takes each at
// once, get a bounded round, and are asked back.
func TestNetFlood(t *testing.T) {
	r := newNetRig(t, 0)
	frame := ethernet(60, 1)
	flood := &floodNIC{fakeNIC: r.nic, frame: frame, r: r}
	r.n.nic = flood
	flood.head, _ = r.rx.Add(nil, 1526)
	r.tx.Add([][]byte{make([]byte, netHeaderSize), frame})
	for range 3 {
		for _, q := range []*Queue{r.rx.q, r.tx.q} {
			q.left, q.more = roundBytes, false
		}
		before := flood.frames
		if err := r.n.Serve(); err != nil {
			t.Fatal(err)
		}
		if n := flood.frames - before; n == 0 || n > 2*roundBytes/chainBytes || !r.rx.q.more {
			t.Errorf("a round took %d frames, more is due: %v; want at most %d, true", n, r.rx.q.more, 2*roundBytes/chainBytes)
		}
	}
}

// floodNIC has its driver offer another buffer with each frame.
type floodNIC struct {
	*fakeNIC
	r      *netRig
	frame  []byte
	head   uint16
	frames int
}

func (n *floodNIC) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	n.frames++
	n.r.rx.Offer(n.head)
	Buffers(bufs).CopyFrom(n.frame)
	return len(n.frame), 0
}

func (n *floodNIC) WriteFrame([][]byte) devices.Errno {
	n.frames++
	n.r.tx.Offer(0)
	return 0
}

// quietNIC is one whose own work allocates nothing.
type quietNIC struct{ fakeNIC }

func (n *quietNIC) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	n.reads++
	if n.reads%2 == 0 {
		return 0, syscall.EAGAIN
	}
	return int(Buffers(bufs).Len()) - 1, 0
}
func (n *quietNIC) WriteFrame([][]byte) devices.Errno { return 0 }

func TestNetAllocs(t *testing.T) {
	r := newOffloadRig(t, netMergeable)
	r.n.nic = &quietNIC{fakeNIC{hdr: 12}}
	rx, _ := r.rx.Add(nil, 12, 1514)
	tx, _ := r.tx.Add([][]byte{make([]byte, 12), ethernet(60, 1)})
	again, _ := r.rx.Add(nil, 1526)
	if n := testing.AllocsPerRun(100, func() {
		r.rx.Offer(rx)
		r.rx.Offer(again)
		r.tx.Offer(tx)
		if err := r.rounds(); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("frames in both directions allocate %v times; want 0", n)
	}
	r.dropped("allocations", 0, 0)
}

// FuzzNet sends and receives frames of any length through chains split in any way
// and compares with what has to arrive; then come chains of arbitrary descriptors.
// Each step is 4 bytes: what to do, and lengths. how is the NIC's header or none,
// mergeable buffers, and what else the driver accepts.
func FuzzNet(f *testing.F) {
	steps := []byte("\x00\x00\x3c\x00\x01\x05\xea\x00\x02\x05\xea\x00\x04\x00\x00\x00")
	f.Add(uint64(1), byte(1), steps, []byte{})
	f.Add(uint64(2), byte(0), []byte("\x03\x00\x20\x00\x02\x00\x21\x00\x00\x00\x0d\x00"), []byte("\x00\x80\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x02\x00\x00\x00"))
	f.Add(uint64(3), byte(0xff), bytes.Join([][]byte{steps, []byte("\x02\x0f\xff\x00\x01\x00\x00\x00\x01\x08\x00\x00\x01\x0f\xff\x00")}, nil), []byte{})
	f.Fuzz(func(t *testing.T, seed uint64, how byte, steps, garbage []byte) {
		rng := rand.New(rand.NewPCG(seed, 4))
		hdr := int(how&1) * netHeaderSize
		r := newNetRig(t, hdr)
		merge := hdr > 0 && how&2 != 0
		if merge {
			r.features = netMergeable
		}
		for i, o := range netOffloads {
			if hdr > 0 && how>>2>>i&1 != 0 {
				r.features |= o.sent | o.received
			}
		}
		r.restart()
		var sent, waiting, got, want [][]byte // waiting: on the NIC
		var rooms []int
		var chains [][][]byte
		var rxDrops, txDrops uint64
		for ; len(steps) >= 4 && r.rx.Free < 200 && r.tx.Free < 200 && r.rx.Top < driverMem-1<<16 && r.tx.Top < driverMem-1<<16; steps = steps[4:] {
			n := int(steps[1])<<8 | int(steps[2])
			switch steps[0] % 5 {
			case 0: // send
				frame := make([]byte, n)
				for i := range frame {
					frame[i] = byte(rng.Uint32())
				}
				r.nic.writeErr = 0
				if steps[3]&1 != 0 {
					r.nic.writeErr = syscall.EIO
				}
				header := [netHeaderSize]byte{0: steps[3] >> 1 & 7, 1: steps[0] / 5 % 6, 4: steps[3] >> 4, 6: steps[1], 7: steps[2] % 3, 8: steps[2]}
				if n < 14 || r.nic.writeErr != 0 || !mayAsk(header, n, r.features) {
					txDrops++
				} else {
					sent = append(sent, frame)
				}
				r.tx.Add(cutBytes(rng, append(header[:], frame...), 8))
			case 1: // room for n bytes
				n %= 4096
				_, in := r.rx.Add(nil, cutSizes(rng, netHeaderSize+n, 8)...)
				chains, rooms = append(chains, in), append(rooms, netHeaderSize+n)
			case 2, 3: // a frame comes in
				frame := ethernet(14+n%4096<<(how>>7*4), steps[3])
				waiting = append(waiting, frame)
				r.nic.in = append(r.nic.in, frame)
			case 4: // nothing new
			}
			r.serve()
			for len(rooms) > 0 && len(waiting) > 0 {
				need, n := netHeaderSize+len(waiting[0]), 0
				for n == 0 || merge && n < len(rooms) && need > 0 {
					need -= rooms[n]
					n++
				}
				if need > 0 && merge {
					break // for more room
				} else if need > 0 {
					rxDrops++
				} else {
					want, rooms = append(want, waiting[0]), rooms[n:]
				}
				waiting = waiting[1:]
			}
			if ready := r.n.PollFD() == 123; ready != (len(rooms) > 0 && len(waiting) == 0) {
				t.Fatalf("PollFD() waits for the NIC: %v, with %d buffers and %d frames", ready, len(rooms), len(waiting))
			}
		}
		for i := 0; ; {
			frame, n := r.received(chains[i:])
			if n == 0 {
				break
			}
			got, i = append(got, frame), i+n
		}
		if !slices.EqualFunc(got, want, bytes.Equal) || !slices.EqualFunc(r.nic.out, sent, bytes.Equal) {
			t.Fatalf("%d frames received, %d sent; want %d, %d, unchanged and in order", len(got), len(r.nic.out), len(want), len(sent))
		}
		r.dropped("fuzz", rxDrops, txDrops)

		r.restart()
		for _, d := range []*driver{r.rx, r.tx} {
			copy(d.At(bufBase, 4096), garbage)
			copy(d.At(descBase, netQueueSize*descSize), garbage)
			for _, g := range garbage[:min(len(garbage), 32)] {
				d.Offer(uint16(g))
			}
		}
		r.nic.in = slices.Repeat([][]byte{ethernet(60, 1), ethernet(9000, 1)}, 20)
		r.rounds()
	})
}

// mayAsk says whether a driver with the features may send a frame of n bytes with
// header h: sections 5.1.3.1 and 5.1.6.2, from a reading of its own.
func mayAsk(h [netHeaderSize]byte, n int, features uint64) bool {
	feature := func(bit int) bool { return features>>bit&1 != 0 && features&1 != 0 }
	csum := h[0]&1 != 0
	if csum && (!feature(0) || int(le.Uint16(h[6:]))+int(le.Uint16(h[8:]))+2 > n || int(le.Uint16(h[2:])) > n) {
		return false
	}
	if h[1] == 0 {
		return true
	}
	if h[1]&0x80 != 0 && !feature(13) || !csum || le.Uint16(h[4:]) == 0 {
		return false
	}
	bit, known := map[byte]int{1: 11, 4: 12, 5: 56}[h[1]&0x7f]
	return known && feature(bit)
}
