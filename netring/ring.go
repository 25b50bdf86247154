// Package netring is the monitor's end of Solo5's network ring: memory that an hvt guest and
// the monitor share, with room for 1024 frames on the way, and a goroutine that carries
// them to and from the NICs while the guest runs. docs/net-ring.md is for its users.
//
// It is no part of the monitor's core: a program that wants it gives it to its VM,
//
//	vmm.Config{Nets: …, NetRing: netring.New()}
//
// The rules for the code are the core's.
package netring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/hostio"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/memory"
)

var le = binary.LittleEndian

// The ring (docs/abi.md, "Network ring"), offsets and sizes in bytes. Its indices run freely and
// count modulo slots.
const (
	offEntryTail  = 0  // the guest's: entries that it has made
	offEntryHead  = 64 // the monitor's, as those below: entries that are carried out
	offCommitTail = 68 // commits that are made
	offNeedsKick  = 72
	offEntries    = 128
	offCommits    = 32896
	entrySize     = 32 // 0 operation, 4 handle, 8 pointer (64 bits), 16 length, 20 id
	commitSize    = 16 // 0 id, 4 result, 8 length, 12 reserved
	slots         = 1024
	ringSize      = offCommits + slots*commitSize
	pages         = (ringSize + memory.PageSize - 1) / memory.PageSize
)

// Operations.
const opWrite, opRead = 1, 2

// Results in a commit, as those of NET_READ.
const resultOK, resultAgain, resultInval, resultError = 0, 1, 2, 3

// spins is how often the goroutine looks for entries before it sleeps, some microseconds: a
// guest in full flow need not ring the doorbell.
const spins = 4096

// TailError is a tail that cannot be: the guest has made more entries than there are slots.
type TailError struct{ Head, Tail uint32 }

func (e *TailError) Error() string {
	return fmt.Sprintf("entries up to %d, of which %d are carried out: it has %d slots", e.Tail, e.Head, slots)
}

// Ring is one VM's network ring.
type Ring struct {
	guest    *memory.Memory // which nothing but the ring lies in
	mem      []byte         // guest's: the guest can write all of it at any time
	doorbell *hostio.Event
	calls    *hypercall.Config
	stop     atomic.Bool // the goroutine is to end; then the doorbell is signalled

	mu sync.Mutex // held by the goroutine while it works, and where the ring is frozen; guards the rest
	// Entries that are carried out and commits that are made: what the ring says of them is
	// for the guest.
	head, commits uint32

	entry [entrySize]byte // copy of the one at hand
	frame [1][]byte       // argument of the NICs; on the stack it would be allocated
}

// New returns a ring for one VM.
func New() *Ring { return &Ring{} }

// Attach is vmm.NetRing's. It puts NICs into calls that two goroutines can use.
func (r *Ring) Attach(calls *hypercall.Config) (mem []byte, doorbell int, err error) {
	if r.guest != nil {
		return nil, 0, errors.New("it belongs to a VM already")
	}
	if r.doorbell, err = hostio.NewEvent(); err != nil {
		return nil, 0, err
	}
	if r.guest, err = memory.New(pages * memory.PageSize); err != nil {
		r.doorbell.Close()
		return nil, 0, err
	}
	r.mem, r.calls = r.guest.Host()[:ringSize], calls
	for h, nic := range calls.NICs {
		if nic != nil {
			calls.NICs[h] = &sharedNIC{NIC: nic}
		}
	}
	if tell := calls.HostError; tell != nil {
		var mu sync.Mutex
		calls.HostError = func(dev string, handle int, op string, err syscall.Errno) {
			mu.Lock()
			defer mu.Unlock()
			tell(dev, handle, op, err)
		}
	}
	return r.guest.Host(), r.doorbell.PollFD(), nil
}

// sharedNIC has one goroutine at a time read, and one write.
type sharedNIC struct {
	devices.NIC
	reader, writer sync.Mutex
}

func (n *sharedNIC) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	n.reader.Lock()
	defer n.reader.Unlock()
	return n.NIC.ReadFrame(bufs)
}

func (n *sharedNIC) WriteFrame(bufs [][]byte) devices.Errno {
	n.writer.Lock()
	defer n.writer.Unlock()
	return n.NIC.WriteFrame(bufs)
}

// Start is vmm.NetRing's.
func (r *Ring) Start(fail func(error)) (stop func()) {
	r.stop.Store(false)
	var work sync.WaitGroup
	work.Go(func() {
		if err := r.work(); err != nil {
			fail(err)
		}
	})
	return func() {
		r.stop.Store(true)
		r.doorbell.Signal()
		work.Wait()
	}
}

// Freeze is vmm.NetRing's.
func (r *Ring) Freeze(on bool) {
	if on {
		r.mu.Lock()
	} else {
		r.mu.Unlock()
	}
}

// work serves the ring until stop is set, which the doorbell tells, and once more then.
func (r *Ring) work() error {
	for !r.stop.Load() {
		if err := r.round(r.look()); err != nil {
			return err
		}
	}
	return r.round(true)
}

// look waits for entries without sleeping, but not for long.
func (r *Ring) look() bool {
	tail := r.word(offEntryTail)
	for range spins {
		if tail.Load() != r.head {
			return true
		}
	}
	return false
}

// round carries out what there is, or what comes when there is nothing.
func (r *Ring) round(awake bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !awake {
		r.sleep()
	}
	return r.serve()
}

// sleep waits for the doorbell, unless there are entries. The guest makes an entry and then
// looks whether it has to ring; we say that it has to, and then look for entries.
func (r *Ring) sleep() {
	kick := r.word(offNeedsKick)
	kick.Store(1)
	if r.word(offEntryTail).Load() == r.head {
		r.wait(nil)
	}
	kick.Store(0)
}

// wait waits for the doorbell, for up to timeout if there is one. Frozen, it waits longer. EINTR,
// a signal of the Go runtime's, is an early end like any other.
func (r *Ring) wait(timeout *unix.Timespec) {
	r.mu.Unlock()
	defer r.mu.Lock()
	unix.Ppoll([]unix.PollFd{{Fd: int32(r.doorbell.PollFD()), Events: unix.POLLIN}}, timeout, nil)
	r.doorbell.Clear()
}

// serve carries out the entries that there are now, each as the hypercall that it stands for.
// Where there is no such operation, an entry is passed over.
func (r *Ring) serve() error {
	tail := r.word(offEntryTail).Load()
	if tail-r.head > slots {
		return &TailError{r.head, tail}
	}
	for r.head != tail {
		copy(r.entry[:], r.mem[offEntries+r.head%slots*entrySize:])
		switch op := le.Uint32(r.entry[0:]); op {
		case opWrite, opRead:
			n, result, err := r.net(hypercall.NetWrite + hypercall.Call(op-opWrite))
			if err != nil {
				return err
			}
			if op == opRead {
				r.commit(le.Uint32(r.entry[20:]), result, n)
			}
		}
		r.head++
	}
	r.word(offEntryHead).Store(r.head)
	return nil
}

// net carries out r.entry: NET_WRITE or NET_READ with its handle, pointer and length. n is the
// length of the frame that was read.
func (r *Ring) net(c hypercall.Call) (n, result uint32, err error) {
	handle := le.Uint32(r.entry[4:])
	if handle >= hypercall.MaxHandles || r.calls.NICs[handle] == nil {
		return 0, resultInval, nil
	}
	perm, op := memory.Read, "write"
	if c == hypercall.NetRead {
		perm, op = memory.Write, "read"
	}
	if r.frame[0], err = r.calls.View.Access(memory.Addr(le.Uint64(r.entry[8:])), uint64(le.Uint32(r.entry[16:])), perm); err != nil {
		return 0, 0, &hypercall.PointerError{Call: c, What: fmt.Sprintf("buffer of entry %d", r.head), AccessError: *err.(*memory.AccessError)}
	}
	nic, limit, errno := r.calls.NICs[handle], r.calls.Limits[handle][c&1], devices.Errno(unix.EAGAIN)
	if c == hypercall.NetWrite {
		if !r.pay(limit, len(r.frame[0])) {
			return 0, 0, nil
		}
		errno = nic.WriteFrame(r.frame[:])
	} else if limit.Wait() <= 0 {
		var size int
		if size, errno = nic.ReadFrame(r.frame[:]); errno == 0 {
			limit.Take(uint64(size), 1)
			n = uint32(size)
		}
	}
	switch {
	case errno == 0:
		return n, resultOK, nil
	case errno == unix.EAGAIN && c == hypercall.NetRead:
		return 0, resultAgain, nil
	}
	if r.calls.HostError != nil {
		r.calls.HostError("net", int(handle), op, errno)
	}
	return 0, resultError, nil
}

// pay waits until the limit lets a frame of n bytes go. When the ring is to stop it waits no
// more, and the frame is lost: a guest that ends sends no faster than others.
func (r *Ring) pay(limit *devices.Limiter, n int) bool {
	for d := limit.Wait(); d > 0; d = limit.Wait() {
		if r.stop.Load() {
			return false
		}
		ts := unix.NsecToTimespec(int64(d))
		r.wait(&ts)
	}
	limit.Take(uint64(n), 1)
	return true
}

// commit answers the read at hand. A guest that leaves commits there loses them.
func (r *Ring) commit(id, result, n uint32) {
	c := r.mem[offCommits+r.commits%slots*commitSize:]
	le.PutUint32(c[0:], id)
	le.PutUint32(c[4:], result)
	le.PutUint32(c[8:], n)
	r.commits++
	r.word(offEntryHead).Store(r.head + 1) // the guest counts on that before it reads once more
	r.word(offCommitTail).Store(r.commits)
}

// Close gives the ring's memory and doorbell back. The VM must be gone.
func (r *Ring) Close() error { return errors.Join(r.doorbell.Close(), r.guest.Close()) }

// stateSize is that of a saved state: both indices and the ring.
const stateSize = 8 + ringSize

// SaveState returns both indices, 32 bits each, and the ring's memory, which is in no other part
// of a saved VM. The ring is attached, and frozen or not started.
func (r *Ring) SaveState() ([]byte, error) {
	return append(le.AppendUint32(le.AppendUint32(nil, r.head), r.commits), r.mem...), nil
}

// LoadState accepts what SaveState returns. The ring is attached and not started.
func (r *Ring) LoadState(state []byte) error {
	if len(state) != stateSize {
		return fmt.Errorf("network ring: saved state has %d bytes, need %d", len(state), stateSize)
	}
	r.head, r.commits = le.Uint32(state), le.Uint32(state[4:])
	copy(r.mem, state[8:])
	return nil
}
