package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/control"
)

// gdbFlags are those of uvm gdb itself: of a kernel, those of uvm run come on top.
func gdbFlags(s *settings) *pflag.FlagSet {
	f := runFlags(s)
	f.Init("gdb", pflag.ContinueOnError)
	f.String("symbols", "", "`FILE` with the guest's symbols, where the kernel itself has none, as vmlinux for a bzImage")
	f.StringArray("gdb-option", nil, "further `WORD` for gdb's command line, as --gdb-option=-batch (repeatable)")
	f.Bool("proxy", false, "connect standard input and output with the debugger of VM, as gdb's target remote | wants it")
	return f
}

// gdbMain starts gdb on a kernel, which uvm run then runs under it, or on a VM that runs.
func gdbMain(args []string) int {
	s := new(settings)
	f := gdbFlags(s)
	if status := parse(f, "gdb", args); status >= 0 {
		return status
	}
	operands := f.Args()
	if dash := f.ArgsLenAtDash(); dash >= 0 {
		operands = operands[:dash]
	}
	if len(operands) != 1 {
		return fail(exitUsage, "want one kernel or VM (usage: uvm gdb KERNEL|VM [flags] [-- ARGS])")
	}
	what := operands[0]
	if proxy, _ := f.GetBool("proxy"); proxy {
		return gdbProxy(s, what)
	}
	self, err := os.Executable()
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	symbols, _ := f.GetString("symbols")
	pipe := []string{self, "gdb", "--proxy", what}
	if info, err := os.Stat(what); strings.ContainsRune(what, '/') || err == nil && info.Mode().IsRegular() {
		pipe = append([]string{self, "run", "--gdb=stdio", "--gdb-wait"}, runWords(args)...)
	} else {
		if s.RunDir != "" {
			pipe = append(pipe, "--run-dir", s.RunDir)
		}
		c, status := oneVM(vmOperand(s, what))
		if status >= 0 {
			return status
		}
		var info control.Info
		err := c.Call("info", nil, &info)
		c.Close()
		if err != nil {
			return fail(exitHost, "%v", err)
		}
		if what = info.Kernel; !filepath.IsAbs(what) { // it is as its uvm was told
			if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", info.PID)); err == nil {
				what = filepath.Join(dir, what)
			}
		}
	}
	words := []string{"gdb", "-q"}
	options, _ := f.GetStringArray("gdb-option")
	if symbols != "" {
		what = symbols
	}
	words = append(words, what, "-ex", "target remote | "+shellWords(pipe))
	return execGDB(append(words, options...))
}

// runWords are the words of uvm gdb's command line that are for uvm run.
func runWords(args []string) (words []string) {
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(args[i], "=")
		switch {
		case args[i] == "--":
			return append(words, args[i:]...)
		case name != "--symbols" && name != "--gdb-option":
			words = append(words, args[i])
		case !joined:
			i++
		}
	}
	return words
}

// shellWords are words for sh.
func shellWords(words []string) string {
	var quoted []string
	for _, w := range words {
		quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	return strings.Join(quoted, " ")
}

// execGDB becomes gdb.
func execGDB(words []string) int {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		file := filepath.Join(dir, words[0])
		if !filepath.IsAbs(dir) || unix.Access(file, unix.X_OK) != nil {
			continue
		}
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // as in becomeProgram
		return fail(exitHost, "%s: %v", file, unix.Exec(file, words, os.Environ()))
	}
	return fail(exitHost, "gdb is not on PATH (apt-get install gdb)")
}

// vmOperand are flags as the commands about VMs have them, with one operand.
func vmOperand(s *settings, vm string) *pflag.FlagSet {
	f := vmFlags("gdb")
	words := []string{"--", vm}
	if s.RunDir != "" {
		words = append([]string{"--run-dir", s.RunDir}, words...)
	}
	_ = f.Parse(words) // they are ours
	return f
}

// gdbProxy connects standard input and output with a VM's debugger.
func gdbProxy(s *settings, vm string) int {
	unix.Setsid() // ^C is for gdb, which has started us
	c, status := oneVM(vmOperand(s, vm))
	if status >= 0 {
		return status
	}
	conn, err := c.Raw("gdb", nil)
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	done := make(chan error, 2)
	go func() { _, err := io.Copy(conn, os.Stdin); done <- err }()
	go func() { _, err := io.Copy(os.Stdout, conn); done <- err }()
	err = <-done
	conn.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return fail(exitHost, "%v", err)
	}
	return exitOK
}

// dumpMain writes a core file of a VM that runs.
func dumpMain(args []string) int {
	f, c, status := askVM("dump", args)
	if status >= 0 {
		return status
	}
	defer c.Close()
	dir, _ := f.GetString("core")
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	var res dumpResult
	if err := c.Stream(context.Background(), "dump", dumpArgs{dir}, nil, &res); err != nil {
		return fail(exitHost, "%v", err)
	}
	fmt.Println(res.Core)
	return exitOK
}
