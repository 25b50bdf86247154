package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/runlog"
	"github.com/uvm-monitor/uvm/internal/trace"
	"github.com/uvm-monitor/uvm/vmm"
)

// When a run makes its control socket (--control).
const (
	controlAuto = "auto" // when it has lasted for controlDelay; without one if it cannot
	controlOn   = "on"   // before the guest starts, or not at all
	controlOff  = "off"
)

// controlDelay is how long a guest has to run before its VM has a socket, unless it was asked for: one that ends
// sooner could not be asked anything, and pays nothing.
const controlDelay = 50 * time.Millisecond

// controller is the side of a run that other programs see (docs/control.md).
type controller struct {
	s    *settings
	id   string
	ring *runlog.Ring // for logs; nil with --control off
	log  *logs

	dbg *debugging
	// From run on:
	vm      *vmm.VM
	hub     *trace.Hub
	cancel  context.CancelCauseFunc
	started time.Time

	ended chan struct{} // closed when end is set
	end   outcome

	mu      sync.Mutex // guards what follows: the socket is made while the guest runs, and may end
	server  *control.Server
	lasting bool // outlasted has been called
	closed  bool
}

// waited is the answer to wait and stop: how the run ended.
type waited struct {
	outcome
	Message string `json:"message,omitempty"` // what uvm said about it
}

// newController makes the socket if it has to be there from the start. The error is for the user.
func (s *settings) newController() (*controller, error) {
	c := &controller{s: s, ended: make(chan struct{})}
	mode := cmp.Or(s.Control, controlAuto)
	if s.Name != "" && s.Control == "" {
		mode = controlOn
	}
	switch mode {
	case controlAuto, controlOff:
		if s.Name != "" {
			return nil, &vmm.ConfigError{Msg: "--name: a VM has its name for its control socket, which --control " + mode + " does not make at once"}
		}
		if c.closed = mode == controlOff; !c.closed {
			c.ring = new(runlog.Ring)
		}
		return c, nil
	case controlOn:
		c.ring = new(runlog.Ring)
		return c, c.listen()
	}
	return nil, &vmm.ConfigError{Msg: "--control \"" + mode + "\": want auto, on or off"}
}

// listen makes the socket. mu is held, or nobody else knows c.
func (c *controller) listen() error {
	path := c.s.RunDir
	if path == "" {
		var err error
		if path, err = control.DefaultDir(); err != nil {
			return &vmm.HostError{What: "--control", Err: err}
		}
	}
	dir, err := control.OpenDir(path, true)
	if err == nil {
		defer dir.Close()
		if c.id == "" {
			c.id, err = control.NewID()
		}
	}
	if err == nil {
		c.server, err = control.Listen(dir, c.id, c.s.Name)
	}
	if err != nil {
		return &vmm.HostError{What: "--control", Err: err}
	}
	return nil
}

// openLogs opens the run's log.
func (c *controller) openLogs() (err error) {
	if c.s.Console == consoleLog && c.id == "" {
		if c.id, err = control.NewID(); err != nil {
			return &vmm.HostError{What: "--console", Err: err}
		}
	}
	c.log, err = c.s.openLogs(cmp.Or(c.s.Name, c.id), c.ring)
	return err
}

// run begins to answer for a VM, now or, if nobody has asked for it, when it has run for a while.
func (c *controller) run(vm *vmm.VM, hub *trace.Hub, cancel context.CancelCauseFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vm, c.hub, c.cancel, c.started = vm, hub, cancel, time.Now()
	if c.server != nil {
		c.serve()
	} else if c.lasting {
		time.AfterFunc(controlDelay, c.open)
	}
}

// outlasted is called when uvm has run for pinnedTime. Before that a timer for the socket would only be one more thing
// that a short run pays for.
func (c *controller) outlasted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lasting = true; c.vm != nil && c.server == nil {
		time.AfterFunc(controlDelay-time.Since(c.started), c.open)
	}
}

func (c *controller) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	switch err := c.listen(); {
	case err == nil:
		c.serve()
	case errors.Is(err, control.ErrNoRunDir): // as in a container: nobody will look there either
		c.log.Debug("no control socket", "error", err.Error())
	default:
		c.log.Warn("no control socket", "error", err.Error())
	}
}

// serve registers what can be asked.
func (c *controller) serve() {
	s := c.server
	s.Handle("info", c.info)
	s.Handle("stats", func(*control.Call) (any, error) { return c.vm.Stats(), nil })
	s.HandleStream("wait", c.wait)
	s.HandleStream("logs", c.logs)
	s.HandleStream("stop", func(call *control.Call) (any, error) {
		c.cancel(&signalError{unix.SIGTERM})
		return c.wait(call)
	})
	s.Handle("pause", func(call *control.Call) (any, error) {
		ctx, cancel := context.WithTimeoutCause(call.Context, pauseTime, errBusy)
		defer cancel()
		return nil, c.vm.Pause(ctx)
	})
	s.HandleRaw("gdb", c.dbg.serve)
	s.HandleStream("dump", c.dbg.dump)
	s.HandleStream("trace", c.trace)
	s.Handle("resume", func(*control.Call) (any, error) { return nil, c.vm.Resume() })
	s.Start()
}

// pauseTime is how long a device may take to finish what it has begun.
const pauseTime = 4 * time.Second

// Not made by package fmt, which costs each start of uvm 20 µs when it is first used.
var errBusy = errors.New("a device has not finished what it does within 4 s; the VM goes on")

func (c *controller) info(*control.Call) (any, error) {
	memory, cpus := c.vm.Size()
	return control.Info{
		ID: c.id, Name: c.s.Name, PID: os.Getpid(), Version: version, Kernel: c.s.Kernel, State: c.vm.State().String(),
		Memory: memory, CPUs: cpus, Started: c.started.Format(time.RFC3339Nano), Uptime: time.Since(c.started), Streams: c.server.Streams(),
	}, nil
}

// wait answers when the run has ended.
func (c *controller) wait(call *control.Call) (any, error) {
	select {
	case <-c.ended:
		return waited{c.end, c.end.message}, nil
	case <-call.Context.Done():
		return nil, context.Cause(call.Context)
	}
}

// undo is for a start that fails.
func (c *controller) undo() {
	if c.log != nil {
		c.log.undo()
	}
	c.close(outcome{Kind: "error"})
}

// close tells those who wait how the run ended, and removes the socket.
func (c *controller) close(end outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.end = end
	close(c.ended)
	if c.server != nil {
		c.server.Close()
	}
}
