package vsock

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/virtiotest"
)

// kicker knows whether a driver would notify the device (section 2.7.10).
type kicker struct {
	d    *virtiotest.Driver
	last uint16
	idx  bool
}

func (k *kicker) kick() bool {
	old := k.last
	k.last = k.d.Avail
	if k.idx {
		return k.d.KickNeeded(old)
	}
	return k.last != old
}

// flow is one connection with bytes in both directions, each with its own pace.
type flow struct {
	g           *guest
	rng         *rand.Rand
	fd          int
	guest, host uint32

	toHost, toGuest     []byte // still to send
	hostGot, guestGot   []byte
	hostEnd, guestEnd   bool
	alloc, guestFwd     uint32 // the guest's
	sent, credit        uint32
	guestShut, hostShut bool
}

// guestStep sends what credit allows and looks at what came.
func (f *flow) guestStep() (progress bool) {
	g := f.g
	header := func(op uint16, data []byte, flags uint32) []byte {
		p := guestPacket(f.guest, f.host, op, string(data))
		p.flags, p.alloc, p.fwd = flags, f.alloc, f.guestFwd
		return p.bytes()
	}
	var rest []packet
	before := f.guestFwd
	for _, p := range g.got {
		if p.dstPort != f.guest {
			rest = append(rest, p)
			continue
		}
		progress = true
		f.credit = p.alloc - (f.sent - p.fwd)
		switch p.op {
		case opRW:
			f.guestGot = append(f.guestGot, p.data...)
			if uint32(len(f.guestGot))-before > f.alloc {
				g.t.Fatalf("the device sends %d bytes on a credit of %d", uint32(len(f.guestGot))-before, f.alloc)
			}
		case opShutdown:
			f.guestEnd = f.guestEnd || p.flags&noSend != 0
		case opReset:
			g.t.Fatalf("the device resets port %d", p.dstPort)
		}
	}
	g.got = rest
	if held := uint32(len(f.guestGot)) - f.guestFwd; held > 0 && len(g.txFree) > 4 && f.rng.IntN(4) == 0 {
		f.guestFwd += 1 + f.rng.Uint32N(held) // the guest's program reads
		g.offer(header(opCreditUpdate, nil, 0))
		progress = true
	}
	for len(g.txFree) > 4 && f.credit > 0 && len(f.toHost) > 0 {
		n := min(1+f.rng.IntN(txSize-headerSize), int(f.credit), len(f.toHost))
		b := header(opRW, f.toHost[:n], 0)
		g.offer(b, [][]int{nil, {44}, {1 + f.rng.IntN(40)}, {7, 20, min(50, len(b)-1)}}[f.rng.IntN(4)]...)
		f.toHost, f.sent, f.credit = f.toHost[n:], f.sent+uint32(n), f.credit-uint32(n)
		progress = true
	}
	if len(f.toHost) == 0 && !f.guestShut && len(g.txFree) > 4 {
		f.guestShut, progress = true, true
		g.offer(header(opShutdown, nil, noSend))
	}
	return progress
}

// hostStep reads and writes what the socket takes, in pieces of any size.
func (f *flow) hostStep() (progress bool) {
	b := make([]byte, 1+f.rng.IntN(100_000))
	if n, err := unix.Read(f.fd, b); err == nil {
		progress = n > 0 || !f.hostEnd
		f.hostEnd = f.hostEnd || n == 0
		f.hostGot = append(f.hostGot, b[:n]...)
	}
	if n, err := unix.Write(f.fd, f.toGuest[:min(len(f.toGuest), len(b))]); err == nil && n > 0 {
		f.toGuest, progress = f.toGuest[n:], true
	}
	if len(f.toGuest) == 0 && !f.hostShut {
		f.hostShut, progress = true, true
		unix.Shutdown(f.fd, unix.SHUT_WR)
	}
	return progress
}

// TestFlow sends megabytes both ways at once, over three connections, with
// little credit. The device is served only when it is told to: a lost wake-up
// is a hang.
func TestFlow(t *testing.T) {
	const size = 1_000_000
	for _, features := range []uint64{0, virtio.FeatureEventIdx | virtio.FeatureIndirectDesc} {
		for i, layout := range [][]int{{4096}, {44, 4096}, {10, 30, 500}, {20, 40}} {
			t.Run(fmt.Sprintf("features %#x, buffers %v", features, layout), func(t *testing.T) {
				g := newGuest(t, features, layout...)
				rng := rand.New(rand.NewPCG(uint64(i), features))
				random := func(n int) []byte {
					b := make([]byte, n)
					for i := 0; i+8 <= n; i += 8 {
						le.PutUint64(b[i:], rng.Uint64())
					}
					return b
				}
				var flows []*flow
				var sent, expected [][]byte
				for i := range uint32(3) {
					f := &flow{g: g, rng: rng, guest: 1000 + i, host: 50 + i, alloc: 3000 << (3 * i), toHost: random(size), toGuest: random(size >> (i + 5*uint32(len(layout)/3)))}
					if len(layout) == 2 && layout[1] == 40 {
						f.toGuest = f.toGuest[:20_000]
					}
					sent, expected = append(sent, f.toHost), append(expected, f.toGuest)
					f.fd = g.open(f.guest, f.host)
					defer unix.Close(f.fd)
					f.credit = bufferSize
					up := guestPacket(f.guest, f.host, opCreditUpdate, "")
					up.alloc = f.alloc
					g.exchange(up)
					flows = append(flows, f)
				}
				rx, tx := &kicker{d: g.rx, last: g.rx.Avail, idx: features != 0}, &kicker{d: g.tx, last: g.tx.Avail, idx: features != 0}
				for done := false; !done; {
					done = true
					progress, held := false, len(g.got) > 0
					for _, f := range flows {
						progress = f.guestStep() || progress
						progress = f.hostStep() || progress
						held = held || f.guestFwd < uint32(len(f.guestGot))
						done = done && f.hostEnd && f.guestEnd && f.guestFwd == uint32(len(f.guestGot))
					}
					kicked := rx.kick()
					kicked = tx.kick() || kicked || readable(t, g.v.PollFD(), 0)
					if !kicked && !progress && !done && !held {
						if kicked = readable(t, g.v.PollFD(), 5000); !kicked {
							t.Fatalf("nobody moves: %+v", flows[0])
						}
					}
					if kicked {
						if err := g.v.Serve(); err != nil {
							t.Fatal(err)
						}
						g.collect(true)
					}
				}
				for i, f := range flows {
					if !bytes.Equal(f.hostGot, sent[i]) {
						t.Errorf("connection %d: the host program gets %d bytes; want the %d that the guest sent", i, len(f.hostGot), len(sent[i]))
					}
					if !bytes.Equal(f.guestGot, expected[i]) {
						t.Errorf("connection %d: the guest gets %d bytes; want the %d that the host program sent", i, len(f.guestGot), len(expected[i]))
					}
				}
			})
		}
	}
}
