package virtio

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/memory"
	"golang.org/x/sys/unix"
)

func TestVsockNew(t *testing.T) {
	testutil.CheckFDs(t)
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cid        uint64
		path, want string
	}{
		{0, "v", "CID 0 is reserved"},
		{2, "v", "CID 2 is reserved"},
		{1<<32 - 1, "v", "reserved"},
		{1 << 32, "v", "reserved"},
		{3, "", "1 to 96 bytes"},
		{3, "@v", "not start with @"},
		{3, "v\x00w", "1 to 96 bytes"},
		{3, "/" + strings.Repeat("x", 96), "1 to 96 bytes"},
		{3, filepath.Join(dir, "none", "v"), "no such file"},
		{3, there, "rm " + there},
	} {
		before := len(testutil.FDs(t))
		v, err := NewVsock(tt.cid, tt.path)
		if v != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("NewVsock(%d, %q) = %v; want an error with %q", tt.cid, tt.path, err, tt.want)
		}
		if after := len(testutil.FDs(t)); after != before {
			t.Errorf("NewVsock(%d, %q) leaves %d descriptors; want %d", tt.cid, tt.path, after, before)
		}
	}
	if _, err := NewVsock(3, there); !errors.Is(err, unix.EEXIST) {
		t.Errorf("NewVsock of a file that exists = %v; want EEXIST", err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		t.Errorf("failed starts leave %v, %v; want the file that was there", entries, err)
	}
}

func TestVsockFile(t *testing.T) {
	g := newVsockGuest(t, 0, 4096)
	st, err := os.Stat(g.path)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket file has mode %v, %v; want a socket with 0600", st.Mode(), err)
	}
	if _, err := NewVsock(4, g.path); err == nil || !strings.Contains(err.Error(), "another uvm") {
		t.Errorf("NewVsock at the same path = %v; want an error", err)
	}
	g.v.Close()
	if _, err := os.Stat(g.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: Stat = %v; want no file", err)
	}
	// A file that somebody put in its place stays.
	v, err := NewVsock(3, g.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(g.path), os.WriteFile(g.path, []byte("theirs"), 0o600)); err != nil {
		t.Fatal(err)
	}
	v.Close()
	if b, err := os.ReadFile(g.path); string(b) != "theirs" {
		t.Errorf("after Close: another's file = %q, %v; want it untouched", b, err)
	}
}

func TestVsockDevice(t *testing.T) {
	g := newVsockGuest(t, 0, 4096)
	if g.v.Type() != 19 || g.v.Features() != 1 || len(g.v.Queues()) != 3 || string(g.v.Config()) != "\x03\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("type %d, features %#x, queues %v, config % x; want 19, 1, three and CID 3", g.v.Type(), g.v.Features(), g.v.Queues(), g.v.Config())
	}
	g.v.Reset()
	for _, q := range [][]*Queue{{nil, nil, nil}, {g.rx.q, nil, nil}, {nil, g.tx.q, nil}} {
		g.v.Start(0, q)
		if fd, err := g.v.PollFD(), g.v.Serve(); fd != -1 || err != nil {
			t.Errorf("without both queues: PollFD() = %d, Serve() = %v; want -1 and nil", fd, err)
		}
	}
}

func TestVsockConnect(t *testing.T) {
	g := newVsockGuest(t, 0, 4096)
	// From the guest, to nobody and to somebody.
	g.want("REQUEST to nobody", g.exchange(guestPacket(1000, 52, vsockRequest, "")), hostPacket(1000, 52, vsockReset, 0, ""))
	fd := g.open(1000, 52)
	g.want("RW", g.exchange(guestPacket(1000, 52, vsockRW, "hello")))
	g.hostWant("RW", fd, "hello", "")
	g.hostWrite(fd, "world")
	g.want("world", g.exchange(), hostPacket(1000, 52, vsockRW, 0, "world"))
	// Both ends close; the same ports serve again.
	unix.Close(fd)
	g.want("close", g.exchange(), hostPacket(1000, 52, vsockShutdown, 1, ""), hostPacket(1000, 52, vsockShutdown, 3, ""))
	g.want("RST", g.exchange(guestPacket(1000, 52, vsockReset, "")))
	fd = g.open(1000, 52)
	g.want("RST", g.exchange(guestPacket(1000, 52, vsockReset, "")))
	g.hostWant("RST", fd, "", "EOF")
	unix.Close(fd)

	// From the host, with bytes right behind the line.
	fd = g.hostConnect()
	g.hostWrite(fd, "CONNECT 77\nearly")
	const port = vsockPorts + 1
	g.want("CONNECT", g.exchange(), hostPacket(77, port, vsockRequest, 0, ""))
	g.hostWant("before RESPONSE", fd, "", "")
	g.want("RESPONSE", g.exchange(guestPacket(77, port, vsockResponse, "")), hostPacket(77, port, vsockRW, 0, "early"))
	g.hostWant("RESPONSE", fd, "OK 1073741825\n", "")
	g.want("close", g.exchange(packet{3, 2, 77, port, 0, 1, vsockShutdown, 3, 0, 0, ""}), hostPacket(77, port, vsockReset, 0, ""))
	g.hostWant("close", fd, "", "EOF")
	unix.Close(fd)
	// The guest refuses, or never answers.
	refused, ignored := g.hostConnect(), g.hostConnect()
	g.hostWrite(refused, "CONNECT 78\n")
	g.hostWrite(ignored, "CONNECT 79\n")
	if got := g.exchange(); len(got) != 2 {
		t.Fatalf("two CONNECTs: the guest hears %v", got)
	}
	for port := uint32(vsockPorts + 2); port <= vsockPorts+3; port++ {
		g.want("refusal", g.exchange(guestPacket(78, port, vsockReset, "")))
	}
	g.hostWant("refused", refused, "", "EOF")
	g.expire()
	g.hostWant("ignored", ignored, "", "EOF")
	g.want("late RESPONSE", g.exchange(guestPacket(79, vsockPorts+3, vsockResponse, "")), hostPacket(79, vsockPorts+3, vsockReset, 0, ""))
	unix.Close(refused)
	unix.Close(ignored)
	g.idle()

	// All at once, and the end, before the guest has answered.
	fd = g.hostConnect()
	g.hostWrite(fd, "CONNECT 80\nall")
	unix.Shutdown(fd, unix.SHUT_WR)
	g.want("CONNECT", g.exchange(), hostPacket(80, vsockPorts+4, vsockRequest, 0, ""))
	g.want("all", g.exchange(guestPacket(80, vsockPorts+4, vsockResponse, ""), guestPacket(80, vsockPorts+4, vsockRW, "yes")),
		hostPacket(80, vsockPorts+4, vsockRW, 0, "all"), hostPacket(80, vsockPorts+4, vsockShutdown, vsockNoSend, ""))
	g.hostWant("all", fd, "OK 1073741828\nyes", "")
	unix.Close(fd)
}

// TestVsockBehindTransport goes through the registers and the worker.
func TestVsockBehindTransport(t *testing.T) {
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	path := filepath.Join(t.TempDir(), "v")
	v, err := NewVsock(testCID, path)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, v)
	drivers := g.start(FeatureEventIdx)
	kick, err1 := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	stop, err2 := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	drivers[0].add(nil, 200)
	drivers[1].add([][]byte{guestPacket(1000, 9, vsockRequest, "").bytes()})
	done := make(chan bool)
	go func() { g.m.Work(kick, stop); close(done) }()
	testutil.Until(t, "an interrupt", func() bool { return g.irqs.Load() > 0 })
	unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	testutil.Wait(t, done, "the worker")
	head, n, ok := drivers[0].done()
	b := g.at(memory.Addr(le.Uint64(drivers[0].q.desc[int(head)*descSize:])), uint64(n))
	if !ok || n != vsockHeader || summary(parsePacket(t, b)) != summary(hostPacket(1000, 9, vsockReset, 0, "")) {
		t.Errorf("the guest hears % x; want an RST for its port", b)
	}
	unix.Close(kick)
	unix.Close(stop)
	if err := g.m.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: Stat = %v; want no file", err)
	}
}

// expire lets time pass for all connections.
func (g *vsockGuest) expire() {
	g.t.Helper()
	if !g.v.armed {
		g.t.Error("no timer is armed")
	}
	for _, c := range g.v.fds {
		c.deadline = time.Now().Add(-time.Second)
	}
	g.v.expire()
}

// idle checks that no connection is left.
func (g *vsockGuest) idle() {
	g.t.Helper()
	if len(g.v.fds)+len(g.v.conns)+len(g.v.resets) > 0 {
		g.t.Errorf("the device has %d sockets, %d connections, %d resets; want none", len(g.v.fds), len(g.v.conns), len(g.v.resets))
	}
}

func TestVsockShutdown(t *testing.T) {
	shut := func(flags uint32) packet {
		return packet{testCID, 2, 1000, 52, 0, 1, vsockShutdown, flags, 1 << 20, 0, ""}
	}
	t.Run("guest sends no more", func(t *testing.T) {
		g := newVsockGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		g.want("last words", g.exchange(guestPacket(1000, 52, vsockRW, "last"), shut(vsockNoSend)))
		g.hostWant("last words", fd, "last", "EOF")
		g.hostWrite(fd, "and back")
		g.want("and back", g.exchange(), hostPacket(1000, 52, vsockRW, 0, "and back"))
		g.want("RW after SHUTDOWN", g.exchange(guestPacket(1000, 52, vsockRW, "x")), hostPacket(1000, 52, vsockReset, 0, ""))
		g.idle()
	})
	t.Run("guest receives no more", func(t *testing.T) {
		g := newVsockGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		g.want("SHUTDOWN", g.exchange(shut(vsockNoReceive)))
		if _, err := unix.Write(fd, []byte("x")); err != unix.EPIPE {
			t.Errorf("write to a guest that receives no more = %v; want EPIPE", err)
		}
		g.want("RW", g.exchange(guestPacket(1000, 52, vsockRW, "still")))
		g.hostWant("RW", fd, "still", "")
		unix.Close(fd)
		g.want("host closes", g.exchange(), hostPacket(1000, 52, vsockShutdown, 3, ""))
		g.want("second half", g.exchange(shut(vsockNoSend)), hostPacket(1000, 52, vsockReset, 0, ""))
		g.idle()
	})
	t.Run("host sends no more", func(t *testing.T) {
		g := newVsockGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		g.hostWrite(fd, "last")
		unix.Shutdown(fd, unix.SHUT_WR)
		g.want("last words", g.exchange(), hostPacket(1000, 52, vsockRW, 0, "last"), hostPacket(1000, 52, vsockShutdown, vsockNoSend, ""))
		g.want("and back", g.exchange(guestPacket(1000, 52, vsockRW, "and back")))
		g.hostWant("and back", fd, "and back", "")
		g.want("close", g.exchange(shut(3)), hostPacket(1000, 52, vsockReset, 0, ""))
		g.hostWant("close", fd, "", "EOF")
		g.idle()
	})
	t.Run("host receives no more", func(t *testing.T) {
		g := newVsockGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		unix.Shutdown(fd, unix.SHUT_RD)
		g.want("RW", g.exchange(guestPacket(1000, 52, vsockRW, "x")), hostPacket(1000, 52, vsockShutdown, vsockNoReceive, ""))
		g.hostWrite(fd, "y")
		g.want("y", g.exchange(), hostPacket(1000, 52, vsockRW, 0, "y"))
	})
	t.Run("host dies with bytes unread", func(t *testing.T) {
		g := newVsockGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		g.hostWrite(fd, "mine")
		g.want("RW", g.exchange(guestPacket(1000, 52, vsockRW, "yours")), hostPacket(1000, 52, vsockRW, 0, "mine"))
		g.hostWrite(fd, "more")
		unix.Close(fd)
		g.want("death", g.exchange(), hostPacket(1000, 52, vsockShutdown, vsockNoReceive, ""),
			hostPacket(1000, 52, vsockRW, 0, "more"), hostPacket(1000, 52, vsockShutdown, 3, ""))
	})
	t.Run("bytes outlive the guest's end", func(t *testing.T) {
		g := newVsockGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		want := g.fillHost(1000, 52)
		g.want("close", g.exchange(shut(3)), hostPacket(1000, 52, vsockReset, 0, ""))
		if again := g.open(1000, 52); again >= 0 { // the ports are free
			unix.Close(again)
		}
		got, end := "", ""
		for end == "" {
			var s string
			s, end = g.hostRead(fd)
			got += s
			g.exchange()
		}
		if got != want || end != "EOF" {
			t.Errorf("the host program reads %d bytes and %q; want %d and EOF", len(got), end, len(want))
		}
	})
}

// fillHost sends until the guest has no credit, and returns what it sent.
func (g *vsockGuest) fillHost(guest, host uint32) string {
	g.t.Helper()
	var sent strings.Builder
	credit := uint32(vsockBuffer)
	for i := 0; credit > 0; i++ {
		s := strings.Repeat(string(rune('a'+i%26)), int(min(credit, 4000)))
		sent.WriteString(s)
		for _, p := range g.exchange(guestPacket(guest, host, vsockRW, s), guestPacket(guest, host, vsockCreditRequest, "")) {
			credit = p.alloc - (uint32(sent.Len()) - p.fwd)
		}
	}
	return sent.String()
}
