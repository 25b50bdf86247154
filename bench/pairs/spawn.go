package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// sample is what one run of one command took.
type sample struct {
	wall   time.Duration
	cpu    time.Duration // user and system
	faults int64         // page faults without I/O
}

// spawner runs commands with the same three descriptors each time.
type spawner struct {
	null   *os.File
	stderr *os.File // temporary and without a name
}

func newSpawner() (*spawner, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "pairs-stderr")
	if err != nil {
		return nil, err
	}
	return &spawner{null, f}, os.Remove(f.Name())
}

// run runs c once. The error names the command and quotes its stderr.
func (s *spawner) run(c *command) (sample, error) {
	if err := s.stderr.Truncate(0); err != nil {
		return sample{}, err
	}
	if _, err := s.stderr.Seek(0, io.SeekStart); err != nil {
		return sample{}, err
	}
	attr := &syscall.ProcAttr{
		Env:   c.env,
		Files: []uintptr{s.null.Fd(), s.null.Fd(), s.stderr.Fd()},
	}
	var (
		status syscall.WaitStatus
		usage  syscall.Rusage
	)
	start := time.Now()
	pid, err := syscall.ForkExec(c.path, c.argv, attr)
	if err != nil {
		return sample{}, fmt.Errorf("%s: exec %s: %w", c.label, c.path, err)
	}
	for {
		_, err = syscall.Wait4(pid, &status, 0, &usage)
		if err != syscall.EINTR {
			break
		}
	}
	wall := time.Since(start)
	if err != nil {
		return sample{}, fmt.Errorf("%s: wait4: %w", c.label, err)
	}
	if status.Signaled() || status.ExitStatus() != 0 {
		return sample{}, fmt.Errorf("%s: %q %s; its stderr:\n%s", c.label, c.argv, ended(status), s.said())
	}
	return sample{
		wall:   wall,
		cpu:    time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		faults: usage.Minflt,
	}, nil
}

func ended(s syscall.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("was killed by signal %d (%v)", int(s.Signal()), s.Signal())
	}
	return fmt.Sprintf("ended with status %d, need 0", s.ExitStatus())
}

// said returns what the last command wrote to stderr, at most the first 4 KiB.
func (s *spawner) said() []byte {
	b := make([]byte, 4<<10)
	n, _ := s.stderr.ReadAt(b, 0)
	if n == 0 {
		return []byte("(nothing)")
	}
	return bytes.TrimRight(b[:n], "\n")
}
