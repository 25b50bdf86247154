// Command uvm-image makes root file systems for Linux guests. `uvm rootfs` and `uvm run --image`
// execute it: what it links would cost every start of uvm.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/internal/datadir"
	"github.com/uvm-monitor/uvm/internal/rootfs"
)

// Exit statuses, as uvm's.
const (
	exitSource = 1   // the source is not what it should be, or the image cannot be written
	exitUsage  = 125 // wrong usage
	exitHost   = 126 // the host lacks something
	exitSignal = 128 // + the signal that ended it
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
		fmt.Println("Usage: uvm-image rootfs SOURCE -o FILE [flags]\n\nuvm executes this program; see uvm rootfs --help.")
		return 0
	}
	switch args[0] {
	case "rootfs":
		return rootfsMain(args[1:])
	case "fill":
		return fillMain(args[1:])
	}
	return fail(exitUsage, "unknown command %q (there are rootfs and fill)", args[0])
}

// signalError says that a signal ended it.
type signalError struct{ sig syscall.Signal }

func (e *signalError) Error() string { return "ended by signal: " + e.sig.String() }

// interruptible returns a context that SIGINT, SIGTERM and SIGHUP end, so that nothing stays behind.
func interruptible() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		cancel(&signalError{(<-sigs).(syscall.Signal)})
		signal.Reset() // the second ends it at once
	}()
	return ctx
}

// status prints an error in one line.
func status(err error) int {
	var (
		sig  *signalError
		host *rootfs.HostError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &sig):
		return exitSignal + int(sig.sig)
	case errors.As(err, &host):
		return fail(exitHost, "%v", err)
	}
	return fail(exitSource, "%v", err)
}

func fail(status int, format string, args ...any) int {
	line := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	fmt.Fprintf(os.Stderr, "uvm: %s\n", line)
	return status
}

// flags are those of the making of a root file system.
type flags struct {
	*pflag.FlagSet
	opts      rootfs.Options
	size, max sizeFlag
	owner     string
	init      string
	quiet     bool
}

func newFlags(name string) *flags {
	f := &flags{FlagSet: pflag.NewFlagSet(name, pflag.ContinueOnError)}
	f.SortFlags = false
	f.Usage = func() {}
	f.StringVar(&f.opts.Kind, "from", "", "what SOURCE is: `dir`, tar, oci or docker (default: what it looks like)")
	f.StringVar(&f.opts.Tag, "tag", "", "the `NAME` of the image, where SOURCE holds several")
	f.Var(&f.size, "size", "size of the file system, as 512M (default: the content, a quarter more, and 32 MiB)")
	f.Var(&f.max, "max-size", "most that the files may have unpacked (default 16G)")
	f.Int64Var(&f.opts.Limits.Entries, "max-files", rootfs.DefaultLimits.Entries, "most files, of all layers")
	f.StringVar(&f.owner, "owner", "", "`UID:GID` of all files, instead of the source's")
	f.StringArrayVar(&f.opts.Start.Entrypoint, "entrypoint", nil, "a `WORD` of the program to start, instead of the image's (repeatable); arguments go after --")
	f.StringArrayVarP(&f.opts.Start.Env, "env", "e", nil, "environment of the program, `KEY=VALUE`, besides the image's (repeatable)")
	f.StringVar(&f.opts.Start.WorkDir, "workdir", "", "working `DIRECTORY` of the program, instead of the image's")
	f.StringVar(&f.opts.Start.User, "user", "", "`USER[:GROUP]` of the program, instead of the image's")
	f.StringVar(&f.opts.Start.Hostname, "hostname", "", "host `NAME` of the guest")
	f.StringVar(&f.init, "init", "", "the guest's init, a `FILE` (default: uvm-init beside uvm; none: leave it out)")
	f.BoolVarP(&f.quiet, "quiet", "q", false, "no progress on stderr")
	return f
}

func rootfsMain(args []string) int {
	f := newFlags("rootfs")
	f.StringVarP(&f.opts.Output, "output", "o", "", "the image to make, a `FILE`")
	f.BoolVarP(&f.opts.Force, "force", "f", false, "replace FILE if it exists")
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Printf("Usage: uvm rootfs SOURCE -o FILE [flags] [-- ARGS]\n\n"+
			"Make an ext4 root file system out of a directory, a tar file, an OCI image layout or what docker save wrote.\n\n%s", f.FlagUsages())
		return 0
	case err != nil:
		return fail(exitUsage, "%v", err)
	}
	operands := f.Args()
	if dash := f.ArgsLenAtDash(); dash >= 0 {
		f.opts.Start.Cmd = append([]string{}, operands[dash:]...)
		operands = operands[:dash]
	}
	switch {
	case len(operands) == 0:
		return fail(exitUsage, "no source given (usage: uvm rootfs SOURCE -o FILE)")
	case len(operands) > 1:
		return fail(exitUsage, "unexpected argument %q after the source (the program's arguments go after --)", operands[1])
	case f.opts.Output == "":
		return fail(exitUsage, "no output given (usage: uvm rootfs SOURCE -o FILE)")
	}
	f.opts.Source = operands[0]
	if err := f.complete(); err != nil {
		return fail(exitUsage, "%v", err)
	}
	p := newProgress(f.quiet)
	f.opts.Progress = p.show
	err := rootfs.Build(interruptible(), f.opts)
	p.clear()
	return status(err)
}

// complete turns words into options.
func (f *flags) complete() error {
	f.opts.Size, f.opts.Limits.Bytes = int64(f.size), int64(f.max)
	if f.opts.Limits.Entries < 1 {
		return fmt.Errorf("--max-files %d: want a positive number", f.opts.Limits.Entries)
	}
	if f.owner != "" {
		user, group, ok := strings.Cut(f.owner, ":")
		uid, err1 := strconv.ParseUint(user, 10, 31)
		gid, err2 := strconv.ParseUint(group, 10, 31)
		if !ok || err1 != nil || err2 != nil {
			return fmt.Errorf("--owner %q: want numbers, as 0:0", f.owner)
		}
		f.opts.Owner = &[2]int{int(uid), int(gid)}
	}
	switch f.init {
	case "none":
		f.opts.NoInit = true
		return nil
	case "":
		if f.init = datadir.Find("uvm-init"); f.init == "" {
			return nil // Build says so where it is needed
		}
	}
	b, err := os.ReadFile(f.init)
	if err != nil {
		return fmt.Errorf("--init: %w", err)
	}
	f.opts.Init = b
	return nil
}

// fillMain serves `uvm run --image`: it writes the root file system of an image into the empty
// file that is descriptor 3, and with --ports the ports that the image exposes to descriptor 4.
func fillMain(args []string) int {
	f := newFlags("fill")
	ports := f.Bool("ports", false, "")
	if err := f.Parse(args); err != nil {
		return fail(exitUsage, "%v", err)
	}
	// Behind a first -- stand the source, a second -- and the arguments.
	words := f.Args()
	if f.ArgsLenAtDash() != 0 || len(words) < 2 || words[1] != "--" {
		return fail(exitUsage, "fill: want -- SOURCE -- ARGS")
	}
	f.opts.Source = words[0]
	if err := f.complete(); err != nil {
		return fail(exitUsage, "%v", err)
	}
	cache, err := datadir.Images()
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	p := newProgress(f.quiet)
	f.opts.Progress = p.show
	exposed, err := rootfs.Fill(interruptible(), os.NewFile(3, "root"), cache, f.opts, words[2:])
	p.clear()
	if err == nil && *ports {
		_, err = os.NewFile(4, "ports").WriteString(strings.Join(exposed, "\n"))
	}
	return status(err)
}
