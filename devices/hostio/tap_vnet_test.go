package hostio

import (
	"bytes"
	"encoding/binary"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// pieces cuts b after each of the lengths, with an empty piece in front of each.
func pieces(b []byte, at ...int) (v [][]byte) {
	for _, n := range at {
		v, b = append(v, nil, b[:n]), b[n:]
	}
	return append(v, b, []byte{})
}

// receiveInto is receive for a frame in pieces of b, behind a header of hdr bytes.
func receiveInto(t *testing.T, tap *Tap, b []byte, hdr int, v [][]byte) int {
	t.Helper()
	n := 0
	testutil.Until(t, "a frame arrives", func() bool {
		for {
			var e syscall.Errno
			if n, e = tap.ReadFrame(v); e == unix.EAGAIN {
				return false
			} else if e != 0 {
				t.Fatalf("ReadFrame = %v; want 0 or EAGAIN", e)
			}
			if b[hdr+12] == etherType>>8 && b[hdr+13] == etherType&0xff {
				return true
			}
		}
	})
	return n
}

// TestTapPieces sends and receives frames cut anywhere, with and without a vnet
// header, on an interface attached by name and as an inherited descriptor.
func TestTapPieces(t *testing.T) {
	netns(t)
	testutil.CheckFDs(t)
	byName := func(vnet bool) func(string) (*Tap, error) {
		return func(name string) (*Tap, error) { return OpenTap(name, vnet) }
	}
	byFD := func(flags uint16) func(string) (*Tap, error) {
		return func(name string) (*Tap, error) {
			fd := tun(t, name, flags)
			// What an earlier user may have left there.
			if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 10); err != nil {
				t.Fatal(err)
			}
			return TapFromFD(fd, true)
		}
	}
	for _, c := range []struct {
		name string
		open func(string) (*Tap, error)
		hdr  int
	}{
		// An interface for each: one that was in use a moment ago still drops frames.
		{"plain", byName(false), 0},
		{"header", byName(true), 12},
		{"fd-header", byFD(tapFlags | unix.IFF_VNET_HDR), 12},
		{"fd-plain", byFD(tapFlags), 0},
	} {
		addTap(t, c.name, tapFlags)
		up(t, c.name)
		func() { // no t.Run: another goroutine is in another namespace
			tap, err := c.open(c.name)
			if err != nil {
				t.Fatal(err)
			}
			defer tap.Close()
			if got := tap.VnetHeader(); got != c.hdr {
				t.Fatalf("%s: VnetHeader() = %d; want %d", c.name, got, c.hdr)
			}
			sock := peer(t, c.name)
			want := frame(strings.Repeat("0123456789", 140))
			for _, at := range [][]int{{}, {1}, {c.hdr}, {c.hdr + 13, 1, 1, 700}, {5, 2, 100, 100, 100, 100, 100, 100, 100, 100, 100}} {
				if e := tap.WriteFrame(pieces(append(make([]byte, c.hdr), want...), at...)); e != 0 {
					t.Fatalf("%s: WriteFrame cut at %v = %v; want 0", c.name, at, e)
				}
				b := make([]byte, 2048)
				if n, err := unix.Read(sock, b); err != nil || !bytes.Equal(b[:n], want) {
					t.Errorf("%s: the kernel received %d bytes, %v; want the frame of %d cut at %v", c.name, n, err, len(want), at)
				}
				if _, err := unix.Write(sock, want); err != nil {
					t.Fatal(err)
				}
				clear(b)
				if n := receiveInto(t, tap, b, c.hdr, pieces(b, at...)); n != c.hdr+len(want) || !bytes.Equal(b[c.hdr:n], want) {
					t.Errorf("%s: ReadFrame cut at %v = %d; want the frame of %d behind a header of %d", c.name, at, n, len(want), c.hdr)
				}
			}
			// A frame that fills bufs is told from a longer one by a spare byte.
			b := make([]byte, c.hdr+len(want)+1)
			if _, err := unix.Write(sock, append(want, "more"...)); err != nil {
				t.Fatal(err)
			}
			if n := receiveInto(t, tap, b, c.hdr, whole(b)); n != len(b) {
				t.Errorf("%s: ReadFrame of a frame 3 bytes too long = %d; want all %d", c.name, n, len(b))
			}
			if n, e := tap.ReadFrame(nil); n != 0 || e != unix.EAGAIN {
				t.Errorf("%s: ReadFrame without room = %d, %v; want EAGAIN", c.name, n, e)
			}
			if e := tap.WriteFrame(pieces(make([]byte, c.hdr+13), 3)); e != unix.EINVAL {
				t.Errorf("%s: WriteFrame of 13 bytes = %v; want EINVAL", c.name, e)
			}
			if e := tap.WriteFrame(make([][]byte, 1025)); e != unix.EINVAL {
				t.Errorf("%s: WriteFrame of nothing in 1025 pieces = %v; want EINVAL", c.name, e)
			}
			v, in := pieces(append(make([]byte, c.hdr), want...), 14, 100), pieces(b, 3, 3)
			if n := testing.AllocsPerRun(100, func() {
				tap.WriteFrame(v)
				tap.ReadFrame(in)
			}); n != 0 {
				t.Errorf("%s: WriteFrame and ReadFrame allocate %v times; want 0", c.name, n)
			}
		}()
	}
}

// TestTapDeleted: the interface goes away under a running VM.
func TestTapDeleted(t *testing.T) {
	netns(t)
	fd := tun(t, "tap0", tapFlags)
	up(t, "tap0")
	tap, err := TapFromFD(fd, true)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	deleteLink(t, "tap0")
	if e := tap.WriteFrame(whole(frame("gone"))); e != unix.EBADFD {
		t.Errorf("WriteFrame on a deleted interface = %v; want EBADFD", e)
	}
	if _, e := tap.ReadFrame(whole(make([]byte, 64))); e != unix.EBADFD {
		t.Errorf("ReadFrame on a deleted interface = %v; want EBADFD", e)
	}
}

// TestTapOffload sends and receives a TCP segment of 20,000 bytes: whole once that is
// agreed, and cut by the kernel before.
func TestTapOffload(t *testing.T) {
	netns(t)
	testutil.CheckFDs(t)
	addTap(t, "tap0", tapFlags)
	up(t, "tap0")
	tap, err := OpenTap("tap0", true)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	const csum, tso = unix.TUN_F_CSUM, unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	for flags, want := range map[int]syscall.Errno{0: 0, csum: 0, tso: 0, unix.TUN_F_TSO4: unix.EINVAL, 1 << 20: unix.EINVAL} {
		if got := tap.SetOffload(flags); got != want {
			t.Errorf("SetOffload(%#x) = %v; want %v", flags, got, want)
		}
	}
	peer(t, "tap0") // waits until it sends
	all, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(all)
	segment := tcpSegment(20000)
	for _, c := range []struct{ flags, longest int }{{0, 1514}, {tso, len(segment)}, {0, 1514}} {
		if e := tap.SetOffload(c.flags); e != 0 {
			t.Fatal(e)
		}
		// What the host sends is cut unless the reader takes it whole.
		if err := unix.SetsockoptInt(all, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			t.Fatal(err)
		}
		index := ifreq(t, "tap0", unix.SIOCGIFINDEX, nil).Uint32()
		msg := append([]byte{1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0}, segment...) // NEEDS_CSUM, TCPV4, 54, 1448, 34, 16
		longest, total := 0, 0
		b := make([]byte, 1<<17)
		testutil.Until(t, "the segment arrives", func() bool {
			// Again each time, for the interface may drop what comes early.
			if err := unix.Sendto(all, msg, 0, &unix.SockaddrLinklayer{Ifindex: int(index)}); err != nil {
				t.Fatal(err)
			}
			for {
				n, e := tap.ReadFrame(whole(b))
				if e == unix.EAGAIN {
					return total >= 20000
				} else if e != 0 {
					t.Fatalf("ReadFrame = %v; want 0 or EAGAIN", e)
				}
				if n -= 12; b[12+12] == 8 && b[12+13] == 0 { // IPv4
					longest, total = max(longest, n), total+n-54
				}
			}
		})
		if longest > c.longest || c.flags != 0 && longest != c.longest {
			t.Errorf("offloads %#x: the longest frame has %d bytes; want %d", c.flags, longest, c.longest)
		}
	}
	// What the guest sends the kernel takes whole at any time, and not if it is cut short.
	h := []byte{1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0}
	if e := tap.WriteFrame([][]byte{h, segment}); e != 0 {
		t.Errorf("WriteFrame of a segment = %v; want 0", e)
	}
	if e := tap.WriteFrame([][]byte{h, segment[:30]}); e != unix.EINVAL {
		t.Errorf("WriteFrame of a part of its header = %v; want EINVAL", e)
	}
	deleteLink(t, "tap0")
	if e := tap.SetOffload(tso); e != unix.EBADFD {
		t.Errorf("SetOffload of a deleted interface = %v; want EBADFD", e)
	}
}

// tcpSegment is a frame with n bytes over TCP over IPv4, without the checksum of
// TCP's but that of its pseudo-header.
func tcpSegment(n int) []byte {
	f := make([]byte, 54+n)
	copy(f, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x00\x45\x00")
	be := binary.BigEndian
	ip, tcp := f[14:], f[34:]
	be.PutUint16(ip[2:], uint16(40+n))
	ip[8], ip[9] = 64, 6
	copy(ip[12:], "\x0a\x00\x00\x01\x0a\x00\x00\x02")
	be.PutUint16(ip[10:], ^ones(ip[:20]))
	tcp[12], tcp[13] = 5<<4, 0x10 // no options; ACK
	be.PutUint16(tcp[16:], ones(ip[12:20], []byte{0, 6, byte((20 + n) >> 8), byte(20 + n)}))
	return f
}

// ones is the ones' complement sum (RFC 1071).
func ones(parts ...[]byte) uint16 {
	sum := 0
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			sum += int(b[i])<<8 | int(b[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
