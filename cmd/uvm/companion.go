package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Companions are programs of their own, because what they link would cost every start of uvm.
const (
	imageProgram  = "uvm-image"  // root file systems (docs/rootfs.md)
	lupineProgram = "uvm-lupine" // kernels for one application (docs/lupine.md)
	netProgram    = "uvm-net"    // network interfaces (docs/net.md)
	reportProgram = "uvm-report" // pictures of boot timelines (docs/boot-report.md)
	topProgram    = "uvm-top"    // a live table of VMs (docs/observe.md)
)

// findProgram looks for a companion beside uvm's own executable, then on PATH.
func findProgram(name string) (string, error) {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe))
	}
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		file := filepath.Join(dir, name)
		if !filepath.IsAbs(dir) {
			continue // whatever lies in the working directory is not ours
		}
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is neither beside uvm (%s) nor on PATH: install it there, or run make", name, strings.Join(dirs, ", "))
}

// becomeProgram executes a companion instead of uvm.
func becomeProgram(name string, args ...string) int {
	file, err := findProgram(name)
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	// entry_amd64.s has raised the timer slack, which exec would hand on; 0 is the default again.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
	return fail(exitHost, "%s: %v", file, unix.Exec(file, append([]string{name}, args...), os.Environ()))
}

// companionMain is a command that is all a companion's, its help too.
func companionMain(name string) func(args []string) int {
	return func(args []string) int { return becomeProgram(name, args...) }
}

// runProgram runs a companion with files as its descriptors from 3 up, and returns its status. It says itself what
// went wrong.
func runProgram(file string, words []string, files ...*os.File) int {
	unpin(affinity.Count()) // it may take long, and would inherit that
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	defer null.Close()
	p, err := os.StartProcess(file, words, &os.ProcAttr{Files: append([]*os.File{null, os.Stderr, os.Stderr}, files...)})
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	state, err := p.Wait()
	if err != nil {
		return fail(exitHost, "%s: %v", file, err)
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return fail(exitSignal+int(ws.Signal()), "%s was ended by a signal: %v", file, ws.Signal())
	}
	return state.ExitCode()
}
