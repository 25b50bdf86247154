// Command uvm-top is `uvm top`: a live table of the VMs that run. It is a program of its own so that a start
// of uvm does not pay for its terminal library.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/control"
)

// Exit statuses, as uvm's.
const (
	exitOK    = 0
	exitUsage = 125
	exitHost  = 126
)

func main() { os.Exit(run(os.Args[1:])) }

func fail(status int, format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "uvm: "+format+"\n", args...)
	return status
}

func run(args []string) int {
	f := pflag.NewFlagSet("top", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	interval := f.DurationP("interval", "d", time.Second, "take the rates over this time")
	sort := f.StringP("sort", "s", "cpu", "sort by this `COLUMN`: "+columnNames())
	once := f.Bool("once", false, "print the table once, after one interval, and end; needs no terminal")
	runDir := f.String("run-dir", "", "`FOLDER` of control sockets (default as for uvm run)")
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Printf("Usage: uvm top [flags]\n\nShow a live table of the VMs that run.\n\n%s\n%s\n", f.FlagUsages(), keysHelp)
		return exitOK
	case err != nil:
		return fail(exitUsage, "%v", err)
	case f.NArg() > 0:
		return fail(exitUsage, "unexpected argument %q", f.Arg(0))
	case *interval < 10*time.Millisecond:
		return fail(exitUsage, "--interval %v: want at least 10ms", *interval)
	}
	column := findColumn(*sort)
	if column < 0 {
		return fail(exitUsage, "--sort %q: want one of %s", *sort, columnNames())
	}
	if *runDir == "" {
		var err error
		if *runDir, err = control.DefaultDir(); err != nil {
			return fail(exitHost, "%v", err)
		}
	}
	s := &sampler{dir: *runDir}
	if _, err := s.sample(); err != nil {
		return fail(exitHost, "%v", err)
	}
	m := model{sampler: s, interval: *interval, column: column}
	if *once {
		time.Sleep(*interval)
		rows, err := s.sample()
		if err != nil {
			return fail(exitHost, "%v", err)
		}
		m.rows = rows
		if _, err := os.Stdout.WriteString(m.table(0, 0)); err != nil {
			return fail(exitHost, "%v", err)
		}
		return exitOK
	}
	if _, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS); err != nil {
		return fail(exitUsage, "stdout is no terminal (--once prints the table once)")
	}
	end, err := tea.NewProgram(m, tea.WithAltScreen()).Run()
	if err == nil {
		err = end.(model).err
	}
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	return exitOK
}

// openDir opens the run directory; nil where nobody has run a VM yet.
func openDir(path string) (*control.Dir, error) {
	dir, err := control.OpenDir(path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return dir, err
}
