package hostio

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultMTU is assumed for an inherited descriptor whose interface lies in
// another network namespace, where its MTU cannot be asked for.
const DefaultMTU = 1500

// Tap is a TAP interface, as the driver hands out frames without any header
// (IFF_NO_PI, no IFF_VNET_HDR); see the kernel's
// Documentation/networking/tuntap.rst.
type Tap struct {
	fd  int
	mtu int
}

// OpenTap attaches to the TAP interface name, which must exist and be up.
func OpenTap(name string) (*Tap, error) {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &TapError{name, "socket", err}
	}
	defer unix.Close(sock)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, &TapError{name, "name of 1 to 15 characters needed", unix.ENAMETOOLONG}
	}
	// TUNSETIFF would make an interface that does not exist, so ask first.
	if err := unix.IoctlIfreq(sock, unix.SIOCGIFFLAGS, ifr); errors.Is(err, unix.ENODEV) {
		return nil, &TapError{name, fmt.Sprintf("no such interface (make it: ip tuntap add %s mode tap; ip link set %s up)", name, name), unix.ENOENT}
	} else if err != nil {
		return nil, &TapError{name, "SIOCGIFFLAGS", err}
	}
	if ifr.Uint16()&(unix.IFF_UP|unix.IFF_RUNNING) == 0 {
		return nil, &TapError{name, fmt.Sprintf("interface is down (ip link set %s up)", name), unix.ENETDOWN}
	}
	mtu, err := interfaceMTU(sock, name)
	if err != nil {
		return nil, &TapError{name, "SIOCGIFMTU", err}
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &TapError{name, "open /dev/net/tun", err}
	}
	if err := attach(fd, name); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Tap{fd: fd, mtu: mtu}, nil
}

// attach connects an open /dev/net/tun to the interface name.
func attach(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return &TapError{name, "name", err}
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); {
	case errors.Is(err, unix.EBUSY):
		return &TapError{name, "in use by another process", err}
	case errors.Is(err, unix.EINVAL):
		return &TapError{name, "not a TAP interface", err}
	case errors.Is(err, unix.EPERM):
		return &TapError{name, "need CAP_NET_ADMIN, or a TAP made for this user (ip tuntap add … user NAME)", err}
	case err != nil:
		return &TapError{name, "TUNSETIFF", err}
	}
	// The driver expands a pattern such as tap%d; that is not what was asked for.
	if ifr.Name() != name {
		return &TapError{name, "the kernel attached " + ifr.Name() + " instead", unix.EINVAL}
	}
	return noOffload(fd, name)
}

// noOffload has the kernel hand out frames no longer than the MTU, with their
// checksums: an earlier user of the interface may have taken on more, for which
// a vnet header would be needed.
func noOffload(fd int, name string) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return &TapError{name, "TUNSETOFFLOAD", err}
	}
	return nil
}

func interfaceMTU(sock int, name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(sock, unix.SIOCGIFMTU, ifr)
	return int(ifr.Uint32()), err
}

// TapFromFD uses an open TAP descriptor that the process inherited. It has to be
// one with IFF_NO_PI, which cannot be checked: in TUNGETIFF's answer that bit
// means IFF_NOFILTER. The Tap works on a duplicate; fd stays the caller's, but
// for O_NONBLOCK and the offloads, which the two share.
func TapFromFD(fd int) (*Tap, error) {
	name := fmt.Sprintf("fd %d", fd)
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return nil, &TapError{name, "TUNGETIFF", err}
	}
	// TUNGETIFF answers only on a tun descriptor with an interface attached.
	switch err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); {
	case errors.Is(err, unix.EBADF):
		return nil, &TapError{name, "not an open file descriptor", err}
	case errors.Is(err, unix.EBADFD):
		return nil, &TapError{name, "an open /dev/net/tun without an interface attached", err}
	case err != nil:
		return nil, &TapError{name, "not a TAP descriptor", err}
	}
	const want, mask = unix.IFF_TAP, unix.IFF_TUN | unix.IFF_TAP | unix.IFF_VNET_HDR
	if f := ifr.Uint16(); f&mask != want {
		return nil, &TapError{name, fmt.Sprintf("interface %s has flags %#x, need IFF_TAP without IFF_VNET_HDR", ifr.Name(), f), unix.EINVAL}
	}
	mtu := DefaultMTU
	if sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		if n, err := interfaceMTU(sock, ifr.Name()); err == nil {
			mtu = n
		}
		unix.Close(sock)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &TapError{name, "duplicate", err}
	}
	if err := unix.SetNonblock(dup, true); err != nil {
		unix.Close(dup)
		return nil, &TapError{name, "O_NONBLOCK", err}
	}
	if err := noOffload(dup, name); err != nil {
		unix.Close(dup)
		return nil, err
	}
	return &Tap{fd: dup, mtu: mtu}, nil
}

// MTU is the interface's MTU in bytes when it was opened.
func (t *Tap) MTU() int { return t.mtu }

// PollFD is the descriptor itself.
func (t *Tap) PollFD() int { return t.fd }

// ReadFrame takes one frame; EAGAIN says that none waits.
func (t *Tap) ReadFrame(b []byte) (int, syscall.Errno) {
	for {
		n, err := unix.Read(t.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, errno(err)
		case n <= 0:
			return 0, syscall.EAGAIN
		}
		return n, 0
	}
}

// WriteFrame sends one frame. The driver takes a frame whole or refuses it;
// anything else would be EIO.
func (t *Tap) WriteFrame(b []byte) syscall.Errno {
	for {
		n, err := unix.Write(t.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return errno(err)
		case n != len(b):
			return syscall.EIO
		}
		return 0
	}
}

// Close detaches from the interface.
func (t *Tap) Close() error { return unix.Close(t.fd) }

// TapError is a TAP interface that cannot be used.
type TapError struct {
	Name   string // interface, or "fd N"
	Detail string // what and what to do
	Err    error
}

func (e *TapError) Error() string { return e.Name + ": " + e.Detail + ": " + e.Err.Error() }

func (e *TapError) Unwrap() error { return e.Err }
