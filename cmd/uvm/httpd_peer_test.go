package main

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peer sends frames of its own making to the guest.
type peer struct {
	*ether
	mac [6]byte
}

func (p *peer) send(frame []byte) {
	p.t.Helper()
	for {
		_, err := unix.Write(p.sock, frame)
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			time.Sleep(100 * time.Microsecond) // the guest has not taken the last ones yet
			continue
		}
		if err != nil && len(frame) > 14 {
			p.t.Fatalf("send of %d bytes: %v", len(frame), err)
		}
		return
	}
}

// announce tells the guest the host's MAC address: ARP lets anybody tell it
// another, and then answers get lost until the host's kernel asks for its own.
func (p *peer) announce() { p.send(p.arp(1, hostMAC, hostIP)) }

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

var (
	hostIP  = [4]byte{10, 0, 0, 1}
	hostMAC = [6]byte{2, 0, 0, 0, 0, 1}
	guestIP = [4]byte{10, 0, 0, 2}
)

// ethernet puts payload into a frame for the guest.
func (p *peer) ethernet(kind uint16, payload []byte) []byte {
	frame := append(append([]byte{}, p.mac[:]...), hostMAC[:]...)
	return append(binary.BigEndian.AppendUint16(frame, kind), payload...)
}

// ipv4 puts payload into a packet from source. offset is the word with the
// fragment's flags and offset.
func (p *peer) ipv4(source [4]byte, protocol byte, offset uint16, payload []byte) []byte {
	h := make([]byte, 20, 20+len(payload))
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[4:], 7)
	binary.BigEndian.PutUint16(h[6:], offset)
	copy(h[12:], source[:])
	copy(h[16:], guestIP[:])
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return p.ethernet(0x0800, append(h, payload...))
}

// tcp puts a segment with options and data into a packet.
func (p *peer) tcp(source [4]byte, port uint16, flags byte, options, data []byte) []byte {
	h := make([]byte, 20, 20+len(options)+len(data))
	binary.BigEndian.PutUint16(h[0:], port)
	binary.BigEndian.PutUint16(h[2:], 80)
	binary.BigEndian.PutUint32(h[4:], 1000)
	h[12], h[13], h[14] = byte(20+len(options))/4<<4, flags, 0x20
	h = append(append(h, options...), data...)
	pseudo := append(append(append([]byte{}, source[:]...), guestIP[:]...), 0, 6, byte(len(h)>>8), byte(len(h)))
	binary.BigEndian.PutUint16(h[16:], sum(append(pseudo, h...)))
	return p.ipv4(source, 6, 0, h)
}

func (p *peer) ping(offset uint16, payload []byte) []byte {
	icmp := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, payload...)
	binary.BigEndian.PutUint16(icmp[2:], sum(icmp))
	return p.ipv4(hostIP, 1, offset, icmp)
}

func (p *peer) arp(op byte, mac [6]byte, ip [4]byte) []byte {
	a := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac[:]...)
	a = append(append(append(a, ip[:]...), 0, 0, 0, 0, 0, 0), guestIP[:]...)
	return p.ethernet(0x0806, a)
}

// fix makes the checksums of a changed packet right again, so that it gets further.
func fix(frame []byte) {
	if len(frame) < 34 || frame[12] != 8 || frame[13] != 0 {
		return
	}
	ip := frame[14:]
	n := int(ip[0]&15) * 4
	if n < 20 || n > len(ip) {
		return
	}
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], sum(ip[:n]))
	switch l4 := ip[n:]; {
	case ip[9] == 6 && len(l4) >= 20:
		l4[16], l4[17] = 0, 0
		pseudo := append(append([]byte{}, ip[12:20]...), 0, 6, byte(len(l4)>>8), byte(len(l4)))
		binary.BigEndian.PutUint16(l4[16:], sum(append(pseudo, l4...)))
	case ip[9] == 1 && len(l4) >= 8:
		l4[2], l4[3] = 0, 0
		binary.BigEndian.PutUint16(l4[2:], sum(l4))
	}
}

// set changes bytes of a frame, by offset; -1 cuts it off.
func set(frame []byte, repair bool, changes ...int) []byte {
	for i := 0; i+1 < len(changes); i += 2 {
		if changes[i] == -1 {
			frame = frame[:changes[i+1]]
		} else {
			frame[changes[i]] = byte(changes[i+1])
		}
	}
	if repair {
		fix(frame)
	}
	return frame
}

const tcpCloseWait = 8 // TCP_CLOSE_WAIT of <netinet/tcp.h>

// tcpInfo is a connection as the host's kernel has it.
func tcpInfo(t *testing.T, conn *net.TCPConn) (info *unix.TCPInfo) {
	t.Helper()
	onSocket(t, conn, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return info
}

// unsent is how many bytes the peer has not acknowledged.
func unsent(t *testing.T, conn *net.TCPConn) (n int) {
	t.Helper()
	onSocket(t, conn, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		return err
	})
	return n
}

func onSocket(t *testing.T, conn *net.TCPConn, f func(fd int) error) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}
