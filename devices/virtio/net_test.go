package virtio

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

var _ Device = (*Net)(nil)

func TestNetConfig(t *testing.T) {
	nic := &fakeNIC{t: t}
	for mtu, want := range map[int]uint64{0: 1<<5 | 1<<16, 9000: 1<<3 | 1<<5 | 1<<16} {
		n := NewNet(nic, testMAC, mtu)
		config := []byte{2, 0, 0, 1, 2, 3, 1, 0, 0, 0, byte(mtu & 0xff), byte(mtu >> 8)}
		if got := n.Info(); got.Features != want || !bytes.Equal(got.Config, config) {
			t.Errorf("MTU %d: Info() = %+v; want features %#x, configuration % x", mtu, got, want, config)
		}
	}
	n := NewNet(nic, testMAC, 0)
	if i := n.Info(); i.Type != 1 || !slices.Equal(i.Queues, []uint16{512, 512}) || n.PollFD() != -1 || n.Serve() != nil {
		t.Errorf("Info() = %+v, PollFD() = %d; want type 1, queues [512 512], -1, and Serve to do nothing", i, n.PollFD())
	}
	if err := n.Close(); err != nil || !nic.closed {
		t.Errorf("Close() = %v, and the NIC is closed: %v; want nil, true", err, nic.closed)
	}
}

// TestNetSend: what the guest sends arrives without its header, whatever is in
// that and however it is split; what is no frame is dropped.
func TestNetSend(t *testing.T) {
	for _, hdr := range []int{0, netHeaderSize} {
		r := newNetRig(t, hdr)
		var want [][]byte
		var drops uint64
		rng := rand.New(rand.NewPCG(1, uint64(hdr)))
		for i, n := range []int{0, 1, 13, 14, 15, 60, 1514, 1518, 9014, 65549, 65550, 65551, 65600} {
			frame := make([]byte, n)
			if n >= 14 {
				frame = ethernet(n, byte(i))
			}
			header := append([]byte{0xfe, 0}, bytes.Repeat([]byte{0xff}, netHeaderSize-2)...)
			out := [][]byte{append(header, frame...)}
			switch {
			case i%3 == 1 && n > 0:
				out = [][]byte{header, frame}
			case i%3 == 2:
				out = cutBytes(rng, out[0], 10)
			}
			head, _ := r.tx.Add(out)
			r.serve()
			if h, used, ok := r.tx.Done(); !ok || h != uint32(head) || used != 0 {
				t.Errorf("frame of %d: used element %d, %d, %v; want %d, 0", n, h, used, ok, head)
			}
			if n >= 14 && n <= 65550 {
				want = append(want, frame)
			} else {
				drops++
			}
		}
		if !slices.EqualFunc(r.nic.out, want, bytes.Equal) {
			t.Errorf("header of %d: %d frames arrived; want %d, unchanged and in order", hdr, len(r.nic.out), len(want))
		}
		if i := slices.IndexFunc(r.nic.headers, func(h [netHeaderSize]byte) bool { return h != [netHeaderSize]byte{} }); i >= 0 {
			t.Errorf("header %d = % x; want zeros, for it asked for nothing", i, r.nic.headers[i])
		}
		r.dropped("sent", 0, drops)
	}
}

// TestNetReceive: a frame that fits exactly arrives, a longer one is dropped and
// the buffer is there for the next one.
func TestNetReceive(t *testing.T) {
	for _, hdr := range []int{0, netHeaderSize} {
		for cut := range 10 {
			r := newNetRig(t, hdr)
			r.nic.header = [netHeaderSize]byte{0xfe, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9} // none of it asks for anything
			rng := rand.New(rand.NewPCG(uint64(cut), 3))
			in := []int{netHeaderSize + 1514}
			switch cut {
			case 1:
				in = []int{netHeaderSize, 1514}
			case 2:
				in = []int{netHeaderSize - 2, 2, 1500, 14}
			case 3, 4, 5, 6, 7, 8, 9:
				in = cutSizes(rng, in[0], 12)
			}
			r.nic.in = [][]byte{ethernet(1515, 1), ethernet(1514, 2), ethernet(60, 3), ethernet(65550, 4), ethernet(14, 5)}
			want := [][]byte{r.nic.in[1], r.nic.in[2], r.nic.in[4]}
			var bufs [3][][]byte
			for i := range bufs {
				_, bufs[i] = r.rx.Add(nil, in...)
			}
			r.serve()
			for i, frame := range want {
				all := bytes.Join(bufs[i], nil)
				h, used, ok := r.rx.Done()
				if !ok || int(h) != i*len(in) || int(used) != netHeaderSize+len(frame) {
					t.Fatalf("cut %d, frame %d: used element %d, %d, %v; want %d, %d", cut, i, h, used, ok, i*len(in), netHeaderSize+len(frame))
				}
				if !bytes.Equal(all[:netHeaderSize], []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00")) || !bytes.Equal(all[netHeaderSize:used], frame) {
					t.Errorf("cut %d, frame %d: header % x and other bytes than were sent; want num_buffers 1 and the frame", cut, i, all[:netHeaderSize])
				}
			}
			r.dropped("received", 2, 0)
			if got := r.n.PollFD(); got != -1 {
				t.Errorf("PollFD() without a buffer = %d; want -1", got)
			}
		}
	}
}

// TestNetPoll: the NIC is waited for, and read, only while there is a buffer.
func TestNetPoll(t *testing.T) {
	r := newNetRig(t, 0)
	poll := func(what string, want, reads int) {
		t.Helper()
		r.serve()
		if got := r.n.PollFD(); got != want || r.nic.reads != reads {
			t.Errorf("%s: PollFD() = %d after %d reads; want %d after %d", what, got, r.nic.reads, want, reads)
		}
	}
	r.nic.in = [][]byte{ethernet(60, 1)}
	poll("no buffer", -1, 0)
	r.rx.Add(nil, 1526)
	poll("a buffer and a frame", -1, 1)
	r.rx.Add(nil, 1526)
	poll("a buffer and no frame", 123, 2)
	poll("again", 123, 3)
	r.nic.in = [][]byte{ethernet(60, 2)}
	poll("the frame", -1, 4)
	if _, used, ok := r.rx.Done(); !ok || used != 72 {
		t.Errorf("used length = %d, %v; want 72", used, ok)
	}
	// A reset while it waits.
	r.rx.Add(nil, 1526)
	poll("a third buffer", 123, 5)
	r.n.Reset()
	if got := r.n.PollFD(); got != -1 || r.n.Serve() != nil {
		t.Errorf("PollFD() after a reset = %d; want -1", got)
	}
	// Only one of the queues is enabled.
	for i := range 2 {
		r.restart()
		q := []*Queue{r.rx.q, r.tx.q}
		q[i] = nil
		r.n.Start(0, q)
		r.rx.Add(nil, 1526)
		r.tx.Add([][]byte{make([]byte, netHeaderSize), ethernet(60, 3)})
		r.serve()
		if got := len(r.nic.out) == 1; got != (i == 0) {
			t.Errorf("without queue %d the frame was sent: %v", i, got)
		}
		r.nic.out = nil
	}
}

// TestNetFaults: a NIC that fails costs frames, and never a loop.
func TestNetFaults(t *testing.T) {
	for _, e := range []devices.Errno{syscall.EIO, syscall.EBADFD, syscall.ENOBUFS, syscall.EAGAIN, syscall.EINVAL, syscall.ENOMEM, syscall.EFAULT} {
		r := newNetRig(t, netHeaderSize)
		r.nic.writeErr = e
		for range 3 {
			r.tx.Add([][]byte{make([]byte, netHeaderSize), ethernet(60, 1)})
		}
		r.serve()
		r.dropped("write "+e.Error(), 0, 3)
		for range 3 {
			if _, used, ok := r.tx.Done(); !ok || used != 0 {
				t.Errorf("write %v: used element %d, %v; want 0", e, used, ok)
			}
		}
		if e == syscall.EAGAIN {
			continue
		}
		r.nic.readErr = e
		r.rx.Add(nil, 1526)
		r.serve()
		r.dropped("read "+e.Error(), 1, 3)
		if got := r.n.PollFD(); got != -1 || r.nic.reads != 1 {
			t.Errorf("read %v: PollFD() = %d after %d reads; want -1, lest it be called for ever, after 1", e, got, r.nic.reads)
		}
		// The driver's next notification finds it well again; the buffer is not lost.
		r.nic.readErr, r.nic.in = 0, [][]byte{ethernet(60, 9)}
		r.serve()
		if _, used, ok := r.rx.Done(); !ok || used != 72 {
			t.Errorf("after %v: used element %d, %v; want 72", e, used, ok)
		}
	}
}

// TestNetMalformed: chains without a header.
func TestNetMalformed(t *testing.T) {
	for _, c := range []struct {
		name string
		add  func(r *netRig)
	}{
		{"11 bytes to send", func(r *netRig) { r.tx.Add([][]byte{make([]byte, 11)}) }},
		{"11 bytes to send in pieces", func(r *netRig) { r.tx.Add([][]byte{{1}, make([]byte, 10)}) }},
		{"a buffer to write in the send queue", func(r *netRig) { r.tx.Add(nil, 1526) }},
		{"11 bytes of room", func(r *netRig) { r.rx.Add(nil, 10, 1) }},
		{"a buffer to read in the receive queue", func(r *netRig) { r.rx.Add([][]byte{make([]byte, 1526)}) }},
	} {
		r := newNetRig(t, 0)
		r.nic.in = [][]byte{ethernet(60, 1)}
		c.add(r)
		if err := r.rounds(); err == nil || r.nic.reads != 0 || len(r.nic.out) != 0 {
			t.Errorf("%s: Serve() = %v after %d reads and %d frames sent; want an error, and no frame lost", c.name, err, r.nic.reads, len(r.nic.out))
		}
		r.restart()
		r.rx.Add(nil, 1526)
		r.serve()
		if _, used, ok := r.rx.Done(); !ok || used != 72 {
			t.Errorf("%s, after a reset: used element %d, %v; want 72", c.name, used, ok)
		}
	}
}

// TestNetHoldsWhatFramesNeed: short frames have one chain held at a time, long ones as
// many as they need, and the first long one comes in the same round, by a copy.
func TestNetHoldsWhatFramesNeed(t *testing.T) {
	r := newOffloadRig(t, fMergeable)
	var chains [][][]byte
	for range 200 {
		_, in := r.rx.Add(nil, 1526)
		chains = append(chains, in)
	}
	offered := 0 // that the last read was offered
	r.n.nic = &countingNIC{fakeNIC: r.nic, offered: &offered}
	for i, step := range []struct{ frames, size, slices int }{
		{3, 60, 2}, // one chain, and the room behind it
		{1, 9014, 7}, {1, 9014, 7},
		{1, 60, 7}, {100, 60, 2},
		{1, 20000, 15}, {1, 1514, 14},
	} {
		for j := range step.frames {
			r.nic.in = append(r.nic.in, ethernet(step.size, byte(i+j)))
		}
		r.serve()
		for j := range step.frames {
			frame, n := r.received(chains)
			if chains = chains[n:]; !bytes.Equal(frame, ethernet(step.size, byte(i+j))) {
				t.Fatalf("step %d, frame %d: %d bytes; want the frame of %d", i, j, len(frame), step.size)
			}
		}
		if offered != step.slices || len(r.nic.in) != 0 {
			t.Errorf("step %d: the read after %d frames of %d bytes has %d slices; want %d", i, step.frames, step.size, offered, step.slices)
		}
	}
	r.dropped("frames of all sizes", 0, 0)
}

// countingNIC tells what the last read was offered.
type countingNIC struct {
	*fakeNIC
	offered *int
}

func (n *countingNIC) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	*n.offered = len(bufs)
	return n.fakeNIC.ReadFrame(bufs)
}

// TestNetMergeableFull: a frame too long for a whole queue, of a driver that made it shorter
// than it may be, waits until that is full, and is dropped.
func TestNetMergeableFull(t *testing.T) {
	r := newOffloadRig(t, fMergeable)
	r.rxSize = 256
	r.restart()
	r.nic.in = [][]byte{ethernet(60000, 1), ethernet(80, 2)}
	var chains [][][]byte
	add := func() {
		_, in := r.rx.Add(nil, 64)
		chains = append(chains, in)
	}
	for range 255 {
		add()
	}
	r.serve()
	if frame, _ := r.received(chains); frame != nil || r.n.PollFD() != -1 {
		t.Errorf("a queue that is not full: a frame of %d bytes, PollFD() = %d; want none, -1", len(frame), r.n.PollFD())
	}
	r.dropped("not full", 0, 0)
	add()
	r.serve()
	if frame, _ := r.received(chains); !bytes.Equal(frame, ethernet(80, 2)) {
		t.Errorf("a full queue: a frame of %d bytes; want the next one, of 80", len(frame))
	}
	r.dropped("full", 1, 0)
}
