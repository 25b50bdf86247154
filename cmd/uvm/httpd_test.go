package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// inLab scales down what the lab's emulated processor has to do.
var inLab = os.Getenv("UVM_LAB") == "1"

func scaled(host, lab int) int {
	if inLab {
		return lab
	}
	return host
}

// httpd is a running guests/httpd on a TAP of a network namespace of its own.
type httpd struct {
	t      *testing.T
	run    *running
	ns     int // descriptor of the namespace
	mac    [6]byte
	client *http.Client
	drain  chan struct{} // closed at the end of its output
}

const httpdAddr = "10.0.0.2:80"

// startHTTPD starts the guest in a namespace that the calling goroutine, and what it
// starts, is in too.
func startHTTPD(t *testing.T, kernel string, args ...string) *httpd {
	t.Helper()
	netNS(t)
	free(t, makeTap(t, "tap0"))
	if out, err := exec.Command("ip", "addr", "add", "10.0.0.1/24", "dev", "tap0").CombinedOutput(); err != nil {
		t.Fatalf("ip addr add: %v (sudo apt-get install iproute2): %s", err, out)
	}
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ns) })
	argv := append([]string{"uvm", "run", kernel, "--net", "tap0,mac=02:00:00:00:00:02"}, args...)
	s := &httpd{t: t, ns: ns, mac: [6]byte{2, 0, 0, 0, 0, 2}, drain: make(chan struct{})}
	s.run = follow(t, program(t, append(argv, "--", "--ipv4=10.0.0.2/24", "--ipv4-gateway=10.0.0.1", "--boot-mark")...))
	out := bufio.NewReader(s.run.out)
	if line, err := out.ReadString('\n'); err != nil || !strings.HasPrefix(line, "httpd: http://10.0.0.2/ is up") {
		t.Fatalf("the guest's first line = %q, %v, run = %+v; want that it is up", line, err, s.run.wait())
	}
	go func() {
		io.Copy(io.Discard, out)
		close(s.drain)
	}()
	s.client = &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
		MaxIdleConnsPerHost: 64,
	}}
	return s
}

// dial connects from within the namespace: a socket belongs to that of the
// thread that makes it. The thread ends with its goroutine.
func (s *httpd) dial(ctx context.Context) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(s.ns, unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", httpdAddr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// connect is a connection for bytes of the test's own.
func (s *httpd) connect() *net.TCPConn {
	s.t.Helper()
	conn, err := s.dial(s.t.Context())
	if err != nil {
		s.t.Fatalf("connect: %v", err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// exchange sends text, says that nothing follows, and returns all that comes.
func (s *httpd) exchange(text string) string {
	s.t.Helper()
	conn := s.connect()
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		s.t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		s.t.Fatalf("after %.100q: %v; want responses and the end (got %.200q)", text, err, got)
	}
	conn.Close()
	return string(got)
}

// get returns status and content.
func (s *httpd) get(path string) (int, []byte, error) {
	r, err := s.client.Get("http://" + httpdAddr + path)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, body, err
}

func (s *httpd) healthy() {
	s.t.Helper()
	if status, body, err := s.get("/healthz"); status != 200 || string(body) != "ok\n" || err != nil {
		s.t.Fatalf("GET /healthz = %d, %q, %v; want 200, ok", status, body, err)
	}
}

// stats is what the guest has counted: the connections it has dropped and those
// that are open, and the frames it has read.
func (s *httpd) stats() (stats struct{ Open, Dropped, Read int }) {
	s.t.Helper()
	_, body, err := s.get("/stats")
	if err == nil {
		err = json.Unmarshal(body, &stats)
	}
	if err != nil {
		s.t.Fatalf("GET /stats = %q, %v", body, err)
	}
	return stats
}

// end closes what the client keeps, waits until the guest has no other
// connection, and ends it: it must still run then.
func (s *httpd) end() {
	s.t.Helper()
	testutil.Until(s.t, "connections of the guest gone but one", func() bool { return s.stats().Open == 1 })
	s.client.CloseIdleConnections()
	s.run.kill(syscall.SIGTERM)
	<-s.drain
	if got := s.run.wait(); got.status != 128+int(syscall.SIGTERM) || got.stderr != "" {
		s.t.Errorf("run = %+v; want status 143 and nothing on stderr", got)
	}
}

// bytesOf is the content of /bytes/n (guests/httpd/http.h, http_pattern).
func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		k := uint32(i % 4093)
		b[i] = byte(k*167 ^ k>>4)
	}
	return b
}

// TestHTTPD runs each test with a guest of its own. They run side by side: some
// wait for the guest's patience to end.
func TestHTTPD(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.RequireRoot(t)
	dir := t.TempDir()
	kernel := filepath.Join(dir, "httpd.hvt")
	if out, err := exec.Command("make", "-C", "../../guests", "OUT="+dir, kernel).CombinedOutput(); err != nil {
		t.Fatalf("make httpd.hvt: %v (needs make, gcc, binutils, patch, xz-utils and once the network): %s", err, out)
	}
	t.Run("usage", func(t *testing.T) {
		netNS(t)
		for _, arg := range []string{"--ipv4=10.0.0.2x", "--ipv4=", "--ipv4-gateway=1.2.3", "--ipv4", "x"} {
			free(t, makeTap(t, "tap0"))
			if got := uvm(t, "run", kernel, "--net", "tap0", "--", arg); got.status != 2 || !strings.HasPrefix(got.stdout, "usage: ") {
				t.Errorf("httpd %q = %+v; want status 2 and the usage", arg, got)
			}
		}
	})
	for _, tt := range []struct {
		name string
		test func(*testing.T, *httpd)
		args []string
	}{
		{"pages", testPages, nil},
		{"pages in ring 0", testPages, []string{"--ring", "0"}},
		{"connections", testConnections, nil},
		{"parallel", testParallel, nil},
		{"transfer", testTransfer, nil},
		{"impatient", testImpatient, nil},
		{"resets", testResets, nil},
		{"crowd", testCrowd, nil},
		{"frames", testFrames, nil},
		{"SYN flood", testFlood, nil},
		{"link down", testLink, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			testutil.Watchdog(t)
			s := startHTTPD(t, kernel, tt.args...)
			tt.test(t, s)
			s.healthy()
			s.end()
		})
	}
	t.Run("TAP deleted", func(t *testing.T) { testDeleted(t, startHTTPD(t, kernel)) })
	t.Run("boot mark", func(t *testing.T) {
		report := filepath.Join(t.TempDir(), "boot.json")
		startHTTPD(t, kernel, "--boot-report", report).end()
		b, err := os.ReadFile(report)
		if err != nil || !bytes.Contains(b, []byte(`"label": "L"`)) {
			t.Errorf("boot report = %s, %v; want the mark L", b, err)
		}
	})
}

// testPages asks for what there is and what there is not.
func testPages(t *testing.T, s *httpd) {
	for _, tt := range []struct {
		path   string
		status int
		body   string // its beginning
	}{
		{"/", 200, "Hello from a unikernel"}, {"/healthz", 200, "ok\n"}, {"/stats", 200, `{"connections":`}, {"/?x", 200, "Hello"},
		{"/bytes/0", 200, ""}, {"/bytes/5000", 200, string(bytesOf(5000))},
		{"/nothing", 404, "404 Not Found\n"}, {"/bytes/x", 404, "404"},
	} {
		status, body, err := s.get(tt.path)
		if err != nil || status != tt.status || !strings.HasPrefix(string(body), tt.body) {
			t.Errorf("GET %s = %d, %.200q, %v; want %d, %.200q", tt.path, status, body, err, tt.status, tt.body)
		}
	}
	r, err := s.client.Head("http://" + httpdAddr + "/bytes/12345678901")
	if err != nil || r.StatusCode != 200 || r.ContentLength != 12345678901 {
		t.Errorf("HEAD = %+v, %v; want 200 and the length", r, err)
	}
	curl, err := exec.LookPath("curl")
	if inLab {
		return
	}
	if err != nil {
		t.Fatal("curl is missing: sudo apt-get install curl")
	}
	out, err := exec.Command(curl, "-sS", "http://10.0.0.2/").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "Hello from a unikernel") {
		t.Errorf("curl = %q, %v; want the page", out, err)
	}
}

// testConnections is about what is on the wire: how responses follow each other,
// and when a connection ends.
func testConnections(t *testing.T, s *httpd) {
	const good = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
	// What comes on a connection, as statuses.
	for _, tt := range []struct{ send, want string }{
		{"", ""}, {good, "200"}, {good + good, "200 200"}, {strings.Repeat(good, 2000), strings.TrimSpace(strings.Repeat("200 ", 2000))},
		{good + "GET", "200"},
		{"GET /healthz HTTP/1.0\r\n\r\n" + good, "200"},
		{"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + good, "200"},
		{"POST / HTTP/1.1\r\nHost: a\r\n\r\n" + good, "405 200"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n" + strings.Repeat("x", 40000), "405"},
		{"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + good, "413"},
		{good + "GET / HTTP/1.1\r\n\r\n" + good, "200 400"},
		{"GET / HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("x", 100000), "431"},
		{"GET / HTTP/3.0\r\n", "505"}, {"\x00", "400"}, {strings.Repeat("\r\n", 20000), "400"},
	} {
		all := bufio.NewReader(strings.NewReader(s.exchange(tt.send)))
		var got []string
		for {
			r, err := http.ReadResponse(all, nil)
			if err != nil {
				break
			}
			io.Copy(io.Discard, r.Body)
			got = append(got, fmt.Sprint(r.StatusCode))
		}
		if strings.Join(got, " ") != tt.want || all.Buffered() > 0 {
			t.Errorf("responses to %.100q = %.100q; want %.100q", tt.send, got, tt.want)
		}
	}
	// Content that nobody asked for arrives after the response and FIN. It must not have the guest reset the connection:
	// the client could lose a response that it has not read.
	conn := s.connect()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	testutil.Until(t, "the guest's FIN", func() bool { return tcpInfo(t, conn).State == tcpCloseWait })
	for range 3 {
		if _, err := conn.Write(make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
	}
	testutil.Until(t, "content acknowledged, or a reset", func() bool { return unsent(t, conn) == 0 })
	if got, err := io.ReadAll(conn); err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 405")) {
		t.Errorf("response before content = %q, %v; want 405", got, err)
	}
	conn.Close()
	// A request of one byte at a time.
	conn = s.connect()
	for i := range len(good) {
		if _, err := io.WriteString(conn, good[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || r.StatusCode != 200 {
		t.Errorf("response to single bytes = %+v, %v; want 200", r, err)
	}
	conn.Close()
}

// testParallel has 64 clients that keep their connections and check all they
// get.
func testParallel(t *testing.T, s *httpd) {
	const clients, longest = 64, 20000
	want := bytesOf(longest)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range scaled(100, 5) {
				n := (c*7919 + i*104729) % longest
				if status, body, err := s.get(fmt.Sprint("/bytes/", n)); status != 200 || err != nil || !bytes.Equal(body, want[:n]) {
					t.Errorf("client %d, GET /bytes/%d = %d, %d bytes, %v; want the pattern", c, n, status, len(body), err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.client.CloseIdleConnections()
}

// testTransfer takes 10 MiB, as a browser does and in two responses on the way
// at a time.
func testTransfer(t *testing.T, s *httpd) {
	n := scaled(10<<20, 1<<20)
	want := bytesOf(n)
	path := fmt.Sprint("/bytes/", n)
	if status, body, err := s.get(path); status != 200 || err != nil || !bytes.Equal(body, want) {
		t.Errorf("GET %s = %d, %d bytes, %v; want the pattern", path, status, len(body), err)
	}
	all := bufio.NewReader(strings.NewReader(s.exchange(strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n", 2))))
	for range 2 {
		r, err := http.ReadResponse(all, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(body, want) {
			t.Errorf("pipelined GET %s = %d bytes, %v; want the pattern", path, len(body), err)
		}
	}
}
