// Command uvm-lupine helps to make Linux kernels for one application; `uvm
// lupine` runs it. It is a program of its own because it decodes machine code and
// images of strangers, which nobody needs in the program that runs VMs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/internal/appscan"
	"github.com/uvm-monitor/uvm/internal/rootfs"
)

const usage = `Usage: uvm lupine suggest [--run] SOURCE [PROGRAM…] [-- WORDS]

Finds out which options of the kernel's configuration an application needs on
top of lupine-base, and prints a fragment for guests/lupine/build.sh, with the
reason for each option and what could not be seen.

SOURCE is the application's root file system: a folder, a tar file, an OCI image
layout, or what docker save wrote. PROGRAM is a program in it, by its path there
or by a name that PATH leads to; name all that run. Without PROGRAM it looks at
what the image starts, or at all programs if SOURCE is no image. Nothing is run.

With --run it boots SOURCE as well, under a general kernel, and watches what the
application does. Use the application meanwhile as it will be used. The run ends
with the program, after --for, or by Ctrl-C. WORDS stand in place of the image's
command; of a folder or a tar file they are what to run.

`

// Exit statuses, as uvm's.
const (
	exitSource = 1   // a file is missing or damaged, or the run did not come about
	exitUsage  = 125 // wrong usage
	exitHost   = 126 // the host lacks something
	exitSignal = 128 // + the signal that ended it
)

const statuses = `
Exit status: 0 printed, 1 a file is missing or damaged or the run failed, 125
wrong usage, 126 the host lacks something.
`

// options are the command line.
type options struct {
	source   rootfs.Options
	programs []string
	words    []string // behind --
	run      bool
	limit    time.Duration
	kernel   string
	memory   string
	net      string
}

// errUsage is a command line that makes no sense.
type errUsage struct{ error }

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		cancel(&signalError{(<-sigs).(syscall.Signal)})
		signal.Reset() // the second ends it at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// signalError says that a signal came.
type signalError struct{ sig syscall.Signal }

func (e *signalError) Error() string { return "ended by signal: " + e.sig.String() }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := &options{}
	f := pflag.NewFlagSet("suggest", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	f.StringVar(&o.source.Kind, "from", "", "what SOURCE is: `dir`, tar, oci or docker (default: what it looks like)")
	f.StringVar(&o.source.Tag, "tag", "", "the `NAME` of the image, where SOURCE holds several")
	f.BoolVar(&o.run, "run", false, "run the application too, and watch what it uses")
	f.DurationVar(&o.limit, "for", 0, "end the run after this `DURATION`, as 30s")
	f.StringVar(&o.kernel, "kernel", "lupine-general", "kernel of the run: a `FILE`, or the name of one that make lupine has built")
	f.StringVarP(&o.memory, "memory", "m", "", "the guest's memory in the run, a `SIZE` as uvm run takes it")
	f.StringVar(&o.net, "net", "", "the guest's network in the run, a `TAP` with ,ip=ADDRESS/BITS as uvm run takes it")
	f.StringArrayVarP(&o.source.Start.Env, "env", "e", nil, "environment of the program in the run, `KEY=VALUE` (repeatable)")
	err := f.Parse(args)
	help := errors.Is(err, pflag.ErrHelp) || err == nil && f.Arg(0) == "help"
	if help {
		fmt.Fprint(stdout, usage, f.FlagUsages(), statuses)
		return 0
	}
	if err == nil {
		err = o.complete(f)
	}
	if err != nil {
		fmt.Fprintf(stderr, "uvm lupine: %v (see uvm lupine suggest --help)\n", err)
		return exitUsage
	}
	err = o.suggest(ctx, stdout, stderr)
	var (
		sig   *signalError
		host  *rootfs.HostError
		wrong errUsage
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &sig):
		return exitSignal + int(sig.sig)
	}
	fmt.Fprintf(stderr, "uvm lupine: %s\n", strings.Join(strings.Fields(err.Error()), " "))
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &host):
		return exitHost
	}
	return exitSource
}

// complete checks the command line.
func (o *options) complete(f *pflag.FlagSet) error {
	words := f.Args()
	if dash := f.ArgsLenAtDash(); dash >= 0 {
		o.words = words[dash:]
		words = words[:dash]
	}
	switch {
	case len(words) == 0 || words[0] != "suggest":
		return errors.New("want suggest SOURCE")
	case len(words) == 1:
		return errors.New("no source given")
	}
	o.source.Source, o.programs = words[1], words[2:]
	if o.run {
		if o.limit < 0 {
			return fmt.Errorf("--for %v: want a positive time", o.limit)
		}
		return nil
	}
	var wrong string
	f.Visit(func(p *pflag.Flag) {
		if p.Name != "from" && p.Name != "tag" && p.Name != "run" {
			wrong = "--" + p.Name
		}
	})
	if o.words != nil {
		wrong = "--"
	}
	if wrong != "" {
		return fmt.Errorf("%s is for --run", wrong)
	}
	return nil
}

// suggest looks at the source, runs it if that is asked for, and prints what both say.
func (o *options) suggest(ctx context.Context, stdout, stderr io.Writer) error {
	var host *host
	if o.run {
		var err error
		if host, err = o.findHost(); err != nil {
			return err
		}
	}
	view, err := rootfs.Look(ctx, o.source)
	if err != nil {
		return err
	}
	uses, programs, err := o.look(view)
	if e := view.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	title := "Made by: uvm lupine suggest "
	if o.run {
		title += "--run "
	}
	title += strings.Join(append([]string{o.source.Source}, o.programs...), " ")
	looked := "Looked at: " + strings.Join(programs[:min(len(programs), 8)], ", ")
	if n := len(programs) - 8; n > 0 {
		looked += fmt.Sprintf(" and %d more", n)
	}
	if !o.run {
		return uses.Fragment(stdout, title, looked+".")
	}
	report, how, err := o.watch(ctx, host, view.Image, stderr)
	if err != nil {
		return err
	}
	return uses.Joined(stdout, report, title, looked+".", how)
}

// look reads the machine code of the programs that are named, or that the image starts.
func (o *options) look(view *rootfs.View) (uses *appscan.Uses, programs []string, err error) {
	root := &appscan.Root{FS: view.FS, Path: view.Start.SearchPath()}
	cmd := view.Start.Cmd
	if len(o.words) > 0 {
		cmd = o.words
	}
	words := slices.Concat(view.Start.Entrypoint, cmd)
	programs = o.programs
	switch starts := len(words) > 0 && words[0] != ""; {
	case o.run && !starts:
		return nil, nil, errUsage{fmt.Errorf("%s names no entry point and no command: give what to run after --", o.source.Source)}
	case len(programs) > 0:
	case starts:
		programs = named(root, words, view.Start.WorkDir)
	case view.Image:
		return nil, nil, fmt.Errorf("%s: the image names no entry point and no command: name its programs behind it", o.source.Source)
	default:
		if programs, err = root.Programs(); err != nil {
			return nil, nil, err
		}
		if len(programs) == 0 {
			return nil, nil, fmt.Errorf("%s has no ELF program for x86-64", o.source.Source)
		}
	}
	uses = &appscan.Uses{}
	for _, p := range programs {
		u, err := root.Scan(p)
		if err != nil {
			return nil, nil, err
		}
		uses.Add(u)
	}
	return uses, programs, nil
}

// named are the programs in a command line: the first word, and each later one that is an
// executable file, as where a script or a small init is given the program to start.
func named(root *appscan.Root, words []string, workDir string) []string {
	var programs []string
	for i, w := range words {
		if strings.Contains(w, "/") && !path.IsAbs(w) {
			w = path.Join("/", workDir, w)
		}
		if !slices.Contains(programs, w) && (i == 0 || root.Executable(w)) {
			programs = append(programs, w)
		}
	}
	return programs
}
