package virtio

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
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
	queue  *fakeQueue
	hold   bool // nothing completes unless it is waited for
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

func (d *fakeDisk) ReadAt([]byte, int64) devices.Errno  { panic("a virtio device uses the queue") }
func (d *fakeDisk) WriteAt([]byte, int64) devices.Errno { panic("a virtio device uses the queue") }
func (d *fakeDisk) Flush() devices.Errno                { panic("a virtio device uses the queue") }

// fakeQueue carries requests out when Done asks for them, the last one first, unless
// they are held. What does not wait is held as long as hold says.
type fakeQueue struct {
	d    *fakeDisk
	all  []fakeRequest
	size int
}

type fakeRequest struct {
	tag    int
	op     devices.DiskOp
	bufs   [][]byte
	off, n int64
}

func (d *fakeDisk) Queue(n int) (devices.DiskQueue, error) {
	if d.queue != nil {
		d.t.Error("a second queue")
	}
	d.queue = &fakeQueue{d: d, size: n}
	return d.queue, nil
}

func (q *fakeQueue) Do(tag int, op devices.DiskOp, bufs [][]byte, off, n int64) {
	if tag < 0 || tag >= q.size || slices.ContainsFunc(q.all, func(r fakeRequest) bool { return r.tag == tag }) {
		q.d.t.Errorf("Do with tag %d of %d, which is in use or none", tag, q.size)
	}
	r := fakeRequest{tag, op, nil, off, n}
	if q.d.calls != nil {
		r.bufs = slices.Clone(bufs)
	} else {
		r.bufs = bufs // for the test of allocations, which has one at a time
	}
	if total := int64(Buffers(bufs).Len()); op <= devices.DiskWrite && total != n {
		q.d.t.Errorf("Do with %d bytes in buffers, for %d", total, n)
	}
	q.all = append(q.all, r)
}

func (q *fakeQueue) Done(wait bool) (int, devices.Errno) {
	if len(q.all) == 0 || !wait && q.d.hold {
		return -1, 0
	}
	r := q.all[len(q.all)-1]
	q.all = q.all[:len(q.all)-1]
	return r.tag, q.d.do(&r)
}

func (q *fakeQueue) PollFD() int { return 77 }

func (q *fakeQueue) Close() error {
	if len(q.all) > 0 {
		q.d.t.Errorf("closed with %d requests in flight", len(q.all))
	}
	return nil
}

func (d *fakeDisk) do(r *fakeRequest) devices.Errno {
	if e := d.call(blkOps[r.op], r.off, int(r.n)); e != 0 {
		return e
	}
	off := int(r.off)
	switch r.op {
	case devices.DiskRead, devices.DiskWrite:
		for _, b := range r.bufs {
			if d.fail != nil && off > int(r.off) {
				if e := d.fail(blkOps[r.op], off); e != 0 {
					return e
				}
			}
			if r.op == devices.DiskRead {
				copy(b, d.data[off:])
			} else {
				copy(d.data[off:], b)
			}
			off += len(b)
		}
	case devices.DiskFlush:
		d.synced = append(d.synced[:0], d.data...)
	default:
		clear(d.data[off:][:r.n])
	}
	return 0
}

func (d *fakeDisk) Size() int64  { return int64(len(d.data)) }
func (d *fakeDisk) Close() error { d.closed = true; return nil }

// blkOf is a block device with a disk of size bytes.
func blkOf(size int) *Blk {
	b, _ := NewBlk(&fakeDisk{data: make([]byte, size)}, false, "", func(string, devices.Errno) {})
	return b
}

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
	var err error
	r.b, err = NewBlk(disk, ro, "serial-0123456789abcdef", func(op string, e devices.Errno) {
		r.logs = append(r.logs, op+": "+e.Error())
	})
	if err != nil {
		t.Fatal(err)
	}
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

// blkSegment is struct virtio_blk_discard_write_zeroes.
func blkSegment(sector uint64, sectors, flags uint32) []byte {
	return le.AppendUint32(le.AppendUint32(le.AppendUint64(nil, sector), sectors), flags)
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
