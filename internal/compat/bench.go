package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Where a built Solo5 tree has its tenders.
const (
	tenderPath = "tenders/hvt/solo5-hvt"
	debugPath  = "tenders/hvt/solo5-hvt-debug"
)

// bench runs tests under the two tenders.
type bench struct {
	settings
	tests    string // the tree's tests/, the working directory of every run
	scratch  string // {dir} of a test, emptied before each run
	upstream string // links by the names that the programs are called by
	debug    string
	ours     string
}

func newBench(s settings) (*bench, error) {
	b := &bench{
		settings: s,
		tests:    filepath.Join(s.solo5, "tests"),
		scratch:  filepath.Join(s.work, "scratch"),
		upstream: filepath.Join(s.work, "upstream", "solo5-hvt"),
		debug:    filepath.Join(s.work, "upstream", "solo5-hvt-debug"),
		ours:     filepath.Join(s.work, "uvm", "solo5-hvt"),
	}
	for link, target := range map[string]string{
		b.upstream: filepath.Join(s.solo5, tenderPath),
		b.debug:    filepath.Join(s.solo5, debugPath),
		b.ours:     s.uvm,
	} {
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return nil, err
		}
		if err := os.Symlink(target, link); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// firstLine is the first line that a command prints.
func (b *bench) firstLine(path, arg string) string {
	ctx, cancel := context.WithTimeout(context.Background(), b.limit)
	defer cancel()
	out, _ := exec.CommandContext(ctx, path, arg).CombinedOutput() // the line says what went wrong
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// compare runs one test under both tenders.
func (b *bench) compare(c testCase) row {
	r := row{testCase: c}
	if _, err := os.Stat(filepath.Join(b.tests, c.kernel())); err != nil {
		r.missing = true
		return r
	}
	theirs := b.upstream
	if c.debug {
		theirs = b.debug
	}
	fmt.Fprintf(os.Stderr, "%s: upstream", c.name)
	r.theirs = b.try(c, theirs)
	fmt.Fprintf(os.Stderr, " %.1f s, uvm", r.theirs.seconds)
	r.ours = b.try(c, b.ours)
	fmt.Fprintf(os.Stderr, " %.1f s\n", r.ours.seconds)
	return r
}

// try runs a test in a scratch directory of its own.
func (b *bench) try(c testCase, tender string) (o outcome) {
	if o.err = b.prepare(c); o.err == nil {
		o = b.run(c, tender)
		o.verdict = b.judge(c, &o)
		for _, s := range []*string{&o.stdout, &o.stderr} {
			*s = strings.ReplaceAll(*s, b.scratch, "DIR")
		}
	}
	os.RemoveAll(b.scratch)
	return o
}

// prepare makes the scratch directory and the images in it.
func (b *bench) prepare(c testCase) error {
	if err := os.RemoveAll(b.scratch); err != nil {
		return err
	}
	if err := os.Mkdir(b.scratch, 0o755); err != nil {
		return err
	}
	for _, img := range c.images {
		path := filepath.Join(b.scratch, img.name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
		if err := os.Truncate(path, img.size); err != nil {
			return err
		}
	}
	return nil
}

// killDelay is how long a program that was told to end may take.
const killDelay = 5 * time.Second

// command is a program that gets SIGTERM when ctx is done and SIGKILL if that
// does not help.
func command(ctx context.Context, dir, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	return cmd
}

// run starts the tender and, for network tests, the pings.
func (b *bench) run(c testCase, tender string) (o outcome) {
	ctx, cancel := context.WithTimeout(context.Background(), b.limit)
	defer cancel()
	stop, stopped := context.WithCancel(ctx)
	defer stopped()

	var stdout, stderr capture
	cmd := command(stop, b.tests, tender, c.words(b.scratch, b.full)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	if o.err = cmd.Start(); o.err != nil {
		return o
	}
	pinged := make(chan []pinged, 1)
	go func() {
		p := b.pingAll(stop, c.pings)
		if len(p) > 0 {
			// With upstream's number of pings the guest ends by itself, unless
			// one was lost.
			if b.full {
				sleep(stop, killDelay)
			}
			stopped()
		}
		pinged <- p
	}()
	err := cmd.Wait()
	o.seconds = time.Since(begin).Seconds()
	stopped()
	o.pings = <-pinged
	o.timedOut = ctx.Err() != nil
	o.stdout, o.stderr = stdout.String(), stderr.String()
	o.status = exitStatus(cmd.ProcessState)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		o.err = err
	}
	return o
}

// exitStatus is a process's status as a shell shows it.
func exitStatus(p *os.ProcessState) int {
	if ws, ok := p.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ExitCode()
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// maxCapture bounds what is kept of a program's output, in bytes.
const maxCapture = 1 << 20

// capture keeps the beginning of what is written to it.
type capture struct {
	data []byte
	lost int // bytes
}

func (c *capture) Write(p []byte) (int, error) {
	n := min(len(p), maxCapture-len(c.data))
	c.data = append(c.data, p[:n]...)
	c.lost += len(p) - n
	return len(p), nil
}

func (c *capture) String() string {
	if c.lost == 0 {
		return string(c.data)
	}
	return fmt.Sprintf("%s\n[%d more bytes]\n", c.data, c.lost)
}
