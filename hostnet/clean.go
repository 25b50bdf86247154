package hostnet

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Clean removes the interfaces of a network namespace that were made here and that no process has open, and returns their
// names. Nothing that Open does leaves such a one; somebody who made one persistent does.
func Clean(netns string) (removed []string, err error) {
	err = inNetns(netns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		var links []netlink.Link
		err = dump(func() (err error) {
			links, err = h.LinkList()
			return err
		})
		if err != nil {
			return fmt.Errorf("list of interfaces: %w", err)
		}
		var failed []error
		for _, l := range links {
			if !isOurs(l) {
				continue
			}
			switch gone, err := remove(h, l); {
			case err != nil:
				failed = append(failed, err)
			case gone:
				removed = append(removed, l.Attrs().Name)
			}
		}
		return errors.Join(failed...)
	})
	return removed, err
}

func isOurs(l netlink.Link) bool {
	_, tun := l.(*netlink.Tuntap)
	return tun && strings.HasPrefix(l.Attrs().Alias, aliasPrefix)
}

// remove removes a TAP interface unless a process has it open. Attaching to it finds that out, and keeps
// all others away.
func remove(h *netlink.Handle, l netlink.Link) (gone bool, err error) {
	name := l.Attrs().Name
	f, err := openTun()
	if err != nil {
		return false, err
	}
	defer f.Close()
	o := opener{h: h, r: &Request{}}
	switch _, err := o.setIff(f, name, 0); {
	case errors.Is(err, unix.EBUSY):
		return false, nil
	case errors.Is(err, unix.EPERM):
		return false, fmt.Errorf("removing %s needs CAP_NET_ADMIN: %w", name, err)
	case err != nil:
		return false, fmt.Errorf("removing %s: %w", name, err)
	}
	// It may have become another's meanwhile.
	now, err := h.LinkByName(name)
	if err != nil || now.Attrs().Index != l.Attrs().Index || !isOurs(now) {
		return false, nil
	}
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 0); err != nil {
		return false, fmt.Errorf("removing %s: %w", name, err)
	}
	return true, nil
}
