package virtio

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

var le = binary.LittleEndian

// Queue is the device's side of a split virtqueue (virtio 1.2, section 2.7); nil is
// one that the driver did not enable. One goroutine at a time uses it. A guest that breaks the rules makes a method
// return an error; the device then needs a reset.
type Queue struct {
	view     *memory.View
	size     uint16 // descriptors, a power of two
	indirect bool   // VIRTIO_F_INDIRECT_DESC
	eventIdx bool   // VIRTIO_F_EVENT_IDX

	desc, avail, used []byte // live guest memory

	cursor
	inFlight uint16 // chains that Pop has handed out and Push has not returned

	stopped bool          // the driver wrote 0 to QueueReady
	left    int           // bytes that Pop may still hand out in this round of Serve
	more    bool          // this round left chains that could have been handled
	wait    time.Duration // this round left chains that a limiter lets through after this time
}

// cursor is what a queue remembers while no chain is in flight.
type cursor struct {
	Next      uint16 // index in the available ring of the next chain
	UsedIdx   uint16 // index in the used ring of the next element
	Signalled uint16 // UsedIdx at the last look whether the driver wants an interrupt
}

// A round of Serve hands out chains of together roundBytes, and the one that goes
// beyond; a chain counts at least chainBytes. Between rounds the vCPUs get at the
// registers.
const (
	roundBytes = 1 << 20
	chainBytes = 4 << 10
)

// Chain is one buffer that the driver made available. It is meant to be reused.
// The slices are live guest memory: what is decided on is copied first.
type Chain struct {
	Head uint16
	Out  Buffers // readable by the device, never empty slices
	In   Buffers // writable by the device, never empty slices
}

// Descriptor flags (section 2.7.5), and the sizes in bytes of a descriptor and of an
// element of the used ring.
const (
	descNext, descWrite, descIndirect = 1, 2, 4
	descSize, usedElemSize            = 16, 8
)

// MaxQueueSize is the largest number of descriptors that a queue may have here.
const MaxQueueSize = 1024

// NewQueue checks what the driver said of a queue: the number of descriptors, and the
// addresses of descriptor table, available ring and used ring. Their lengths are
// those of section 2.7, with the event fields at the rings' ends. Devices get their
// queues from the transport; it is exported for their tests.
func NewQueue(view *memory.View, size uint16, desc, avail, used memory.Addr, features uint64) (*Queue, error) {
	n := uint64(size)
	switch {
	case size == 0 || size&(size-1) != 0 || size > MaxQueueSize:
		return nil, fmt.Errorf("queue size %d is not a power of two up to %d", size, MaxQueueSize)
	case !desc.Aligned(16) || !avail.Aligned(2) || !used.Aligned(4):
		return nil, fmt.Errorf("queue at %v, %v, %v: need addresses aligned to 16, 2 and 4", desc, avail, used)
	}
	q := &Queue{view: view, size: size, left: math.MaxInt, // the transport sets a bound
		indirect: features&FeatureIndirectDesc != 0, eventIdx: features&FeatureEventIdx != 0}
	var err error
	if q.desc, err = view.Readable(desc, n*descSize); err != nil {
		return nil, fmt.Errorf("descriptor table: %w", err)
	}
	if q.avail, err = view.Readable(avail, 6+n*2); err != nil {
		return nil, fmt.Errorf("available ring: %w", err)
	}
	if q.used, err = view.Writable(used, 6+n*usedElemSize); err != nil {
		return nil, fmt.Errorf("used ring: %w", err)
	}
	return q, nil
}

// Pop takes the next chain, which is in flight until Push returns it, or says that
// there is none; the driver will then notify when there is. It says so too when this
// round of Serve has had its share; another round follows. There are never more
// chains in flight than the queue has descriptors. It allocates nothing once c has
// grown.
func (q *Queue) Pop(c *Chain) (ok bool, err error) {
	if q == nil || q.stopped {
		return false, nil
	}
	waiting := q.waiting()
	if waiting == 0 && q.eventIdx {
		// Ask for a notification of the next one, and look again: it may have come
		// before the driver saw the wish (section 2.7.10).
		memory.Store16(q.used[4+int(q.size)*usedElemSize:], q.Next)
		memory.Fence()
		waiting = q.waiting()
	}
	if waiting == 0 {
		return false, nil
	}
	if waiting > q.size-q.inFlight {
		return false, fmt.Errorf("available index is %d ahead, in a queue of %d with %d chains in flight", waiting, q.size, q.inFlight)
	}
	if q.left <= 0 {
		q.more = true
		return false, nil
	}
	q.left -= chainBytes
	head := memory.Load16(q.avail[4+2*int(q.Next&(q.size-1)):])
	q.Next++
	q.inFlight++
	return true, q.walk(c, head)
}

// Unpop gives back the chain of the last Pop, for the next one. Repeated, it gives
// back those before, as long as none of them was pushed.
func (q *Queue) Unpop() {
	q.Next--
	q.inFlight--
}

// Again is Unpop for a chain that goes on in the next round of Serve, which follows
// at once, whether or not the driver or the host has anything new.
func (q *Queue) Again() {
	q.Unpop()
	q.more = true
}

// waiting is the number of chains that the driver made available.
func (q *Queue) waiting() uint16 { return memory.Load16(q.avail[2:]) - q.Next }

// walk collects the buffers of the chain at head.
func (q *Queue) walk(c *Chain, head uint16) error {
	c.Head, c.Out, c.In = head, c.Out[:0], c.In[:0]
	table, indirect, i := q.desc, false, uint64(head)
	// A chain is no longer than the queue, indirect or not (section 2.7.5.3.1).
	for left := q.size; left > 0; left-- {
		if i >= uint64(len(table)/descSize) {
			return fmt.Errorf("descriptor %d of a table of %d", i, len(table)/descSize)
		}
		d := [descSize]byte(table[i*descSize:]) // a copy: the guest may be changing it
		addr, size, flags := memory.Addr(le.Uint64(d[:])), uint64(le.Uint32(d[8:])), le.Uint16(d[12:])
		if flags&descIndirect != 0 {
			if !q.indirect || indirect || flags&descNext != 0 || size == 0 || size%descSize != 0 {
				return fmt.Errorf("indirect descriptor %d with flags %#x and %d bytes, where none is allowed", i, flags, size)
			}
			var err error
			if table, err = q.view.Readable(addr, size); err != nil {
				return fmt.Errorf("indirect table: %w", err)
			}
			indirect, i = true, 0
			left++
			continue
		}
		if err := q.buffer(c, addr, size, flags&descWrite != 0); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
		i = uint64(le.Uint16(d[14:]))
	}
	return fmt.Errorf("chain at descriptor %d is longer than the queue's %d, or a loop", head, q.size)
}

func (q *Queue) buffer(c *Chain, addr memory.Addr, size uint64, write bool) error {
	access, to := q.view.Readable, &c.Out
	if write {
		access, to = q.view.Writable, &c.In
	} else if len(c.In) > 0 {
		return fmt.Errorf("chain at descriptor %d: a readable buffer after a writable one", c.Head)
	}
	b, err := access(addr, size)
	if err != nil {
		return fmt.Errorf("buffer: %w", err)
	}
	q.left -= len(b)
	if size > 0 {
		*to = append(*to, b)
	}
	return nil
}

// Push returns a chain in flight to the driver; the device wrote the first written
// bytes of its In.
func (q *Queue) Push(head uint16, written uint32) {
	if q.put(head, written); !q.stopped {
		q.publish()
	}
}

// put is Push for one of several chains that the driver is to see at once, by publish.
func (q *Queue) put(head uint16, written uint32) {
	q.inFlight--
	if q.stopped {
		return
	}
	e := q.used[4+usedElemSize*int(q.UsedIdx&(q.size-1)):]
	le.PutUint32(e, uint32(head))
	le.PutUint32(e[4:], written)
	q.UsedIdx++
}

func (q *Queue) publish() { memory.Store16(q.used[2:], q.UsedIdx) }

// begin gives the queue its share of a round of Serve.
func (q *Queue) begin() {
	if q != nil {
		q.left, q.more, q.wait = roundBytes, false, 0
	}
}

// within says whether the limiter lets the next chain through. If not, another round of
// Serve follows when it does.
func (q *Queue) within(l *devices.Limiter) bool {
	wait := l.Wait()
	if q != nil {
		q.wait = wait
	}
	return wait <= 0
}

// interrupt says whether the driver wants to hear of the chains pushed since it
// was asked last (section 2.7.7.2).
func (q *Queue) interrupt() bool {
	if q == nil || q.UsedIdx == q.Signalled {
		return false
	}
	memory.Fence()
	before := q.Signalled
	q.Signalled = q.UsedIdx
	if q.eventIdx {
		event := memory.Load16(q.avail[4+2*int(q.size):])
		return q.UsedIdx-event-1 < q.UsedIdx-before
	}
	const noInterrupt = 1
	return memory.Load16(q.avail)&noInterrupt == 0
}
