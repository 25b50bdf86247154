package virtio

import (
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
)

// Requests and what becomes of them (section 5.2.6).
const (
	blkIn    = 0
	blkOut   = 1
	blkSync  = 4
	blkGetID = 8

	blkOK     = 0
	blkIOErr  = 1
	blkUnsupp = 2
	blkMore   = 0xff // ours: not done yet

	blkQueueSize = 256
	sectorSize   = 512
)

// Blk is a block device (section 5.2) with one queue, on a Disk.
type Blk struct {
	Base
	disk     devices.Disk
	log      func(op string, errno devices.Errno)
	features uint64
	capacity uint64 // sectors
	serial   [20]byte
	config   [24]byte // struct virtio_blk_config up to blk_size

	q            *Queue
	c            Chain
	writeThrough bool
	done         uint64 // bytes of the next chain that are moved
}

// NewBlk returns a device on disk, whose size is taken down to whole sectors of
// 512 bytes. The first 20 bytes of serial are the driver's to ask for. log is told
// what fails on the host ("read", "write" or "flush"); the guest decides how often.
func NewBlk(disk devices.Disk, readOnly bool, serial string, log func(op string, errno devices.Errno)) *Blk {
	b := &Blk{disk: disk, log: log, features: blkSegMax | blkBlkSize | blkFlush, capacity: uint64(disk.Size()) / sectorSize}
	if readOnly {
		b.features |= blkReadOnly
	}
	copy(b.serial[:], serial)
	le.PutUint64(b.config[:], b.capacity)
	le.PutUint32(b.config[12:], blkQueueSize-2) // seg_max: the rest of a chain is header and status
	le.PutUint32(b.config[20:], sectorSize)     // blk_size
	return b
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

// Serve carries out requests, one after the other: what a flush has to cover is
// complete when it begins.
func (b *Blk) Serve() error {
	for {
		ok, err := b.q.Pop(&b.c)
		if !ok || err != nil {
			return err
		}
		// How header, data and status are split over buffers means nothing (section
		// 2.7.4), and the chain need not be what it was in the last round.
		var header [16]byte
		in := b.c.In
		if n := b.c.Out.Len(); n < uint64(len(header)) || len(in) == 0 {
			return fmt.Errorf("blk: a request of %d bytes with %d buffers to write, need a header of 16 bytes and room for the status", n, len(in))
		}
		b.c.Out.CopyTo(header[:])
		end := &in[len(in)-1]
		last := len(*end) - 1
		result := &(*end)[last]
		*end = (*end)[:last]
		status, written := b.request(le.Uint32(header[:]), le.Uint64(header[8:]), b.c.Out.Skip(uint64(len(header))), in)
		if status == blkMore {
			b.q.Again() // after LoadState it is done again from its start
			return nil
		}
		*result, b.done = status, 0
		b.q.Push(b.c.Head, uint32(min(written+1, math.MaxUint32)))
	}
}

// request returns the status and how much of in is written.
func (b *Blk) request(kind uint32, sector uint64, out, in Buffers) (status byte, written uint64) {
	switch {
	case kind == blkIn:
		written = in.Len()
		if status = b.transfer("read", b.disk.ReadAt, sector, in); status != blkOK {
			written = 0 // whatever it read
		}
		return status, written
	case kind == blkOut && b.features&blkReadOnly != 0:
		return blkIOErr, 0
	case kind == blkOut:
		if status = b.transfer("write", b.disk.WriteAt, sector, out); status != blkOK || !b.writeThrough {
			return status, 0
		}
		fallthrough
	case kind == blkSync:
		b.q.left = 0 // it may have taken long: let the vCPUs at the registers
		return b.result("flush", b.disk.Flush()), 0
	case kind == blkGetID:
		written = min(in.Len(), uint64(len(b.serial)))
		in.CopyFrom(b.serial[:])
		return blkOK, written
	}
	return blkUnsupp, 0
}

// transfer moves the next bytes between bufs and the disk, without a copy.
func (b *Blk) transfer(op string, move func([]byte, int64) devices.Errno, sector uint64, bufs Buffers) byte {
	n := bufs.Len()
	if n%sectorSize != 0 || sector > b.capacity || n/sectorSize > b.capacity-sector {
		return blkIOErr
	}
	left := uint64(maxTransfer)
	for _, buf := range bufs.Skip(b.done) {
		if buf = buf[:min(uint64(len(buf)), left)]; len(buf) == 0 {
			break
		}
		if errno := move(buf, int64(sector*sectorSize+b.done)); errno != 0 {
			return b.result(op, errno)
		}
		b.done += uint64(len(buf))
		left -= uint64(len(buf))
	}
	if b.done < n {
		return blkMore
	}
	return blkOK
}

func (b *Blk) result(op string, errno devices.Errno) byte {
	if errno == 0 {
		return blkOK
	}
	b.log(op, errno)
	return blkIOErr
}

// Reset forgets the driver.
func (b *Blk) Reset() { b.q, b.c, b.writeThrough, b.done = nil, Chain{}, false, 0 }

// Close closes the disk.
func (b *Blk) Close() error { return b.disk.Close() }
