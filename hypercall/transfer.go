package hypercall

import (
	"math"
	"syscall"

	"github.com/uvm-monitor/uvm/devices"
)

// block is BLOCK_WRITE and BLOCK_READ.
func (t *Table) block(c Call, arg, live []byte) error {
	handle, offset, n, ret := le.Uint64(arg[0:]), le.Uint64(arg[8:]), le.Uint64(arg[24:]), live[blockOffRet:]
	var d devices.Disk
	if handle < MaxHandles {
		d = t.Disks[handle]
	}
	// Solo5's tender refuses an offset at the very end even for an empty
	// request, and does not look at alignment; both are kept.
	if d == nil || n > math.MaxInt64 || offset >= uint64(d.Size()) || n > uint64(d.Size())-offset {
		le.PutUint32(ret, resultInval)
		return nil
	}
	buf, err := t.buffer(c, le.Uint64(arg[16:]), n)
	if err != nil {
		return err
	}
	if c == BlockWrite {
		t.done(ret, "disk", handle, "write", d.WriteAt(buf, int64(offset)))
	} else {
		t.done(ret, "disk", handle, "read", d.ReadAt(buf, int64(offset)))
	}
	return nil
}

// net is NET_WRITE and NET_READ, one frame.
func (t *Table) net(c Call, arg, live []byte) (err error) {
	handle, ret := le.Uint64(arg[0:]), live[netOffRet:]
	if handle >= MaxHandles || t.NICs[handle] == nil {
		le.PutUint32(ret, resultInval)
		return nil
	}
	if t.frame[0], err = t.buffer(c, le.Uint64(arg[8:]), le.Uint64(arg[netOffLen:])); err != nil {
		return err
	}
	if c == NetWrite {
		t.done(ret, "net", handle, "write", t.NICs[handle].WriteFrame(t.frame[:]))
		return nil
	}
	n, errno := t.NICs[handle].ReadFrame(t.frame[:])
	if errno == syscall.EAGAIN {
		le.PutUint32(ret, resultAgain)
		return nil
	}
	if errno == 0 {
		le.PutUint64(live[netOffLen:], uint64(n))
	}
	t.done(ret, "net", handle, "read", errno)
	return nil
}

// done gives the result. The buffer may have overlapped the structure, which is
// the guest's own affair: the result is written last.
func (t *Table) done(ret []byte, dev string, handle uint64, op string, errno syscall.Errno) {
	if errno != 0 {
		t.hostError(dev, int(handle), op, errno)
		le.PutUint32(ret, resultError)
		return
	}
	le.PutUint32(ret, resultOK)
}
