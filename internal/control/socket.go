package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that the VM of a socket is not there any more: nobody listens.
var ErrGone = errors.New("it has ended")

// mostPath is the longest path of a socket in bytes (sun_path, unix(7)).
const mostPath = 107

// sockaddr is the address of a socket in a directory, which may have any length: a path through /proc leads to the
// directory then. done is to be called when the address has been used.
func sockaddr(dir, file string) (a *unix.SockaddrUnix, done func(), err error) {
	path := filepath.Join(dir, file)
	if len(path) <= mostPath {
		return &unix.SockaddrUnix{Name: path}, func() {}, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", fd, file)}, func() { unix.Close(fd) }, nil
}

// backlog is how many connections may wait for the server: what more there are wait in their connect.
const backlog = 64

// listen makes the socket, with mode 0600.
func listen(dir, file string) (*os.File, error) {
	a, done, err := sockaddr(dir, file)
	if err != nil {
		return nil, err
	}
	defer done()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Before bind, which gives the file the socket's own mode, less the umask.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(fd, a); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		unix.Unlink(a.Name)
		unix.Close(fd)
		return nil, os.NewSyscallError("listen", err)
	}
	return os.NewFile(uintptr(fd), file), nil
}

// accept waits for a connection. The error is os.ErrClosed when the listener has been closed.
func accept(listener *os.File) (int, error) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var acceptErr error
	err = raw.Read(func(l uintptr) bool {
		fd, _, acceptErr = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return acceptErr != unix.EAGAIN
	})
	return fd, errors.Join(err, acceptErr)
}

// dialTime is how long a monitor may leave a connection unaccepted when many wait.
const dialTime = 2 * time.Second

// dial connects. The peer's process is the one that made the socket. Without patience it does not wait.
func dial(dir, file string, patience time.Duration) (*os.File, *unix.Ucred, error) {
	a, done, err := sockaddr(dir, file)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	flags := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if patience == 0 {
		flags |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(unix.AF_UNIX, flags, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socket", err)
	}
	// The time holds for a connect to a full queue, too (unix_stream_connect).
	tv := unix.NsecToTimeval(int64(patience))
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err == nil {
		for err = unix.EINTR; err == unix.EINTR; {
			err = unix.Connect(fd, a)
		}
	}
	var peer *unix.Ucred
	if err == nil {
		peer, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		switch err {
		case unix.ECONNREFUSED, unix.ENOENT:
			err = ErrGone
		case unix.EAGAIN:
			err = errSilent
		}
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), file), peer, nil
}
