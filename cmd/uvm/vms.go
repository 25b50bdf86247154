package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/runlog"
)

// vmFlags are the flags of a command about VMs that run.
func vmFlags(name string) *pflag.FlagSet {
	f := newFlags(name)
	f.String("run-dir", "", "`FOLDER` of control sockets (default as for uvm run)")
	switch name {
	case "ps", "wait", "stats":
		f.Bool("json", false, "print JSON")
	case "logs":
		f.BoolP("follow", "f", false, "go on until the VM ends")
	case "dump":
		f.String("core", ".", "`FOLDER` for the core file")
	case "stop":
		f.Bool("kill", false, "end the VM's process by SIGKILL, without asking")
		f.Duration("timeout", 10*time.Second, "kill a VM that has not ended after this time")
	}
	return f
}

// openRunDir opens the run directory that the flags name. A non-negative status says that there is none.
func openRunDir(f *pflag.FlagSet) (*control.Dir, int) {
	path, _ := f.GetString("run-dir")
	if path == "" {
		var err error
		if path, err = control.DefaultDir(); err != nil {
			return nil, fail(exitHost, "%v", err)
		}
	}
	dir, err := control.OpenDir(path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, exitOK // nobody has run a VM yet
	} else if err != nil {
		return nil, fail(exitHost, "%v", err)
	}
	return dir, -1
}

// findVMs returns the VMs that a command's operands name.
func findVMs(f *pflag.FlagSet) ([]control.Entry, int) {
	if f.NArg() == 0 {
		return nil, fail(exitUsage, "no VM given (usage: uvm %s VM; uvm ps shows all)", f.Name())
	}
	dir, status := openRunDir(f)
	if status > 0 {
		return nil, status
	}
	if dir == nil {
		return nil, fail(exitUsage, "no VM %q (uvm ps shows all)", f.Arg(0))
	}
	defer dir.Close()
	var all []control.Entry
	for _, ref := range f.Args() {
		e, err := dir.Find(ref)
		if err != nil {
			return nil, fail(exitUsage, "%v", err)
		}
		all = append(all, e)
	}
	return all, -1
}

// oneVM is the connection to the single VM that a command is for.
func oneVM(f *pflag.FlagSet) (*control.Client, int) {
	if f.NArg() > 1 {
		return nil, fail(exitUsage, "unexpected argument %q after the VM", f.Arg(1))
	}
	all, status := findVMs(f)
	if status >= 0 {
		return nil, status
	}
	c, err := all[0].Dial()
	if err != nil {
		return nil, fail(exitHost, "%v", err)
	}
	return c, -1
}

// askVM reads the flags and the operand of a command that is for a single VM, and connects to it.
func askVM(name string, args []string) (*pflag.FlagSet, *control.Client, int) {
	f := vmFlags(name)
	if status := parse(f, name, args); status >= 0 {
		return nil, nil, status
	}
	c, status := oneVM(f)
	return f, c, status
}

// each does something with several VMs at once, and says what went wrong with which.
func each(all []control.Entry, do func(control.Entry) error) int {
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, e := range all {
		wg.Go(func() { errs[i] = do(e) })
	}
	wg.Wait()
	status := exitOK
	for _, err := range errs {
		if err != nil {
			status = fail(exitHost, "%v", err)
		}
	}
	return status
}

func psMain(args []string) int {
	f := vmFlags("ps")
	if status := parse(f, "ps", args); status >= 0 {
		return status
	}
	if f.NArg() > 0 {
		return fail(exitUsage, "unexpected argument %q", f.Arg(0))
	}
	asJSON, _ := f.GetBool("json")
	infos := []control.Info{}
	dir, status := openRunDir(f)
	if status > 0 {
		return status
	}
	if dir != nil {
		defer dir.Close()
		var err error
		if infos, err = control.Each(dir, func(e control.Entry) (control.Info, error) { return e.Ask(nil) }); err != nil {
			return fail(exitHost, "%v", err)
		}
	}
	if asJSON {
		return printJSON(infos)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tSTATE\tUPTIME\tMEMORY\tCPUS\tPID\tKERNEL")
	for _, v := range infos {
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%v\t%d\t%d\t%s\n", v.ID, v.Name, printable(v.State),
			v.Uptime.Round(100*time.Millisecond), memSize(v.Memory), v.CPUs, v.PID, printable(v.Kernel))
	}
	if err := w.Flush(); err != nil {
		return fail(exitHost, "%v", err)
	}
	return exitOK
}

// printable is s as it may go to a terminal.
func printable(s string) string {
	if q := strconv.Quote(s); q[1:len(q)-1] != s {
		return q
	}
	return s
}

func stopMain(args []string) int {
	f := vmFlags("stop")
	if status := parse(f, "stop", args); status >= 0 {
		return status
	}
	kill, _ := f.GetBool("kill")
	timeout, _ := f.GetDuration("timeout")
	all, status := findVMs(f)
	if status >= 0 {
		return status
	}
	return each(all, func(e control.Entry) error { return stopVM(e, kill, timeout) })
}

// killTime is how long a killed process may take to give its memory back.
const killTime = 10 * time.Second

// stopVM asks a VM to end, and kills it if it does not in time. When it returns, the process is gone.
func stopVM(e control.Entry, kill bool, timeout time.Duration) error {
	c, err := e.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Hold(); errors.Is(err, control.ErrGone) {
		return nil
	} else if err != nil {
		return err
	}
	if !kill {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		err := c.Stream(ctx, "stop", nil, func(json.RawMessage) error { return nil }, nil)
		var refused *control.OpError
		switch {
		case errors.As(err, &refused):
			return fmt.Errorf("VM %v: %s", e, printable(refused.Msg))
		case (err == nil || errors.Is(err, control.ErrGone)) && c.WaitGone(timeout):
			return nil
		}
		fail(exitOK, "VM %v has not ended in %v and is killed", e, timeout)
	}
	if err := c.Kill(); err != nil {
		return err
	}
	if !c.WaitGone(killTime) {
		return fmt.Errorf("VM %v: its process %d does not end, although it was killed", e, c.PID())
	}
	return nil
}

// askMain is a command that asks each VM for the operation of its name.
func askMain(op string, args []string) int {
	f := vmFlags(op)
	if status := parse(f, op, args); status >= 0 {
		return status
	}
	all, status := findVMs(f)
	if status >= 0 {
		return status
	}
	return each(all, func(e control.Entry) error {
		c, err := e.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		var refused *control.OpError
		if err = c.Call(op, nil, nil); errors.As(err, &refused) {
			return fmt.Errorf("VM %v: %s", e, printable(refused.Msg))
		}
		return err
	})
}

func waitMain(args []string) int {
	f, c, status := askVM("wait", args)
	if status >= 0 {
		return status
	}
	defer c.Close()
	asJSON, _ := f.GetBool("json")
	if err := c.Hold(); err != nil {
		return fail(exitHost, "%v", err)
	}
	var end waited
	switch err := c.Stream(context.Background(), "wait", nil, func(json.RawMessage) error { return nil }, &end); {
	case errors.Is(err, control.ErrGone):
		return fail(exitHost, "%v, and nobody knows how (its monitor was killed)", err)
	case err != nil:
		return fail(exitHost, "%v", err)
	}
	c.WaitGone(killTime)
	if end.Message != "" {
		fail(0, "%s", printable(strings.TrimSpace(end.Message)))
	}
	if asJSON {
		if status := printJSON(end); status != exitOK {
			return status
		}
	}
	return end.Status & 0xff
}

func logsMain(args []string) int {
	f, c, status := askVM("logs", args)
	if status >= 0 {
		return status
	}
	defer c.Close()
	follow, _ := f.GetBool("follow")
	err := c.Stream(context.Background(), "logs", logArgs{follow}, func(m json.RawMessage) error {
		var r logRecord
		if err := json.Unmarshal(m, &r); err != nil {
			return err
		}
		if r.Lost > 0 {
			fail(exitOK, "%d bytes came faster than they could be shown", r.Lost)
		}
		out := os.Stdout
		if r.Source == runlog.Monitor {
			out = os.Stderr
		}
		_, err := out.Write(r.Data)
		return err
	}, nil)
	if err != nil && !(follow && errors.Is(err, control.ErrGone)) {
		return fail(exitHost, "%v", err)
	}
	return exitOK
}
