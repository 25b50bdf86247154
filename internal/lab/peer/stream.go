package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a connected socket that blocks. One goroutine may read while
// another writes.
type stream struct{ fd int }

func (s *stream) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (s *stream) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, err := unix.Write(s.fd, b[done:])
		if err != nil && err != unix.EINTR {
			return done, fmt.Errorf("write: %w", err)
		}
		if done += max(n, 0); done == len(b) {
			return done, nil
		}
	}
}

// shut says that nothing more will be written.
func (s *stream) shut() error {
	if err := unix.Shutdown(s.fd, unix.SHUT_WR); err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	return nil
}

// listen takes one connection and gives it to serve.
func listen(addr unix.Sockaddr, serve func(*stream) error) error {
	fd, err := socket(addr)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, addr); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	conn := -1
	for conn < 0 {
		if conn, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC); err != nil && err != unix.EINTR {
			return fmt.Errorf("accept: %w", err)
		}
	}
	defer unix.Close(conn)
	return serve(&stream{conn})
}

func socket(addr unix.Sockaddr) (int, error) {
	family := unix.AF_INET
	switch addr.(type) {
	case *unix.SockaddrVM:
		family = unix.AF_VSOCK
	case *unix.SockaddrUnix:
		family = unix.AF_UNIX
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return fd, nil
}

// dialFor bounds how long dial tries: the other side may start later.
const dialFor = 30 * time.Second

// dial connects, again and again while nobody listens, does what greet says,
// and gives the connection to use, with how many bytes it is to send.
func dial(addr unix.Sockaddr, size string, greet func(*stream) error, use func(*stream, int64) error) error {
	n, err := number(size, 62)
	if err != nil {
		return err
	}
	for begin := time.Now(); ; {
		s, err := dialOnce(addr, greet)
		if err == nil {
			defer unix.Close(s.fd)
			return use(s, int64(n))
		}
		if time.Since(begin) > dialFor {
			return fmt.Errorf("%w, for %v", err, dialFor)
		}
		// Not time.Sleep: Go's timers want the kernel's epoll.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 50e6}, nil)
	}
}

func dialOnce(addr unix.Sockaddr, greet func(*stream) error) (*stream, error) {
	fd, err := socket(addr)
	if err != nil {
		return nil, err
	}
	s := &stream{fd}
	if err = unix.Connect(fd, addr); err != nil {
		err = fmt.Errorf("connect: %w", err)
	} else if greet != nil {
		err = greet(s)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

// connect asks the monitor's Unix socket for a port of the guest's, in
// Firecracker's way: "CONNECT port\n", which "OK port\n" answers once the guest
// has accepted.
func connect(s *stream, port uint64) error {
	if _, err := s.Write([]byte("CONNECT " + strconv.FormatUint(port, 10) + "\n")); err != nil {
		return err
	}
	var line []byte
	for b := []byte{0}; b[0] != '\n' && len(line) < 32; line = append(line, b[0]) {
		if _, err := s.Read(b); err != nil {
			return fmt.Errorf("the answer to CONNECT %d: %w", port, err)
		}
	}
	if !strings.HasPrefix(string(line), "OK ") {
		return fmt.Errorf("the answer to CONNECT %d is %q; want OK", port, line)
	}
	return nil
}

// content is the same n bytes each time, in which no piece is like another:
// what arrives twice, never or in the wrong place shows.
func content(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte([]byte("uvm's peer sends this, everyone!"))), n)
}

// out takes the line of each command.
var out io.Writer = os.Stdout

func report(what string, n int64, sum []byte) {
	fmt.Fprintf(out, "%s %d bytes, sha256 %x\n", what, n, sum)
}

// sink reads to the end.
func sink(s *stream) error {
	h := sha256.New()
	n, err := io.Copy(h, s)
	if err == nil {
		report("took", n, h.Sum(nil))
	}
	return err
}

// source sends n bytes and waits until the other side has closed.
func source(s *stream, n int64) error {
	h := sha256.New()
	if err := send(s, io.TeeReader(content(n), h)); err != nil {
		return err
	}
	if more, err := io.Copy(io.Discard, s); err != nil || more > 0 {
		return fmt.Errorf("%d bytes from a sink, %v", more, err)
	}
	report("sent", n, h.Sum(nil))
	return nil
}

func send(s *stream, from io.Reader) error {
	if _, err := io.CopyBuffer(struct{ io.Writer }{s}, from, make([]byte, 1<<16)); err != nil {
		return err
	}
	return s.shut()
}

// echo returns what comes, to its end.
func echo(s *stream) error {
	h := sha256.New()
	buf := make([]byte, 1<<16)
	var total int64
	for {
		n, err := s.Read(buf)
		if err == io.EOF {
			break
		}
		if err == nil {
			h.Write(buf[:n])
			total += int64(n)
			_, err = s.Write(buf[:n])
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", total, err)
		}
	}
	report("echoed", total, h.Sum(nil))
	return s.shut()
}

// exchange sends n bytes and compares what comes back while it sends.
func exchange(s *stream, n int64) error {
	sent := make(chan error, 1)
	go func() { sent <- send(s, content(n)) }()
	h := sha256.New()
	want := bufio.NewReader(content(n))
	got, expect := make([]byte, 1<<16), make([]byte, 1<<16)
	var total int64
	for {
		m, err := s.Read(got)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", total, err)
		}
		if k, _ := io.ReadFull(want, expect[:m]); k < m || !bytes.Equal(got[:m], expect[:m]) {
			return fmt.Errorf("the %d bytes from %d on are not those that were sent", m, total)
		}
		h.Write(got[:m])
		total += int64(m)
	}
	if err := <-sent; err != nil {
		return err
	}
	if total != n {
		return errors.New("of " + strconv.FormatInt(n, 10) + " bytes came back " + strconv.FormatInt(total, 10))
	}
	report("exchanged", total, h.Sum(nil))
	return nil
}
