package vsock

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/internal/virtiotest"
	"github.com/uvm-monitor/uvm/memory"
)

const testCID = 3

// packet is a packet of the socket device, as the guest writes and reads it.
type packet struct {
	src, dst         uint64
	srcPort, dstPort uint32
	len              uint32
	typ, op          uint16
	flags, alloc     uint32
	fwd              uint32
	data             string
}

// guestPacket is a packet from the guest's port to the host's, with credit to spare.
func guestPacket(guest, host uint32, op uint16, data string) packet {
	return packet{src: testCID, dst: 2, srcPort: guest, dstPort: host, len: uint32(len(data)), typ: 1, op: op, alloc: 1 << 20, data: data}
}

func (p packet) bytes() []byte {
	b := le.AppendUint64(nil, p.src)
	b = le.AppendUint64(b, p.dst)
	for _, x := range []uint32{p.srcPort, p.dstPort, p.len, uint32(p.typ) | uint32(p.op)<<16, p.flags, p.alloc, p.fwd} {
		b = le.AppendUint32(b, x)
	}
	return append(b, p.data...)
}

func parsePacket(t testing.TB, b []byte) packet {
	t.Helper()
	if len(b) < 44 || uint32(len(b)-44) != le.Uint32(b[24:]) {
		t.Fatalf("the device made a packet of %d bytes: % x", len(b), b[:min(len(b), 44)])
	}
	return packet{le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:]), le.Uint16(b[28:]),
		le.Uint16(b[30:]), le.Uint32(b[32:]), le.Uint32(b[36:]), le.Uint32(b[40:]), string(b[44:])}
}

// guest is a guest with a socket device. Its buffers are used again and again.
type guest struct {
	t             testing.TB
	v             *Device
	path          string
	rx, tx, event *virtiotest.Driver
	queues        []*virtio.Queue     // of these
	rxBufs        map[uint32][][]byte // by head
	held          []uint16            // heads that collect was not to offer again
	txFree        []uint32            // heads
	txBufs        map[uint32]txBuffer
	got           []packet // not yet looked at
}

const (
	guestRX = 32 // buffers
	guestTX = 16
	txSize  = 16 << 10
)

type txBuffer struct {
	a memory.Addr
	b []byte
}

// newGuest starts a device. Each receive buffer has descriptors of these sizes.
func newGuest(t testing.TB, features uint64, layout ...int) *guest {
	t.Helper()
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	path := filepath.Join(t.TempDir(), "v")
	v, err := New(testCID, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	g := &guest{t: t, v: v, path: path}
	g.start(features, layout...)
	return g
}

// start gives the device fresh queues.
func (g *guest) start(features uint64, layout ...int) {
	g.t.Helper()
	g.rx = virtiotest.New(g.t, 256)
	g.tx = virtiotest.NewIn(g.t, g.rx.Mem, g.rx.View, 0x60000, 256)
	g.event = virtiotest.NewIn(g.t, g.rx.Mem, g.rx.View, 0xe0000, 16)
	g.queues = nil
	for _, d := range []*virtiotest.Driver{g.rx, g.tx, g.event} {
		q, err := virtio.NewQueue(d.View, d.Size, d.Base+virtiotest.Desc, d.Base+virtiotest.Available, d.Base+virtiotest.UsedRing, features)
		if err != nil {
			g.t.Fatal(err)
		}
		g.queues = append(g.queues, q)
	}
	g.rxBufs, g.txBufs, g.held, g.txFree, g.got = map[uint32][][]byte{}, map[uint32]txBuffer{}, nil, nil, nil
	for range guestRX {
		head, bufs := g.rx.Add(nil, layout...)
		g.rxBufs[uint32(head)] = bufs
	}
	for i := range uint32(guestTX) { // descriptors 4*i to 4*i+3
		a, b := g.tx.Alloc(txSize)
		g.txBufs[4*i] = txBuffer{a, b}
		g.txFree = append(g.txFree, 4*i)
	}
	g.v.Start(virtio.FeatureVersion1|features, g.queues)
}

// offer puts b into the tx queue, over up to four descriptors that end at the cuts.
func (g *guest) offer(b []byte, cuts ...int) {
	g.t.Helper()
	if len(g.txFree) == 0 {
		g.t.Fatal("the device does not return packets")
	}
	head := g.txFree[0]
	g.txFree = g.txFree[1:]
	copy(g.txBufs[head].b, b)
	start := 0
	for i, end := range append(cuts, len(b)) {
		flags := uint16(virtiotest.Next)
		if end == len(b) {
			flags = 0
		}
		g.tx.Desc(uint16(head)+uint16(i), g.txBufs[head].a+memory.Addr(start), uint32(end-start), flags, uint16(head)+uint16(i)+1)
		start = end
	}
	g.tx.Offer(uint16(head))
}

// collect takes what the device returned and, with refill, offers receive buffers again.
func (g *guest) collect(refill bool) (progress bool) {
	g.t.Helper()
	for {
		head, _, ok := g.tx.Done()
		if !ok {
			break
		}
		g.txFree = append(g.txFree, head)
		progress = true
	}
	for {
		head, n, ok := g.rx.Done()
		if !ok {
			return progress
		}
		progress = true
		var b []byte
		for _, buf := range g.rxBufs[head] {
			b = append(b, buf...)
		}
		g.got = append(g.got, parsePacket(g.t, b[:n]))
		if p := g.got[len(g.got)-1]; p.src != 2 || p.dst != testCID || p.op != opReset && p.alloc != bufferSize {
			g.t.Fatalf("the device made %+v", p)
		}
		if refill {
			g.rx.Offer(uint16(head))
		} else {
			g.held = append(g.held, uint16(head))
		}
	}
}

// refill offers the receive buffers that were held back.
func (g *guest) refill() {
	for _, head := range g.held {
		g.rx.Offer(head)
	}
	g.held = nil
}

// readable says whether the device wants to be served.
func readable(t testing.TB, fd int, timeout int) bool {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, timeout)
	if err != nil && err != unix.EINTR {
		t.Fatal(err)
	}
	return n > 0
}

// run serves the device until nothing happens any more, and fails if the device
// then still wants to be served.
func (g *guest) run() {
	g.t.Helper()
	for i := 0; ; i++ {
		if err := g.v.Serve(); err != nil {
			g.t.Fatalf("Serve() = %v; want no error", err)
		}
		if progress := g.collect(true); !progress && !readable(g.t, g.v.PollFD(), 0) {
			return
		}
		if i > 1<<20 {
			g.t.Fatal("the device is never done")
		}
	}
}

// exchange sends packets and returns the answers.
func (g *guest) exchange(ps ...packet) []packet {
	g.t.Helper()
	for _, p := range ps {
		g.offer(p.bytes())
	}
	g.run()
	return g.take()
}

func (g *guest) take() []packet {
	got := g.got
	g.got = nil
	return got
}

// want checks the next packets: operation, ports, and data or flags.
func (g *guest) want(what string, got []packet, want ...packet) {
	g.t.Helper()
	var gs, ws []string
	for _, p := range got {
		gs = append(gs, summary(p))
	}
	for _, p := range want {
		ws = append(ws, summary(p))
	}
	if strings.Join(gs, "; ") != strings.Join(ws, "; ") {
		g.t.Fatalf("%s: the guest hears %q; want %q", what, gs, ws)
	}
}

func summary(p packet) string {
	return fmt.Sprintf("port %d from %d type %d op %d flags %d %.40q", p.dstPort, p.srcPort, p.typ, p.op, p.flags, p.data)
}

func itoa(x uint32) string { return strconv.FormatUint(uint64(x), 10) }

// hostPacket is a packet to the guest, for want.
func hostPacket(guest, host uint32, op uint16, flags uint32, data string) packet {
	return packet{srcPort: host, dstPort: guest, typ: 1, op: op, flags: flags, data: data}
}

// hostListen makes a host program that listens for the guest's port, and
// hostConnect one that connects to the device. Both are not blocking.
func (g *guest) hostListen(port uint32) int {
	g.t.Helper()
	fd := g.socket()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: g.path + "_" + itoa(port)}); err != nil {
		g.t.Fatal(err)
	}
	if err := unix.Listen(fd, 64); err != nil {
		g.t.Fatal(err)
	}
	return fd
}

func (g *guest) hostConnect() int {
	g.t.Helper()
	fd := g.socket()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: g.path}); err != nil {
		g.t.Fatalf("connect: %v", err)
	}
	return fd
}

func (g *guest) socket() int {
	g.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	return fd
}

func (g *guest) hostAccept(listener int) int {
	g.t.Helper()
	fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		g.t.Fatalf("accept: %v", err)
	}
	return fd
}

func (g *guest) hostWrite(fd int, s string) {
	g.t.Helper()
	if n, err := unix.Write(fd, []byte(s)); n != len(s) || err != nil {
		g.t.Fatalf("write of %d bytes = %d, %v", len(s), n, err)
	}
}

// hostRead returns all that is there, and how it ends: "", "EOF" or an error.
func (g *guest) hostRead(fd int) (data, end string) {
	g.t.Helper()
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EAGAIN:
			return data, ""
		case err != nil:
			return data, err.Error()
		case n == 0:
			return data, "EOF"
		}
		data += string(b[:n])
	}
}

func (g *guest) hostWant(what string, fd int, data, end string) {
	g.t.Helper()
	if d, e := g.hostRead(fd); d != data || e != end {
		g.t.Fatalf("%s: the host program reads %d bytes %.60q and %q; want %d bytes %.60q and %q", what, len(d), d, e, len(data), data, end)
	}
}

// open connects the guest's port to a host program at the host's port.
func (g *guest) open(guest, host uint32) (fd int) {
	g.t.Helper()
	l := g.hostListen(host)
	defer unix.Close(l)
	defer unix.Unlink(g.path + "_" + itoa(host))
	g.want("REQUEST", g.exchange(guestPacket(guest, host, opRequest, "")), hostPacket(guest, host, opResponse, 0, ""))
	return g.hostAccept(l)
}
