package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// lines collects what the commands print.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// both runs two commands at the same time, one of which waits for the other.
func both(t *testing.T, first, second []string) string {
	t.Helper()
	testutil.Watchdog(t)
	l := &lines{}
	out = l
	done := make(chan error, 1)
	go func() { done <- run(first) }()
	if err := run(second); err != nil {
		t.Errorf("%q: %v", second, err)
	}
	if err := testutil.Wait(t, done, first[0]); err != nil {
		t.Errorf("%q: %v", first, err)
	}
	return l.String()
}

// digest is that of what a peer sends.
func digest(n int64) string {
	h := sha256.New()
	_, _ = io.Copy(h, content(n))
	return fmt.Sprintf("%d bytes, sha256 %x\n", n, h.Sum(nil))
}

// freePort is a TCP port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	a, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", a.(*unix.SockaddrInet4).Port)
}

func TestTCP(t *testing.T) {
	for _, n := range []int64{0, 1, 3_000_001} {
		port := freePort(t)
		got := both(t, []string{"tcp-sink", port}, []string{"tcp-source", port, fmt.Sprint(n)})
		if !strings.Contains(got, "sent "+digest(n)) || !strings.Contains(got, "took "+digest(n)) {
			t.Errorf("%d bytes: the peers say %q; want %q twice", n, got, digest(n))
		}
	}
}

// TestUnixDial has a monitor that closes the first connection, as when nobody
// in the guest listens yet, and echoes the second.
func TestUnixDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	testutil.Watchdog(t)
	l := &lines{}
	out = l
	dialed := make(chan error, 1)
	go func() { dialed <- run([]string{"unix-dial", path, "5000", "300000"}) }()
	for _, answer := range []string{"", "OK 1073741824\n"} {
		err := listen(&unix.SockaddrUnix{Name: path}, func(s *stream) error {
			got := make([]byte, len("CONNECT 5000\n"))
			if _, err := io.ReadFull(s, got); err != nil || string(got) != "CONNECT 5000\n" {
				t.Errorf("the request = %q, %v; want CONNECT 5000", got, err)
			}
			if answer == "" {
				return nil
			}
			if _, err := s.Write([]byte(answer)); err != nil {
				return err
			}
			return echo(s)
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Unlink(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := testutil.Wait(t, dialed, "unix-dial"); err != nil {
		t.Error(err)
	}
	if want := "exchanged " + digest(300000); !strings.Contains(l.String(), want) {
		t.Errorf("the peers say %q; want %q", l, want)
	}
}

// TestExchange has an echo that changes a byte, and one that loses the end.
func TestExchange(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(b []byte) []byte
		want  string
	}{
		"changed": {func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "not those that were sent"},
		"lost":    {func(b []byte) []byte { return b[:len(b)-1] }, "of 1000 bytes came back 999"},
		"more":    {func(b []byte) []byte { return append(b, 1) }, "not those that were sent"},
	} {
		testutil.Watchdog(t)
		path := filepath.Join(t.TempDir(), "s")
		out = io.Discard
		dialed := make(chan error, 1)
		go func() { dialed <- dial(&unix.SockaddrUnix{Name: path}, "1000", nil, exchange) }()
		err := listen(&unix.SockaddrUnix{Name: path}, func(s *stream) error {
			b, err := io.ReadAll(s)
			if err != nil {
				return err
			}
			_, err = s.Write(c.spoil(b))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := testutil.Wait(t, dialed, name); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: exchange() = %v; want %q in it", name, err, c.want)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		nil, {"no-such"}, {"tcp-sink"}, {"tcp-sink", "a", "b"}, {"tcp-sink", "nowhere"}, {"tcp-sink", "[::1]:1"},
		{"tcp-source", "127.0.0.1:1", "-1"}, {"vsock-listen", "4294967296"}, {"vsock-dial", "x", "1", "1"}, {"unix-dial", "p", "x", "1"},
	} {
		if err := run(args); err == nil {
			t.Errorf("run(%q) = nil; want an error", args)
		}
	}
}
