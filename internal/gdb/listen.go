package gdb

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is where gdb connects to.
type Listener struct {
	file *os.File
	path string // of a Unix socket, which Close removes
	addr string // as gdb's "target remote" takes it
}

// Listen listens where a user says: a TCP port on the loopback interface, where 0 is one that is free, or
// unix:PATH. A Unix socket can be used by its owner only; a port by everybody on this host.
func Listen(where string) (*Listener, error) {
	var sa unix.Sockaddr
	l, domain := &Listener{}, unix.AF_INET
	if path, ok := strings.CutPrefix(where, "unix:"); ok {
		if path == "" || path[0] == '@' || len(path) > 107 {
			return nil, fmt.Errorf("gdb at %q: a Unix socket has a path of 1 to 107 bytes", where)
		}
		l.addr, domain, sa = path, unix.AF_UNIX, &unix.SockaddrUnix{Name: path}
	} else {
		port, err := strconv.ParseUint(where, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("gdb at %q: want a port from 0 to 65535, or unix:PATH", where)
		}
		sa = &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("gdb at %s: %w", where, err)
	}
	l.file = os.NewFile(uintptr(fd), "gdb at "+where)
	if domain == unix.AF_INET {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	} else if err = unix.Fchmod(fd, 0o600); err == nil { // bind makes the file with these permissions
		os.Remove(staleSocket(l.addr))
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil && domain == unix.AF_UNIX {
		l.path = l.addr
	}
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("gdb at %s: %w", where, err)
	}
	if in, err := unix.Getsockname(fd); err == nil && domain == unix.AF_INET {
		l.addr = fmt.Sprintf("127.0.0.1:%d", in.(*unix.SockaddrInet4).Port)
	}
	return l, nil
}

// staleSocket is path if it is a socket at which nobody listens any more, which a killed monitor has left; else "".
func staleSocket(path string) string {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return ""
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: path}) != unix.ECONNREFUSED {
		return ""
	}
	return path
}

// Addr is what gdb's command "target remote" takes.
func (l *Listener) Addr() string { return l.addr }

// Close stops listening, and removes a Unix socket.
func (l *Listener) Close() error {
	if l.path != "" {
		os.Remove(l.path)
	}
	return l.file.Close()
}

// accept waits for a client.
func (l *Listener) accept() (*os.File, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var acceptErr error
	err = raw.Read(func(listener uintptr) bool {
		fd, _, acceptErr = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return acceptErr != unix.EAGAIN
	})
	if err == nil {
		err = acceptErr
	}
	if err != nil {
		return nil, err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // an error on a Unix socket, and none that matters
	return os.NewFile(uintptr(fd), "gdb"), nil
}

// Serve takes clients until the listener is closed. One is served at a time: who comes second is refused by the
// end of the connection.
func (s *Server) Serve(l *Listener) {
	for {
		c, err := l.accept()
		switch {
		case err == nil:
		case err == unix.ECONNABORTED || err == unix.EINTR:
			continue
		case err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOMEM || err == unix.ENOBUFS:
			time.Sleep(100 * time.Millisecond)
			continue
		default:
			return // closed
		}
		if s.busy.Load() { // not worth a goroutine, however many come
			c.Close()
			continue
		}
		go func() {
			if err := s.ServeConn(c); err != nil {
				s.Log.Warn("gdb: the connection has ended", "error", err)
			}
		}()
	}
}
