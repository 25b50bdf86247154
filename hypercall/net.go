package hypercall

import (
	"syscall"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// netRequest is the argument of NET_READ and NET_WRITE.
type netRequest struct {
	handle, ptr, len uint64
}

// net decodes a request and finds its NIC. A nil NIC means that the result was
// given already.
func (t *Table) net(c Call, gpa memory.Addr) (r netRequest, nic devices.NIC, live []byte, err error) {
	var arg [netSize]byte
	live, err = t.argument(c, gpa, arg[:], true)
	if err != nil {
		return r, nil, nil, err
	}
	r = netRequest{le.Uint64(arg[0:]), le.Uint64(arg[8:]), le.Uint64(arg[netOffLen:])}
	if r.handle < MaxHandles {
		nic = t.NICs[r.handle]
	}
	if nic == nil {
		le.PutUint32(live[netOffRet:], resultInval)
	}
	return r, nic, live, nil
}

func (t *Table) netWrite(gpa memory.Addr) error {
	r, nic, live, err := t.net(NetWrite, gpa)
	if err != nil || nic == nil {
		return err
	}
	buf, err := t.View.Readable(memory.Addr(r.ptr), r.len)
	if err != nil {
		return pointerError(NetWrite, "buffer", err)
	}
	t.frame[0] = buf
	result := uint32(resultOK)
	if errno := nic.WriteFrame(t.frame[:]); errno != 0 {
		t.hostError("net", int(r.handle), "write", errno)
		result = resultError
	}
	le.PutUint32(live[netOffRet:], result)
	return nil
}

func (t *Table) netRead(gpa memory.Addr) error {
	r, nic, live, err := t.net(NetRead, gpa)
	if err != nil || nic == nil {
		return err
	}
	buf, err := t.View.Writable(memory.Addr(r.ptr), r.len)
	if err != nil {
		return pointerError(NetRead, "buffer", err)
	}
	t.frame[0] = buf
	n, errno := nic.ReadFrame(t.frame[:])
	switch errno {
	case 0:
		le.PutUint64(live[netOffLen:], uint64(n))
		le.PutUint32(live[netOffRet:], resultOK)
	case syscall.EAGAIN:
		le.PutUint32(live[netOffRet:], resultAgain)
	default:
		t.hostError("net", int(r.handle), "read", errno)
		le.PutUint32(live[netOffRet:], resultError)
	}
	return nil
}
