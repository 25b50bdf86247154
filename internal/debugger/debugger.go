// Package debugger puts a VM under gdb: it is the gdb.Target for a *vmm.VM. docs/debugging.md says what works where,
// and why.
//
// A sealed guest runs in ring 3, where the exceptions that breakpoints and single steps cause come to the monitor anyway; it
// needs nothing of KVM's debugging. A guest in ring 0 has what KVM's debug exits can do, which is tried out first.
package debugger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/uvm-monitor/uvm/internal/gdb"
	"github.com/uvm-monitor/uvm/internal/kvmprobe"
	"github.com/uvm-monitor/uvm/vmm"
)

// Config is what a Debugger is made from.
type Config struct {
	Kernel string // path of the kernel file, which gdb reads symbols from
	KVM    string // path of the KVM device
	Log    *slog.Logger
	Kill   func() // ends the VM, for gdb's command kill
}

// Debugger is the debugging of one VM, for one client after the other.
type Debugger struct {
	Config
	mem   *hostMemory
	vm    *vmm.VM
	m     vmm.Machine // the machine's parts, for the vCPU's own thread
	works func() (kvmprobe.Debugging, error)

	start     chan struct{} // closed when the VM may run
	startOnce sync.Once
	events    chan gdb.Event
	interrupt chan struct{}  // Interrupt was called
	hit       chan gdb.Event // what a vCPU has run into
	over      chan struct{}  // closed when the VM has ended
	released  chan struct{}  // a client has gone
	waiting   chan struct{}  // closed when the event of the last Resume is in events; nil = none was asked for
	paused    bool           // somebody else had paused the VM when the client came
	killed    bool           // it is not to go on

	mu sync.Mutex // guards the following against the vCPUs' threads
	state
	end ending
}

// ending is how the VM ended.
type ending struct {
	stop *gdb.Event // where a guest stands that did something wrong; nil = it ended by itself
	exit gdb.Event
	regs *vmm.Regs // of that guest, where vCPU 0 does not have them
}

// New returns a debugger whose Event method goes into vmm.Config.Debug.
func New(c Config) (*Debugger, error) {
	mem, err := openHostMemory()
	if err != nil {
		return nil, fmt.Errorf("debugger: %w", err)
	}
	return &Debugger{
		Config: c, mem: mem, works: sync.OnceValues(func() (kvmprobe.Debugging, error) { return kvmprobe.Debug(c.KVM) }),
		start: make(chan struct{}), events: make(chan gdb.Event, 1), interrupt: make(chan struct{}, 1), hit: make(chan gdb.Event, 1),
		over: make(chan struct{}), released: make(chan struct{}, 1),
	}, nil
}

// Attach takes the VM. With wait, one that has not run yet may run when Start is closed, which a client does.
func (d *Debugger) Attach(vm *vmm.VM, wait bool) {
	d.vm = vm
	if !wait {
		d.startOnce.Do(func() { close(d.start) })
	}
}

// learn takes the parts of the machine, which stands for the first time.
func (d *Debugger) learn(m *vmm.Machine) error {
	if d.m.VCPUs != nil {
		return nil
	}
	s, err := m.VCPUs[0].Sregs()
	d.m, d.plainCR3 = *m, s.CR3
	d.modes, d.points = make([]gdb.Mode, len(m.VCPUs)), map[pointKey]*point{}
	return err
}

// Start is closed when the VM may run.
func (d *Debugger) Start() <-chan struct{} { return d.start }

// Threads and the methods below are gdb.Target's.
func (d *Debugger) Threads() int { return len(d.m.VCPUs) }

// Program is the kernel file.
func (d *Debugger) Program() string { return d.Kernel }

// Events tells of stops.
func (d *Debugger) Events() <-chan gdb.Event { return d.events }

// Halt stops the VM for a client that has come.
func (d *Debugger) Halt() error {
	d.mu.Lock()
	d.client = true
	d.mu.Unlock()
	take(d.released) // of the client before
	d.paused = d.vm.State() == vmm.Paused
	if err := d.pause(); err != nil {
		return err
	}
	select {
	case <-d.over: // the client is told at once
		d.events <- d.ended()
	default:
	}
	return d.inspect(func(m *vmm.Machine) error {
		d.active = true
		return d.learn(m)
	})
}

// pause stops the vCPUs between two instructions of the guest's. A VM that has ended, or not begun, stands anyway.
func (d *Debugger) pause() error {
	for {
		err := d.vm.Pause(context.Background())
		var state *vmm.StateError
		if errors.As(err, &state) {
			switch state.From {
			case vmm.Paused:
				err = nil
			case vmm.Created:
				select {
				case <-d.start: // it is about to run
					time.Sleep(time.Millisecond)
					continue
				default:
					return nil
				}
			case vmm.Stopped, vmm.Closed:
				<-d.over
				return nil
			}
		}
		if err != nil || !d.inStub() {
			return err
		}
		// A sealed guest has taken an exception and is on the way to the monitor.
		d.vm.Resume()
	}
}

// inStub says that a sealed guest's vCPU is in ring 0, in one of the monitor's own stubs.
func (d *Debugger) inStub() (stub bool) {
	d.vm.Inspect(func(m *vmm.Machine) error {
		if m.Sealed {
			s, err := m.VCPUs[0].Sregs()
			stub = err == nil && s.CS.Selector&3 == 0
		}
		return nil
	})
	return stub
}

// Resume lets the vCPUs go on. One that is to stay goes on all the same when another one does.
func (d *Debugger) Resume(modes []gdb.Mode) error {
	waiting := make(chan struct{})
	select {
	case <-d.over:
		d.events <- d.end.exit
		return nil
	default:
	}
	take(d.interrupt) // what is left from the last time
	take(d.hit)
	err := d.vm.Inspect(func(m *vmm.Machine) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.arm(m, modes)
	})
	if err != nil && !errors.Is(err, vmm.ErrNotPaused) {
		return err
	}
	d.waiting = waiting
	d.startOnce.Do(func() { close(d.start) })
	if d.vm.State() == vmm.Paused {
		if err := d.vm.Resume(); err != nil {
			return err
		}
	}
	go func() {
		defer close(waiting)
		d.events <- d.wait()
	}()
	return nil
}

// take empties a channel with room for one.
func take[T any](c chan T) (v T, ok bool) {
	select {
	case v = <-c:
		return v, true
	default:
		return v, false
	}
}

// wait waits for the VM to run into something, stops all of it, and says what it was.
func (d *Debugger) wait() gdb.Event {
	event := gdb.Event{Signal: sigInt}
	select {
	case <-d.interrupt:
	case event = <-d.hit:
	case <-d.over:
	}
	if err := d.pause(); err != nil {
		d.Log.Warn("gdb: the guest could not be stopped", "error", err)
	}
	if e, ok := take(d.hit); ok { // it came before the interrupt did
		event = e
	}
	select {
	case <-d.over:
		return d.ended()
	default:
		return event
	}
}

// ended is the first thing that a client hears of a VM that has ended.
func (d *Debugger) ended() gdb.Event {
	if d.end.stop != nil {
		return *d.end.stop
	}
	return d.end.exit
}

// Interrupt stops a VM that runs.
func (d *Debugger) Interrupt() {
	select {
	case d.interrupt <- struct{}{}:
	default:
	}
}

// Detach is the end of a client.
func (d *Debugger) Detach() {
	if d.waiting != nil {
		d.Interrupt()
		<-d.waiting
		d.waiting = nil
	}
	take(d.events)
	d.pause()
	err := d.vm.Inspect(func(m *vmm.Machine) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.disarm(m)
	})
	if err != nil && !errors.Is(err, vmm.ErrNotPaused) {
		d.Log.Warn("gdb: the debugger could not be taken out of the guest", "error", err)
	}
	if !d.killed {
		d.startOnce.Do(func() { close(d.start) })
	}
	if !d.paused && !d.killed && d.vm.State() == vmm.Paused {
		d.vm.Resume()
	}
	select {
	case d.released <- struct{}{}:
	default:
	}
}

// Kill ends the VM.
func (d *Debugger) Kill() {
	d.killed = true
	d.Config.Kill()
}

// Signals as gdb numbers them.
const (
	sigInt  = 2
	sigIll  = 4
	sigTrap = 5
	sigAbrt = 6
	sigFPE  = 8
	sigKill = 9
	sigSegv = 11
)

// End tells the client, if there is one, how the VM ended: Run has returned res and err, and status is that of the monitor's
// process. Where the guest did something wrong it stands there for the client to look at; End returns when the client has gone, or ctx is
// done.
func (d *Debugger) End(ctx context.Context, res vmm.Result, err error, status int) {
	d.mu.Lock()
	d.end = endingOf(res, err, status)
	client := d.client
	d.mu.Unlock()
	close(d.over)
	d.startOnce.Do(func() { close(d.start) })
	if !client {
		d.mem.file.Close()
		return
	}
	select {
	case <-d.released:
		return
	case <-ctx.Done():
	}
	select { // the client hears of it, but does not hold anything up
	case <-d.released:
	case <-time.After(time.Second):
	}
}

func endingOf(res vmm.Result, err error, status int) ending {
	e := ending{exit: gdb.Event{Exited: true, Status: uint8(status)}}
	var fault *vmm.GuestError
	switch {
	case errors.As(err, &fault):
		e.stop, e.regs = &gdb.Event{Signal: Signal(fault)}, &fault.Regs
		e.exit.Signal = e.stop.Signal
	case err != nil:
		e.exit.Signal = sigKill
	case res.Trap != nil: // registers as the guest reported them; the others are the vCPU's
		e.stop = &gdb.Event{Signal: sigSegv}
	case status == 255:
		e.stop = &gdb.Event{Signal: sigAbrt}
	}
	return e
}

// Signal is the Unix signal that a process would have died of in place of the guest.
func Signal(e *vmm.GuestError) int {
	switch e.Kind {
	case vmm.FaultException:
		switch e.Vector {
		case 0:
			return sigFPE
		case 1, 3:
			return sigTrap
		case 6:
			return sigIll
		}
	case vmm.FaultPrivileged, vmm.FaultInternal:
		return sigIll
	}
	return sigSegv
}
