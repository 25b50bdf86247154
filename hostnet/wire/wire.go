package wire

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Auto as the name of an interface leaves the name, and the addresses, to hostnet.
const Auto = "auto"

// Request is a TAP interface that uvm wants.
type Request struct {
	Label   string `json:"label"`            // of the guest's device, for messages
	Name    string `json:"name"`             // Auto, or an interface that is used if it exists and made if it does not
	Netns   string `json:"netns,omitempty"`  // network namespace, a name of ip netns or a path; "" = the caller's
	Bridge  string `json:"bridge,omitempty"` // bridge that the interface is, or becomes, a port of
	MTU     int    `json:"mtu,omitempty"`    // bytes, what the guest shall be told; 0 = the interface's
	Guest   Prefix `json:"guest,omitzero"`   // the guest's address; none = choose one if Name is Auto and there is no bridge
	Gateway Addr   `json:"gateway,omitzero"` // of the guest; the host's end, if the interface is made and has no bridge
	Vnet    bool   `json:"vnet,omitempty"`   // frames have a vnet header (IFF_VNET_HDR)
}

// Reply is an interface that was opened. Its descriptor goes along.
type Reply struct {
	Interface string `json:"interface"`
	MTU       int    `json:"mtu"`              // what the guest shall be told
	Guest     Prefix `json:"guest,omitzero"`   // the request's, or the one that was chosen
	Gateway   Addr   `json:"gateway,omitzero"` // likewise
}

// MaxNets bounds the interfaces of one message; no guest has more devices.
const MaxNets = 64

const maxMessage = 64 << 10 // bytes

// Send writes replies and their descriptors as one message to a SOCK_SEQPACKET socket.
func Send(sock int, replies []Reply, fds []int) error {
	msg, err := json.Marshal(replies)
	if err != nil {
		return err
	}
	return unix.Sendmsg(sock, msg, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
}

// Receive takes the message out of a socket whose sender has ended. The descriptors are the caller's; they
// are closed on exec. There are want of them, or an error.
func Receive(sock, want int) (replies []Reply, fds []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			replies, fds = nil, nil
		}
	}()
	msg, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*MaxNets))
	n, oobn, flags, _, err := unix.Recvmsg(sock, msg, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, nil, fmt.Errorf("no answer: %w", err)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	for i := range cmsgs {
		got, err := unix.ParseUnixRights(&cmsgs[i])
		if err != nil {
			return nil, nil, err
		}
		fds = append(fds, got...)
	}
	if n == 0 {
		return nil, fds, errors.New("no answer")
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, fds, errors.New("no whole answer")
	}
	if err := json.Unmarshal(msg[:n], &replies); err != nil {
		return nil, fds, err
	}
	if len(replies) != want || len(fds) != want {
		return nil, fds, fmt.Errorf("%d interfaces and %d descriptors; want %d", len(replies), len(fds), want)
	}
	return replies, fds, nil
}
