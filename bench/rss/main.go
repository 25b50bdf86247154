// Rss starts a monitor with a guest, waits until the guest is up, and prints
// how much memory of the host the monitor itself takes: all resident memory
// of the process but that of its guest.
//
//	rss --mem MIB [flags] -- PROGRAM [ARG...]
//
// The total is RssAnon + RssFile + RssShmem of /proc/PID/status (proc(5)),
// less what is resident of the guest's memory, which /proc/PID/smaps tells.
// PROGRAM has to be the monitor itself, not a shell that starts it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "rss:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		mem     = flag.Uint64("mem", 0, "size of the guest's memory in `MiB`, as PROGRAM is told")
		line    = flag.String("line", "", "measure when a line of stdout contains `TEXT`, instead of after a delay")
		after   = flag.Duration("after", 500*time.Millisecond, "measure this long after the start, or after the line")
		timeout = flag.Duration("timeout", 10*time.Second, "give up if the line has not come by then")
		asJSON  = flag.Bool("json", false, "print JSON, in KiB")
	)
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: rss --mem MIB [flags] -- PROGRAM [ARG...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *mem == 0 || flag.NArg() == 0 {
		flag.Usage()
		return errors.New("need --mem and a command")
	}
	p, err := start(flag.Args(), *line)
	if err != nil {
		return err
	}
	defer p.end()
	if err := p.wait(*line, *timeout, *after); err != nil {
		return err
	}
	u, err := measure(p.cmd.Process.Pid, *mem<<20)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(u)
	}
	return u.print(os.Stdout)
}

// process is the running monitor.
type process struct {
	cmd    *exec.Cmd
	line   chan struct{} // closed when the line has come
	exited chan struct{} // closed when the process has ended
	err    error         // how it ended; read after exited
}

// start starts argv and reads its stdout, so that it never waits for us.
func start(argv []string, line string) (*process, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (build it first, or give its path)", err)
	}
	p := &process{cmd: cmd, line: make(chan struct{}), exited: make(chan struct{})}
	go func() {
		in := bufio.NewReader(out)
		for {
			s, err := in.ReadString('\n')
			if strings.Contains(s, line) {
				close(p.line)
				break
			}
			if err != nil {
				break
			}
		}
		io.Copy(io.Discard, in)
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// wait returns when the process is to be measured.
func (p *process) wait(line string, timeout, after time.Duration) error {
	if line != "" {
		select {
		case <-p.line:
		case <-p.exited:
			return p.early()
		case <-time.After(timeout):
			return fmt.Errorf("no line with %q on stdout within %v; see --line and --timeout", line, timeout)
		}
	}
	select {
	case <-p.exited:
		return p.early()
	case <-time.After(after):
		return nil
	}
}

func (p *process) early() error {
	end := "exit status 0"
	if p.err != nil {
		end = p.err.Error()
	}
	return fmt.Errorf("%s ended (%s) before it was measured; take a guest that runs longer", p.cmd.Path, end)
}

// end terminates the process: first politely.
func (p *process) end() {
	const grace = 2 * time.Second
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(grace):
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// print writes u as a table.
func (u *usage) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "resident\tKiB\t")
	for _, row := range []struct {
		name string
		kib  int64
	}{
		{"text", u.Text}, {"data", u.Data}, {"heap", u.Heap}, {"other", u.Other},
		{"monitor", u.Total}, {"guest", u.Guest},
	} {
		fmt.Fprintf(t, "%s\t%d\t\n", row.name, row.kib)
	}
	return t.Flush()
}
