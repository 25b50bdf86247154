package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/trace"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

func runMain(args []string) int {
	s, status := runSettings(args)
	if status >= 0 {
		return status
	}
	return s.run(nil)
}

// run runs a VM, with a trace unless t is nil, and returns the exit status.
func (s *settings) run(t *tracer) int {
	// A start that fails takes back what it has made on the host, the last thing first.
	var undo []func()
	defer func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}()
	ctl, err := s.newController()
	if err != nil {
		return fail(startStatus(err), "%v", err)
	}
	undo = append(undo, ctl.undo)
	console, undoConsole, err := s.openConsole()
	undo = append(undo, undoConsole)
	if err == nil {
		err = ctl.openLogs()
	}
	if err != nil {
		return fail(startStatus(err), "%v", err)
	}
	undoTrace, err := t.open()
	undo = append(undo, undoTrace)
	if err != nil {
		return fail(exitHost, "--output: %v", err)
	}
	dbg, err := s.newDebugging(ctl.log.Logger)
	if err != nil {
		return fail(startStatus(err), "%v", err)
	}
	undo = append(undo, dbg.close)
	cfg := s.vmConfig()
	cfg.Log, cfg.Console, cfg.ConsoleCopy = ctl.log.Logger, console, ctl.log.console()
	var ports []string
	status := -1
	if s.Image != "" {
		if ports, status = s.useImage(&cfg); status >= 0 {
			return status
		}
	}
	if err = setNetRing(s.NetRing, &cfg); err != nil {
		return fail(startStatus(err), "%v", err)
	}
	note, status := s.network(&cfg, ports)
	if status >= 0 {
		return status
	}

	ctx, cancel, ready := interruptible()
	threads := busy(&cfg)
	time.AfterFunc(pinnedTime, func() {
		unpin(threads)
		ctl.outlasted()
	})
	tty := &terminal{}
	defer tty.restore()
	// Also where a second signal ends uvm before it gets there by itself.
	context.AfterFunc(ctx, tty.restore)
	if (s.Console == "" || s.Console == "stdio") && s.GDB != gdbStdio {
		cfg.Input = func() (*os.File, error) { return tty.input(cancel) }
	}
	vm, err := vmm.New(cfg)
	if err != nil {
		tty.restore()
		return fail(startStatus(err), "%s", startError(err))
	}
	undo = nil
	if s.Timeout > 0 {
		time.AfterFunc(time.Duration(s.Timeout), func() { cancel(errTimeout) })
	}
	ctl.log.say(note)
	// The VM is not closed: the process ends, and the kernel takes everything
	// back at once.
	<-ready
	hub := trace.NewHub(vm)
	ctl.dbg = dbg
	dbg.run(ctx, vm, cancel)
	ctl.run(vm, hub, cancel)
	t.start(hub)
	end := dbg.ended(ctx, vm.Run)
	if end.message != "" {
		ctl.log.say("uvm: " + end.message + "\n")
	}
	dbg.report(ctl.log.say)
	if s.Vsock != "" {
		vm.Close() // a socket is a file, which nobody else takes back
	}
	end.Status = t.finish(s.report(vm, end))
	ctl.log.end(end)
	ctl.close(end)
	return end.Status
}

// runFlags binds the flags of `uvm run` to s.
func runFlags(s *settings) *pflag.FlagSet {
	f := newFlags("run")
	f.StringVar(&s.Kernel, "kernel", s.Kernel, "the kernel, instead of KERNEL: a `FILE`, or the name of one that make lupine has built (--image: default lupine-general)")
	f.StringVar(&s.Image, "image", s.Image, "run a container image, a `FILE` of docker save's or an OCI layout; ARGS stand in place of its command (docs/rootfs.md)")
	f.StringVar(&s.ImageTag, "image-tag", s.ImageTag, "`NAME` of the image, where FILE holds several")
	f.StringArrayVar(&s.Env, "env", s.Env, "environment for the image's program, `KEY=VALUE` (repeatable)")
	f.VarP(&s.Memory, "memory", "m", "guest memory, as 64M; a bare number is MiB (default 64M, PC kernels 256M)")
	f.IntVarP(&s.CPUs, "cpus", "c", s.CPUs, "number of vCPUs, up to 16; unikernels of the hvt kind have 1 (default 1)")
	f.StringVar(&s.Boot, "boot", s.Boot, "boot protocol of a PC kernel: `pvh` or linux (default: what the file offers, pvh first)")
	f.StringVar(&s.Initrd, "initrd", s.Initrd, "initial RAM disk of a PC kernel, a `FILE`")
	f.StringVar(&s.Cmdline, "cmdline", s.Cmdline, "further `WORDS` for a PC kernel's command line; they win over uvm's own")
	f.BoolVar(&s.RNG, "rng", s.RNG, "give a PC a virtio source of random numbers")
	f.StringVar(&s.Vsock, "vsock", s.Vsock, "give a PC virtio sockets; the host's side is the Unix socket `PATH` (docs/vsock.md)")
	f.StringVar(&s.Ring, "ring", s.Ring, "privilege of an hvt guest: `sealed` (ring 3) or 0 (default sealed)")
	f.BoolVar(&s.SealExecOnly, "seal-exec-only", s.SealExecOnly, "sealed guests: text can be executed and not read, by protection keys")
	f.Var(&s.Nets, "net", "attach a net device to a `[NAME=]TAP` interface, which is made if it does not exist, to an inherited descriptor fd:N, or by auto to a TAP with a private address of its own; options ,mac=… ,mtu=… ,ip=ADDRESS/BITS ,gw=ADDRESS ,bridge=… ,netns=… ,args=mirage, and limits ,bps=SIZE ,pps=N ,burst=DURATION (repeatable; docs/net.md, docs/limits.md)")
	f.StringVar(&s.NetRing, "net-ring", s.NetRing, "carry an hvt guest's frames by the network ring, for those that know it: on, off or `auto` (default auto; docs/net-ring.md)")
	f.Var(&s.Disks, "disk", "attach a raw image to a block device; options ,ro ,cache=writeback|none|unsafe ,serial=S ,block-size=N, and limits ,bps=SIZE ,iops=N ,burst=DURATION (docs/limits.md); a backslash quotes , = and itself (repeatable)")
	f.StringVar(&s.Console, "console", s.Console, "guest output: stdio, none, file:PATH, or log for lines of the monitor's log (default stdio)")
	f.Var(&s.Timeout, "timeout", "stop the guest after this time, with status 124")
	f.StringVar(&s.GDB, "gdb", s.GDB, "let gdb connect to this TCP `PORT` on 127.0.0.1 (0: any), to unix:PATH, or by stdio, where the guest's output goes to stderr (docs/debugging.md)")
	f.BoolVar(&s.GDBWait, "gdb-wait", s.GDBWait, "do not run the guest before gdb says so")
	f.StringVar(&s.Core, "core", s.Core, "write a core file to this `FOLDER` when the guest ends by a fault, a trap or an abort")
	f.StringVar(&s.BootReport, "boot-report", s.BootReport, "write the boot timeline as JSON to this `FILE` when the guest has ended")
	f.BoolVar(&s.BootSummary, "boot-summary", s.BootSummary, "print the boot timeline in one line on stderr")
	f.BoolVar(&s.Timing, "timing", s.Timing, "take the time of each exit and device operation, for uvm stats")
	f.StringVar(&s.LogLevel, "log-level", s.LogLevel, "lowest `LEVEL` of the monitor's own log: debug, info, warn or error (default info)")
	f.StringVar(&s.LogFormat, "log-format", s.LogFormat, "form of the monitor's own log: text or json (default text)")
	f.StringVar(&s.LogFile, "log-file", s.LogFile, "write the monitor's own log to this `FILE` instead of stderr; when it is full it becomes FILE.1, and that one goes")
	f.Var(&s.LogSize, "log-size", "how large FILE may become, as 16M; a bare number is MiB (default 16M)")
	f.Var(&s.LogRate, "log-rate", "how much of the guest's output --console log logs in a second; further lines are counted (default 64K)")
	f.StringVar(&s.Name, "name", s.Name, "`NAME` of the VM for uvm ps and the like, which no other VM of yours has")
	f.StringVar(&s.Control, "control", s.Control, "when to make the socket that uvm ps, stop and the like use: `on` before the guest starts, auto when it has run for 50 ms, or off (default auto; with --name on)")
	f.StringVar(&s.RunDir, "run-dir", s.RunDir, "`FOLDER` of control sockets (default $UVM_RUN_DIR, /run/uvm for root, else $XDG_RUNTIME_DIR/uvm; docs/control.md)")
	f.String("config", "", "read settings from this JSON `FILE`, - for stdin; flags win over it")
	f.Bool("print-config", false, "print the settings as JSON and do nothing else")
	return f
}

// runSettings collects defaults, --config and flags, in that order. A
// non-negative status says that there is nothing to run.
func runSettings(args []string) (*settings, int) { return readSettings(args, runFlags) }

// readSettings is runSettings for a command whose flags are those of `uvm run` and others.
func readSettings(args []string, bind func(*settings) *pflag.FlagSet) (*settings, int) {
	s := new(settings)
	f := bind(s)
	if status := parse(f, f.Name(), args); status >= 0 {
		return nil, status
	}
	if path, _ := f.GetString("config"); path != "" {
		// Once more, now on top of what the file says. A list from the command
		// line replaces the file's.
		flags := s
		s = new(settings)
		if err := s.load(path); err != nil {
			return nil, fail(exitUsage, "%v", err)
		}
		if len(flags.Nets) > 0 {
			s.Nets = nil
		}
		if len(flags.Disks) > 0 {
			s.Disks = nil
		}
		f = bind(s)
		if status := parse(f, f.Name(), args); status >= 0 {
			return nil, status
		}
	}
	operands := f.Args()
	if dash := f.ArgsLenAtDash(); dash >= 0 {
		s.Args = append([]string{}, operands[dash:]...)
		operands = operands[:dash]
	}
	switch {
	case len(operands) > 1:
		return nil, fail(exitUsage, "unexpected argument %q after the kernel (guest arguments go after --)", operands[1])
	case len(operands) == 1:
		s.Kernel = operands[0]
	case s.Kernel == "" && s.Image != "":
		s.Kernel = imageKernel
	case s.Kernel == "":
		return nil, fail(exitUsage, "no kernel given (usage: uvm run KERNEL [flags] [-- ARGS])")
	}
	if s.Image == "" && (s.ImageTag != "" || len(s.Env) > 0) {
		return nil, fail(exitUsage, "--image-tag and --env are for --image")
	}
	if printIt, _ := f.GetBool("print-config"); printIt {
		return nil, printJSON(s)
	}
	return s, -1
}

// openConsole returns where the guest's output goes. undo takes back what the
// call changed on the host, for a start that fails.
func (s *settings) openConsole() (w io.Writer, undo func(), err error) {
	undo = func() {}
	switch path, isFile := strings.CutPrefix(s.Console, "file:"); {
	case (s.Console == "" || s.Console == "stdio") && s.GDB == gdbStdio:
		return os.Stderr, undo, nil
	case s.Console == "" || s.Console == "stdio":
		return os.Stdout, undo, nil
	case s.Console == "none", s.Console == consoleLog:
		return nil, undo, nil
	case isFile && path != "":
		f, made, err := openOutput(path)
		if err != nil {
			return nil, undo, &vmm.HostError{What: "--console", Err: err}
		}
		if made {
			undo = func() { os.Remove(path) }
		}
		return f, undo, nil
	}
	return nil, undo, &vmm.ConfigError{Msg: fmt.Sprintf("--console %q: want stdio, none, log or file:PATH", s.Console)}
}

// errTimeout says that --timeout ended the run.
var errTimeout = errors.New("time is over")

// startStatus is the exit status for an error of vmm.New.
func startStatus(err error) int {
	var (
		kernel *loader.Error
		host   *vmm.HostError
	)
	switch {
	case errors.As(err, &kernel):
		return exitKernel
	case errors.As(err, &host):
		return exitHost
	}
	return exitUsage
}

// outcome is how a run ended.
type outcome struct {
	Kind    string `json:"kind"`   // exit, fault, timeout, signal, error
	Status  int    `json:"status"` // uvm's exit status
	Guest   *int   `json:"guest_status,omitempty"`
	message string // for stderr; "" = nothing to say
}

func outcomeOf(res vmm.Result, err error) outcome {
	var (
		guest   *vmm.GuestError
		sig     *signalError
		console *hypercall.ConsoleError
	)
	switch {
	case err == nil:
		return outcome{Kind: "exit", Status: res.Status & 0xff, Guest: &res.Status}
	case errors.As(err, &guest):
		return outcome{Kind: "fault", Status: exitGuest, message: err.Error()}
	case errors.Is(err, errTimeout):
		return outcome{Kind: "timeout", Status: exitTimeout, message: "the guest did not end in time (--timeout)"}
	case errors.As(err, &sig):
		return outcome{Kind: "signal", Status: exitSignal + int(sig.sig)}
	case errors.As(err, &console):
		// As a process whose reader went away: silently, by SIGPIPE.
		return outcome{Kind: "signal", Status: exitSignal + int(syscall.SIGPIPE)}
	}
	return outcome{Kind: "error", Status: exitHost, message: err.Error()}
}
