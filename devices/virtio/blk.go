package virtio

import (
	"errors"
	"fmt"
	"math"

	"github.com/uvm-monitor/uvm/devices"
)

// Features of a block device (section 5.2.3).
const (
	blkSegMax   = 1 << 2
	blkReadOnly = 1 << 5
	blkBlkSize  = 1 << 6
	blkFlush    = 1 << 9
	blkDiscard  = 1 << 13
	blkZeroes   = 1 << 14
)

// Requests and what becomes of them (section 5.2.6).
const (
	blkIn          = 0
	blkOut         = 1
	blkSync        = 4
	blkGetID       = 8
	blkDiscardKind = 11
	blkZeroesKind  = 13

	blkOK      = 0
	blkIOErr   = 1
	blkUnsupp  = 2
	blkPending = 0xff // ours: in flight

	blkQueueSize = 256
	sectorSize   = 512
	// maxRange is the most sectors that a discard or write of zeroes may have.
	maxRange = 1 << 22
)

// Blk is a block device (section 5.2) with one queue, on a Disk. Requests are carried
// out at the same time and complete in any order, so that a flush covers what has
// completed before it began, and no more than that (section 5.2.6.2).
type Blk struct {
	Base
	// Limit holds all requests to a rate, those of zeroes as if they were written; it is
	// set before Work, and nil for none.
	Limit *devices.Limiter

	disk     devices.Disk
	io       devices.DiskQueue
	log      func(op string, errno devices.Errno)
	features uint64
	capacity uint64 // sectors
	serial   [20]byte
	config   [60]byte // struct virtio_blk_config up to write_zeroes_may_unmap

	q            *Queue
	c            Chain
	writeThrough bool
	requests     [blkQueueSize]blkRequest
	free         []int // their tags that are not in use
}

// blkRequest is a chain in flight.
type blkRequest struct {
	head    uint16
	op      devices.DiskOp
	result  *byte // where the status goes
	written uint64
	flush   bool // when it is done, a flush follows
}

// blkOps names the operations for the log.
var blkOps = [...]string{"read", "write", "flush", "discard", "write of zeroes", "write of zeroes"}

// NewBlk returns a device on disk, whose size is taken down to whole sectors of
// 512 bytes. The first 20 bytes of serial are the driver's to ask for. log is told
// what fails on the host ("read", "write", "flush" …); the guest decides how often.
func NewBlk(disk devices.Disk, readOnly bool, serial string, log func(op string, errno devices.Errno)) (*Blk, error) {
	b := &Blk{disk: disk, log: log, capacity: uint64(disk.Size()) / sectorSize}
	b.features = blkSegMax | blkBlkSize | blkFlush | blkDiscard | blkZeroes
	if readOnly {
		b.features = blkSegMax | blkBlkSize | blkFlush | blkReadOnly
	}
	copy(b.serial[:], serial)
	for i, v := range [len(b.config) / 4]uint32{
		3: blkQueueSize - 2,       // seg_max: the rest of a chain is header and status
		5: sectorSize,             // blk_size
		9: maxRange, 10: 1, 11: 8, // discard: max_sectors, max_seg, sector_alignment
		12: maxRange, 13: 1, 14: 1, // write_zeroes: max_sectors, max_seg, may_unmap
	} {
		le.PutUint32(b.config[4*i:], v)
	}
	le.PutUint64(b.config[:], b.capacity)
	for tag := range b.requests {
		b.free = append(b.free, tag)
	}
	var err error
	b.io, err = disk.Queue(blkQueueSize)
	return b, err
}

// Info is that of a block device with one requestq.
func (b *Blk) Info() Info {
	return Info{Type: 2, Features: b.features, Queues: []uint16{blkQueueSize}, Config: b.config[:]}
}

// Start begins. A driver that did not take the offer of FLUSH has no way to ask for
// its writes to be safe, so each one has to be before it completes (section 5.2.6.2).
func (b *Blk) Start(features uint64, q []*Queue) {
	b.q, b.writeThrough = q[0], features&blkFlush == 0
}

// Serve begins requests and ends those that are complete.
func (b *Blk) Serve() error {
	for b.q.within(b.Limit) {
		ok, err := b.q.Pop(&b.c)
		if err != nil {
			return err
		} else if !ok {
			break
		}
		// How header, data and status are split over buffers means nothing (section
		// 2.7.4).
		var header [16]byte
		in := b.c.In
		if n := b.c.Out.Len(); n < uint64(len(header)) || len(in) == 0 {
			return fmt.Errorf("blk: a request of %d bytes with %d buffers to write, need a header of 16 bytes and room for the status", n, len(in))
		}
		b.Limit.Take(0, 1)
		b.c.Out.CopyTo(header[:])
		end := &in[len(in)-1]
		last := len(*end) - 1
		r := blkRequest{head: b.c.Head, result: &(*end)[last]}
		*end = (*end)[:last]
		status := b.begin(&r, le.Uint32(header[:]), le.Uint64(header[8:]), b.c.Out.Skip(uint64(len(header))), in)
		if status != blkPending {
			b.end(&r, status)
		}
	}
	b.complete(false)
	return nil
}

// begin starts a request, or says at once how it ends.
func (b *Blk) begin(r *blkRequest, kind uint32, sector uint64, out, in Buffers) (status byte) {
	var bufs Buffers
	var n uint64 // bytes
	switch kind {
	case blkGetID:
		r.written = uint64(in.CopyFrom(b.serial[:]))
		return blkOK
	case blkSync:
		r.op, sector = devices.DiskFlush, 0
	case blkIn:
		r.op, bufs, n = devices.DiskRead, in, in.Len()
		r.written = n
	case blkOut:
		r.op, bufs, n = devices.DiskWrite, out, out.Len()
	case blkDiscardKind, blkZeroesKind:
		// One struct virtio_blk_discard_write_zeroes.
		var seg [16]byte
		if out.CopyTo(seg[:]) < len(seg) || out.Len() > uint64(len(seg)) {
			return blkIOErr
		}
		flags := le.Uint32(seg[12:])
		sector, n = le.Uint64(seg[:]), sectorSize*uint64(le.Uint32(seg[8:]))
		const unmap = 1
		switch {
		case kind == blkDiscardKind && flags == 0:
			r.op = devices.DiskDiscard
		case kind == blkZeroesKind && flags == 0:
			r.op = devices.DiskZero
		case kind == blkZeroesKind && flags == unmap:
			r.op = devices.DiskZeroFree
		default:
			return blkUnsupp
		}
		if n > maxRange*sectorSize {
			return blkIOErr
		}
	default:
		return blkUnsupp
	}
	changes := r.op != devices.DiskRead && r.op != devices.DiskFlush
	switch {
	case changes && b.features&blkReadOnly != 0, n%sectorSize != 0, sector > b.capacity, n/sectorSize > b.capacity-sector:
		return blkIOErr
	case n == 0 && r.op != devices.DiskFlush:
		return blkOK
	}
	r.flush = changes && r.op != devices.DiskDiscard && b.writeThrough
	if r.op != devices.DiskDiscard {
		b.Limit.Take(n, 0)
	}
	tag := b.free[len(b.free)-1]
	b.free = b.free[:len(b.free)-1]
	b.requests[tag] = *r
	b.io.Do(tag, r.op, bufs, int64(sector*sectorSize), int64(n))
	return blkPending
}

// complete ends the requests that are complete, or with wait all.
func (b *Blk) complete(wait bool) {
	for len(b.free) < len(b.requests) {
		tag, errno := b.io.Done(wait)
		if tag < 0 {
			return
		}
		r := &b.requests[tag]
		status := byte(blkOK)
		if errno != 0 {
			b.log(blkOps[r.op], errno)
			status = blkIOErr
		} else if r.flush {
			r.flush, r.op = false, devices.DiskFlush
			b.io.Do(tag, devices.DiskFlush, nil, 0, 0)
			continue
		}
		b.end(r, status)
		*r = blkRequest{}
		b.free = append(b.free, tag)
	}
}

// end gives the chain back to the driver.
func (b *Blk) end(r *blkRequest, status byte) {
	if status != blkOK {
		r.written = 0 // whatever it read
	}
	*r.result = status
	b.q.Push(r.head, uint32(min(r.written+1, math.MaxUint32)))
}

// PollFD is readable when a request in flight has ended.
func (b *Blk) PollFD() int {
	if len(b.free) == len(b.requests) {
		return -1
	}
	return b.io.PollFD()
}

// Drain waits for the disk.
func (b *Blk) Drain() { b.complete(true) }

// Reset forgets the driver.
func (b *Blk) Reset() {
	b.Drain()
	b.q, b.c, b.writeThrough = nil, Chain{}, false
}

// Close closes the disk.
func (b *Blk) Close() error {
	b.Drain()
	return errors.Join(b.io.Close(), b.disk.Close())
}
