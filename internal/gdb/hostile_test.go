package gdb

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestPackets takes bytes apart.
func TestPackets(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"+-\x03", "ack nak interrupt EOF"},
		{"$?#3f", "packet(?) EOF"},
		{"$?#3F", "packet(?) EOF"},
		{"noise$?#3fnoise$g#67", "packet(?) packet(g) EOF"},
		{"$?#40$?#3f", "bad packet(?) EOF"},
		{"$?#zz", "bad EOF"},
		{"$m12$?#3f", "packet(?) EOF"}, // the first one cut off
		{"$}\x03#80", "packet(#) EOF"}, // escaped
		{"$}#7d", "bad EOF"},           // an escape of nothing
		{"$}}]#37", "bad EOF"},         // two bytes, wrong sum
		{"$#00", "packet() EOF"},       //
		{"$", "EOF"}, {"$m", "EOF"}, {"$m#", "EOF"}, {"$m#6", "unexpected EOF"}, {"", "EOF"},
		{"$" + strings.Repeat("a", maxPacket) + "#00", "packet(16384 bytes) EOF"},
		{"$" + strings.Repeat("a", maxPacket+1) + "#61", "not the GDB remote protocol: a packet of more than 16384 bytes"},
	} {
		var got []string
		for r := newPacketReader(strings.NewReader(c.in)); ; {
			in, err := r.next()
			if err != nil {
				got = append(got, err.Error())
				break
			}
			word := [...]string{"packet", "bad", "ack", "nak", "interrupt"}[in.kind]
			if in.kind == inPacket && len(in.data) > 100 {
				word += "(" + strconv.Itoa(len(in.data)) + " bytes)"
			} else if in.kind == inPacket {
				word += "(" + string(in.data) + ")"
			}
			got = append(got, word)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("packets of %.40q = %s; want %s", c.in, s, c.want)
		}
	}
}

// TestBadChecksum has the client repeat itself, and loses patience.
func TestBadChecksum(t *testing.T) {
	c := connect(t, newFake())
	c.raw("$?#00")
	if b, _ := c.r.ReadByte(); b != '-' {
		t.Errorf("answer to a wrong checksum = %q; want -", b)
	}
	c.ask("?", "T05thread:1;")
	c.raw("-")
	if got := c.answer(); got != "T05thread:1;" {
		t.Errorf("answer to - = %q; want the last one again", got)
	}
	c.raw(strings.Repeat("$?#00", maxNaks+1))
	if err := c.end(); !errors.Is(err, errProtocol) || c.detached != 1 {
		t.Errorf("after %d wrong checksums: %v, detached %d times; want the end", maxNaks+1, err, c.detached)
	}
}

// TestDisconnect ends the connection in every state: the machine goes on without breakpoints.
func TestDisconnect(t *testing.T) {
	for name, do := range map[string]func(c *client){
		"after a word":      func(c *client) { c.raw("+") },
		"half a packet":     func(c *client) { c.raw("+$m10") },
		"half a checksum":   func(c *client) { c.raw("+$?#3") },
		"unread answer":     func(c *client) { c.raw("$?#3f") },
		"with breakpoints":  func(c *client) { c.ask("Z0,1000,1", "OK"); c.ask("Z1,1000,1", "OK") },
		"running":           func(c *client) { c.ask("Z0,1000,1", "OK"); c.send("c") },
		"interrupted":       func(c *client) { c.send("c"); c.raw("\x03") },
		"stopped by itself": func(c *client) { c.send("c"); c.end2(Event{Signal: 5}) },
		"too long":          func(c *client) { c.raw("+$" + strings.Repeat("a", maxPacket+1)) },
		"random":            func(c *client) { c.raw("\x00\xff$$$###}}}\x03\x03$X0,0:#00") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			c := connect(t, f)
			do(c)
			c.conn.Close()
			c.end()
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.detached != 1 || len(f.points) != 0 || !f.running {
				t.Errorf("detached %d times, %d points left, running %v; want 1, 0, true", f.detached, len(f.points), f.running)
			}
		})
	}
}

// TestConnect only connects, and sends half a packet: the machine does not notice.
func TestConnect(t *testing.T) {
	for _, b := range []string{"", "$m10"} {
		f := newFake()
		c := connect(t, f)
		c.raw(b)
		c.conn.Close()
		if err := c.end(); err != nil || !f.running || f.detached != 0 {
			t.Errorf("a client that sends %q: %v, running %v, detached %d times; want nil, true, 0", b, err, f.running, f.detached)
		}
	}
}

func (c *client) end2(e Event) { c.fake.end(e) }

// TestFlood sends more than anybody will read and reads nothing: the server holds no more than one packet, gives up and lets the
// machine run.
func TestFlood(t *testing.T) {
	for _, flood := range []string{"$m1000,2000#75", "-", "\x03", "+"} {
		f := newFake()
		c := connect(t, f)
		c.ask("?", "T05thread:1;")
		block := bytes.Repeat([]byte(flood), 10000/len(flood))
		c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
		var err error
		for i := 0; i < 100 && err == nil; i++ {
			_, err = c.conn.Write(block)
		}
		c.conn.Close()
		c.end()
		if f.detached != 1 {
			t.Errorf("after a flood of %q: detached %d times; want once", flood, f.detached)
		}
	}
}

// TestListen goes through sockets, the second client and addresses that are none.
func TestListen(t *testing.T) {
	testutil.CheckFDs(t)
	path := filepath.Join(t.TempDir(), "gdb.sock")
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket = %v, %v; want 0600", st.Mode(), err)
	}
	f := newFake()
	served := make(chan bool)
	go func() {
		(&Server{Target: f, Log: slog.New(slog.DiscardHandler)}).Serve(l)
		close(served)
	}()
	dial := func() *client {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		if err != nil {
			t.Fatal(err)
		}
		conn := os.NewFile(uintptr(fd), "client")
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		c := &client{T: t, fake: f, conn: conn}
		c.r = newPacketReader(conn).r
		return c
	}
	first := dial()
	first.ask("?", "T05thread:1;")
	second := dial()
	if b, err := io.ReadAll(second.conn); len(b) > 0 || err != nil {
		t.Errorf("a second client reads %q, %v; want the end at once", b, err)
	}
	second.conn.Close()
	if _, err := Listen("unix:" + path); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("second Listen() = %v; want EADDRINUSE", err)
	}
	first.ask("D", "OK")
	first.conn.Close()
	testutil.Until(t, "a third client is served", func() bool {
		c := dial()
		defer c.conn.Close()
		c.conn.WriteString("$?#3f")
		b, _ := c.r.ReadByte()
		return b == '+'
	})
	l.Close()
	<-served
	testutil.Until(t, "the last client is let go", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.detached == 2 })
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket after Close: %v; want it gone", err)
	}
	for _, where := range []string{"", "x", "-1", "65536", "unix:", "unix:@abstract", "unix:" + strings.Repeat("x", 108), "unix:/nonexistent/dir/sock", "0.0.0.0:1234"} {
		if l, err := Listen(where); err == nil {
			l.Close()
			t.Errorf("Listen(%q) = nil; want an error", where)
		}
	}
}

// TestStale takes a socket over that a killed monitor has left, and no other file.
func TestStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gdb.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatalf("Listen() over a stale socket = %v; want nil", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen("unix:" + path); err == nil {
		l.Close()
		t.Error("Listen() over a file = nil; want an error")
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file has %q; want what it had", b)
	}
	l, err = Listen("0")
	if err != nil || !strings.HasPrefix(l.Addr(), "127.0.0.1:") || l.Addr() == "127.0.0.1:0" {
		t.Fatalf("Listen(0) = %v; want a port on the loopback interface", err)
	}
	l.Close()
}

// FuzzServer sends bytes of the fuzzer's choice: the server answers or ends, and the machine goes on.
func FuzzServer(f *testing.F) {
	for _, p := range []string{"?", "g", "m1000,10", "X1000,2:ab", "Z0,1000,1", "vCont;s:1;c", "qXfer:features:read:target.xml:0,fff", "qRcmd,6869", "Hg2", "P10=00", "D", "k", "c"} {
		f.Add(frame([]byte(p)))
	}
	f.Add([]byte("+$?#3f-\x03$c#63\x03$s#73"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newFake()
		r, w := io.Pipe()
		go func() {
			w.Write(b)
			w.Close()
		}()
		s := &Server{Target: m, Log: slog.New(slog.DiscardHandler)}
		s.serve(&script{r: r})
		if m.detached > 1 || len(m.points) != 0 && m.detached == 1 {
			t.Errorf("detached %d times, %d points are left; want once, 0", m.detached, len(m.points))
		}
	})
}

// script is a connection that says what it was told and hears nothing.
type script struct{ r *io.PipeReader }

func (s *script) Read(b []byte) (int, error)       { return s.r.Read(b) }
func (s *script) Write(b []byte) (int, error)      { return len(b), nil }
func (s *script) Close() error                     { return s.r.Close() }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
