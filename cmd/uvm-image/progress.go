package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// progress shows how far it is, on one line of a terminal, or after ten seconds and then
// every ten as lines of their own.
type progress struct {
	out      io.Writer
	terminal bool
	quiet    bool
	next     time.Time
	shown    bool
}

func newProgress(quiet bool) *progress {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	p := &progress{out: os.Stderr, terminal: err == nil, quiet: quiet}
	p.next = time.Now().Add(p.pause())
	return p
}

func (p *progress) pause() time.Duration {
	if p.terminal {
		return 200 * time.Millisecond
	}
	return 10 * time.Second
}

func (p *progress) show(stage string, done, all int64) {
	if p.quiet || time.Now().Before(p.next) {
		return
	}
	p.next = time.Now().Add(p.pause())
	far := fmt.Sprintf("%d MiB", done>>20)
	if all > 0 {
		far = fmt.Sprintf("%d %%", done*100/all)
	}
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[Kuvm: %s, %s", stage, far)
		p.shown = true
		return
	}
	fmt.Fprintf(p.out, "uvm: %s, %s\n", stage, far)
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// sizeFlag is a number of bytes with its unit.
type sizeFlag int64

func (s *sizeFlag) String() string {
	if *s == 0 {
		return ""
	}
	return fmt.Sprintf("%dM", *s>>20)
}

// Set parses 64, 64M, 2G; a bare number is MiB, as uvm run has it.
func (s *sizeFlag) Set(word string) error {
	num, shift := strings.TrimSuffix(strings.ToUpper(word), "IB"), 20
	for i, unit := range []string{"M", "G", "T"} {
		if n, ok := strings.CutSuffix(num, unit); ok {
			num, shift = n, 20+10*i
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 1 || n > 1<<46>>shift {
		return errors.New("want a number with M, G or T, as 512M (a bare number is MiB)")
	}
	*s = sizeFlag(n << shift)
	return nil
}

// Type is the placeholder in help texts.
func (s *sizeFlag) Type() string { return "SIZE" }
