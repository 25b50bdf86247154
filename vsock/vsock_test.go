package vsock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/internal/virtiotest"
)

func TestNew(t *testing.T) {
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
		v, err := New(tt.cid, tt.path)
		if v != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%d, %q) = %v; want an error with %q", tt.cid, tt.path, err, tt.want)
		}
		if after := len(testutil.FDs(t)); after != before {
			t.Errorf("New(%d, %q) leaves %d descriptors; want %d", tt.cid, tt.path, after, before)
		}
	}
	if _, err := New(3, there); !errors.Is(err, unix.EEXIST) {
		t.Errorf("New of a file that exists = %v; want EEXIST", err)
	}
	if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
		t.Errorf("failed starts leave %v, %v; want the file that was there", entries, err)
	}
}

func TestFile(t *testing.T) {
	g := newGuest(t, 0, 4096)
	st, err := os.Stat(g.path)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket file has mode %v, %v; want a socket with 0600", st.Mode(), err)
	}
	if _, err := New(4, g.path); err == nil || !strings.Contains(err.Error(), "another uvm") {
		t.Errorf("New at the same path = %v; want an error", err)
	}
	g.v.Close()
	if _, err := os.Stat(g.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: Stat = %v; want no file", err)
	}
	// A file that somebody put in its place stays.
	v, err := New(3, g.path)
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

func TestDevice(t *testing.T) {
	g := newGuest(t, 0, 4096)
	if i := g.v.Info(); i.Type != 19 || i.Features != 1 || len(i.Queues) != 3 || string(i.Config) != "\x03\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("Info() = %+v; want type 19, features 1, three queues and CID 3", i)
	}
	g.v.Reset()
	for _, q := range [][]*virtio.Queue{{nil, nil, nil}, {g.queues[0], nil, nil}, {nil, g.queues[1], nil}} {
		g.v.Start(0, q)
		if fd, err := g.v.PollFD(), g.v.Serve(); fd != -1 || err != nil {
			t.Errorf("without both queues: PollFD() = %d, Serve() = %v; want -1 and nil", fd, err)
		}
	}
}

func TestConnect(t *testing.T) {
	g := newGuest(t, 0, 4096)
	// From the guest, to nobody and to somebody.
	g.want("REQUEST to nobody", g.exchange(guestPacket(1000, 52, opRequest, "")), hostPacket(1000, 52, opReset, 0, ""))
	fd := g.open(1000, 52)
	g.want("RW", g.exchange(guestPacket(1000, 52, opRW, "hello")))
	g.hostWant("RW", fd, "hello", "")
	g.hostWrite(fd, "world")
	g.want("world", g.exchange(), hostPacket(1000, 52, opRW, 0, "world"))
	// Both ends close; the same ports serve again.
	unix.Close(fd)
	g.want("close", g.exchange(), hostPacket(1000, 52, opShutdown, 1, ""), hostPacket(1000, 52, opShutdown, 3, ""))
	g.want("RST", g.exchange(guestPacket(1000, 52, opReset, "")))
	fd = g.open(1000, 52)
	g.want("RST", g.exchange(guestPacket(1000, 52, opReset, "")))
	g.hostWant("RST", fd, "", "EOF")
	unix.Close(fd)

	// From the host, with bytes right behind the line.
	fd = g.hostConnect()
	g.hostWrite(fd, "CONNECT 77\nearly")
	const port = firstPort + 1
	g.want("CONNECT", g.exchange(), hostPacket(77, port, opRequest, 0, ""))
	g.hostWant("before RESPONSE", fd, "", "")
	g.want("RESPONSE", g.exchange(guestPacket(77, port, opResponse, "")), hostPacket(77, port, opRW, 0, "early"))
	g.hostWant("RESPONSE", fd, "OK 1073741825\n", "")
	g.want("close", g.exchange(packet{3, 2, 77, port, 0, 1, opShutdown, 3, 0, 0, ""}), hostPacket(77, port, opReset, 0, ""))
	g.hostWant("close", fd, "", "EOF")
	unix.Close(fd)
	// The guest refuses, or never answers.
	refused, ignored := g.hostConnect(), g.hostConnect()
	g.hostWrite(refused, "CONNECT 78\n")
	g.hostWrite(ignored, "CONNECT 79\n")
	if got := g.exchange(); len(got) != 2 {
		t.Fatalf("two CONNECTs: the guest hears %v", got)
	}
	for port := uint32(firstPort + 2); port <= firstPort+3; port++ {
		g.want("refusal", g.exchange(guestPacket(78, port, opReset, "")))
	}
	g.hostWant("refused", refused, "", "EOF")
	g.expire()
	g.hostWant("ignored", ignored, "", "EOF")
	g.want("late RESPONSE", g.exchange(guestPacket(79, firstPort+3, opResponse, "")), hostPacket(79, firstPort+3, opReset, 0, ""))
	unix.Close(refused)
	unix.Close(ignored)
	g.idle()

	// All at once, and the end, before the guest has answered.
	fd = g.hostConnect()
	g.hostWrite(fd, "CONNECT 80\nall")
	unix.Shutdown(fd, unix.SHUT_WR)
	g.want("CONNECT", g.exchange(), hostPacket(80, firstPort+4, opRequest, 0, ""))
	g.want("all", g.exchange(guestPacket(80, firstPort+4, opResponse, ""), guestPacket(80, firstPort+4, opRW, "yes")),
		hostPacket(80, firstPort+4, opRW, 0, "all"), hostPacket(80, firstPort+4, opShutdown, noSend, ""))
	g.hostWant("all", fd, "OK 1073741828\nyes", "")
	unix.Close(fd)
}

// TestBehindTransport goes through the registers and the worker.
func TestBehindTransport(t *testing.T) {
	g := newGuest(t, 0, 200)
	g.v.Reset()
	var irqs atomic.Int32
	kick, err1 := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	stop, err2 := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	m := virtio.NewMMIO(g.v, g.rx.View, func() { irqs.Add(1) }, func() { unix.Write(kick, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }, func(err error) { t.Error(err) })
	done := make(chan bool)
	go func() { m.Work(kick, stop); close(done) }()
	g.offer(guestPacket(1000, 9, opRequest, "").bytes())
	virtiotest.Start(m.Write, virtio.FeatureEventIdx, g.rx, g.tx, g.event)
	testutil.Until(t, "an interrupt", func() bool { return irqs.Load() > 0 })
	unix.Write(stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	testutil.Wait(t, done, "the worker")
	g.collect(true)
	g.want("REQUEST to nobody", g.take(), hostPacket(1000, 9, opReset, 0, ""))
	unix.Close(kick)
	unix.Close(stop)
	if err := g.v.Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	if _, err := os.Stat(g.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: Stat = %v; want no file", err)
	}
}

// expire lets time pass for all connections.
func (g *guest) expire() {
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
func (g *guest) idle() {
	g.t.Helper()
	if len(g.v.fds)+len(g.v.conns)+len(g.v.resets) > 0 {
		g.t.Errorf("the device has %d sockets, %d connections, %d resets; want none", len(g.v.fds), len(g.v.conns), len(g.v.resets))
	}
}

func TestShutdown(t *testing.T) {
	shut := func(flags uint32) packet {
		return packet{testCID, 2, 1000, 52, 0, 1, opShutdown, flags, 1 << 20, 0, ""}
	}
	t.Run("guest sends no more", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		g.want("last words", g.exchange(guestPacket(1000, 52, opRW, "last"), shut(noSend)))
		g.hostWant("last words", fd, "last", "EOF")
		g.hostWrite(fd, "and back")
		g.want("and back", g.exchange(), hostPacket(1000, 52, opRW, 0, "and back"))
		g.want("RW after SHUTDOWN", g.exchange(guestPacket(1000, 52, opRW, "x")), hostPacket(1000, 52, opReset, 0, ""))
		g.idle()
	})
	t.Run("guest receives no more", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		g.want("SHUTDOWN", g.exchange(shut(noReceive)))
		if _, err := unix.Write(fd, []byte("x")); err != unix.EPIPE {
			t.Errorf("write to a guest that receives no more = %v; want EPIPE", err)
		}
		g.want("RW", g.exchange(guestPacket(1000, 52, opRW, "still")))
		g.hostWant("RW", fd, "still", "")
		unix.Close(fd)
		g.want("host closes", g.exchange(), hostPacket(1000, 52, opShutdown, 3, ""))
		g.want("second half", g.exchange(shut(noSend)), hostPacket(1000, 52, opReset, 0, ""))
		g.idle()
	})
	t.Run("host sends no more", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		g.hostWrite(fd, "last")
		unix.Shutdown(fd, unix.SHUT_WR)
		g.want("last words", g.exchange(), hostPacket(1000, 52, opRW, 0, "last"), hostPacket(1000, 52, opShutdown, noSend, ""))
		g.want("and back", g.exchange(guestPacket(1000, 52, opRW, "and back")))
		g.hostWant("and back", fd, "and back", "")
		g.want("close", g.exchange(shut(3)), hostPacket(1000, 52, opReset, 0, ""))
		g.hostWant("close", fd, "", "EOF")
		g.idle()
	})
	t.Run("host receives no more", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		unix.Shutdown(fd, unix.SHUT_RD)
		g.want("RW", g.exchange(guestPacket(1000, 52, opRW, "x")), hostPacket(1000, 52, opShutdown, noReceive, ""))
		g.hostWrite(fd, "y")
		g.want("y", g.exchange(), hostPacket(1000, 52, opRW, 0, "y"))
	})
	t.Run("host dies with bytes unread", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		g.hostWrite(fd, "mine")
		g.want("RW", g.exchange(guestPacket(1000, 52, opRW, "yours")), hostPacket(1000, 52, opRW, 0, "mine"))
		g.hostWrite(fd, "more")
		unix.Close(fd)
		g.want("death", g.exchange(), hostPacket(1000, 52, opShutdown, noReceive, ""),
			hostPacket(1000, 52, opRW, 0, "more"), hostPacket(1000, 52, opShutdown, 3, ""))
	})
	t.Run("bytes outlive the guest's end", func(t *testing.T) {
		g := newGuest(t, 0, 4096)
		fd := g.open(1000, 52)
		defer unix.Close(fd)
		want := g.fillHost(1000, 52)
		g.want("close", g.exchange(shut(3)), hostPacket(1000, 52, opReset, 0, ""))
		again := g.open(1000, 52) // the ports are free
		defer unix.Close(again)
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
		g.want("RW on the new connection", g.exchange(guestPacket(1000, 52, opRW, "new")))
		g.hostWant("RW on the new connection", again, "new", "")
	})
}

// fillHost sends until the guest has no credit, and returns what it sent.
func (g *guest) fillHost(guest, host uint32) string {
	g.t.Helper()
	var sent strings.Builder
	credit := uint32(bufferSize)
	for i := 0; credit > 0; i++ {
		s := strings.Repeat(string(rune('a'+i%26)), int(min(credit, 4000)))
		sent.WriteString(s)
		for _, p := range g.exchange(guestPacket(guest, host, opRW, s), guestPacket(guest, host, opCreditRequest, "")) {
			credit = p.alloc - (uint32(sent.Len()) - p.fwd)
		}
	}
	return sent.String()
}
