package vsock

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestHostPrograms has host programs that do not keep to the protocol.
func TestHostPrograms(t *testing.T) {
	for _, tt := range []struct{ name, line string }{
		{"garbage", "GET / HTTP/1.1\r\n\r\n"},
		{"no port", "CONNECT \n"},
		{"no number", "CONNECT port\n"},
		{"negative", "CONNECT -1\n"},
		{"33 bits", "CONNECT 4294967296\n"},
		{"20 digits", "CONNECT 99999999999999999999\n"},
		{"two ports", "CONNECT 1 2\n"},
		{"lower case", "connect 1\n"},
		{"empty line", "\n"},
		{"zeros", "\x00\x00\x00\n"},
		{"long line", strings.Repeat("CONNECT ", 1000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, 0, 4096)
			fd := g.hostConnect()
			defer unix.Close(fd)
			g.hostWrite(fd, tt.line)
			g.want(tt.name, g.exchange())
			if data, end := g.hostRead(fd); data != "" || end == "" {
				t.Errorf("after %q the host program reads %q and %q; want its end", tt.line, data, end)
			}
			g.idle()
		})
	}
	t.Run("in pieces, or never, or not to the end", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		pieces, never, half := g.hostConnect(), g.hostConnect(), g.hostConnect()
		defer unix.Close(pieces)
		defer unix.Close(never)
		g.hostWrite(half, "CONNECT 1")
		for _, b := range "CONNECT 4294967295" {
			g.hostWrite(pieces, string(b))
			g.want("a piece", g.exchange())
		}
		g.hostWrite(pieces, "\n")
		g.want("CONNECT", g.exchange(), hostPacket(1<<32-1, firstPort+1, opRequest, 0, ""))
		unix.Close(half)
		g.want("half a line", g.exchange())
		if len(g.v.fds) != 2 {
			t.Errorf("the device has %d sockets; want 2", len(g.v.fds))
		}
		g.expire()
		g.hostWant("never", never, "", "EOF")
		g.idle()
	})
	t.Run("ten megabytes without a newline", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.hostConnect()
		defer unix.Close(fd)
		sent, mb := 0, make([]byte, 1<<20)
		for sent < 10<<20 {
			n, err := unix.Write(fd, mb)
			if err == unix.EPIPE {
				break
			} else if err != nil && err != unix.EAGAIN {
				t.Fatal(err)
			}
			sent += max(n, 0)
			g.want("a long line", g.exchange())
		}
		if sent > 1<<20 {
			t.Errorf("the device took %d bytes", sent)
		}
		g.idle()
	})
}

// TestManyHostPrograms connects 2,000 times.
func TestManyHostPrograms(t *testing.T) {
	g := newGuest(t, 0, 4096)
	var fds []int
	for i := range 2000 {
		fds = append(fds, g.hostConnect())
		if i%100 == 99 {
			g.want("connects", g.exchange())
		}
	}
	if len(g.v.fds) != maxConns {
		t.Errorf("the device has %d sockets; want %d", len(g.v.fds), maxConns)
	}
	l := g.hostListen(52)
	defer unix.Close(l)
	g.want("REQUEST beyond", g.exchange(guestPacket(1, 52, opRequest, "")), hostPacket(1, 52, opReset, 0, ""))
	for i, fd := range fds {
		want := ""
		if i >= maxConns {
			want = "EOF"
		}
		g.hostWant("one of 2000", fd, "", want)
		unix.Close(fd)
	}
	g.want("all closed", g.exchange())
	g.idle()
	unix.Close(g.open(1, 53))
}

// TestHostNeverReads: memory is bounded by the credit, and a guest that
// exceeds it loses its connection; what it sent before arrives.
func TestHostNeverReads(t *testing.T) {
	g := newGuest(t, 0, 4096)
	fd := g.open(1000, 52)
	defer unix.Close(fd)
	want := g.fillHost(1000, 52)
	if len(want) < bufferSize {
		t.Errorf("the guest's credit ended after %d bytes; want at least %d", len(want), bufferSize)
	}
	g.want("beyond the credit", g.exchange(guestPacket(1000, 52, opRW, "x")), hostPacket(1000, 52, opReset, 0, ""))
	got := ""
	for end := ""; end != "EOF"; g.exchange() {
		var s string
		s, end = g.hostRead(fd)
		got += s
	}
	if got != want {
		t.Errorf("the host program reads %d bytes; want the %d within the credit", len(got), len(want))
	}
	g.idle()
}

// TestLies has the guest send packets that are wrong, beside a connection
// that is open.
func TestLies(t *testing.T) {
	with := func(p packet, f func(*packet)) packet { f(&p); return p }
	rw := guestPacket(1000, 52, opRW, "data")
	reset := func(guest, host uint32) packet { return hostPacket(guest, host, opReset, 0, "") }
	for _, tt := range []struct {
		name   string
		p      packet
		want   []packet
		closed bool
	}{
		{"source CID of another", with(rw, func(p *packet) { p.src = 4 }), nil, false},
		{"source CID with high bits", with(rw, func(p *packet) { p.src |= 1 << 32 }), nil, false},
		{"destination CID of another", with(rw, func(p *packet) { p.dst = 3 }), nil, false},
		{"destination CID with high bits", with(rw, func(p *packet) { p.dst |= 1 << 40 }), nil, false},
		{"type seqpacket", with(rw, func(p *packet) { p.typ = 2 }), []packet{with(reset(1000, 52), func(p *packet) { p.typ = 2 })}, false},
		{"RST of an unknown type", with(rw, func(p *packet) { p.typ, p.op = 9, opReset }), nil, false},
		{"unknown port", guestPacket(1001, 52, opRW, "data"), []packet{reset(1001, 52)}, false},
		{"RST for an unknown port", guestPacket(1001, 52, opReset, ""), nil, false},
		{"SHUTDOWN for an unknown port", guestPacket(1000, 53, opShutdown, ""), []packet{reset(1000, 53)}, false},
		{"RESPONSE that nobody asked for", guestPacket(5, 6, opResponse, ""), []packet{reset(5, 6)}, false},
		{"length beyond the chain", with(rw, func(p *packet) { p.len = 5 }), []packet{reset(1000, 52)}, true},
		{"length of 4 GiB", with(rw, func(p *packet) { p.len = 1<<32 - 1 }), []packet{reset(1000, 52)}, true},
		{"operation 0", guestPacket(1000, 52, 0, ""), []packet{reset(1000, 52)}, true},
		{"operation 8", guestPacket(1000, 52, 8, ""), []packet{reset(1000, 52)}, true},
		{"operation 65535", guestPacket(1000, 52, 65535, ""), []packet{reset(1000, 52)}, true},
		{"REQUEST for an open connection", guestPacket(1000, 52, opRequest, ""), []packet{reset(1000, 52)}, true},
		{"RESPONSE for an open connection", guestPacket(1000, 52, opResponse, ""), []packet{reset(1000, 52)}, true},
		{"RST", guestPacket(1000, 52, opReset, ""), nil, true},
		{"a longer chain than the packet", with(rw, func(p *packet) { p.data += "junk" }), nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t, 0, 4096)
			fd := g.open(1000, 52)
			defer unix.Close(fd)
			got := g.exchange(tt.p)
			g.want(tt.name, got, tt.want...)
			if open := g.v.conns[52<<32|1000] != nil; open == tt.closed {
				t.Errorf("connection open: %v; want %v", open, !tt.closed)
			}
			wantData, wantEnd := "", ""
			if strings.HasPrefix(tt.name, "a longer") {
				wantData = "data"
			}
			if tt.closed {
				wantEnd = "EOF"
			}
			g.hostWant(tt.name, fd, wantData, wantEnd)
		})
	}
	t.Run("not yet open", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.hostConnect()
		defer unix.Close(fd)
		g.hostWrite(fd, "CONNECT 7\n")
		g.want("CONNECT", g.exchange(), hostPacket(7, firstPort+1, opRequest, 0, ""))
		g.want("RW", g.exchange(guestPacket(7, firstPort+1, opRW, "x")), reset(7, firstPort+1))
		g.hostWant("RW", fd, "", "EOF")
		g.idle()
	})
	t.Run("credit", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		g.hostWrite(fd, "data")
		// fwd_cnt ahead of what was sent, and no buffer at all, are no credit.
		lie := guestPacket(1000, 52, opCreditUpdate, "")
		for _, c := range [][2]uint32{{0, 0}, {10, 1}, {1 << 30, 1 << 31}} {
			lie.alloc, lie.fwd = c[0], c[1]
			g.want("RW without credit", g.exchange(lie))
		}
		lie.alloc, lie.fwd = 3, 0
		g.want("credit of 3", g.exchange(lie), hostPacket(1000, 52, opRW, 0, "dat"), hostPacket(1000, 52, opCreditRequest, 0, ""))
		lie.fwd = 3
		g.want("credit of 3 more", g.exchange(lie), hostPacket(1000, 52, opRW, 0, "a"))
	})
	for name, size := range map[string]int{"transmit": 43, "receive": 44} {
		t.Run("a buffer too short to "+name, func(t *testing.T) {
			g := newGuest(t, 0, 44)
			if name == "transmit" {
				g.offer(make([]byte, size))
			} else {
				g.offer(guestPacket(1, 2, opRW, "").bytes())
			}
			if err := g.v.Serve(); err == nil || !strings.Contains(err.Error(), "header") {
				t.Errorf("Serve() = %v; want an error about the header", err)
			}
		})
	}
}

// TestFlood: while the guest has no receive buffers, the device takes
// packets until the answers have no place, and does not ask to be served.
func TestFlood(t *testing.T) {
	g := newGuest(t, virtio.FeatureEventIdx, 4096)
	g.run()
	answered := 0
	flood := func(refill bool) {
		for range 50 {
			for i := 0; len(g.txFree) > 0; i++ {
				g.offer(guestPacket(uint32(i), 52, opRequest, "").bytes())
			}
			if err := g.v.Serve(); err != nil {
				t.Fatal(err)
			}
			g.collect(refill)
			answered += len(g.take())
		}
	}
	flood(false)
	if answered != guestRX || len(g.v.resets) != maxResets || len(g.txFree) != 0 {
		t.Errorf("without buffers: %d answers, %d waiting, %d free; want %d, %d and 0", answered, len(g.v.resets), len(g.txFree), guestRX, maxResets)
	}
	if readable(t, g.v.PollFD(), 0) {
		t.Error("the device asks to be served and cannot do anything")
	}
	g.refill()
	g.run()
	if left := len(g.v.resets) + guestTX - len(g.txFree); left != 0 {
		t.Errorf("with buffers: %d packets left; want none", left)
	}
	if n := answered + len(g.take()); n != guestRX+maxResets+guestTX {
		t.Errorf("%d answers; want %d", n, guestRX+maxResets+guestTX)
	}
}

// TestReset stops in the middle of everything.
func TestReset(t *testing.T) {
	g := newGuest(t, 0, 4096)
	before := len(testutil.FDs(t))
	stalled, hello, asked, gone := g.open(1000, 52), g.hostConnect(), g.hostConnect(), g.open(1001, 53)
	g.fillHost(1000, 52)
	g.fillHost(1001, 53)
	g.hostWrite(asked, "CONNECT 7\n")
	g.exchange(guestPacket(1001, 53, opReset, ""))
	if len(g.v.fds) != 4 {
		t.Fatalf("the device has %d sockets; want 4", len(g.v.fds))
	}
	g.v.Reset()
	g.idle()
	if n := len(testutil.FDs(t)); n != before+4 {
		t.Errorf("%d descriptors after Reset; want %d and the host programs' 4", n, before)
	}
	for _, fd := range []int{stalled, hello, asked, gone} {
		if _, end := g.hostRead(fd); end == "" {
			t.Error("a host program does not hear of the reset")
		}
		unix.Close(fd)
	}
	if g.v.PollFD() != -1 {
		t.Errorf("PollFD() after Reset = %d; want -1", g.v.PollFD())
	}
	// A host program that connects now waits for the next driver.
	waits := g.hostConnect()
	defer unix.Close(waits)
	g.hostWrite(waits, "CONNECT 8\n")
	g.start(0, 4096)
	g.want("after Reset", g.exchange(), hostPacket(8, firstPort+2, opRequest, 0, ""))
	fd := g.open(1000, 52)
	defer unix.Close(fd)
	g.v.Close()
	g.v.Close()
}
