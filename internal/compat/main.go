// Compat runs Solo5's own hvt tests under Solo5's tender and under uvm, and
// prints a Markdown table of what each did, with every difference below it:
//
//	go run ./internal/compat -solo5 DIR [-uvm bin/uvm] [-full] [-out FILE]
//
// DIR is a Solo5 source tree that was configured and built with its tests and
// the hvt tender. uvm is started under the name solo5-hvt. The verdicts are
// those of upstream's tests.bats.
//
// It needs root, /dev/kvm, ip(8) and ping(8). Everything happens in a network
// and a PID namespace of its own, so that the TAP interfaces and every process
// are gone when the command ends, however it ends.
//
// Upstream's network tests end after up to 100000 pings. Without -full these
// guests get 200 pings and are then stopped with SIGTERM.
//
// Exit status: 0, or 1 if uvm fails a test that Solo5's tender passes (but for
// the failures that are expected, which the table explains), or 2 if the tests
// could not run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Exit statuses.
const (
	exitSame    = 0
	exitWorse   = 1 // uvm fails where Solo5's tender passes
	exitTrouble = 2 // the comparison itself failed
)

// settings is the command line.
type settings struct {
	solo5 string        // built Solo5 tree
	uvm   string        // the binary to test
	full  bool          // as many pings as upstream
	limit time.Duration // for one test
	only  string        // one test's name; "" = all
	work  string        // scratch directory; set for the inner process only
}

func main() {
	s, out, err := parseFlags(os.Args[1:])
	if err != nil {
		os.Exit(exitTrouble) // the flag package has said why
	}
	status := exitTrouble
	if s.work != "" {
		status, err = inner(s)
	} else {
		status, err = outer(s, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		status = exitTrouble
	}
	os.Exit(status)
}

func parseFlags(args []string) (s settings, out string, err error) {
	fs := flag.NewFlagSet("compat", flag.ContinueOnError)
	fs.StringVar(&s.solo5, "solo5", "", "built Solo5 tree `DIR`")
	fs.StringVar(&s.uvm, "uvm", "bin/uvm", "uvm `binary`")
	fs.BoolVar(&s.full, "full", false, "as many pings as upstream, up to 100000")
	fs.DurationVar(&s.limit, "timeout", time.Minute, "time limit for one test")
	fs.StringVar(&s.only, "run", "", "only the test called `NAME`")
	fs.StringVar(&out, "out", "", "write the report to `FILE` instead of stdout")
	fs.StringVar(&s.work, "inner", "", "for the command's own use")
	if err := fs.Parse(args); err != nil {
		return s, "", err
	}
	if s.solo5 == "" || fs.NArg() > 0 || s.limit <= 0 {
		fs.Usage()
		return s, "", errors.New("wrong usage")
	}
	for _, p := range []*string{&s.solo5, &s.uvm} {
		if *p, err = filepath.Abs(*p); err != nil {
			return s, "", err
		}
	}
	return s, out, nil
}

// outer starts this program again inside the namespaces and tidies up after
// it.
func outer(s settings, out string) (status int, err error) {
	if os.Getuid() != 0 {
		return 0, errors.New("need root, for a network namespace with TAP interfaces (run it under sudo)")
	}
	if _, err := os.Stat(s.uvm); err != nil {
		return 0, fmt.Errorf("%w (build it: make)", err)
	}
	if _, err := os.Stat(filepath.Join(s.solo5, tenderPath)); err != nil {
		return 0, fmt.Errorf("%w (-solo5 is a Solo5 tree with the hvt tender built)", err)
	}
	work, err := os.MkdirTemp("", "compat-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)

	report := os.Stdout
	if out != "" {
		if report, err = os.Create(out); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, report.Close()) }()
	}
	// The inner process is PID 1 of its namespace: when it is killed, the
	// kernel kills all that it has started. Its death signal comes when the
	// thread that started it ends, so that has to be one that stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	args := []string{"-inner", work, "-solo5", s.solo5, "-uvm", s.uvm, "-timeout", s.limit.String(), "-run", s.only}
	if s.full {
		args = append(args, "-full")
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = report, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // a terminal's ^C comes to the outer process only
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil {
		return 0, errors.New("interrupted")
	} else if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// inner runs the tests and prints the report.
func inner(s settings) (int, error) {
	if err := makeNetwork(); err != nil {
		return 0, err
	}
	b, err := newBench(s)
	if err != nil {
		return 0, err
	}
	rep := report{
		settings: s,
		upstream: b.firstLine(b.upstream, "--version"),
		uvm:      b.firstLine(s.uvm, "version"),
	}
	for _, c := range allCases() {
		if s.only != "" && s.only != c.name {
			continue
		}
		rep.rows = append(rep.rows, b.compare(c))
	}
	if len(rep.rows) == 0 {
		return 0, fmt.Errorf("no test is called %q", s.only)
	}
	if s.only == "" {
		if rep.unknown, err = unknownBinaries(s.solo5, allCases()); err != nil {
			return 0, err
		}
	}
	if _, err := rep.WriteTo(os.Stdout); err != nil {
		return 0, err
	}
	if rep.worse() {
		return exitWorse, nil
	}
	return exitSame, nil
}
