package vmm

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// Stats is what a VM has done up to now. Counts only grow.
type Stats struct {
	State         string                `json:"state"`
	MemoryBytes   uint64                `json:"memory_bytes"`
	ResidentBytes uint64                `json:"resident_bytes"` // of the guest's memory; 0 when the VM is closed
	ProcessCPU    int64                 `json:"process_cpu_ns"` // of the whole process
	VCPUs         []VCPUStats           `json:"vcpus"`
	Devices       []devices.DeviceStats `json:"devices,omitempty"` // where Config has a Meter
	Virtio        []VirtioStats         `json:"virtio,omitempty"`
	Unanswered    uint64                `json:"unanswered,omitempty"` // as VM.Unanswered
	Marks         []devices.Mark        `json:"boot_marks"`
	DroppedMarks  uint64                `json:"dropped_marks,omitempty"`
}

// VCPUStats is one vCPU. Names without a count are left out.
type VCPUStats struct {
	CPU        int64                `json:"cpu_ns"`               // processor time of its thread, guest and monitor
	InKVM      int64                `json:"in_kvm_ns"`            // between exits, pauses included; with Config.Timing
	Handling   int64                `json:"handling_ns"`          // at exits, a wait for POLL or the console included; with Config.Timing
	Exits      map[string]uint64    `json:"exits"`                // by KVM's reason, as IO and MMIO; INTR is a kick, or a signal of the Go runtime's
	Hypercalls map[string]CallStats `json:"hypercalls,omitempty"` // as PUTS
	Traps      map[string]uint64    `json:"traps,omitempty"`      // of a sealed guest, by vector
}

// CallStats is one kind of hypercall.
type CallStats struct {
	Count uint64 `json:"count"`
	Time  uint64 `json:"time_ns"` // with Config.Timing
}

// VirtioStats is one virtio device.
type VirtioStats struct {
	Name       string `json:"name"`
	Interrupts uint64 `json:"interrupts"`
	RxDropped  uint64 `json:"rx_dropped,omitempty"` // of a net, frames
	TxDropped  uint64 `json:"tx_dropped,omitempty"`
}

// counters are one vCPU's. Its thread alone writes them.
type counters struct {
	exits          [64]atomic.Uint64 // by KVM's reason; the last one has those beyond
	calls, callNS  [hypercall.NumCalls]atomic.Uint64
	traps          [32]atomic.Uint64 // by vector; the last one, which no exception has, for interrupts
	inKVM, outside atomic.Int64      // ns

	end   time.Duration // of the last exit, since VM.epoch
	event Event
}

// named has the counters that are not zero.
func named(c []atomic.Uint64, name func(int) string) map[string]uint64 {
	m := map[string]uint64{}
	for i := range c {
		if n := c[i].Load(); n > 0 {
			m[name(i)] = n
		}
	}
	return m
}

// Stats may be called from any goroutine, at any time. It does not disturb the vCPUs.
func (vm *VM) Stats() Stats {
	s := Stats{MemoryBytes: vm.cfg.Memory, ProcessCPU: int64(devices.CPUTime()), Unanswered: vm.Unanswered(), Devices: vm.cfg.Meter.Stats()}
	s.Marks, s.DroppedMarks = vm.Timeline()
	vm.mu.Lock()
	s.State = vm.state.String()
	if vm.state != Closed {
		s.ResidentBytes = vm.mem.Resident()
	}
	vm.mu.Unlock()
	for i := range vm.counters {
		c := &vm.counters[i]
		v := VCPUStats{
			CPU: vm.vcpus[i].CPUTime(), InKVM: c.inKVM.Load(), Handling: c.outside.Load(),
			Exits: named(c.exits[:], func(i int) string { return kvm.ExitReason(i).String() }),
			Traps: named(c.traps[:], strconv.Itoa), Hypercalls: map[string]CallStats{},
		}
		for i := range c.calls {
			if n := c.calls[i].Load(); n > 0 {
				v.Hypercalls[hypercall.Call(i).String()] = CallStats{n, c.callNS[i].Load()}
			}
		}
		s.VCPUs = append(s.VCPUs, v)
	}
	if vm.pc != nil {
		for i := range vm.pc.virtio {
			d := &vm.pc.virtio[i]
			v := VirtioStats{Name: d.name, Interrupts: d.interrupts.Load()}
			if n, ok := d.dev.(interface{ Dropped() (rx, tx uint64) }); ok {
				v.RxDropped, v.TxDropped = n.Dropped()
			}
			s.Virtio = append(s.Virtio, v)
		}
	}
	return s
}

// Event is an exit of a guest that the monitor has handled, or an interrupt of a virtio
// device. It and what it points to are borrowed.
type Event struct {
	VCPU   int           // its number; -1 for an interrupt
	Start  time.Duration // since New
	Took   time.Duration
	Reason kvm.ExitReason
	IO     kvm.IO       // of ExitIO; Data has the answer of an IN
	MMIO   kvm.MMIO     // of ExitMMIO, likewise
	Device string       // whose interrupt or registers; "" = none
	Call   []byte       // of a hypercall: its structure as it was before; else nil
	View   *memory.View // what the guest may reach: results, buffers
	Trap   bool         // of a sealed guest; IO.Port is the vector
	RIP    uint64       // the trap's, Code its error code
	Code   uint64
	CR2    uint64
	Err    error // what ended the VM, or devices.ErrInterrupted
}

// Trace has f called for each event from now on; nil ends that. f must return soon, and
// must not call the VM's methods; several vCPUs and devices may be in it at a time. It may
// still be called a last time when Trace has returned.
func (vm *VM) Trace(f func(*Event)) {
	if f == nil {
		vm.trace.Store(nil)
	} else {
		vm.trace.Store(&f)
	}
	vm.observing.Store(vm.cfg.Timing || f != nil)
}

// observed is exit, or the rest of the access cut, with times, and for Trace's function.
func (vm *VM) observed(v *kvm.VCPU, cut *kvm.IO) error {
	c := &vm.counters[v.ID]
	e := &c.event
	*e = Event{VCPU: v.ID, Start: time.Since(vm.epoch), Reason: v.Reason(), View: vm.view}
	before := c.end
	switch {
	case cut != nil:
		e.Reason, e.IO = kvm.ExitIO, *cut
		e.Err = vm.port(v, cut)
	case e.Reason == kvm.ExitIO:
		e.IO = v.IO()
	case e.Reason == kvm.ExitMMIO:
		e.MMIO = v.MMIO()
	}
	if cut == nil {
		e.Err = vm.exit(v)
	}
	c.end = time.Since(vm.epoch)
	e.Took = c.end - e.Start
	if vm.cfg.Timing {
		c.inKVM.Add(int64(e.Start - before))
		c.outside.Add(int64(e.Took))
		if n := e.IO.Port - hypercall.PortBase; vm.pc == nil && n < hypercall.NumCalls {
			c.callNS[n].Add(uint64(e.Took))
		}
	}
	if f := vm.trace.Load(); f != nil {
		switch {
		case vm.pc != nil:
			if s := vm.pc.slot(e.MMIO.Addr); s != nil {
				e.Device = s.name
			}
		case e.IO.Port-hypercall.PortBase < hypercall.NumCalls:
			e.Call = vm.table.Arg()
		case vm.sealed != nil && e.Reason == kvm.ExitIO && e.IO.Port < sealedVectors:
			e.Trap, e.RIP, e.Code, e.CR2 = true, vm.sealed.rip, vm.sealed.code, vm.sealed.cr2
		}
		(*f)(e)
	}
	return e.Err
}
