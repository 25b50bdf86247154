package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/debugger"
	"github.com/uvm-monitor/uvm/internal/gdb"
	"github.com/uvm-monitor/uvm/vmm"
)

// debugging is a run's side for gdb and core files. There is no debugger until somebody asks for one: with --gdb at the
// start, or later through the control socket (uvm gdb VM).
type debugging struct {
	s        *settings
	log      *slog.Logger
	listener *gdb.Listener // --gdb
	debugger atomic.Pointer[debugger.Debugger]

	mu     sync.Mutex // guards what follows
	vm     *vmm.VM
	cancel context.CancelCauseFunc
	server *gdb.Server
	over   bool // the VM has ended: no more debuggers

	crash *debugger.Crash // when it has
}

// errKilled says that gdb's command kill ended the run.
var errKilled = &signalError{unix.SIGKILL}

const gdbStdio = "stdio"

// newDebugging listens where --gdb says. The error is for the user.
func (s *settings) newDebugging(log *slog.Logger) (d *debugging, err error) {
	d = &debugging{s: s, log: log}
	if s.GDB == "" {
		if s.GDBWait {
			return nil, &vmm.ConfigError{Msg: "--gdb-wait needs --gdb"}
		}
		return d, nil
	}
	if s.GDB != gdbStdio {
		if d.listener, err = gdb.Listen(s.GDB); err != nil {
			return nil, &vmm.HostError{What: "--gdb", Err: err}
		}
	}
	return d, nil
}

// event is vmm.Config.Debug.
func (d *debugging) event(e *vmm.DebugEvent) vmm.DebugAction {
	if dbg := d.debugger.Load(); dbg != nil {
		return dbg.Event(e)
	}
	return 0
}

// close takes back what newDebugging did.
func (d *debugging) close() {
	if d.listener != nil {
		d.listener.Close()
	}
}

// run begins to serve gdb, if --gdb says so, and waits for it if it is to.
func (d *debugging) run(ctx context.Context, vm *vmm.VM, cancel context.CancelCauseFunc) {
	d.mu.Lock()
	d.vm, d.cancel = vm, cancel
	d.mu.Unlock()
	if d.s.GDB == "" {
		return
	}
	server, err := d.start(d.s.GDBWait)
	switch {
	case err != nil:
		d.log.Warn("--gdb", "error", err)
		return
	case d.listener == nil:
		unix.Setsid() // ^C is for gdb, which has started us
		server.Child = true
		go server.ServeConn(stdio{})
	default:
		fmt.Fprintf(os.Stderr, "gdb: target remote %s\n", d.listener.Addr())
		go server.Serve(d.listener)
	}
	if d.s.GDBWait {
		select {
		case <-d.debugger.Load().Start():
		case <-ctx.Done():
		}
	}
}

// start makes the debugger, once.
func (d *debugging) start(wait bool) (*gdb.Server, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return nil, errors.New("the VM has ended")
	}
	if d.server == nil {
		kernel, err := filepath.Abs(d.s.Kernel)
		if err != nil {
			return nil, err
		}
		dbg, err := debugger.New(debugger.Config{Kernel: kernel, KVM: "/dev/kvm", Log: d.log, Kill: func() { d.cancel(errKilled) }})
		if err != nil {
			return nil, err
		}
		dbg.Attach(d.vm, wait)
		d.debugger.Store(dbg)
		d.server = &gdb.Server{Target: dbg, Log: d.log}
	}
	return d.server, nil
}

// ended runs the guest and deals with how that ended: gdb has a look, and a core file is written.
func (d *debugging) ended(ctx context.Context, run func(context.Context) (vmm.Result, error)) outcome {
	res, err := run(ctx)
	end := outcomeOf(res, err)
	d.mu.Lock()
	d.over = true
	d.mu.Unlock()
	if dbg := d.debugger.Load(); dbg != nil {
		dbg.End(ctx, res, err, end.Status)
	}
	d.close()
	d.crash = &debugger.Crash{Kernel: d.s.Kernel, Args: d.s.Args, Result: res, Err: err}
	return end
}

// report tells of a guest that has ended badly, in more words than the message that came before, and writes a core file.
func (d *debugging) report(say func(string)) {
	if !d.crash.Abnormal() {
		return
	}
	if d.crash.Err != nil || d.crash.Result.Trap != nil { // an abort is the guest's own affair
		for _, line := range d.crash.Report(d.vm) {
			say("  " + line + "\n")
		}
	}
	if d.s.Core == "" {
		return
	}
	if path, err := d.crash.Dump(d.vm, d.s.Core, coreName(d.s.Kernel)); err != nil {
		say(fmt.Sprintf("uvm: --core: %v\n", err))
	} else {
		say(fmt.Sprintf("uvm: core file %s (gdb %s %s)\n", path, d.s.Kernel, path))
	}
}

func coreName(kernel string) string {
	return fmt.Sprintf("core.%s.%d", filepath.Base(kernel), os.Getpid())
}

// serve is the operation gdb: the connection becomes gdb's.
func (d *debugging) serve(call *control.Call) (any, error) {
	server, err := d.start(false)
	if err != nil {
		return nil, err
	}
	return nil, server.ServeConn(call.Conn())
}

// stdio is a connection to the gdb that has started us.
type stdio struct{}

func (stdio) Read(b []byte) (int, error)       { return os.Stdin.Read(b) }
func (stdio) Write(b []byte) (int, error)      { return os.Stdout.Write(b) }
func (stdio) Close() error                     { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }
func (stdio) SetWriteDeadline(time.Time) error { return nil }

// dump is the operation dump: a core file of the VM as it is.
func (d *debugging) dump(call *control.Call) (any, error) {
	var args dumpArgs
	if err := call.Args(&args); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(args.Dir) {
		return nil, fmt.Errorf("dir %q: want an absolute path", args.Dir)
	}
	ctx, cancel := context.WithTimeoutCause(call.Context, pauseTime, errBusy)
	defer cancel()
	path, err := debugger.DumpRunning(ctx, d.vm, d.s.Kernel, d.s.Args, args.Dir, coreName(d.s.Kernel))
	return dumpResult{path}, err
}

// dumpArgs and dumpResult are the operation's JSON.
type dumpArgs struct {
	Dir string `json:"dir"` // absolute
}

type dumpResult struct {
	Core string `json:"core"` // path of the file
}
