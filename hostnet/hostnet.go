// Package hostnet makes the host's end of a guest's network: a TAP interface that is up, with an address from a
// private range that the host does not use, or as a port of a bridge.
//
// An interface that it makes lives as long as its descriptor: when the last process that has it ends, in whatever way,
// the kernel removes the interface with its addresses and routes. It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for another
// network namespace. docs/net.md describes what users see.
package hostnet

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hostnet/wire"
)

// Interfaces that get their name here begin with namePrefix, and all that are made here have an alias (ip link
// shows it) that begins with aliasPrefix.
const (
	namePrefix  = "uvm"
	aliasPrefix = "uvm pid "
)

// The MTU that a TAP interface can have, in bytes.
const (
	minMTU = 68
	maxMTU = 65535 - 14
)

// Request and Reply are what Open takes and gives.
type (
	Request = wire.Request
	Reply   = wire.Reply
)

// Tap is a TAP interface that was opened. vmm.Net.FD takes a duplicate of its descriptor, so that File can be closed
// when the VM has been made.
type Tap struct {
	Reply
	Made bool     // the interface goes with its last descriptor
	File *os.File // blocking; a tun descriptor with IFF_NO_PI, and IFF_VNET_HDR if that was asked for
}

// RequestError is a Request that cannot work, whatever the host.
type RequestError struct{ Msg string }

func (e *RequestError) Error() string { return e.Msg }

// Error is something that the host lacks or does not allow. Label is the request's.
type Error struct {
	Label string
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("net %q: %v", e.Label, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Open opens the interface that r wants and makes it if it does not exist. owner is the process to name in the alias.
// An error changes nothing on the host.
func Open(r Request, owner int) (*Tap, error) {
	if err := check(&r); err != nil {
		return nil, &RequestError{fmt.Sprintf("net %q: %v", r.Label, err)}
	}
	var t *Tap
	err := inNetns(r.Netns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		o := opener{h: h, r: &r, alias: fmt.Sprint(aliasPrefix, owner)}
		t, err = o.open()
		return err
	})
	if err != nil {
		return nil, &Error{r.Label, err}
	}
	return t, nil
}

// check validates what needs no look at the host.
func check(r *Request) error {
	for _, n := range []string{r.Name, r.Bridge} {
		if n != "" && !isInterfaceName(n) {
			return fmt.Errorf("%q is not an interface name: 1 to 15 characters, without space and / : %%", n)
		}
	}
	made := r.Guest.Set() && r.Bridge == ""
	switch {
	case r.Name == "":
		return errors.New("no interface named")
	case r.MTU != 0 && (r.MTU < minMTU || r.MTU > maxMTU):
		return fmt.Errorf("mtu=%d: want %d to %d bytes", r.MTU, minMTU, maxMTU)
	case made && r.Name == wire.Auto && r.Gateway == wire.Addr{}:
		return fmt.Errorf("ip=%s needs gw=, the host's own address in that network", r.Guest)
	case made && r.Gateway != wire.Addr{} && (!r.Guest.Contains(r.Gateway) || r.Gateway == r.Guest.Addr):
		return fmt.Errorf("gw=%s is not another address in the network %s", r.Gateway, r.Guest)
	case r.Netns == "." || r.Netns == "..":
		return fmt.Errorf("netns=%s is not a name", r.Netns)
	}
	return nil
}

// isInterfaceName says whether an interface can have the name (dev_valid_name in the kernel); % would make it
// a pattern.
func isInterfaceName(s string) bool {
	if len(s) < 1 || len(s) >= unix.IFNAMSIZ || s == "." || s == ".." {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("/:%", c) >= 0 {
			return false
		}
	}
	return true
}

// NetnsDir is where `ip netns` keeps the namespaces that it made.
const NetnsDir = "/run/netns"

// inNetns calls f in a network namespace: the calling thread's for "", else that with a name or path. The thread
// that went into another one ends with it.
func inNetns(name string, f func() error) error {
	if name == "" {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		return f()
	}
	path := name
	if !strings.Contains(name, "/") {
		path = NetnsDir + "/" + name
	}
	ns, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no network namespace %s (make it: ip netns add %s): %w", name, name, err)
	case err != nil:
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		switch err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err {
		case nil:
			done <- f()
		case unix.EPERM:
			done <- fmt.Errorf("entering the network namespace %s needs CAP_SYS_ADMIN: %w", name, err)
		default:
			done <- fmt.Errorf("%s is not a network namespace: %w", path, err)
		}
	}()
	return <-done
}
