package virtio

import (
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// Features of a network device (section 5.1.3) that are no offloads.
const (
	netMTU       = 1 << 3
	netMAC       = 1 << 5
	netMergeable = 1 << 15
	netStatus    = 1 << 16
)

// offloads are TUN_F_… of linux/if_tun.h.
type offloads int

const offloadUSO = unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux has both or, before 6.2, neither

// netOffloads are the features of each offload, of frames sent and received.
var netOffloads = [...]struct {
	flag           offloads
	sent, received uint64
}{
	{unix.TUN_F_CSUM, 1 << 0, 1 << 1},
	{unix.TUN_F_TSO4, 1 << 11, 1 << 7},
	{unix.TUN_F_TSO6, 1 << 12, 1 << 8},
	{unix.TUN_F_TSO_ECN, 1 << 13, 1 << 9},
	{offloadUSO, 1 << 56, 1<<54 | 1<<55},
}

// offered is the features for what the NIC has: a host that gives frames of a kind
// also takes them.
func offered(nic devices.NIC) (features uint64) {
	for all := netOffloads[:]; len(all) > 0; all = all[:len(all)-1] {
		flags, features := offloads(0), uint64(0)
		for _, o := range all {
			flags, features = flags|o.flag, features|o.sent|o.received
		}
		if nic.SetOffload(int(flags)) == 0 {
			nic.SetOffload(0)
			return features
		}
	}
	return 0
}

// negotiated is what the driver has accepted. Without checksums there is nothing else
// (section 5.1.3.1).
func negotiated(features uint64) (sent, received offloads) {
	for _, o := range netOffloads {
		if features&1 != 0 && features&o.sent != 0 {
			sent |= o.flag
		}
		if features&2 != 0 && features&o.received == o.received {
			received |= o.flag
		}
	}
	return sent, received
}

// Of struct virtio_net_hdr (section 5.1.6): bits of flags, and of gso_type.
const needsCsum, dataValid, segmentECN = 1, 2, 0x80

// segmentTypes are the offloads of each gso_type; those that need all are not offered.
var segmentTypes = [...]offloads{0, unix.TUN_F_TSO4, -1, -1, unix.TUN_F_TSO6, offloadUSO}

// cover says whether a frame with header h needs no other offloads. It clears what
// means nothing.
func (o offloads) cover(h *[netHeaderSize]byte) bool {
	need, segment := offloads(0), int(h[1]&^segmentECN)
	if segment >= len(segmentTypes) {
		return false
	}
	if h[0]&needsCsum != 0 {
		need = unix.TUN_F_CSUM
	}
	if h[1]&segmentECN != 0 {
		need |= unix.TUN_F_TSO_ECN
	}
	need |= segmentTypes[segment]
	if need == 0 {
		clear(h[2:])
	}
	if h[0] &= needsCsum | dataValid; o == 0 {
		h[0] = 0
	}
	return need&^o == 0
}

// inside says whether what header h asks for lies in the frame of size bytes, at least
// 2. What follows from it is the host's kernel's matter.
func inside(h *[netHeaderSize]byte, size int) bool {
	word := func(i int) int { return int(le.Uint16(h[i:])) }
	if h[0]&needsCsum == 0 {
		return h[1] == 0 // segments need it always (section 5.1.6.2.1)
	}
	start, offset := word(6), word(8)
	return word(2) <= size && (h[1] == 0 || word(4) > 0) && start <= size-2 && offset <= size-2-start
}
