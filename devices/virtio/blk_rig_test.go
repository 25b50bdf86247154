package virtio

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

// fakeDisk keeps what is written, says in calls what was asked of it, and fails on
// demand.
type fakeDisk struct {
	t      testing.TB
	data   []byte
	synced []byte                                 // the data at the last successful flush
	calls  []string                               // nil: not recorded
	fail   func(op string, off int) devices.Errno // nil: never
	closed bool
}

func newFakeDisk(t testing.TB, size int) *fakeDisk {
	d := &fakeDisk{t: t, data: make([]byte, size), calls: []string{}}
	for i := range d.data {
		d.data[i] = byte(i ^ i>>8)
	}
	return d
}

func (d *fakeDisk) call(op string, off int64, n int) devices.Errno {
	if off < 0 || off > int64(len(d.data)) || n > len(d.data)-int(off) {
		d.t.Errorf("%s of %d bytes at %d, on a disk of %d", op, n, off, len(d.data))
		return syscall.EFAULT
	}
	if d.calls != nil {
		d.calls = append(d.calls, fmt.Sprintf("%s %d+%d", op, off, n))
	}
	if d.fail != nil {
		return d.fail(op, int(off))
	}
	return 0
}

func (d *fakeDisk) ReadAt(b []byte, off int64) devices.Errno {
	e := d.call("read", off, len(b))
	if e == 0 {
		copy(b, d.data[off:])
	}
	return e
}

func (d *fakeDisk) WriteAt(b []byte, off int64) devices.Errno {
	e := d.call("write", off, len(b))
	if e == 0 {
		copy(d.data[off:], b)
	}
	return e
}

func (d *fakeDisk) Flush() devices.Errno {
	e := d.call("flush", 0, 0)
	if e == 0 {
		d.synced = append(d.synced[:0], d.data...)
	}
	return e
}

func (d *fakeDisk) Size() int64  { return int64(len(d.data)) }
func (d *fakeDisk) Close() error { d.closed = true; return nil }

// blkRig is a block device with its driver.
type blkRig struct {
	*driver
	disk *fakeDisk
	b    *Blk
	logs []string
}

func newBlkRig(t testing.TB, disk *fakeDisk, ro bool, features uint64) *blkRig {
	t.Helper()
	r := &blkRig{disk: disk}
	r.b = NewBlk(disk, ro, "serial-0123456789abcdef", func(op string, e devices.Errno) {
		r.logs = append(r.logs, op+": "+e.Error())
	})
	r.restart(t, features)
	return r
}

// restart gives the device a new driver, with fresh memory.
func (r *blkRig) restart(t testing.TB, features uint64) {
	r.b.Reset()
	r.driver = newDriver(t, blkQueueSize, features|FeatureVersion1)
	r.b.Start(features, []*Queue{r.q})
}

// rounds serves as the transport does, until there is no more.
func (r *blkRig) rounds() error {
	for {
		r.q.left, r.q.more = roundBytes, false
		if err := r.b.Serve(); err != nil || !r.q.more {
			return err
		}
	}
}

// blkHeader is struct virtio_blk_req's first 16 bytes.
func blkHeader(kind uint32, sector uint64) []byte {
	b := le.AppendUint32(nil, kind)
	return le.AppendUint64(append(b, "\xa5\xa5\xa5\xa5"...), sector)
}

// request has the device carry out one request and returns its status, what it
// wrote in front of it, and the used length.
func (r *blkRig) request(out [][]byte, in ...int) (status byte, data []byte, used uint32) {
	r.T.Helper()
	head, bufs := r.Add(out, in...)
	if err := r.rounds(); err != nil {
		r.T.Fatalf("Serve() = %v; want nil", err)
	}
	h, used, ok := r.Done()
	if !ok || h != uint32(head) {
		r.T.Fatalf("used element = %d, %v; want the chain at %d", h, ok, head)
	}
	all := bytes.Join(bufs, nil)
	return all[len(all)-1], all[:len(all)-1], used
}

// cutBytes cuts b into pieces, none empty; cutSizes does it with a length.
func cutBytes(rng *rand.Rand, b []byte, most int) (v [][]byte) {
	for len(b) > 0 && len(v) < most-1 {
		n := min(len(b), 1+rng.IntN(1+rng.IntN(len(b))))
		v, b = append(v, b[:n]), b[n:]
	}
	if len(b) > 0 {
		v = append(v, b)
	}
	return v
}

func cutSizes(rng *rand.Rand, n, most int) (v []int) {
	for _, b := range cutBytes(rng, make([]byte, n), most) {
		v = append(v, len(b))
	}
	return v
}
