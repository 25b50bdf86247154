package hostnet

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hostnet/wire"
)

// opener serves one request, in its namespace.
type opener struct {
	h     *netlink.Handle
	r     *Request
	alias string
}

func (o *opener) open() (*Tap, error) {
	if o.r.Name == wire.Auto {
		if o.r.Bridge == "" && !o.r.Guest.Set() {
			return o.choose()
		}
		return o.make(namePrefix+"%d", o.r.Guest, o.r.Gateway)
	}
	switch link, err := o.h.LinkByName(o.r.Name); {
	case err == nil:
		return o.attach(link)
	case !isNotFound(err):
		return nil, fmt.Errorf("interface %s: %w", o.r.Name, err)
	}
	return o.make(o.r.Name, o.r.Guest, o.r.Gateway)
}

func isNotFound(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none)
}

// choose makes an interface with a network that nobody has.
func (o *opener) choose() (*Tap, error) {
	nets, err := usedNets(o.h)
	if err != nil {
		return nil, fmt.Errorf("this host's routes: %w", err)
	}
	for s := range subnets {
		if _, taken := conflict(nets, s.prefix(), -1); taken {
			continue
		}
		t, err := o.make(s.name(), s.prefix(), s.host)
		var taken *takenError
		if errors.As(err, &taken) {
			continue // by somebody who was faster
		}
		return t, err
	}
	return nil, fmt.Errorf("no network is free: this host's addresses and routes use all of %v (choose one: ip=ADDRESS/BITS,gw=ADDRESS)", ranges)
}

// takenError says that the name or the network of an interface has an owner.
type takenError struct{ what string }

func (e *takenError) Error() string { return e.what }

// make makes a TAP interface that is up. name may be a pattern with %d.
func (o *opener) make(name string, guest wire.Prefix, gateway wire.Addr) (t *Tap, err error) {
	f, err := openTun()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close() // and the interface is gone
		}
	}()
	// IFF_TUN_EXCL: fail where the interface exists, instead of attaching to it.
	name, err = o.setIff(f, name, unix.IFF_TUN_EXCL)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, &takenError{fmt.Sprintf("interface %s was made by somebody else meanwhile", name)}
	case errors.Is(err, unix.EPERM):
		return nil, o.privilege(guest, gateway, err)
	case err != nil:
		return nil, fmt.Errorf("making the TAP interface %s: %w", name, err)
	}
	link, err := o.h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	t = &Tap{Made: true, File: f, Reply: Reply{Interface: name, Guest: guest, Gateway: gateway}}
	if err := o.h.LinkSetAlias(link, o.alias); err != nil {
		return nil, fmt.Errorf("alias of %s: %w", name, err)
	}
	mtu := link.Attrs().MTU
	if o.r.MTU != 0 {
		mtu = o.r.MTU
	}
	t.MTU = mtu
	if o.r.Bridge != "" {
		b, err := o.bridge()
		if err != nil {
			return nil, err
		}
		if o.r.MTU == 0 {
			t.MTU = b.MTU
		}
		mtu = max(t.MTU, b.MTU) // a bridge has the least MTU of its ports
	}
	if mtu != link.Attrs().MTU {
		if err := o.h.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("MTU of %d bytes for %s: %w", mtu, name, err)
		}
	}
	if o.r.Bridge != "" {
		if err := o.join(link); err != nil {
			return nil, err
		}
	} else if guest.Set() && gateway != (wire.Addr{}) {
		if err := o.address(link, guest, gateway); err != nil {
			return nil, err
		}
	}
	if err := o.h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("setting %s up: %w", name, err)
	}
	return t, nil
}

// address gives the host its end of a network. It has nothing of it where another interface has an address or a route in it.
func (o *opener) address(link netlink.Link, guest wire.Prefix, gateway wire.Addr) error {
	name, index := link.Attrs().Name, link.Attrs().Index
	a, err := netlink.ParseAddr(wire.Prefix{Addr: gateway, Bits: guest.Bits}.String())
	if err != nil {
		return err
	}
	if err := o.h.AddrAdd(link, a); err != nil {
		return fmt.Errorf("address %v for %s: %w", a, name, err)
	}
	// Looking afterwards sees whoever did the same at the same time.
	nets, err := usedNets(o.h)
	if err != nil {
		return fmt.Errorf("this host's routes: %w", err)
	}
	if u, taken := conflict(nets, guest, index); taken {
		by := "a route"
		if l, err := o.h.LinkByIndex(u.index); err == nil {
			by = "interface " + l.Attrs().Name
		}
		return &takenError{fmt.Sprintf("%v is in use on this host: %s has %v", guest, by, u.Prefix)}
	}
	return nil
}

// bridge looks the bridge up.
func (o *opener) bridge() (*netlink.LinkAttrs, error) {
	b, err := o.h.LinkByName(o.r.Bridge)
	switch {
	case isNotFound(err):
		return nil, fmt.Errorf("there is no bridge %s (make it: ip link add %s type bridge; ip link set %s up)", o.r.Bridge, o.r.Bridge, o.r.Bridge)
	case err != nil:
		return nil, fmt.Errorf("bridge %s: %w", o.r.Bridge, err)
	case b.Type() != "bridge":
		return nil, fmt.Errorf("%s is not a bridge: its kind is %s", o.r.Bridge, b.Type())
	case b.Attrs().RawFlags&unix.IFF_UP == 0:
		return nil, fmt.Errorf("bridge %s is down (ip link set %s up)", o.r.Bridge, o.r.Bridge)
	}
	return b.Attrs(), nil
}

// join makes the interface a port of the bridge. A bridge takes the lowest MAC address of its ports for its
// own, so the port gets one that is higher than others.
func (o *opener) join(link netlink.Link) error {
	b, err := o.bridge()
	if err != nil {
		return err
	}
	mac := append([]byte{}, link.Attrs().HardwareAddr...)
	if len(mac) > 0 {
		mac[0] = 0xfe
	}
	if err := o.h.LinkSetHardwareAddr(link, mac); err != nil {
		return fmt.Errorf("MAC address of %s: %w", link.Attrs().Name, err)
	}
	if err := o.h.LinkSetMasterByIndex(link, b.Index); err != nil {
		return fmt.Errorf("making %s a port of bridge %s: %w", link.Attrs().Name, o.r.Bridge, err)
	}
	return nil
}

// attach uses an interface that exists. It stays as it is.
func (o *opener) attach(link netlink.Link) (*Tap, error) {
	name, a := o.r.Name, link.Attrs()
	if tun, ok := link.(*netlink.Tuntap); !ok || tun.Mode != netlink.TUNTAP_MODE_TAP {
		return nil, fmt.Errorf("%s is not a TAP interface: its kind is %s", name, link.Type())
	}
	if a.RawFlags&unix.IFF_UP == 0 {
		return nil, fmt.Errorf("interface %s is down (ip link set %s up)", name, name)
	}
	if o.r.Bridge != "" {
		b, err := o.bridge()
		if err != nil {
			return nil, err
		}
		if a.MasterIndex != b.Index {
			return nil, fmt.Errorf("interface %s is not a port of bridge %s (ip link set %s master %s)", name, o.r.Bridge, name, o.r.Bridge)
		}
	}
	f, err := openTun()
	if err != nil {
		return nil, err
	}
	_, err = o.setIff(f, name, 0)
	if err == nil {
		// Without that name TUNSETIFF would have made an interface.
		now, err2 := o.h.LinkByName(name)
		if err = err2; err == nil && now.Attrs().Index != a.Index {
			err = fmt.Errorf("interface %s was removed meanwhile", name)
		}
	} else if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("interface %s is in use by another process: %w", name, err)
	} else if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("interface %s needs CAP_NET_ADMIN, or to be made for this user (ip tuntap add %s mode tap user %d): %w", name, name, os.Getuid(), err)
	} else {
		err = fmt.Errorf("interface %s: %w", name, err)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	t := &Tap{File: f, Reply: Reply{Interface: name, MTU: a.MTU, Guest: o.r.Guest, Gateway: o.r.Gateway}}
	if o.r.MTU != 0 {
		t.MTU = o.r.MTU
	}
	return t, nil
}

// privilege says what root would have to do in place of uvm.
func (o *opener) privilege(guest wire.Prefix, gateway wire.Addr, err error) error {
	name := o.r.Name
	for i := 0; o.r.Name == wire.Auto; i++ {
		name = fmt.Sprintf("tap%d", i)
		if _, err := o.h.LinkByName(name); err != nil {
			break
		}
	}
	as := "ip"
	if o.r.Netns != "" {
		as = "ip -n " + o.r.Netns
	}
	what := fmt.Sprintf("%s tuntap add %s mode tap user %d", as, name, os.Getuid())
	use := name
	if o.r.Bridge != "" {
		what += fmt.Sprintf("; %s link set %s master %s", as, name, o.r.Bridge)
	} else if guest.Set() && gateway != (wire.Addr{}) {
		what += fmt.Sprintf("; %s addr add %v/%d dev %s", as, gateway, guest.Bits, name)
		use += fmt.Sprintf(",ip=%v,gw=%v", guest, gateway)
	}
	return fmt.Errorf("making a TAP interface needs CAP_NET_ADMIN; or root makes it for this user (%s; %s link set %s up), for --net %s: %w", what, as, name, use, err)
}

func openTun() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("/dev/net/tun is not there (modprobe tun): %w", err)
	case err != nil:
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// setIff attaches an open /dev/net/tun to an interface and returns the interface's name.
func (o *opener) setIff(f *os.File, name string, flags uint16) (string, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return name, err
	}
	flags |= unix.IFF_TAP | unix.IFF_NO_PI
	if o.r.Vnet {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr)
	if err == nil {
		name = ifr.Name()
	}
	return name, err
}
