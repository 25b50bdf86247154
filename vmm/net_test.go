package vmm

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

var oneNet = []loader.Device{{Name: "service", Type: loader.DeviceNet}}

// testEtherType marks the tests' own frames (local experimental, IEEE 802).
const testEtherType = 0x88b5

// jumpBack emits a conditional jump of two bytes to an earlier address.
func (g *guest) jumpBack(opcode byte, to uint64) {
	g.emit(opcode, byte(int64(to)-int64(g.here())-2))
}

// poll emits a POLL and returns where its structure lies.
func (g *guest) poll(timeout uint64) uint32 {
	at := g.store(le64s(timeout, 0xbad, 0xdeadbeef))
	g.call(hypercall.Poll, at)
	return at
}

// echoGuest waits for the first frame of testEtherType, sends it back with its
// first payload byte counted up, and prints the structures of the calls.
func echoGuest(ring Ring) *guest {
	g := &guest{ring: ring, devices: oneNet}
	frame := g.store(make([]byte, 1600))
	read := g.store(le64s(1, uint64(frame), 1600, 0xdeadbeef))
	write := g.store(le64s(1, uint64(frame), 0, 0xdeadbeef))
	loop := g.here()
	poll := g.poll(1<<64 - 1)
	// The read's length is a result too: it says 1600 in every round.
	g.emit(append(append([]byte{0xc7, 0x04, 0x25}, imm32(read+16)...), imm32(1600)...)...) // mov dword [read.len], 1600
	g.call(hypercall.NetRead, read)
	// 66 81 3c 25 disp32 imm16  cmp word [frame+12], testEtherType (big-endian)
	g.emit(append(append([]byte{0x66, 0x81, 0x3c, 0x25}, imm32(frame+12)...), testEtherType>>8, testEtherType&0xff)...)
	g.jumpBack(0x75, loop)                                                // jne loop
	g.emit(append([]byte{0xfe, 0x04, 0x25}, imm32(frame+14)...)...)       // inc byte [frame+14]
	g.emit(append([]byte{0x48, 0x8b, 0x04, 0x25}, imm32(read+16)...)...)  // mov rax, [read.len]
	g.emit(append([]byte{0x48, 0x89, 0x04, 0x25}, imm32(write+16)...)...) // mov [write.len], rax
	g.call(hypercall.NetWrite, write)
	g.call(hypercall.NetRead, read) // nothing waits any more
	g.puts(uint64(poll), 24)
	g.puts(uint64(read)+24, 4)
	g.puts(uint64(write)+16, 16)
	g.halt(0)
	return g
}

// TestNet echoes a frame through a TAP interface, given by name and by
// descriptor. The other end is a packet socket on that interface.
func TestNet(t *testing.T) { bothRings(t, testNet) }

func testNet(t *testing.T, ring Ring) {
	testutil.RequireKVM(t)
	enter := netNS(t)
	for _, tt := range []struct {
		name, tap string
		nic       func(t *testing.T) Net
	}{
		{"by name", "uvm0", func(t *testing.T) Net { makeTap(t, "uvm0", 1500); return Net{TAP: "uvm0"} }},
		{"by descriptor", "uvm1", func(t *testing.T) Net {
			fd := tapFD(t, "uvm1")
			t.Cleanup(func() { unix.Close(fd) })
			tapUp(t, "uvm1", 1500)
			return Net{FD: &fd}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testutil.Watchdog(t)
			enter(t)
			nic := tt.nic(t)
			sock := packetSocket(t, tt.tap)
			frame := append(slices.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1, testEtherType>>8, testEtherType&0xff)
			frame = append(frame, "Ahello from the host, padded to the least length of a frame"...)

			g := echoGuest(ring)
			var console bytes.Buffer
			cfg := g.config()
			cfg.Console, cfg.Nets = &console, []Net{nic}
			vm := newVM(t, cfg)
			// The interface queues the frame until the guest runs.
			waitRunning(t, tt.tap)
			if _, err := unix.Write(sock, frame); err != nil {
				t.Fatalf("send frame: %v", err)
			}
			if res, err := runVM(t, vm); err != nil || res.Status != 0 {
				t.Fatalf("Run() = %+v, %v; want status 0", res, err)
			}
			got := make([]byte, 2048)
			n, err := unix.Read(sock, got)
			want := append([]byte(nil), frame...)
			want[14]++
			if err != nil || !bytes.Equal(got[:n], want) {
				t.Errorf("frame from the guest = % x, %v; want % x", got[:n], err, want)
			}
			out := console.Bytes()
			if ready, ret := le.Uint64(out[8:]), le.Uint32(out[16:]); ready != 1<<1 || ret != 1 {
				t.Errorf("POLL = set %#x, %d events; want 0x2, 1", ready, ret)
			}
			if ret := le.Uint32(out[24:]); ret != retAgain {
				t.Errorf("NET_READ without a frame = %d; want %d", ret, retAgain)
			}
			if length, ret := le.Uint64(out[28:]), le.Uint32(out[36:]); length != uint64(len(frame)) || ret != retOK {
				t.Errorf("NET_WRITE = %d of %d bytes; want %d of %d", ret, length, retOK, len(frame))
			}
		})
	}
}

// packetSocket opens the host's end of an interface for frames of
// testEtherType. It sees what the guest sent, and what is sent goes there.
func packetSocket(t *testing.T, name string) int {
	t.Helper()
	proto := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, testEtherType))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		t.Fatalf("packet socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifr := ifreq(t, name)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		t.Fatalf("SIOCGIFINDEX %s: %v", name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: int(ifr.Uint32())}); err != nil {
		t.Fatalf("bind to %s: %v", name, err)
	}
	// The guest has ended when the test reads: a frame is there or never comes.
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	tv := unix.NsecToTimeval(int64(10 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestNetResults tries the calls that go wrong without ending the guest.
func TestNetResults(t *testing.T) { bothRings(t, testNetResults) }

func testNetResults(t *testing.T, ring Ring) {
	netNS(t)
	makeTap(t, "uvm0", 1500)
	g := guest{ring: ring, devices: oneNet}
	buf := uint64(g.store(make([]byte, 64)))
	var want []int32
	for _, x := range []struct {
		call           hypercall.Call
		handle, ptr, n uint64
		want           int32
	}{
		{hypercall.NetRead, 1, buf, 64, retAgain},
		{hypercall.NetRead, 0, buf, 64, retInval},
		{hypercall.NetRead, 2, buf, 64, retInval},
		{hypercall.NetRead, 1<<64 - 1, buf, 64, retInval},
		{hypercall.NetWrite, 0, buf, 64, retInval},
		{hypercall.NetWrite, 64, buf, 64, retInval},
		{hypercall.NetWrite, 1, buf, 64, retOK},
		{hypercall.NetWrite, 1, buf, 1, retUnspec}, // no Ethernet header: the driver refuses
	} {
		at := g.store(le64s(x.handle, x.ptr, x.n, 0xdeadbeef))
		g.call(x.call, at)
		g.puts(uint64(at)+24, 4)
		want = append(want, x.want)
	}
	g.halt(0)
	out := runGuest(t, &g, func(c *Config) { c.Nets = []Net{{TAP: "uvm0"}} })
	if got := results(out); !slices.Equal(got, want) {
		t.Errorf("results = %v; want %v", got, want)
	}
}

// TestPollTimeout has a guest measure a POLL in which nothing happens, without
// any NIC and with one.
func TestPollTimeout(t *testing.T) { bothRings(t, testPollTimeout) }

func testPollTimeout(t *testing.T, ring Ring) {
	testutil.RequireKVM(t)
	enter := netNS(t)
	makeTap(t, "uvm0", 1500)
	for name, nets := range map[string][]Net{"no NIC": nil, "idle NIC": {{TAP: "uvm0"}}} {
		t.Run(name, func(t *testing.T) {
			enter(t)
			const timeout = 20 * time.Millisecond
			g := guest{ring: ring, devices: oneNet[:len(nets)]}
			before, after := g.store(le64s(0)), g.store(le64s(0))
			g.call(hypercall.Walltime, before)
			long := g.poll(uint64(timeout))
			g.call(hypercall.Walltime, after)
			short := g.poll(0)
			for _, at := range []uint32{before, after} {
				g.puts(uint64(at), 8)
			}
			g.puts(uint64(long), 24)
			g.puts(uint64(short), 24)
			g.halt(0)
			start := time.Now()
			out := runGuest(t, &g, func(c *Config) { c.Nets = nets })
			for i, poll := range [][]byte{out[16:], out[40:]} {
				if ready, ret := le.Uint64(poll[8:]), le.Uint32(poll[16:]); ready != 0 || ret != 0 {
					t.Errorf("POLL number %d = set %#x, %d events; want none", i+1, ready, ret)
				}
			}
			// The wait is one of the monotonic clock: the wall clock may be slewed
			// by up to 500 ppm meanwhile.
			t0, t1 := int64(le.Uint64(out)), int64(le.Uint64(out[8:]))
			if d := time.Duration(t1 - t0); d < timeout-timeout/1000 {
				t.Errorf("POLL of %v took %v", timeout, d)
			}
			if t0 < start.UnixNano() || t1 > time.Now().UnixNano() {
				t.Errorf("WALLTIME = %d and %d; want times between %d and now", t0, t1, start.UnixNano())
			}
		})
	}
}

// TestNetInterfaceDown takes the interface down under a running guest, which
// learns of it and lives on.
func TestNetInterfaceDown(t *testing.T) { bothRings(t, testNetInterfaceDown) }

func testNetInterfaceDown(t *testing.T, ring Ring) {
	netNS(t)
	makeTap(t, "uvm0", 1500)
	g := guest{ring: ring, devices: oneNet}
	write := g.store(le64s(1, uint64(g.store(make([]byte, 64))), 64, 0xdeadbeef))
	g.print("down")
	g.call(hypercall.NetWrite, write)
	g.puts(uint64(write)+24, 4)
	g.halt(0)
	var log bytes.Buffer
	var got []byte
	runGuest(t, &g, func(c *Config) {
		c.Nets = []Net{{TAP: "uvm0"}}
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		c.Console = onWrite(func(b []byte) {
			if string(b) == "down" {
				setFlags(t, "uvm0", 0)
			} else {
				got = append(got, b...)
			}
		})
	})
	if want := []int32{retUnspec}; !slices.Equal(results(got), want) {
		t.Errorf("NET_WRITE on an interface that is down = %v; want %v", results(got), want)
	}
	wantLines(t, &log, []string{`level=ERROR msg="net write failed" device=service error="input/output error" count=1`})
}
