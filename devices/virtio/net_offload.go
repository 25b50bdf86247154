package virtio

import "golang.org/x/sys/unix"

// Features of a network device (section 5.1.3) that are no offloads.
const netMTU, netMAC, netMergeable, netStatus = 1 << 3, 1 << 5, 1 << 15, 1 << 16

// offloads are TUN_F_… of linux/if_tun.h.
type offloads int

// netOffloads are the features of each offload, for frames sent and received.
var netOffloads = [...]struct {
	flags          offloads
	sent, received uint64
}{
	{unix.TUN_F_CSUM, 1 << 0, 1 << 1},
	{unix.TUN_F_TSO4, 1 << 11, 1 << 7},
	{unix.TUN_F_TSO6, 1 << 12, 1 << 8},
	{unix.TUN_F_TSO_ECN, 1 << 13, 1 << 9},
	{unix.TUN_F_USO4 | unix.TUN_F_USO6, 1 << 56, 1<<54 | 1<<55}, // both or, before Linux 6.2, neither
}

// Of struct virtio_net_hdr (section 5.1.6): bits of flags, and of gso_type.
const needsCsum, dataValid, segmentECN = 1, 2, 0x80

// segments are the offloads for each gso_type; those with all bits are never offered.
var segments = [...]offloads{0, unix.TUN_F_TSO4, -1, -1, unix.TUN_F_TSO6, unix.TUN_F_USO4 | unix.TUN_F_USO6, -1}

// cover says whether a frame with header h needs no other offloads. It clears what
// means nothing.
func (o offloads) cover(h *[netHeaderSize]byte) bool {
	need := segments[min(int(h[1]&^segmentECN), len(segments)-1)]
	need |= offloads(h[0]&needsCsum | h[1]&segmentECN>>4) // TUN_F_CSUM, TUN_F_TSO_ECN
	if h[0] &= needsCsum | dataValid; need|o == 0 {
		clear(h[:])
	}
	return need&^o == 0
}

// inside says whether what header h asks for lies in the frame of size bytes, at least
// 2. What follows from it is the host's kernel's matter.
func inside(h *[netHeaderSize]byte, size int) bool {
	if h[0]&needsCsum == 0 {
		return h[1] == 0 // segments need it always (section 5.1.6.2.1)
	}
	headers, segment, start, offset := int(le.Uint16(h[2:])), le.Uint16(h[4:]), int(le.Uint16(h[6:])), int(le.Uint16(h[8:]))
	return headers <= size && (h[1] == 0 || segment > 0) && start <= size-2 && offset <= size-2-start
}
