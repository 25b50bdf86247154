// Package guesttest tests parts of the sample unikernels on the host: C files
// that need nothing of a guest, compiled with the sanitizers.
package guesttest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// headMax is HTTP_HEAD_MAX of guests/httpd/http.h.
const headMax = 8192

// driver is testdata/http_driver.c, running.
type driver struct {
	in  io.Writer
	out *bufio.Reader
	err *bytes.Buffer
}

// start compiles and starts the driver. It ends when its stdin is closed,
// which this process's end does.
var start = sync.OnceValues(func() (*driver, error) {
	dir, err := os.MkdirTemp("", "uvm-http-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "http_driver")
	const httpd = "../../guests/httpd/"
	cc := exec.Command("gcc", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
		"-I"+httpd, "-o", exe, "testdata/http_driver.c", httpd+"http.c")
	if out, err := cc.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %v (sudo apt-get install gcc libc6-dev): %s", cc.Args, err, out)
	}
	cmd := exec.Command(exe)
	d := &driver{err: new(bytes.Buffer)}
	cmd.Stderr = d.err
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d.in, d.out = in, bufio.NewReader(out)
	return d, cmd.Start()
})

// call has the driver do op.
func call(t testing.TB, op byte, in string) string {
	t.Helper()
	d, err := start()
	if err != nil {
		t.Fatal(err)
	}
	frame := append(binary.LittleEndian.AppendUint32([]byte{op}, uint32(len(in))), in...)
	var size [4]byte
	if _, err = d.in.Write(frame); err == nil {
		_, err = io.ReadFull(d.out, size[:])
	}
	reply := make([]byte, binary.LittleEndian.Uint32(size[:]))
	if err == nil {
		_, err = io.ReadFull(d.out, reply)
	}
	if err != nil {
		t.Fatalf("http.c with %q ended: %v\n%s", in, err, d.err)
	}
	return string(reply)
}

func TestParse(t *testing.T) {
	const host = "Host: a\r\n"
	pad := func(n int) string { return strings.Repeat("x", n) }
	fields := func(n int) string { return strings.Repeat("A: b\r\n", n) }
	for _, tt := range []struct{ in, want string }{
		{"", "0"},
		{"GET / HTTP/1.1\r\n" + host + "\r\n", "27 GET http11 keep=1 content=0 /"},
		{"GET / HTTP/1.1\r\n" + host + "\r\nGET", "27 GET http11 keep=1 content=0 /"},
		{"\r\nGET / HTTP/1.1\r\n" + host + "\r\n", "29 GET http11 keep=1 content=0 /"},
		{"\r\n\r\nGET / HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{"HEAD /healthz?a=b HTTP/1.1\r\n" + host + "\r\n", "39 HEAD http11 keep=1 content=0 /healthz"},
		{"PATCH / HTTP/1.1\r\n" + host + "\r\n", "29 other http11 keep=1 content=0 /"},
		{"OPTIONS * HTTP/1.1\r\n" + host + "\r\n", "31 other http11 keep=1 content=0 *"},
		{"get / HTTP/1.1\r\n" + host + "\r\n", "27 other http11 keep=1 content=0 /"},
		{"GET / HTTP/1.0\r\n\r\n", "18 GET http10 keep=0 content=0 /"},
		{"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "42 GET http10 keep=1 content=0 /"},
		{"GET / HTTP/1.1\r\n" + host + "Connection: x , CLOSE\r\n\r\n", "50 GET http11 keep=0 content=0 /"},
		{"GET / HTTP/1.1\r\n" + host + "Connection: closed\r\n\r\n", "47 GET http11 keep=1 content=0 /"},
		{"GET / HTTP/1.9\r\n" + host + "\r\n", "27 GET http11 keep=1 content=0 /"},
		{"GET http://a/healthz HTTP/1.1\r\n" + host + "\r\n", "42 GET http11 keep=1 content=0 /healthz"},
		{"GET HTTP://a HTTP/1.1\r\n" + host + "\r\n", "34 GET http11 keep=1 content=0 /"},
		{"GET http://a?q=/ HTTP/1.1\r\n" + host + "\r\n", "38 GET http11 keep=1 content=0 /"},
		{"GET http:///x HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{"GET a HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{"GET * HTTP/1.1\r\n" + host + "\r\n", "-400"},
		// Content, which the caller refuses.
		{"GET / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", "46 GET http11 keep=1 content=0 /"},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 9223372036854775807\r\n\r\n", "65 other http11 keep=1 content=1 /"},
		{"POST / HTTP/1.1\r\n" + host + "Content-Length: 9223372036854775808\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "Content-Length: 1,1\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", "-400"},
		{"POST / HTTP/1.1\r\n" + host + "transfer-encoding: chunked\r\n\r\n", "56 other http11 keep=1 content=1 /"},
		{"POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "-400"},
		{"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "-400"},
		// Request lines.
		{"GET / HTTP/2.0\r\n" + host + "\r\n", "-505"},
		{"GET / HTTP/1\r\n" + host + "\r\n", "-400"},
		{"GET / http/1.1\r\n" + host + "\r\n", "-400"},
		{"GET / HTTP/1.1 \r\n" + host + "\r\n", "-400"},
		{"GET  / HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{" GET / HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{"GET / \r\n" + host + "\r\n", "-400"},
		{"GET /\r\n", "-400"},
		{"GET\r\n", "-400"},
		{"GET \r\n", "-400"},
		{"GET /\x80 HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{"GET /\x00 HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{"G(T / HTTP/1.1\r\n" + host + "\r\n", "-400"},
		{"\x16\x03\x01\x02\x00\x01\x00\x01", "-400"}, // TLS
		// Lines and fields.
		{"GET / HTTP/1.1\n" + host + "\r\n", "-400"},
		{"GET / HTTP/1.1\r" + host + "\r\n", "-400"},
		{"GET / HTTP/1.1\r", "0"},
		{"GET / HTTP/1.1\r\n" + host + "\r", "0"},
		{"GET / HTTP/1.1\r\n" + host + "\rx", "-400"},
		{"GET / HTTP/1.1\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + host + "\r\n", "-400"},
		{"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", "25 GET http11 keep=1 content=0 /"},
		{"GET / HTTP/1.1\r\n" + host + "A : b\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + " folded\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + ": b\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "no colon\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "A: \x01\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "A: \x7f\r\n\r\n", "-400"},
		{"GET / HTTP/1.1\r\n" + host + "A:\t\xff \t\r\n\r\n", "35 GET http11 keep=1 content=0 /"},
		// Limits.
		{"GET / HTTP/1.1\r\n" + host + fields(99) + "\r\n", "621 GET http11 keep=1 content=0 /"},
		{"GET / HTTP/1.1\r\n" + host + fields(100) + "\r\n", "-431"},
		{"GET / HTTP/1.1\r\n" + host + "A: " + pad(headMax-32) + "\r\n\r\n", "8192 GET http11 keep=1 content=0 /"},
		{"GET / HTTP/1.1\r\n" + host + "A: " + pad(headMax-31) + "\r\n\r\n", "-431"},
		{"GET / HTTP/1.1\r\n" + host + "A: " + pad(headMax-29), "0"},
		{"GET / HTTP/1.1\r\n" + host + "A: " + pad(headMax-28), "-431"},
		{pad(headMax - 1), "0"},
		{pad(headMax), "-431"},
	} {
		if got := call(t, 'p', tt.in); got != tt.want {
			t.Errorf("http_parse(%.200q) = %q; want %q", tt.in, got, tt.want)
		}
	}
}

func TestRoute(t *testing.T) {
	for path, want := range map[string]string{
		"/": "root", "/healthz": "health", "/stats": "stats", "/bytes/0": "bytes 0", "/bytes/0010": "bytes 10",
		"/bytes/9223372036854775807": "bytes 9223372036854775807",
		"/bytes/9223372036854775808": "none", "/bytes/": "none", "/bytes": "none", "/bytes/1/": "none", "/bytes/-1": "none", "/bytes/1k": "none",
		"": "none", "//": "none", "/Healthz": "none", "/healthz/": "none", "/../": "none", "*": "none", "/BYTES/1": "none",
	} {
		if got := call(t, 'r', path); got != want {
			t.Errorf("http_route(%q) = %q; want %q", path, got, want)
		}
	}
}

// TestHead reads every kind of head with Go's client.
func TestHead(t *testing.T) {
	for _, status := range []int{200, 400, 404, 405, 413, 431, 505} {
		for flags := range 4 {
			http10, keep := flags&1, flags>>1
			const length = 9223372036854775807
			text := call(t, 'h', fmt.Sprint(status, uint64(length), http10, keep))
			r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
			if err != nil {
				t.Errorf("head of %d = %q: %v", status, text, err)
				continue
			}
			want := fmt.Sprintf("%d %s", status, strings.Replace(http.StatusText(status), "Request Entity Too Large", "Content Too Large", 1))
			closes := r.Close
			if http10 == 1 { // an old client goes by the field
				closes = r.Header.Get("Connection") != "keep-alive"
			}
			if r.Status != want || r.ContentLength != length || closes != (keep == 0) || (r.Header.Get("Allow") != "") != (status == 405) {
				t.Errorf("head = %q; want %s, length %d, keep=%d", text, want, length, keep)
			}
		}
	}
}

func TestDate(t *testing.T) {
	check := func(s uint64) {
		t.Helper()
		want := time.Unix(int64(s), 0).UTC().Format(http.TimeFormat)
		if got := call(t, 'd', strconv.FormatUint(s, 10)); got != want {
			t.Errorf("http_date(%d) = %q; want %q", s, got, want)
		}
	}
	for day := uint64(0); day < 2_932_896; day += 97 { // to the year 9999
		check(day * 86400)
	}
	for _, s := range []uint64{86399, 86400, 784111777, 951782399, 951782400, 951868800, 4107542399, 4107542400, 253402300799} {
		check(s)
	}
}

// words is what bytes from 0x80 up stand for in FuzzParse: the fuzzer does not
// see into the C program, so it gets what requests are made of.
var words = []string{
	"GET ", "HEAD ", "POST ", "/", "*", "http://", "?", " HTTP/1.1\r\n", " HTTP/1.0\r\n", " HTTP/2.0\r\n", "Host: a\r\n", "Host:", "\r\n", "\r\n\r\n",
	"\r", "\n", "Content-Length: ", "Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", "Connection: ", "close", "keep-alive", ",", ":", " ", "\t",
	"/bytes/", "9223372036854775808", "\x00", "\x7f", "\xff", strings.Repeat("a", 1000), strings.Repeat("A: b\r\n", 33),
}

func expand(in []byte) []byte {
	var out []byte
	for _, b := range in {
		if i := int(b) - 0x80; i >= 0 && i < len(words) {
			out = append(out, words[i]...)
		} else {
			out = append(out, b)
		}
	}
	return out
}

// FuzzParse checks what must hold for any bytes, and compares with Go's parser
// where both take a request.
func FuzzParse(f *testing.F) {
	f.Add([]byte("\x80\x83\x87\x8a\x93\x95\x96\x94\x8c\x90\x31\x8d"))
	f.Add([]byte("\x81\x85a\x86\x88\x8a\x9f\x9f\xa0\x8c"))
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /bytes/7?q HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
		"\r\nPOST http://a/ HTTP/1.1\r\nHost:a\r\nContent-Length: 5\r\n\r\nhello", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := expand(raw)
		got := call(t, 'p', string(in))
		word, rest, _ := strings.Cut(got, " ")
		n, err := strconv.Atoi(word)
		if err != nil || n > len(in) || n > headMax || n < 0 && n != -400 && n != -431 && n != -505 {
			t.Fatalf("http_parse(%q) = %q; want a length, 0 or an error", in, got)
		}
		// More bytes change neither an error nor a head that is complete; fewer make it incomplete.
		if n != 0 {
			if more := call(t, 'p', string(in)+"\r\n\r\n"); more != got {
				t.Errorf("http_parse(%q and more) = %q; want %q", in, more, got)
			}
		}
		if n <= 0 {
			return
		}
		for _, k := range []int{0, n / 2, n - 1} {
			if less := call(t, 'p', string(in[:k])); less != "0" {
				t.Errorf("http_parse(%q) = %q; want 0, as of all beginnings of a good head", in[:k], less)
			}
		}
		head := in[:n]
		if bytes.HasPrefix(head, []byte("\r\n")) {
			head = head[2:]
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			return // it looks into URLs and hosts too
		}
		method := r.Method
		if method != "GET" && method != "HEAD" {
			method = "other"
		}
		want := fmt.Sprintf("%s http1%d keep=%d content=%d ", method, min(r.ProtoMinor, 1), toInt(!r.Close), toInt(r.ContentLength != 0))
		if !strings.HasPrefix(rest, want) {
			t.Errorf("http_parse(%q) = %q; Go's parser says %q", in, got, want)
		}
	})
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
