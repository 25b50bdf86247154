// Package meter counts what a VM's devices move: frames, requests, bytes, errors, and
// how long each took. It stands between a device and the host's end of it, so that it
// knows all kinds of either.
//
// It is no part of the monitor's core: a program that wants it gives it to its VM,
//
//	vmm.Config{Meter: meter.New(false)}
//
// and finds the result in VM.Stats. The rules for the code are the core's.
package meter

import (
	"io"
	"math/bits"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/uvm-monitor/uvm/devices"
)

// Meter counts for one VM. It is a devices.Meter.
type Meter struct {
	timing bool
	epoch  time.Time
	all    []*device
}

// device is one device. Each row belongs to one goroutine at a time, which writes it.
type device struct {
	*Meter
	name, kind string
	rows       [6]row
}

// row is one operation of a device.
type row struct {
	count, bytes, errors atomic.Uint64
	latency              *[devices.LatencyBuckets]atomic.Uint64 // with timing
}

// names are the rows, in their order. A disk's are devices.DiskOp.
func (d *device) names() []string {
	switch d.kind {
	case "net":
		return []string{"rx", "tx"}
	case "console":
		return []string{"write"}
	}
	return []string{"read", "write", "flush", "discard", "zero", "zero-free"}
}

// New returns a Meter without devices. With timing it takes the time of each operation,
// which costs two readings of the clock.
func New(timing bool) *Meter { return &Meter{timing: timing, epoch: time.Now()} }

func (m *Meter) add(name, kind string) *device {
	d := &device{Meter: m, name: name, kind: kind}
	for i := range d.rows {
		if m.timing {
			d.rows[i].latency = new([devices.LatencyBuckets]atomic.Uint64)
		}
	}
	m.all = append(m.all, d)
	return d
}

// Stats returns what was counted, with a row for each operation that the device has. It
// may be called from any goroutine when all devices are there.
func (m *Meter) Stats() (all []devices.DeviceStats) {
	for _, d := range m.all {
		s := devices.DeviceStats{Name: d.name, Kind: d.kind, Ops: map[string]devices.OpStats{}}
		for i, name := range d.names() {
			r := &d.rows[i]
			op := devices.OpStats{Count: r.count.Load(), Bytes: r.bytes.Load(), Errors: r.errors.Load()}
			for b := 0; d.timing && b < devices.LatencyBuckets; b++ {
				if n := r.latency[b].Load(); n > 0 {
					op.Latency = append(append(op.Latency, make([]uint64, b-len(op.Latency))...), n)
				}
			}
			s.Ops[name] = op
		}
		all = append(all, s)
	}
	return all
}

// now is 0 where no time is taken.
func (m *Meter) now() time.Duration {
	if !m.timing {
		return 0
	}
	return time.Since(m.epoch)
}

// done counts an operation on n bytes that began at start.
func (d *device) done(op, n int, failed bool, start time.Duration) {
	r := &d.rows[op]
	if r.count.Add(1); failed {
		r.errors.Add(1)
	} else {
		r.bytes.Add(uint64(n))
	}
	if d.timing {
		r.latency[min(bits.Len64(uint64(d.now()-start)), devices.LatencyBuckets-1)].Add(1)
	}
}

// NIC returns n, counted. Lengths are without the header of VnetHeader. A read that
// finds no frame is not counted.
func (m *Meter) NIC(name string, n devices.NIC) devices.NIC { return &nic{n, m.add(name, "net")} }

type nic struct {
	devices.NIC
	d *device
}

const rx, tx = 0, 1

func (n *nic) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	start := n.d.now()
	got, e := n.NIC.ReadFrame(bufs)
	if e != syscall.EAGAIN {
		n.d.done(rx, got-n.VnetHeader(), e != 0, start)
	}
	return got, e
}

func (n *nic) WriteFrame(bufs [][]byte) devices.Errno {
	start, size := n.d.now(), -n.VnetHeader()
	for _, b := range bufs {
		size += len(b)
	}
	e := n.NIC.WriteFrame(bufs)
	n.d.done(tx, size, e != 0, start)
	return e
}

// Disk returns d, counted, with its queues.
func (m *Meter) Disk(name string, d devices.Disk) devices.Disk { return &disk{d, m.add(name, "disk")} }

type disk struct {
	devices.Disk
	d *device
}

func (d *disk) ReadAt(b []byte, off int64) devices.Errno {
	start := d.d.now()
	e := d.Disk.ReadAt(b, off)
	d.d.done(int(devices.DiskRead), len(b), e != 0, start)
	return e
}

func (d *disk) WriteAt(b []byte, off int64) devices.Errno {
	start := d.d.now()
	e := d.Disk.WriteAt(b, off)
	d.d.done(int(devices.DiskWrite), len(b), e != 0, start)
	return e
}

func (d *disk) Queue(n int) (devices.DiskQueue, error) {
	q, err := d.Disk.Queue(n)
	if err != nil {
		return nil, err
	}
	return &queue{q, d.d, make([]request, n)}, nil
}

type queue struct {
	devices.DiskQueue
	d    *device
	tags []request
}

type request struct {
	op    devices.DiskOp
	n     int64
	start time.Duration
}

func (q *queue) Do(tag int, op devices.DiskOp, bufs [][]byte, off, n int64) {
	q.tags[tag] = request{op, n, q.d.now()}
	q.DiskQueue.Do(tag, op, bufs, off, n)
}

func (q *queue) Done(wait bool) (int, devices.Errno) {
	tag, e := q.DiskQueue.Done(wait)
	if tag >= 0 {
		r := &q.tags[tag]
		q.d.done(int(r.op), int(r.n), e != 0, r.start)
	}
	return tag, e
}

// Console returns w, counted. A write that is interrupted and goes on later counts twice.
func (m *Meter) Console(name string, w io.Writer) io.Writer {
	return &console{w, m.add(name, "console")}
}

type console struct {
	io.Writer
	d *device
}

func (c *console) Write(b []byte) (int, error) {
	start := c.d.now()
	n, err := c.Writer.Write(b)
	c.d.done(0, n, err != nil && err != devices.ErrInterrupted, start)
	return n, err
}
