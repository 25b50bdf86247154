package vsock

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
)

// FuzzVsock lets a guest and host programs do what the input says. The device
// never panics, never blocks, keeps to its bounds, does not ask to be served
// for ever, and gives everything back.
func FuzzVsock(f *testing.F) {
	f.Add([]byte("\x00\x01\x01\x00\x05\x08\x01\x00\x05\x05\x0a"))             // the guest connects, both send
	f.Add([]byte("\x01\x02\x01\x03\x00\x02\x00\x02\x00\x05\x05\x04\x09\x03")) // a host program does
	f.Add([]byte("\x06\x07\x00\x01\x00\x00\x05\x05\x07\x00\x03\x0b"))         // without receive buffers
	for seed := range uint64(40) {
		script := make([]byte, 1000)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(script)
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		g := newGuest(t, virtio.FeatureEventIdx, 44, 100)
		listener := g.hostListen(0)
		programs := []int{listener}
		next := func() byte {
			if len(script) == 0 {
				return 0
			}
			b := script[0]
			script = script[1:]
			return b
		}
		program := func() int { return programs[int(next())%len(programs)] }
		refill := true
		chunk := make([]byte, 8<<10)
		for steps := 0; len(script) > 0 && steps < 300; steps++ {
			switch next() % 12 {
			case 0, 1, 2: // a packet; most fields as they should be
				// Host port 0 is listener's, 1 nobody's, 2 and up host programs'.
				host := uint32(next() % 8)
				if host > 1 {
					host += firstPort - 1
				}
				p := guestPacket(uint32(next()%3), host, uint16(next()%9), "")
				p.data = string(chunk[:int(next())*int(next()%64)%len(chunk)])
				p.len, p.flags = uint32(len(p.data)), uint32(next())
				switch lie := next(); lie {
				case 1:
					p.src++
				case 2:
					p.dst++
				case 3:
					p.typ++
				case 4:
					p.len++
				case 5:
					p.len = 1<<32 - 1
				case 6:
					p.alloc = uint32(next())
				case 7:
					p.fwd = uint32(next()) << 24
				}
				if len(g.txFree) > 0 {
					g.offer(p.bytes(), []int{1 + int(next())%43}...)
				}
			case 3:
				if len(programs) < 8 {
					fd := g.socket()
					if unix.Connect(fd, &unix.SockaddrUnix{Name: g.path}) == nil {
						programs = append(programs, fd)
					} else {
						unix.Close(fd)
					}
				}
			case 4:
				unix.Write(program(), []byte("CONNECT "+itoa(uint32(next()%3))+"\n"))
			case 5:
				unix.Write(program(), chunk[:int(next())*32])
			case 6:
				unix.Read(program(), chunk[:1+int(next())*32])
			case 7:
				if fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); err == nil {
					programs = append(programs, fd)
				}
			case 8:
				if i := int(next()) % len(programs); i > 0 {
					unix.Close(programs[i])
					programs = append(programs[:i], programs[i+1:]...)
				}
			case 9:
				if fd := program(); fd != listener {
					unix.Shutdown(fd, int(next()%3))
				}
			case 10:
				if refill = !refill; refill {
					g.refill()
				}
			case 11:
				switch next() % 8 {
				case 0:
					g.v.Reset()
					g.idle()
					g.start(virtio.FeatureEventIdx, 44, 100)
					refill = true
				case 1:
					if g.v.armed {
						g.expire()
					}
				}
			}
			for i := 0; i == 0 || readable(t, g.v.PollFD(), 0); i++ {
				if err := g.v.Serve(); err != nil {
					t.Fatalf("Serve() = %v; want no error, the queues are sound", err)
				}
				g.collect(refill)
				g.take()
				if i > 1000 {
					t.Fatal("the device asks to be served for ever")
				}
			}
			g.bounds()
		}
		g.v.Reset()
		g.idle()
		for _, fd := range programs {
			unix.Close(fd)
		}
	})
}

// bounds checks what the device keeps.
func (g *guest) bounds() {
	g.t.Helper()
	if len(g.v.fds) > maxConns || len(g.v.resets) > maxResets {
		g.t.Fatalf("%d sockets and %d resets; want up to %d and %d", len(g.v.fds), len(g.v.resets), maxConns, maxResets)
	}
	for fd, c := range g.v.fds {
		if int(fd) != c.fd || len(c.out) > bufferSize || cap(c.out) > 2*bufferSize || len(c.line) > 19 {
			g.t.Fatalf("socket %d of %d bytes (room for %d), line of %d: %+v", fd, len(c.out), cap(c.out), len(c.line), c)
		}
		if c.state == stateGone && len(c.out) == 0 {
			g.t.Fatalf("socket %d has no use", fd)
		}
	}
	for key, c := range g.v.conns {
		if c.key != key || g.v.fds[int32(c.fd)] != c || c.state != stateAsked && c.state != stateOpen {
			g.t.Fatalf("connection %#x: %+v", key, c)
		}
	}
}
