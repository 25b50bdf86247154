package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// runDir is an empty run directory, whose descriptors and goroutines have to be gone at the end.
func runDir(t testing.TB) *Dir {
	t.Helper()
	testutil.CheckFDs(t)
	goroutines := runtime.NumGoroutine()
	t.Cleanup(func() {
		testutil.Until(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	})
	d, err := OpenDir(filepath.Join(t.TempDir(), "run"), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// serve starts a server with some operations.
func serve(t testing.TB, d *Dir, name string) *Server {
	t.Helper()
	id, err := NewID()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(d, id, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.Handle("echo", func(c *Call) (any, error) {
		var args struct{ Text string }
		err := c.Args(&args)
		return args.Text, err
	})
	s.Handle("fail", func(*Call) (any, error) { return nil, errors.New("it <&> failed") })
	s.Handle("unsound", func(*Call) (any, error) { return func() {}, nil })
	s.HandleStream("count", func(c *Call) (any, error) {
		var args struct{ N int }
		if err := c.Args(&args); err != nil {
			return nil, err
		}
		for i := range args.N {
			if err := c.Send(i); err != nil {
				return nil, err
			}
		}
		return "done", nil
	})
	s.HandleStream("wait", func(c *Call) (any, error) {
		<-c.Context.Done()
		return nil, c.Context.Err()
	})
	s.HandleStream("flood", func(c *Call) (any, error) { // until the client does not take it
		for c.Context.Err() == nil {
			if err := c.Send(strings.Repeat("x", 4096)); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
	s.HandleRaw("cat", func(c *Call) (any, error) {
		conn := c.Conn()
		_, err := io.Copy(conn, conn)
		return nil, err
	})
	s.Start()
	return s
}

// dialTest connects to a server.
func dialTest(t testing.TB, s *Server) *Client {
	t.Helper()
	c, err := s.Entry().Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// shutdown ends what a client sends.
func shutdown(c *Client) {
	raw, _ := c.f.SyscallConn()
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
}

func TestCall(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	c := dialTest(t, s)
	if c.PID() != os.Getpid() {
		t.Errorf("PID() = %d; want %d", c.PID(), os.Getpid())
	}
	for range 3 { // one connection serves many requests
		var got string
		if err := c.Call("echo", map[string]string{"text": "é <&> \n"}, &got); err != nil || got != "é <&> \n" {
			t.Fatalf("Call(echo) = %q, %v", got, err)
		}
	}
	for _, tt := range []struct {
		op   string
		args any
		want string
	}{
		{"fail", nil, "it <&> failed"},
		{"nothing", nil, `unknown op "nothing"; this VM has cat, count, echo, fail, flood, unsound, wait`},
		{"echo", map[string]int{"x": 1}, `args: json: unknown field "x"`},
		{"echo", []int{1}, "args: json: cannot unmarshal"},
		{"unsound", nil, "unsupported type"},
		{"echo", nil, ""},
	} {
		var refused *OpError
		err := c.Call(tt.op, tt.args, nil)
		if ok := errors.As(err, &refused) && strings.Contains(err.Error(), tt.want); !ok && (err != nil || tt.want != "") {
			t.Errorf("Call(%s, %v) = %v; want %q", tt.op, tt.args, err, tt.want)
		}
	}
	if err := c.Call("echo", strings.Repeat("x", MaxRequest), nil); err == nil {
		t.Error("Call with a long argument succeeded; want an error before it is sent")
	}
}

func TestStream(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	var got []string
	var last string
	take := func(m json.RawMessage) error { got = append(got, string(m)); return nil }
	err := dialTest(t, s).Stream(t.Context(), "count", map[string]int{"n": 3}, take, &last)
	if fmt.Sprint(got) != "[0 1 2]" || last != "done" || err != nil {
		t.Errorf("Stream(count) = %v, %q, %v; want 0 to 2, done", got, last, err)
	}
	// The client ends a stream.
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if err := dialTest(t, s).Stream(ctx, "wait", nil, take, nil); !errors.Is(err, why) {
		t.Errorf("Stream(wait) = %v; want the cause %v", err, why)
	}
	if err := dialTest(t, s).Stream(t.Context(), "flood", nil, func(json.RawMessage) error { return why }, nil); !errors.Is(err, why) {
		t.Errorf("Stream(flood) = %v; want the error of take", err)
	}
	if err := dialTest(t, s).Stream(t.Context(), "fail", nil, take, nil); err == nil || err.Error() != "it <&> failed" {
		t.Errorf("Stream(fail) = %v; want its error", err)
	}
}

// TestStreamEnd: what the server does when a client of a stream goes or speaks.
func TestStreamEnd(t *testing.T) {
	for name, end := range map[string]func(c *Client){
		"closes":          func(c *Client) { c.Close() },
		"closes one side": func(c *Client) { shutdown(c) },
		"speaks":          func(c *Client) { io.WriteString(c.f, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			d := runDir(t)
			s := serve(t, d, "")
			ended := make(chan error, 1)
			s.ops["watch"] = op{func(c *Call) (any, error) {
				c.Send("begun")
				<-c.Context.Done()
				ended <- s.ctx.Err()
				return nil, nil
			}, stream}
			c := dialTest(t, s)
			c.send("watch", nil)
			if r, err := c.receive(); err != nil || !r.More {
				t.Fatalf("receive() = %+v, %v", r, err)
			}
			end(c)
			if err := testutil.Wait(t, ended, "the stream's end"); err != nil {
				t.Errorf("the stream ended by %v; want it to end by the client", err)
			}
		})
	}
}

func TestRaw(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "")
	c := dialTest(t, s)
	// What comes together with the request belongs to the handler.
	io.WriteString(c.f, `{"v":1,"op":"cat"}`+"\nab")
	if r, err := c.receive(); err != nil || !r.OK {
		t.Fatalf("receive() = %+v, %v; want an answer", r, err)
	}
	io.WriteString(c.f, "cd")
	b := make([]byte, 4)
	if _, err := io.ReadFull(c.r, b); string(b) != "abcd" {
		t.Errorf("cat = %q, %v; want abcd", b, err)
	}
	other := dialTest(t, s)
	conn, err := other.Raw("cat", nil)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(conn, "x")
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "x\n" {
		t.Errorf("cat = %q, %v; want x", line, err)
	}
}

// TestClose: clients in all states do not keep a server from closing, and those that follow get a last answer.
func TestClose(t *testing.T) {
	d := runDir(t)
	s := serve(t, d, "web")
	over := make(chan struct{})
	s.ops["end"] = op{func(c *Call) (any, error) {
		c.Send("begun")
		<-over
		return "over", nil
	}, stream}
	idle, half, flood, cat, follow, wait := dialTest(t, s), dialTest(t, s), dialTest(t, s), dialTest(t, s), dialTest(t, s), dialTest(t, s)
	io.WriteString(half.f, `{"v":1,`)
	flood.send("flood", nil)
	if _, err := cat.Raw("cat", nil); err != nil {
		t.Fatal(err)
	}
	wait.send("wait", nil)
	answer, begun := make(chan string, 1), make(chan bool, 1)
	go func() {
		var last string
		err := follow.Stream(t.Context(), "end", nil, func(json.RawMessage) error { begun <- true; return nil }, &last)
		answer <- fmt.Sprint(last, " ", err)
	}()
	testutil.Wait(t, begun, "the stream")
	close(over)
	closed := make(chan bool)
	go func() { s.Close(); close(closed) }()
	if got := testutil.Wait(t, answer, "the answer"); got != "over <nil>" {
		t.Errorf("Stream(end) = %s; want over", got)
	}
	testutil.Wait(t, closed, "Close")
	if _, err := os.Lstat(s.Entry().path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket: %v; want it gone", err)
	}
	if _, err := s.Entry().Dial(); !errors.Is(err, ErrGone) {
		t.Errorf("Dial() = %v; want ErrGone", err)
	}
	if err := idle.Call("echo", nil, nil); !errors.Is(err, ErrGone) {
		t.Errorf("Call(echo) = %v; want ErrGone", err)
	}
	s.Close() // again
}

// TestEarlyClient: who comes before Start waits for it.
func TestEarlyClient(t *testing.T) {
	d := runDir(t)
	s, err := Listen(d, "000000000001", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Handle("hello", func(*Call) (any, error) { return "hello", nil })
	got := make(chan error, 1)
	c := dialTest(t, s)
	go func() { got <- c.Call("hello", nil, new(string)) }()
	time.Sleep(time.Millisecond)
	s.Start()
	if err := testutil.Wait(t, got, "the answer"); err != nil {
		t.Errorf("Call(hello) = %v", err)
	}
}
