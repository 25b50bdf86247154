// Package trace is for a VM what strace is for a process: it shows each hypercall, port
// and MMIO access, trap and interrupt, with its arguments, result and duration.
//
// A Hub listens to a VM while anybody listens to the Hub. What a vCPU says is copied into a
// record of fixed size, without an allocation, and sent to the listeners' channels; a
// listener that does not keep up loses records, which are counted. All decoding is done by
// the listeners. So a trace costs the VM little, and cannot stop it.
package trace

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/memory"
	"github.com/uvm-monitor/uvm/vmm"
)

var le = binary.LittleEndian

// VM is what can be traced: a *vmm.VM.
type VM interface {
	Trace(f func(*vmm.Event))
}

// Kind is a class of events.
type Kind uint8

// The kinds.
const (
	Hypercall Kind = iota
	Port
	MMIO
	Trap
	IRQ
	Exit // any other exit of the guest's
	numKinds
)

var kindNames = [numKinds]string{"hypercall", "port", "mmio", "trap", "irq", "exit"}

func (k Kind) String() string { return kindNames[k] }

// Bounds on what a record keeps of the guest's bytes, and on requests of a batch.
const (
	keptBytes    = 192
	keptRequests = keptBytes / requestSize
	requestSize  = 48 // docs/abi.md, "Batches"
)

// Record is a copy of an event.
type Record struct {
	Kind        Kind
	Ended       bool // it ended the VM
	Interrupted bool // the wait was cut short; it goes on in a record that follows
	Refused     bool // the guest's pointer or call was wrong: Ret is of no use
	Write       bool // OUT, or a write to MMIO
	VCPU        int16
	Port        uint16
	Size        uint8  // bytes of one item
	Count       uint32 // items
	Kept        uint16 // bytes of Data that are used
	Call        hypercall.Call
	At, Took    time.Duration
	Addr        uint64 // of the MMIO access, or of the hypercall's structure
	Arg, Ret    [40]byte
	Data        [keptBytes]byte // what was written or read; PUTS's bytes; BATCH's requests, with results
	RIP         uint64
	Code, CR2   uint64
	Device      string
	Reason      string // why KVM stopped
}

// fill copies the event. It allocates nothing.
func (r *Record) fill(e *vmm.Event) {
	*r = Record{VCPU: int16(e.VCPU), At: e.Start, Took: e.Took, Device: e.Device, RIP: e.RIP, Code: e.Code, CR2: e.CR2,
		Interrupted: e.Err == devices.ErrInterrupted}
	r.Ended = e.Err != nil && !r.Interrupted
	switch {
	case e.VCPU < 0:
		r.Kind = IRQ
	case e.Trap:
		r.Kind, r.Port = Trap, e.IO.Port
	case e.Call != nil:
		r.Kind, r.Call = Hypercall, hypercall.Call(e.IO.Port-hypercall.PortBase)
		r.hypercall(e)
	case e.IO.Size > 0:
		r.Kind, r.Port, r.Size, r.Count, r.Write = Port, e.IO.Port, uint8(e.IO.Size), uint32(e.IO.Count), e.IO.Out
		r.keep(e.IO.Data)
	case e.MMIO.Len > 0:
		r.Kind, r.Addr, r.Size, r.Count, r.Write = MMIO, e.MMIO.Addr, uint8(e.MMIO.Len), 1, e.MMIO.Write
		r.keep(e.MMIO.Data)
	default:
		r.Kind, r.Reason = Exit, e.Reason.String()
	}
}

func (r *Record) keep(b []byte) { r.Kept = uint16(copy(r.Data[:], b)) }

// hypercall copies structure, result, and what the structure leads to. The guest's only
// vCPU is in the call, so that its memory stands still. What does not lie in memory that
// the guest may read is left out.
func (r *Record) hypercall(e *vmm.Event) {
	if len(e.IO.Data) != 4 {
		r.Refused = true
		return
	}
	r.Addr = uint64(le.Uint32(e.IO.Data))
	switch e.Err.(type) {
	case *hypercall.PointerError, *hypercall.InvalidCallError, *vmm.GuestError:
		r.Refused = true
	}
	if int(r.Call) >= len(calls) || calls[r.Call].size == 0 {
		r.Refused = true
		return
	}
	copy(r.Arg[:], e.Call)
	if b, err := e.View.Readable(memory.Addr(r.Addr), calls[r.Call].size); err == nil {
		copy(r.Ret[:], b)
	}
	ptr, n := le.Uint64(r.Arg[:]), le.Uint64(r.Arg[8:])
	switch r.Call {
	case hypercall.Batch:
		n = min(n, keptRequests) * requestSize
	case hypercall.Puts:
		n = min(n, keptBytes)
	default:
		return
	}
	if b, err := e.View.Readable(memory.Addr(ptr), n); err == nil {
		r.keep(b)
	}
}

// Hub hands a VM's events to those that listen.
type Hub struct {
	vm VM

	mu        sync.Mutex // guards changes of listeners
	listeners atomic.Pointer[[]*Listener]
}

// NewHub returns a Hub for vm, which is the only one that calls its Trace.
func NewHub(vm VM) *Hub {
	h := &Hub{vm: vm}
	h.listeners.Store(&[]*Listener{})
	return h
}

// Listener gets records that its filter lets through.
type Listener struct {
	C <-chan Record // never closed

	hub     *Hub
	filter  *Filter
	c       chan Record
	summary *Summary
	dropped atomic.Uint64
}

// Buffer is how many records wait for a listener that is busy, by default.
const Buffer = 16 << 10

// Listen adds a listener with room for size records.
func (h *Hub) Listen(f *Filter, size int) *Listener {
	c := make(chan Record, size)
	l := &Listener{C: c, c: c, hub: h, filter: f}
	h.change(func(all []*Listener) []*Listener { return append(all, l) })
	return l
}

// Summarize adds a listener that only counts, and loses nothing.
func (h *Hub) Summarize(f *Filter) *Listener {
	l := &Listener{hub: h, filter: f, summary: newSummary()}
	h.change(func(all []*Listener) []*Listener { return append(all, l) })
	return l
}

// Close ends the listener. Records that wait can still be read.
func (l *Listener) Close() {
	l.hub.change(func(all []*Listener) []*Listener {
		return slices.DeleteFunc(all, func(x *Listener) bool { return x == l })
	})
}

// Dropped is how many records were lost.
func (l *Listener) Dropped() uint64 { return l.dropped.Load() }

// Summary is that of Summarize; nil for others.
func (l *Listener) Summary() *Summary { return l.summary }

func (h *Hub) change(f func([]*Listener) []*Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := f(slices.Clone(*h.listeners.Load()))
	h.listeners.Store(&all)
	if len(all) == 0 {
		h.vm.Trace(nil)
	} else {
		h.vm.Trace(h.event)
	}
}

// event is called by vCPUs and devices, several at a time.
func (h *Hub) event(e *vmm.Event) {
	var r Record
	r.fill(e)
	for _, l := range *h.listeners.Load() {
		switch {
		case !l.filter.match(&r):
		case l.summary != nil:
			l.summary.add(&r)
		default:
			select {
			case l.c <- r:
			default:
				l.dropped.Add(1)
			}
		}
	}
}
