package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// wellServed checks that a server serves others.
func wellServed(t *testing.T, s *Server) {
	t.Helper()
	var got string
	if err := dialTest(t, s).Call("echo", map[string]string{"text": "x"}, &got); err != nil || got != "x" {
		t.Errorf("Call(echo) = %q, %v; want another client to be served", got, err)
	}
}

// TestMalformed: each of these ends in an error, or in nothing, and the connection with it.
func TestMalformed(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	for _, tt := range []struct{ send, want string }{
		{"\n", "malformed request: empty"},
		{"{}\n", "protocol version 0; this uvm speaks version 1"},
		{`{"v":2,"op":"echo"}` + "\n", "protocol version 2"},
		{`{"v":1}` + "\n", "no op"},
		{`{"v":1,"op":"echo","x":1}` + "\n", `unknown field \"x\"`},
		{`{"v":1,"op":"echo"}{}` + "\n", "more than one JSON value"},
		{`{"v":1,"op":"echo"`, ""}, // half a message
		{`{"v":1,"op":"echo"` + "\n", "malformed request"},
		{"[1,2]\n", "malformed request"},
		{`{"v":1e999,"op":"echo"}` + "\n", "malformed request"},
		{"\x00\xff\n", "malformed request"},
		{strings.Repeat("[", MaxRequest-1) + "\n", "malformed request"},
		{strings.Repeat("x", MaxRequest) + "\n", "a request has at most 8192 bytes"},
		{strings.Repeat("x", 1<<20), "a request has at most 8192 bytes"}, // without an end
		{`{"v":1,"op":"echo","args":{"text":"` + strings.Repeat("x", MaxRequest-40) + `"}}` + "\n", `"ok":true`},
	} {
		c := dialTest(t, s)
		go func() {
			io.WriteString(c.f, tt.send) // fails where the server does not read it all
			shutdown(c)
		}()
		c.f.SetReadDeadline(time.Now().Add(20 * time.Second))
		got, err := io.ReadAll(c.r)
		if errors.Is(err, unix.ECONNRESET) {
			err = nil // unread bytes were left
		}
		if err != nil || !strings.Contains(string(got), tt.want) || tt.want == "" && len(got) > 0 || bytes.Count(got, []byte("\n")) > 1 {
			t.Errorf("answer to %.60q = %.100q, %v; want one line with %q", tt.send, got, err, tt.want)
		}
	}
	wellServed(t, s)
}

// TestManyConnections: thousands come and say nothing. Those beyond the bound wait in the kernel, where they are
// bounded too, and take nothing of the VM's process.
func TestManyConnections(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	before := runtime.NumGoroutine()
	var open []*os.File
	refused := 0
	for range 3000 {
		f, _, err := dial(s.Entry().dir, s.Entry().file(), 0)
		if err != nil {
			if !errors.Is(err, errSilent) {
				t.Fatalf("dial() = %v; want it to connect, or %v", err, errSilent)
			}
			refused++
			continue
		}
		open = append(open, f)
	}
	if n := runtime.NumGoroutine() - before; n > mostClients || len(open) > mostClients+backlog+2 || refused == 0 {
		t.Errorf("%d connections, %d refused, %d goroutines; want at most %d connections and %d goroutines", len(open), refused, n, mostClients+backlog, mostClients)
	}
	if ok, err := d.List(); len(ok) != 1 || err != nil || d.stale(ok[0]) {
		t.Errorf("List() = %v, %v; want a busy VM not to be taken for a dead one", ok, err)
	}
	for _, f := range open {
		f.Close()
	}
	wellServed(t, s)
}

// TestManyStreams: followers do not take the places of those who ask.
func TestManyStreams(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	full := 0
	for i := range mostStreams + 5 {
		c := dialTest(t, s)
		c.send("wait", nil)
		if i < mostStreams {
			testutil.Until(t, "the stream", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.streams == i+1 })
		} else if _, err := c.receive(); err != nil && strings.Contains(err.Error(), fmt.Sprint(mostStreams, " clients")) {
			full++
		}
	}
	if full != 5 {
		t.Errorf("%d streams beyond the bound were refused; want 5", full)
	}
	wellServed(t, s)
}

// TestNeverReading: a client that takes nothing holds its own goroutine, and no memory beyond the socket's buffer.
func TestNeverReading(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range mostStreams {
		dialTest(t, s).send("flood", nil)
	}
	c := dialTest(t, s) // the same without a stream: requests whose answers nobody takes
	c.f.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	line := []byte(`{"v":1,"op":"echo","args":{"text":"` + strings.Repeat("x", 4096) + `"}}` + "\n")
	for {
		if _, err := c.f.Write(line); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	wellServed(t, s)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes; want less than 8 MiB for %d clients", grown, mostStreams+2)
	}
}

// TestDisconnect: clients that go away in every state.
func TestDisconnect(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	for _, send := range []string{"", `{"v":1,"op"`, `{"v":1,"op":"echo"}` + "\n", `{"v":1,"op":"flood"}` + "\n", `{"v":1,"op":"wait"}` + "\n", `{"v":1,"op":"cat"}` + "\nx"} {
		for range 20 {
			c, err := s.Entry().Dial()
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c.f, send)
			c.Close()
		}
	}
	wellServed(t, s) // so all before it have been accepted
	testutil.Until(t, "all others to end", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.conns) == 1 && s.streams == 0
	})
}

// TestWhoMayAsk: this user and root.
func TestWhoMayAsk(t *testing.T) {
	for _, tt := range []struct {
		client, server uint32
		want           bool
	}{{1000, 1000, true}, {0, 1000, true}, {0, 0, true}, {1000, 0, false}, {1001, 1000, false}, {65534, 1000, false}} {
		if got := mayAsk(tt.client, tt.server); got != tt.want {
			t.Errorf("mayAsk(%d, %d) = %t; want %t", tt.client, tt.server, got, tt.want)
		}
	}
}

// TestHostileServer: what a client takes from a VM of another user's.
func TestHostileServer(t *testing.T) {
	d := runDir(t)
	for _, tt := range []struct {
		name, send string
		want       string
	}{
		{"nothing", "", "it has ended"},
		{"half an answer", `{"v":1,"ok":tr`, "it has ended"},
		{"no JSON", "hello\n", "malformed answer"},
		{"another version", `{"v":7,"ok":true}` + "\n", "has version 7; this uvm speaks version 1"},
		{"another type", `{"v":1,"ok":true,"result":[1]}` + "\n", "malformed result"},
		{"a long line", strings.Repeat("x", MaxAnswer+1), "an answer of more than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := Entry{ID: "0123456789ab", dir: d.path}
			l, err := listen(d.path, e.file())
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan bool)
			go func() {
				defer close(done)
				fd, err := accept(l)
				if err != nil {
					return
				}
				f := os.NewFile(uintptr(fd), "")
				defer f.Close()
				f.Read(make([]byte, 100))
				io.WriteString(f, tt.send)
			}()
			c, err := e.Dial()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Call("info", nil, new(string)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Call(info) = %v; want %q", err, tt.want)
			}
			c.Close()
			<-done
			l.Close()
			os.Remove(e.path())
		})
	}
}
