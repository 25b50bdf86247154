// Command uvm runs unikernels on KVM.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/uvm-monitor/uvm/devices"
)

// Exit statuses of uvm itself; a guest's own status passes through unchanged.
const (
	exitOK      = 0
	exitTimeout = 124 // --timeout ended the guest
	exitUsage   = 125 // wrong usage or configuration
	exitHost    = 126 // the host cannot: no KVM, no permission, no such device
	exitKernel  = 127 // kernel missing or not loadable
	exitSignal  = 128 // + the signal that ended uvm
	exitGuest   = 255 // the guest broke the ABI
)

// command is a subcommand. run gets the words after its name and returns the
// exit status.
type command struct {
	name, usage, help string
	run               func(args []string) int
}

// commands is a function and not a variable because completion lists them.
func commands() []command {
	return []command{
		{"run", "KERNEL [flags] [-- ARGS]", "run a unikernel", runMain},
		{"trace", "KERNEL [flags] [-- ARGS]", "run a unikernel, or with --attach VM look at one that runs, and show what it does, as strace for a process", traceMain},
		{"rootfs", "SOURCE -o FILE [flags]", "make a root file system out of a directory or container image", rootfsMain},
		{"ps", "", "list the VMs that run", psMain},
		{"stop", "VM…", "stop VMs", stopMain},
		{"pause", "VM…", "have VMs stand still", func(args []string) int { return askMain("pause", args) }},
		{"resume", "VM…", "have paused VMs go on", func(args []string) int { return askMain("resume", args) }},
		{"wait", "VM", "wait until a VM ends, and end with its status", waitMain},
		{"stats", "VM", "show what a VM has done so far", statsMain},
		{"top", "[flags]", "show a live table of the VMs that run", companionMain(topProgram)},
		{"logs", "VM", "show the last words of a VM and its guest", logsMain},
		{"gdb", "KERNEL|VM", "debug a unikernel, or a VM that runs, with gdb", gdbMain},
		{"dump", "VM", "write a core file of a VM that runs", dumpMain},
		{"inspect", "KERNEL", "show what a kernel file is and asks for", inspectMain},
		{"boot-report", "REPORT… -o FILE.svg", "make a picture of boot timelines", companionMain(reportProgram)},
		{"doctor", "", "check what this host can run, and say what is missing", doctorMain},
		{"lupine", "suggest SOURCE [PROGRAM…]", "find out which options of Linux an application needs", lupineMain},
		{"net", "clean", "remove network interfaces that were left behind", netMain},
		{"version", "", "print the version", versionMain},
		{"completion", "bash|zsh|fish", "print a shell completion script", completionMain},
	}
}

func main() {
	started := time.Now().Add(-devices.CPUTime())
	if filepath.Base(os.Args[0]) == solo5Name {
		os.Exit(solo5Main(os.Args, os.Stderr))
	}
	os.Exit(uvmMain(os.Args[1:], started))
}

// execTime estimates when the process was started: CPU time is counted from
// then on, and up to main a program hardly waits.
var execTime time.Time

func uvmMain(args []string, started time.Time) int {
	execTime = started
	if len(args) == 0 {
		usage(os.Stderr)
		return exitUsage
	}
	name, rest := args[0], args[1:]
	switch name {
	case "help", "-h", "--help":
		usage(os.Stdout)
		return exitOK
	case "--version":
		name = "version"
	}
	if name != "run" {
		unpin(affinity.Count())
	}
	for _, c := range commands() {
		if c.name == name {
			return c.run(rest)
		}
	}
	return fail(exitUsage, "unknown command %q (see uvm --help)", name)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "uvm runs unikernels on KVM.\n\nUsage: uvm COMMAND …\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-38s %s\n", c.name+" "+c.usage, c.help)
	}
	fmt.Fprintf(w, "\nuvm COMMAND --help explains a command. Called as %s, uvm takes that program's options.\n", solo5Name)
}

// fail prints one line on stderr and returns status.
func fail(status int, format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "uvm: "+format+"\n", args...)
	return status
}
