package hypercall

import (
	"math"
	"syscall"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// blockRequest is the argument of BLOCK_READ and BLOCK_WRITE.
type blockRequest struct {
	handle, offset, ptr, len uint64
}

// block decodes a request and finds its disk. A nil disk means that the result
// was given already.
func (t *Table) block(c Call, gpa memory.Addr) (r blockRequest, d devices.Disk, ret []byte, err error) {
	var arg [blockSize]byte
	live, err := t.argument(c, gpa, arg[:], true)
	if err != nil {
		return r, nil, nil, err
	}
	r = blockRequest{le.Uint64(arg[0:]), le.Uint64(arg[8:]), le.Uint64(arg[16:]), le.Uint64(arg[24:])}
	ret = live[blockOffRet:]
	if r.handle < MaxHandles {
		d = t.Disks[r.handle]
	}
	// Solo5's tender refuses an offset at the very end even for an empty
	// request, and does not look at alignment; both are kept.
	if d == nil || r.len > math.MaxInt64 || r.offset >= uint64(d.Size()) || r.len > uint64(d.Size())-r.offset {
		le.PutUint32(ret, resultInval)
		return r, nil, ret, nil
	}
	return r, d, ret, nil
}

func (t *Table) blockWrite(gpa memory.Addr) error {
	r, d, ret, err := t.block(BlockWrite, gpa)
	if err != nil || d == nil {
		return err
	}
	buf, err := t.View.Readable(memory.Addr(r.ptr), r.len)
	if err != nil {
		return pointerError(BlockWrite, "buffer", err)
	}
	t.blockDone(r, ret, "write", d.WriteAt(buf, int64(r.offset)))
	return nil
}

func (t *Table) blockRead(gpa memory.Addr) error {
	r, d, ret, err := t.block(BlockRead, gpa)
	if err != nil || d == nil {
		return err
	}
	buf, err := t.View.Writable(memory.Addr(r.ptr), r.len)
	if err != nil {
		return pointerError(BlockRead, "buffer", err)
	}
	t.blockDone(r, ret, "read", d.ReadAt(buf, int64(r.offset)))
	return nil
}

// blockDone gives the result. The buffer may have overlapped the structure,
// which is the guest's own affair: the result is written last.
func (t *Table) blockDone(r blockRequest, ret []byte, op string, errno syscall.Errno) {
	if errno != 0 {
		t.hostError("disk", int(r.handle), op, errno)
		le.PutUint32(ret, resultError)
		return
	}
	le.PutUint32(ret, resultOK)
}
