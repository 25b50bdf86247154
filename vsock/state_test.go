package vsock

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/virtiotest"
)

// TestState: a restored guest hears that its connections are gone, once,
// and new ones have ports that it has not seen.
func TestState(t *testing.T) {
	g := newGuest(t, 0, 4096)
	fd := g.hostConnect()
	defer unix.Close(fd)
	g.hostWrite(fd, "CONNECT 7\n")
	g.exchange()
	state, err := g.v.SaveState()
	if string(state) != "\x01\x00\x00\x40" || err != nil {
		t.Fatalf("SaveState() = % x, %v; want the last port", state, err)
	}
	r := newGuest(t, 0, 4096)
	for _, bad := range [][]byte{nil, state[:3], append(state[:4:4], 0), {1, 0, 0, 0}, {0, 0, 0, 0x80}, {255, 255, 255, 255}} {
		if err := r.v.LoadState(bad); err == nil || r.v.restored || r.v.port != firstPort {
			t.Errorf("LoadState(% x) = %v with port %#x; want an error and no change", bad, err, r.v.port)
		}
	}
	if err := r.v.LoadState(state); err != nil {
		t.Fatal(err)
	}
	r.run() // no buffer for the event yet
	_, event := r.event.Add(nil, 3, 5)
	_, second := r.event.Add(nil, 8)
	copy(event[0], "\xff\xff\xff")
	copy(event[1], "\xff\xff\xff")
	second[0][0] = 0xff
	r.run()
	if _, n, ok := r.event.Done(); !ok || n != 4 || string(event[0])+string(event[1][:2]) != "\x00\x00\x00\x00\xff" {
		t.Errorf("event: %v with %d bytes, % x % x; want 4 zeros", ok, n, event[0], event[1])
	}
	r.run()
	if _, _, ok := r.event.Done(); ok || second[0][0] != 0xff {
		t.Error("a second event")
	}
	fd2 := r.hostConnect()
	defer unix.Close(fd2)
	r.hostWrite(fd2, "CONNECT 7\n")
	r.want("CONNECT", r.exchange(), hostPacket(7, firstPort+2, opRequest, 0, ""))
	r.want("an old connection", r.exchange(guestPacket(7, firstPort+1, opRW, "x")), hostPacket(7, firstPort+1, opReset, 0, ""))
	// The last port is followed by the first.
	r.v.LoadState([]byte{0xff, 0xff, 0xff, 0x7f})
	fd3 := r.hostConnect()
	defer unix.Close(fd3)
	r.hostWrite(fd3, "CONNECT 7\n")
	r.want("CONNECT", r.exchange(), hostPacket(7, firstPort, opRequest, 0, ""))
}

// TestIdle: a device that can do nothing until the guest does something
// does not ask to be served, whatever the host programs have done.
func TestIdle(t *testing.T) {
	idle := func(g *guest, what string) {
		t.Helper()
		if err := g.v.Serve(); err != nil {
			t.Fatal(err)
		}
		g.collect(false)
		if readable(t, g.v.PollFD(), 0) {
			t.Errorf("%s: the device asks to be served again", what)
		}
	}
	t.Run("no credit", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		none := guestPacket(1000, 52, opCreditUpdate, "")
		none.alloc = 0
		g.want("no credit", g.exchange(none))
		g.hostWrite(fd, "waits")
		idle(g, "bytes without credit")
		unix.Close(fd)
		idle(g, "and their writer gone")
		if got := g.take(); len(got) != 1 || got[0].op != opShutdown || got[0].flags != noReceive {
			t.Errorf("the guest hears %+v; want SHUTDOWN", got)
		}
		none.alloc = 5
		g.want("credit", g.exchange(none), hostPacket(1000, 52, opRW, 0, "waits"), hostPacket(1000, 52, opCreditRequest, 0, ""))
		none.fwd = 5
		g.want("more credit", g.exchange(none), hostPacket(1000, 52, opShutdown, 3, ""))
	})
	t.Run("no buffers", func(t *testing.T) {
		g := newGuest(t, virtio.FeatureEventIdx, 4096)
		fd := g.open(1000, 52)
		big := strings.Repeat("x", 4052)
		for range guestRX {
			g.hostWrite(fd, big)
		}
		idle(g, "buffers for all") // none is refilled
		g.hostWrite(fd, "more")
		idle(g, "no buffers")
		unix.Shutdown(fd, unix.SHUT_WR)
		idle(g, "no buffers, and the end")
		unix.Close(fd)
		idle(g, "no buffers, and nobody there")
		if g.take(); len(g.v.conns) != 1 {
			t.Errorf("%d connections; want 1, with bytes for the guest", len(g.v.conns))
		}
		g.refill()
		g.want("buffers", g.exchange(), hostPacket(1000, 52, opShutdown, 1, ""), hostPacket(1000, 52, opRW, 0, "more"), hostPacket(1000, 52, opShutdown, 3, ""))
	})
	t.Run("host program does not read", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		g.fillHost(1000, 52)
		idle(g, "no room at the host program's")
		data, _ := g.hostRead(fd)
		if !readable(t, g.v.PollFD(), 0) {
			t.Errorf("after %d bytes were read: the device does not ask to be served", len(data))
		}
		g.want("room", g.exchange(), hostPacket(1000, 52, opCreditUpdate, 0, ""))
	})
}

// TestCreditUpdate: the guest hears of its credit when half of it is new to it.
func TestCreditUpdate(t *testing.T) {
	g := newGuest(t, 0, 4096)
	fd := g.open(1000, 52)
	defer unix.Close(fd)
	data := strings.Repeat("x", bufferSize/4)
	rw := func(n int) []packet {
		got := g.exchange(guestPacket(1000, 52, opRW, data[:n]))
		g.hostWant("RW", fd, data[:n], "")
		return got
	}
	most := txSize - headerSize
	g.want("less than half", rw(most))
	g.want("less than half", rw(most))
	got := rw(2 * headerSize)
	g.want("half", got, hostPacket(1000, 52, opCreditUpdate, 0, ""))
	if got[0].fwd != bufferSize/2 {
		t.Errorf("fwd_cnt = %d; want %d", got[0].fwd, bufferSize/2)
	}
	g.want("a little more", rw(1000))
}

// TestRound: a connection that is full of bytes both ways keeps to the round's
// share of the transport's, and another round follows.
func TestRound(t *testing.T) {
	g := newGuest(t, 0, 4096)
	m := virtio.NewMMIO(g.v, g.rx.View, func() {}, func() {}, func(err error) { t.Error(err) })
	virtiotest.Start(m.Write, 0, g.rx, g.tx, g.event)
	fd := g.open(1000, 52)
	defer unix.Close(fd)
	for range 8 {
		g.hostWrite(fd, strings.Repeat("x", 1000))
		head := g.txFree[0]
		g.offer(guestPacket(1000, 52, opRW, strings.Repeat("y", 1000)).bytes())
		// All the rest of memory, which the header's length leaves out.
		g.tx.Desc(uint16(head), g.txBufs[head].a, virtiotest.MemSize-uint32(g.txBufs[head].a), 0, 0)
	}
	taken, rounds := 0, 0
	for timeout := 0; timeout == 0; rounds++ {
		timeout, _ = m.Serve()
		g.collect(true)
		free := len(g.txFree) - (guestTX - 8)
		if n := free - taken; n < 1 || n > 3 {
			t.Fatalf("round %d takes %d packets; want 1 MiB of them, which is 2 or 3", rounds, n)
		}
		taken = free
	}
	toGuest := ""
	for _, p := range g.take() {
		toGuest += p.data
	}
	if len(toGuest) != 8000 || taken != 8 || rounds < 3 {
		t.Errorf("%d bytes to the guest and %d packets from it in %d rounds; want 8000 and 8 in 3 or more", len(toGuest), taken, rounds)
	}
	g.hostWant("all rounds", fd, strings.Repeat("y", 8000), "")
}

// TestAllocs: packets with bytes cost no allocation, either way.
func TestAllocs(t *testing.T) {
	g := newGuest(t, virtio.FeatureEventIdx, 44, 4096)
	fd := g.open(1000, 52)
	defer unix.Close(fd)
	data := make([]byte, 4000)
	p := guestPacket(1000, 52, opRW, string(data)).bytes()
	head := g.txFree[0]
	copy(g.txBufs[head].b, p)
	g.tx.Desc(uint16(head), g.txBufs[head].a, uint32(len(p)), 0, 0)
	sent := uint32(0)
	allocs := testing.AllocsPerRun(200, func() {
		sent += uint32(len(data)) // the guest has read all
		le.PutUint32(g.txBufs[head].b[40:], sent)
		unix.Write(fd, data)
		g.tx.Offer(uint16(head))
		if err := g.v.Serve(); err != nil {
			t.Fatal(err)
		}
		unix.Read(fd, data)
		if _, _, ok := g.tx.Done(); !ok {
			t.Fatal("the packet was not taken")
		}
		for {
			h, _, ok := g.rx.Done()
			if !ok {
				break
			}
			g.rx.Offer(uint16(h))
		}
	})
	if allocs != 0 {
		t.Errorf("a packet each way = %v allocations; want 0", allocs)
	}
}
