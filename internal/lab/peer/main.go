// Command peer is the far end of a transfer, in a Linux guest or beside the
// monitor: it sends, takes and echoes bytes over TCP, AF_VSOCK and Unix
// sockets, and says how many there were and what their digest is.
//
// It does without package net, so that the guest's kernel needs no more than
// futex, which Go's runtime cannot do without.
package main

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const usage = `usage:
  peer tcp-sink ADDR:PORT            take one connection's bytes
  peer tcp-source ADDR:PORT BYTES    send BYTES
  peer vsock-listen PORT             echo one connection
  peer vsock-dial CID PORT BYTES     send BYTES and expect them back
  peer unix-listen PATH              echo one connection: the host side of a guest's vsock-dial, PATH_PORT
  peer unix-dial PATH PORT BYTES     ask the monitor's socket for the guest's port, send BYTES and expect them back
  peer frames INTERFACE COUNT US     send odd frames on it, 0 is without end, with pauses of US microseconds
Each prints one line: what it did, the number of bytes, and their SHA-256.
`

func main() {
	err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

// run does one command.
func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command\n%s", usage)
	}
	what, args := args[0], args[1:]
	want := map[string]int{"tcp-sink": 1, "tcp-source": 2, "vsock-listen": 1, "vsock-dial": 3, "unix-listen": 1, "unix-dial": 3, "frames": 3}
	if n, ok := want[what]; !ok || n != len(args) {
		return fmt.Errorf("%s with %d arguments\n%s", what, len(args), usage)
	}
	switch what {
	case "tcp-sink", "tcp-source":
		a, err := netip.ParseAddrPort(args[0])
		if err != nil || !a.Addr().Is4() {
			return fmt.Errorf("%s: not an IPv4 address and port", args[0])
		}
		addr := &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
		if what == "tcp-sink" {
			return listen(addr, sink)
		}
		return dial(addr, args[1], nil, source)
	case "vsock-listen":
		port, err := number(args[0], 32)
		if err != nil {
			return err
		}
		return listen(&unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: uint32(port)}, echo)
	case "vsock-dial":
		cid, err := number(args[0], 32)
		if err != nil {
			return err
		}
		port, err := number(args[1], 32)
		if err != nil {
			return err
		}
		return dial(&unix.SockaddrVM{CID: uint32(cid), Port: uint32(port)}, args[2], nil, exchange)
	case "frames":
		return frames(args[0], args[1], args[2])
	case "unix-listen":
		return listen(&unix.SockaddrUnix{Name: args[0]}, echo)
	default: // unix-dial
		port, err := number(args[1], 32)
		if err != nil {
			return err
		}
		greet := func(s *stream) error { return connect(s, port) }
		return dial(&unix.SockaddrUnix{Name: args[0]}, args[2], greet, exchange)
	}
}

func number(s string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0, fmt.Errorf("%q: not a number of %d bits", s, bits)
	}
	return n, nil
}
