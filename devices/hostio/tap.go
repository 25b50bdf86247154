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

// Tap is a TAP interface, as the driver hands out frames without packet
// information (IFF_NO_PI); see the kernel's Documentation/networking/tuntap.rst.
type Tap struct {
	fd, mtu, header int
	read, write     []unix.Iovec // reused, so that no frame allocates
}

// vnetHeader is the size of struct virtio_net_hdr_v1.
const vnetHeader = 12

// OpenTap attaches to the TAP interface name, which must exist and be up. Where
// vnet is set, frames have a vnet header (IFF_VNET_HDR).
func OpenTap(name string, vnet bool) (*Tap, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, &Error{name, "name of 1 to 15 characters needed", unix.ENAMETOOLONG}
	}
	// TUNSETIFF would make an interface that does not exist, so ask first.
	switch err := ask(ifr, unix.SIOCGIFFLAGS); {
	case errors.Is(err, unix.ENODEV):
		return nil, &Error{name, fmt.Sprintf("no such interface (make it: ip tuntap add %s mode tap; ip link set %s up)", name, name), unix.ENOENT}
	case err != nil:
		return nil, &Error{name, "SIOCGIFFLAGS", err}
	case ifr.Uint16()&(unix.IFF_UP|unix.IFF_RUNNING) == 0:
		return nil, &Error{name, fmt.Sprintf("interface is down (ip link set %s up)", name), unix.ENETDOWN}
	}
	if err := ask(ifr, unix.SIOCGIFMTU); err != nil {
		return nil, &Error{name, "SIOCGIFMTU", err}
	}
	t := &Tap{mtu: int(ifr.Uint32())}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if vnet {
		t.header, flags = vnetHeader, flags|unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	if t.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return nil, &Error{name, "open /dev/net/tun", err}
	}
	if err := t.attach(name, ifr); err != nil {
		unix.Close(t.fd)
		return nil, err
	}
	return t, nil
}

// attach connects an open /dev/net/tun to the interface name, with ifr's flags.
func (t *Tap) attach(name string, ifr *unix.Ifreq) error {
	switch err := unix.IoctlIfreq(t.fd, unix.TUNSETIFF, ifr); {
	case errors.Is(err, unix.EBUSY):
		return &Error{name, "in use by another process", err}
	case errors.Is(err, unix.EINVAL):
		return &Error{name, "not a TAP interface", err}
	case errors.Is(err, unix.EPERM):
		return &Error{name, "need CAP_NET_ADMIN, or a TAP made for this user (ip tuntap add … user NAME)", err}
	case err != nil:
		return &Error{name, "TUNSETIFF", err}
	}
	// The driver expands a pattern such as tap%d; that is not what was asked for.
	if ifr.Name() != name {
		return &Error{name, "the kernel attached " + ifr.Name() + " instead", unix.EINVAL}
	}
	return t.frames(name)
}

// frames has the kernel hand out frames no longer than the MTU, with their
// checksums, behind a header of the size that we know: an earlier user of the
// interface may have agreed on something else.
func (t *Tap) frames(name string) error {
	if err := unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return &Error{name, "TUNSETOFFLOAD", err}
	}
	if t.header > 0 {
		if err := unix.IoctlSetPointerInt(t.fd, unix.TUNSETVNETHDRSZ, t.header); err != nil {
			return &Error{name, "TUNSETVNETHDRSZ", err}
		}
	}
	return nil
}

// ask has the kernel answer op for ifr's interface, in ifr.
func ask(ifr *unix.Ifreq, op uint) error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(sock)
	return unix.IoctlIfreq(sock, op, ifr)
}

// TapFromFD uses an open TAP descriptor that the process inherited. It has to be
// one with IFF_NO_PI, which cannot be checked: in TUNGETIFF's answer that bit
// means IFF_NOFILTER. Where vnet is set it may have a vnet header or none, as
// whoever attached it chose; VnetHeader says which. The Tap works on a duplicate;
// fd stays the caller's, but for O_NONBLOCK, the offloads and the header's size,
// which the two share.
func TapFromFD(fd int, vnet bool) (*Tap, error) {
	name := fmt.Sprintf("fd %d", fd)
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return nil, &Error{name, "TUNGETIFF", err}
	}
	// TUNGETIFF answers only on a tun descriptor with an interface attached.
	switch err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); {
	case errors.Is(err, unix.EBADF):
		return nil, &Error{name, "not an open file descriptor", err}
	case errors.Is(err, unix.EBADFD):
		return nil, &Error{name, "an open /dev/net/tun without an interface attached", err}
	case err != nil:
		return nil, &Error{name, "not a TAP descriptor", err}
	}
	t, f := &Tap{mtu: DefaultMTU}, ifr.Uint16()
	if f&unix.IFF_VNET_HDR != 0 {
		t.header = vnetHeader
	}
	if f&(unix.IFF_TUN|unix.IFF_TAP) != unix.IFF_TAP || t.header > 0 && !vnet {
		return nil, &Error{name, fmt.Sprintf("interface %s has flags %#x, need IFF_TAP, and IFF_VNET_HDR for virtio only", ifr.Name(), f), unix.EINVAL}
	}
	if err := ask(ifr, unix.SIOCGIFMTU); err == nil {
		t.mtu = int(ifr.Uint32())
	}
	if t.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, &Error{name, "duplicate", err}
	}
	if err := unix.SetNonblock(t.fd, true); err != nil {
		unix.Close(t.fd)
		return nil, &Error{name, "O_NONBLOCK", err}
	}
	if err := t.frames(name); err != nil {
		unix.Close(t.fd)
		return nil, err
	}
	return t, nil
}

// MTU is the interface's MTU in bytes when it was opened.
func (t *Tap) MTU() int { return t.mtu }

// VnetHeader is 12 or 0.
func (t *Tap) VnetHeader() int { return t.header }

// SetOffload is TUNSETOFFLOAD.
func (t *Tap) SetOffload(flags int) syscall.Errno {
	return errno(unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, flags))
}

// PollFD is the descriptor itself.
func (t *Tap) PollFD() int { return t.fd }

// ReadFrame takes one frame; EAGAIN says that none waits, or that bufs have no
// room at all.
func (t *Tap) ReadFrame(bufs [][]byte) (int, syscall.Errno) {
	n, _, e := vectored(unix.SYS_READV, t.fd, &t.read, bufs)
	if e == 0 && n == 0 {
		e = syscall.EAGAIN
	}
	return n, e
}

// WriteFrame sends one frame. The driver takes a frame whole or refuses it;
// anything else would be EIO.
func (t *Tap) WriteFrame(bufs [][]byte) syscall.Errno {
	n, size, e := vectored(unix.SYS_WRITEV, t.fd, &t.write, bufs)
	switch {
	case e == 0 && size == 0: // the kernel does not ask the driver about no bytes
		return syscall.EINVAL
	case e == 0 && n != size:
		return syscall.EIO
	}
	return e
}

// Close detaches from the interface.
func (t *Tap) Close() error { return unix.Close(t.fd) }
