package virtio

import (
	"bytes"
	"cmp"
	"slices"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// fakeNIC gives in's frames and keeps what is sent.
type fakeNIC struct {
	t        testing.TB
	hdr      int
	in, out  [][]byte
	header   [netHeaderSize]byte   // in front of each of in
	headers  [][netHeaderSize]byte // of each of out
	lacks    int                   // TUN_F_… that SetOffload does not know
	offload  int                   // what SetOffload was last called with
	readErr  devices.Errno         // instead of a frame
	writeErr devices.Errno
	reads    int
	closed   bool
}

func (n *fakeNIC) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	n.reads++
	if n.readErr != 0 {
		return 0, n.readErr
	}
	if len(n.in) == 0 {
		return 0, syscall.EAGAIN
	}
	frame := n.in[0]
	bufs = slices.Clone(bufs) // Skip cuts its own
	n.in = n.in[1:]
	size := 0
	for _, part := range [][]byte{n.header[:n.hdr], frame} {
		before := Buffers(bufs).Len()
		Buffers(bufs).CopyFrom(part)
		bufs = Buffers(bufs).Skip(uint64(len(part)))
		size += int(before - Buffers(bufs).Len())
	}
	return size, 0
}

func (n *fakeNIC) WriteFrame(bufs [][]byte) devices.Errno {
	b := bytes.Join(bufs, nil)
	if n.writeErr == 0 {
		n.out = append(n.out, b[n.hdr:])
		n.headers = append(n.headers, [netHeaderSize]byte{})
		copy(n.headers[len(n.headers)-1][:], b[:n.hdr])
	}
	return n.writeErr
}

func (n *fakeNIC) SetOffload(flags int) devices.Errno {
	if n.hdr == 0 && flags != 0 {
		n.t.Error("SetOffload of a NIC without a header")
	}
	if flags&n.lacks != 0 {
		return syscall.EINVAL
	}
	n.offload = flags
	return 0
}

func (n *fakeNIC) VnetHeader() int { return n.hdr }
func (n *fakeNIC) PollFD() int     { return 123 }
func (n *fakeNIC) MTU() int        { return 1500 }
func (n *fakeNIC) Close() error    { n.closed = true; return nil }

// netRig is a network device with its driver.
type netRig struct {
	t      testing.TB
	nic    *fakeNIC
	n      *Net
	rx, tx *driver

	features uint64 // that the driver accepts
	rxSize   uint16 // of its receive queue; 0 = the largest
}

var testMAC = [6]byte{2, 0, 0, 1, 2, 3}

func newNetRig(t testing.TB, hdr int) *netRig {
	t.Helper()
	r := &netRig{t: t, nic: &fakeNIC{t: t, hdr: hdr}}
	r.n = NewNet(r.nic, testMAC, 1500)
	r.restart()
	return r
}

// newOffloadRig is one whose driver accepts the features, on a NIC that has all.
func newOffloadRig(t testing.TB, features uint64) *netRig {
	t.Helper()
	r := newNetRig(t, netHeaderSize)
	r.features = features
	r.restart()
	return r
}

// restart gives the device a new driver, with fresh memory for each queue.
func (r *netRig) restart() {
	r.n.Reset()
	r.rx, r.tx = newDriver(r.t, cmp.Or(r.rxSize, netQueueSize), FeatureVersion1), newDriver(r.t, netQueueSize, FeatureVersion1)
	r.n.Start(FeatureVersion1|netMAC|r.features, []*Queue{r.rx.q, r.tx.q})
}

// rounds serves as the transport does, until there is no more.
func (r *netRig) rounds() error {
	for {
		for _, q := range []*Queue{r.rx.q, r.tx.q} {
			q.left, q.more = roundBytes, false
		}
		if err := r.n.Serve(); err != nil || !r.rx.q.more && !r.tx.q.more {
			return err
		}
	}
}

func (r *netRig) serve() {
	r.t.Helper()
	if err := r.rounds(); err != nil {
		r.t.Fatalf("Serve() = %v; want nil", err)
	}
}

// dropped compares the counts.
func (r *netRig) dropped(what string, rx, tx uint64) {
	r.t.Helper()
	if gotRx, gotTx := r.n.Dropped(); gotRx != rx || gotTx != tx {
		r.t.Errorf("%s: Dropped() = %d, %d; want %d, %d", what, gotRx, gotTx, rx, tx)
	}
}

// ethernet is a frame of n bytes, at least 14.
func ethernet(n int, fill byte) []byte {
	b := bytes.Repeat([]byte{fill}, n)
	copy(b, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5")
	return b
}

// received takes the next frame that the driver got, from the first of chains, and
// says how many it took. All of them are there at once, and all but the last are full.
func (r *netRig) received(chains [][][]byte) (frame []byte, n int) {
	r.t.Helper()
	for more := 1; n < more; n++ {
		_, used, ok := r.rx.Done()
		if !ok && n == 0 {
			return nil, 0
		}
		if !ok || n == len(chains) {
			r.t.Fatalf("%d chains of a frame in %d", n, more)
		}
		all := bytes.Join(chains[n], nil)
		frame = append(frame, all[:used]...)
		if n == 0 {
			more = int(le.Uint16(frame[10:]))
			if h := frame[:10]; !bytes.Equal(h, r.nic.header[:10]) {
				r.t.Errorf("a frame has header % x; want % x", h, r.nic.header[:10])
			}
		}
		if more > 1 && n < more-1 && int(used) != len(all) {
			r.t.Errorf("chain %d of %d has %d bytes; want all %d", n, more, used, len(all))
		}
	}
	return frame[netHeaderSize:], n
}
