package virtio

import (
	"bytes"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// fakeNIC gives in's frames and keeps what is sent.
type fakeNIC struct {
	t        testing.TB
	hdr      int
	in, out  [][]byte
	readErr  devices.Errno // instead of a frame
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
	n.in = n.in[1:]
	size := 0
	// A header of the host's, which must not reach the guest.
	for _, part := range [][]byte{bytes.Repeat([]byte{0xdd}, n.hdr), frame} {
		before := Buffers(bufs).Len()
		Buffers(bufs).CopyFrom(part)
		bufs = Buffers(bufs).Skip(uint64(len(part)))
		size += int(before - Buffers(bufs).Len())
	}
	return size, 0
}

func (n *fakeNIC) WriteFrame(bufs [][]byte) devices.Errno {
	b := bytes.Join(bufs, nil)
	if len(b) < n.hdr || !bytes.Equal(b[:n.hdr], make([]byte, n.hdr)) {
		n.t.Errorf("WriteFrame: header % x; want %d zeroes", b[:min(n.hdr, len(b))], n.hdr)
	}
	if n.writeErr == 0 {
		n.out = append(n.out, b[min(n.hdr, len(b)):])
	}
	return n.writeErr
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
}

var testMAC = [6]byte{2, 0, 0, 1, 2, 3}

func newNetRig(t testing.TB, hdr int) *netRig {
	t.Helper()
	r := &netRig{t: t, nic: &fakeNIC{t: t, hdr: hdr}}
	r.n = NewNet(r.nic, testMAC, 1500)
	r.restart()
	return r
}

// restart gives the device a new driver, with fresh memory for each queue.
func (r *netRig) restart() {
	r.n.Reset()
	r.rx, r.tx = newDriver(r.t, netQueueSize, FeatureVersion1), newDriver(r.t, netQueueSize, FeatureVersion1)
	r.n.Start(FeatureVersion1|netMAC, []*Queue{r.rx.q, r.tx.q})
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
