package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/uvm-monitor/uvm/internal/lab/wire"
)

const (
	// quitTime is what a job gets to print its goroutines after SIGQUIT.
	quitTime = 5 * time.Second
	// chunk is the most bytes that one event carries.
	chunk = 32 << 10
)

// runner runs the jobs one after the other.
type runner struct {
	mu   sync.Mutex
	out  io.Writer
	hold bool         // keep output until the job has ended
	held bytes.Buffer // what is kept
}

func (r *runner) send(e *wire.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := e.Encode()
	if r.hold && e.Event == wire.Output {
		r.held.Write(line)
		return
	}
	if _, err := r.out.Write(append(r.held.Bytes(), line...)); err != nil {
		complain(err)
	}
	r.held.Reset()
}

// stream turns what is written to it into events.
type stream struct {
	r           *runner
	job, number int
}

func (s stream) Write(b []byte) (int, error) {
	for part := b; len(part) > 0; {
		n := min(len(part), chunk)
		e := wire.Event{Event: wire.Output, Job: s.job, Stream: s.number}
		e.SetBytes(part[:n])
		s.r.send(&e)
		part = part[n:]
	}
	return len(b), nil
}

// run runs job number i to its end, again where that is asked for.
func (r *runner) run(i int, job *wire.Job) {
	exit := r.try(i, job)
	if exit.TimedOut && job.Again {
		exit = r.try(i, job)
	}
	for _, path := range job.Results {
		if err := r.sendFile(i, path); err != nil {
			exit.Error = fmt.Sprintf("result file: %v", err)
		}
	}
	r.send(exit)
}

// try runs job number i once and leaves no process of it behind.
func (r *runner) try(i int, job *wire.Job) *wire.Event {
	r.send(&wire.Event{Event: wire.Start, Job: i})
	cmd := exec.Command(job.Argv[0], job.Argv[1:]...)
	cmd.Env = append(os.Environ(), job.Env...)
	cmd.Dir = job.Dir
	cmd.Stdout = stream{r, i, 1}
	cmd.Stderr = stream{r, i, 2}
	if job.Merge {
		cmd.Stderr = cmd.Stdout
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// A grandchild may hold the pipes open.
	cmd.WaitDelay = 2 * time.Second

	exit := &wire.Event{Event: wire.Exit, Job: i, Status: -1}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		exit.Error = err.Error()
	} else {
		done := make(chan struct{})
		go func() {
			defer close(done)
			// A status that is not zero is told below, not here.
			var status *exec.ExitError
			if err := cmd.Wait(); err != nil && !errors.As(err, &status) && !errors.Is(err, exec.ErrWaitDelay) {
				exit.Error = err.Error()
			}
		}()
		timedOut := bounded(cmd.Process.Pid, job.Bound, done, func() { cmd.Stderr.Write(diagnose()) })
		exit.TimedOut = timedOut
		exit.Status = status(cmd.ProcessState)
	}
	exit.Elapsed = time.Since(start)
	// What is left of it. The parent is process 1, which is exempt.
	_ = syscall.Kill(-1, syscall.SIGKILL)
	return exit
}

// bounded waits for done, and ends the process when it takes longer than the
// bound: look has a look at it, and then SIGQUIT, with which a Go program tells
// what its goroutines do.
func bounded(pid int, bound time.Duration, done <-chan struct{}, look func()) (timedOut bool) {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
		return false
	case <-timer.C:
	}
	look()
	_ = syscall.Kill(pid, syscall.SIGQUIT)
	select {
	case <-done:
	case <-time.After(quitTime):
		_ = syscall.Kill(-1, syscall.SIGKILL)
		<-done
	}
	return true
}

func status(p *os.ProcessState) int {
	if p == nil {
		return -1
	}
	if ws := p.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.ExitCode()
}

func (r *runner) sendFile(i int, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, chunk)
	for first := true; ; first = false {
		n, err := io.ReadFull(f, buf)
		if n > 0 || first {
			e := wire.Event{Event: wire.File, Job: i, Path: path}
			e.SetBytes(buf[:n])
			r.send(&e)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// shell gives the console to a shell, with job control.
func shell(argv []string) error {
	tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.Dir = "/root"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	var status *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &status) {
		return err
	}
	return nil
}
