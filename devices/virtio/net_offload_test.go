package virtio

import (
	"bytes"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Features by their bits, as section 5.1.3 numbers them.
const (
	fCsum, fGuestCsum                        = 1 << 0, 1 << 1
	fGuestTSO4, fGuestTSO6, fGuestECN        = 1 << 7, 1 << 8, 1 << 9
	fHostTSO4, fHostTSO6, fHostECN           = 1 << 11, 1 << 12, 1 << 13
	fMergeable                               = 1 << 15
	fGuestUSO4, fGuestUSO6, fHostUSO  uint64 = 1 << 54, 1 << 55, 1 << 56

	fTSO        = fCsum | fGuestCsum | fGuestTSO4 | fGuestTSO6 | fGuestECN | fHostTSO4 | fHostTSO6 | fHostECN
	fUSO uint64 = fGuestUSO4 | fGuestUSO6 | fHostUSO

	tunTSO = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	tunUSO = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// TestNetOffers: a device offers what its NIC has, and leaves that switched off.
func TestNetOffers(t *testing.T) {
	const plain = 1<<3 | 1<<5 | 1<<16
	for _, c := range []struct {
		hdr, lacks int
		want       uint64
	}{
		{0, 0, plain},
		{12, 0, plain | fMergeable | fTSO | fUSO},
		{12, unix.TUN_F_USO4, plain | fMergeable | fTSO},
		{12, tunUSO | unix.TUN_F_TSO_ECN, plain | fMergeable | fTSO&^(fGuestECN|fHostECN)},
		{12, tunUSO | tunTSO, plain},
	} {
		nic := &fakeNIC{t: t, hdr: c.hdr, lacks: c.lacks, offload: 0}
		if got := NewNet(nic, testMAC, 1500).Info().Features; got != c.want || nic.offload != 0 {
			t.Errorf("header of %d, without TUN_F %#x: Info().Features = %#x, and the NIC is left at %#x; want %#x, 0", c.hdr, c.lacks, got, nic.offload, c.want)
		}
	}
}

// TestNetNegotiates: the NIC is told what the driver accepted, from the start to the
// reset, also after a move.
func TestNetNegotiates(t *testing.T) {
	for _, c := range []struct {
		features uint64
		want     int
	}{
		{0, 0},
		{fCsum | fHostTSO4 | fHostUSO, 0}, // concerns the other direction
		{fGuestCsum, unix.TUN_F_CSUM},
		{fTSO, tunTSO},
		{fTSO | fUSO | fMergeable, tunTSO | tunUSO},
		{fGuestTSO4 | fGuestTSO6 | fGuestUSO4 | fGuestUSO6, 0}, // a lie: each needs GUEST_CSUM
		{fGuestCsum | fGuestTSO4, unix.TUN_F_CSUM | unix.TUN_F_TSO4},
		{fGuestCsum | fGuestUSO4, unix.TUN_F_CSUM}, // Linux has it together with the next only
		{fGuestCsum | fGuestUSO6, unix.TUN_F_CSUM},
	} {
		nics := [2]*fakeNIC{}
		fresh := func(i int) Device {
			nics[i] = &fakeNIC{t: t, hdr: 12}
			return NewNet(nics[i], testMAC, 1500)
		}
		g := newGuest(t, fresh(0))
		check := func(what string, i, want int) {
			t.Helper()
			if got := nics[i].offload; got != want {
				t.Errorf("features %#x, %s: SetOffload(%#x); want %#x", c.features, what, got, want)
			}
		}
		g.negotiate(c.features)
		check("before DRIVER_OK", 0, 0)
		g.start(c.features)
		check("after it", 0, c.want)
		g.reload(fresh(1))
		check("after a move", 1, c.want)
		g.set(regStatus, 0)
		check("after a reset", 1, 0)
	}
	// A NIC that refuses later, as one that was deleted does, costs nothing.
	r := newOffloadRig(t, fTSO)
	r.nic.lacks = -1
	r.restart()
	r.tx.Add([][]byte{make([]byte, 12), ethernet(60, 1)})
	r.serve()
	r.dropped("a NIC that refuses", 0, 0)
}

// header is a struct virtio_net_hdr.
func header(flags, gso byte, hdrLen, size, start, offset uint16) (h [netHeaderSize]byte) {
	h[0], h[1] = flags, gso
	for i, v := range []uint16{hdrLen, size, start, offset} {
		le.PutUint16(h[2+2*i:], v)
	}
	return h
}

// TestNetSendOffload: the NIC gets the driver's header, if that is one that the
// driver may use.
func TestNetSendOffload(t *testing.T) {
	const n = 2000 // bytes of the frame
	csum := header(1, 0, 0, 0, 34, 16)
	for _, c := range []struct {
		name     string
		features uint64
		h        [netHeaderSize]byte
		ok       bool
	}{
		{"nothing", fTSO, header(0, 0, 0, 0, 0, 0), true},
		{"checksum", fCsum, csum, true},
		{"checksum, not negotiated", 0, csum, false},
		{"checksum, the other direction's", fGuestCsum, csum, false},
		{"checksum at the end", fCsum, header(1, 0, 0, 0, n-2, 0), true},
		{"checksum by its offset at the end", fCsum, header(1, 0, n, 0, 1, n-3), true},
		{"checksum from behind the frame", fCsum, header(1, 0, 0, 0, n-1, 0), false},
		{"checksum from far behind it", fCsum, header(1, 0, 0, 0, 1<<16-1, 0), false},
		{"checksum behind the frame", fCsum, header(1, 0, 0, 0, 34, n-35), false},
		{"checksum around 64 KiB", fCsum, header(1, 0, 0, 0, 34, 1<<16-34), false},
		{"headers longer than the frame", fCsum, header(1, 0, n+1, 0, 34, 16), false},
		{"TSO4", fTSO, header(1, 1, 66, 1448, 34, 16), true},
		{"TSO6", fTSO, header(1, 4, 86, 1428, 54, 16), true},
		{"TSO4 with ECN", fTSO, header(1, 0x81, 66, 1448, 34, 16), true},
		{"TSO4, not negotiated", fTSO &^ fHostTSO4, header(1, 1, 66, 1448, 34, 16), false},
		{"TSO6, not negotiated", fTSO &^ fHostTSO6, header(1, 4, 86, 1428, 54, 16), false},
		{"ECN, not negotiated", fTSO &^ fHostECN, header(1, 0x81, 66, 1448, 34, 16), false},
		{"TSO4 without checksums", fHostTSO4, header(1, 1, 66, 1448, 34, 16), false},
		{"TSO4 with no checksum due", fTSO, header(0, 1, 66, 1448, 34, 16), false},
		{"TSO4 with segments of nothing", fTSO, header(1, 1, 66, 0, 34, 16), false},
		{"UFO, which is never offered", fTSO | fUSO | 1<<14, header(1, 3, 42, 1480, 34, 6), false},
		{"USO", fTSO | fUSO, header(1, 5, 42, 1400, 34, 6), true},
		{"USO, not negotiated", fTSO, header(1, 5, 42, 1400, 34, 6), false},
		{"type 2", fTSO | fUSO, header(1, 2, 66, 1448, 34, 16), false},
		{"type 6", fTSO | fUSO, header(1, 6, 66, 1448, 34, 16), false},
		{"type 127", fTSO | fUSO, header(1, 0xff, 66, 1448, 34, 16), false},
	} {
		r := newOffloadRig(t, c.features)
		for _, cut := range []int{0, 1, 5, 12} {
			all := append(c.h[:], ethernet(n, 7)...)
			all[11] = 0xee // num_buffers, which is not for the host
			r.tx.Add([][]byte{all[:cut], all[cut:]})
		}
		r.serve()
		want := 0
		if c.ok {
			want = 4
		}
		if len(r.nic.out) != want {
			t.Errorf("%s: %d frames of 4 arrive; want %d", c.name, len(r.nic.out), want)
		}
		for _, h := range r.nic.headers {
			if h[11] = 0; h != c.h {
				t.Errorf("%s: the NIC gets header % x; want % x", c.name, h, c.h)
			}
		}
		r.dropped(c.name, 0, uint64(4-want))
	}
}

// TestNetReceiveOffload: the driver gets the NIC's header, if it has negotiated
// what that needs: frames from before may still be in the NIC's queue.
func TestNetReceiveOffload(t *testing.T) {
	zero := [netHeaderSize]byte{}
	for _, c := range []struct {
		name     string
		features uint64
		h, want  [netHeaderSize]byte
		ok       bool
	}{
		{"nothing", 0, zero, zero, true},
		{"checksum", fGuestCsum, header(1, 0, 0, 0, 34, 16), header(1, 0, 0, 0, 34, 16), true},
		{"checksum, not negotiated", fCsum, header(1, 0, 0, 0, 34, 16), zero, false},
		{"checked", fGuestCsum, header(2, 0, 0, 0, 0, 0), header(2, 0, 0, 0, 0, 0), true},
		{"checked, not negotiated", 0, header(2, 0, 1, 2, 3, 4), zero, true},
		{"TSO4", fTSO, header(1, 1, 66, 1448, 34, 16), header(1, 1, 66, 1448, 34, 16), true},
		{"TSO4, not negotiated", fTSO &^ fGuestTSO4, header(1, 1, 66, 1448, 34, 16), zero, false},
		{"USO", fTSO | fUSO, header(1, 5, 42, 1400, 34, 6), header(1, 5, 42, 1400, 34, 6), true},
		{"USO, not negotiated", fTSO, header(1, 5, 42, 1400, 34, 6), zero, false},
		{"type 7", fTSO | fUSO, header(1, 7, 42, 1400, 34, 6), zero, false},
	} {
		r := newOffloadRig(t, c.features)
		_, in := r.rx.Add(nil, 5, 9000)
		r.nic.header, r.nic.in = c.h, [][]byte{ethernet(9000-7, 1)}
		r.serve()
		all := bytes.Join(in, nil)
		_, used, ok := r.rx.Done()
		if c.want[10] = 1; ok != c.ok || ok && (!bytes.Equal(all[:12], c.want[:]) || used != 9005) {
			t.Errorf("%s: received %v, %d bytes with header % x; want %v, 9005, % x", c.name, ok, used, all[:12], c.ok, c.want)
		}
		drops := uint64(1)
		if c.ok {
			drops = 0
		}
		r.dropped(c.name, drops, 0)
	}
}

// TestNetMergeable: a frame goes into as many chains as it needs, and waits while
// there are too few; none is lost.
func TestNetMergeable(t *testing.T) {
	r := newOffloadRig(t, fMergeable)
	var chains [][][]byte
	add := func(sizes ...int) {
		for _, n := range sizes {
			_, in := r.rx.Add(nil, n)
			chains = append(chains, in)
		}
	}
	step := func(what string, reads, fd int, want ...int) {
		t.Helper()
		r.serve()
		for i, n := range want {
			frame, k := r.received(chains)
			if chains = chains[k:]; len(frame) != n || !bytes.Equal(frame, ethernet(n, byte(n))) {
				t.Errorf("%s, frame %d: %d bytes; want the frame of %d", what, i, len(frame), n)
			}
		}
		if _, _, ok := r.rx.Done(); ok || r.nic.reads != reads || r.n.PollFD() != fd {
			t.Errorf("%s: %d reads, PollFD() = %d, another used chain: %v; want %d, %d, no", what, r.nic.reads, r.n.PollFD(), ok, reads, fd)
		}
	}
	frames := func(sizes ...int) {
		for _, n := range sizes {
			r.nic.in = append(r.nic.in, ethernet(n, byte(n)))
		}
	}
	frames(60, 1514, 9014)
	add(1526, 1526, 1526, 1526)
	step("a long frame waits", 3, -1, 60, 1514)
	frames(70)
	step("and is waited for", 3, -1)
	add(4096)
	step("one chain is too few", 3, -1)
	add(4096, 12, 1000)
	step("enough, and the next over chains of any size", 4, -1, 9014, 70)
	add(60)
	step("one chain and no frame", 5, 123)
	frames(65550)
	add(slices.Repeat([]int{1526}, 44)...)
	step("the longest", 7, 123, 65550)
	// A frame that is too long for a whole queue is dropped.
	r.restart()
	chains = nil
	frames(60000, 80)
	add(slices.Repeat([]int{64}, maxSlices-1)...)
	step("one slice too few for a read", 8, -1)
	add(64)
	step("all that a read takes", 10, 123, 80)
	r.dropped("mergeable", 1, 0)
	// The same for one in more pieces than one read takes.
	r.restart()
	chains = nil
	r.rx.Desc(0, bufBase, 16, descNext|descWrite, 1)
	for i := range uint16(netQueueSize - 1) {
		r.rx.Desc(i+1, bufBase+16, 1, descWrite|descNext&^(i/(netQueueSize-2)), i+2)
	}
	for range 8 {
		r.rx.Offer(0)
	}
	frames(60000, 80)
	r.serve()
	r.dropped("in pieces", 2, 0)
	if n := len(r.n.bufs); n > 1023 {
		t.Errorf("%d slices are held; want at most 1023, for one read", n)
	}
}

// TestNetTooLong: a NIC that has longer frames than there are.
func TestNetTooLong(t *testing.T) {
	for _, features := range []uint64{0, fMergeable} {
		r := newOffloadRig(t, features)
		for range 2 {
			r.rx.Add(nil, 30000)
		}
		r.nic.in = [][]byte{make([]byte, maxFrame+100), make([]byte, 1<<20), ethernet(60, 1)}
		r.serve()
		if frame, _ := r.received([][][]byte{{r.rx.At(bufBase, 30000)}}); len(frame) != 60 {
			t.Errorf("features %#x: the first frame has %d bytes; want 60", features, len(frame))
		}
		r.dropped("too long", 2, 0)
	}
}

// TestNetDropsAreBounded: frames that cost no chain do not keep a round going.
func TestNetDropsAreBounded(t *testing.T) {
	r := newOffloadRig(t, 0)
	r.rx.Add(nil, 1526)
	r.nic.in = slices.Repeat([][]byte{ethernet(9000, 1)}, 100000)
	for _, q := range []*Queue{r.rx.q, r.tx.q} {
		q.left, q.more = roundBytes, false
	}
	if err := r.n.Serve(); err != nil || r.nic.reads > roundBytes/chainBytes || !r.rx.q.more {
		t.Errorf("Serve() = %v after %d reads, more is due: %v; want at most %d, true", err, r.nic.reads, r.rx.q.more, roundBytes/chainBytes)
	}
}

// TestNetHeld: chains that the device holds belong to the driver that resets it,
// takes its queue back, or moves.
func TestNetHeld(t *testing.T) {
	nic := func() *fakeNIC { return &fakeNIC{t: t, hdr: 12} }
	first := nic()
	g := newGuest(t, NewNet(first, testMAC, 1500))
	for name, leave := range map[string]func(rx *driver) *fakeNIC{
		"reset": func(*driver) *fakeNIC { g.set(regStatus, 0); return first },
		"queue": func(*driver) *fakeNIC {
			g.set(regQueueSel, 0)
			g.set(regQueueReady, 0)
			return first
		},
	} {
		g.start(fTSO | fMergeable)[0].Add(nil, 1526)
		g.serve()
		nic := leave(nil)
		before := bytes.Clone(g.at(0, uint64(readOnly)))
		nic.in = [][]byte{ethernet(60, 1)}
		g.serve()
		if !bytes.Equal(g.at(0, uint64(readOnly)), before) || len(nic.in) == 0 {
			t.Errorf("%s: the device writes to memory that the driver took back", name)
		}
		nic.in = nil
	}
	// A move with chains that are held, a part of a frame in them.
	rx := g.start(fTSO | fMergeable)[0]
	_, a := rx.Add(nil, 1526)
	first.in = [][]byte{ethernet(3000, 1)}
	g.serve()
	second := nic()
	g.reload(NewNet(second, testMAC, 1500))
	_, b := rx.Add(nil, 1526)
	second.in = [][]byte{ethernet(2000, 2)}
	g.serve()
	for i, want := range []uint32{1526, 486} {
		if h, used, ok := rx.Done(); !ok || used != want || h != uint32(i) {
			t.Errorf("after the move, chain %d: used element %d, %d, %v; want %d", i, h, used, ok, want)
		}
	}
	if all := append(bytes.Clone(a[0]), b[0]...); all[10] != 2 || !bytes.Equal(all[12:2012], ethernet(2000, 2)) {
		t.Error("after the move a frame over both chains is damaged")
	}
}

// TestNetPublishesOnce: the driver sees all chains of a frame at the same time.
func TestNetPublishesOnce(t *testing.T) {
	d := newDriver(t, 8, 0)
	for i := range 3 {
		d.q.put(uint16(i), 1)
	}
	if _, _, ok := d.Done(); ok {
		t.Error("a used element is there before publish")
	}
	d.q.publish()
	for i := range 3 {
		if h, _, ok := d.Done(); !ok || h != uint32(i) {
			t.Errorf("element %d = %d, %v", i, h, ok)
		}
	}
}

// TestNetResets: frames and resets in turns leave no frame of one
// driver to the next, and nothing in the device.
func TestNetResets(t *testing.T) {
	r := newOffloadRig(t, fTSO|fMergeable)
	for i := range 300 {
		r.nic.writeErr = syscall.Errno([]int{0, int(syscall.EIO)}[i%2])
		r.features = []uint64{fTSO | fMergeable, 0, fMergeable, fTSO | fUSO}[i%4]
		r.restart()
		if len(r.n.held) != 0 || r.n.room != 0 || len(r.n.late) != 0 || r.n.PollFD() != -1 {
			t.Fatalf("after a reset the device holds %d chains", len(r.n.held))
		}
		for j := range i % 5 {
			r.rx.Add(nil, 200+j)
			r.tx.Add([][]byte{make([]byte, 12), ethernet(60, 1)})
		}
		r.nic.in = [][]byte{ethernet(60, byte(i)), ethernet(14+i*20, byte(i))}
		r.serve()
	}
}
