package main

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/vmm"
)

// escape is Ctrl-A: escape x ends the VM, escape escape sends one.
const escape = 0x01

// terminal is uvm's standard input if that is one, in raw mode while a guest
// reads from it.
type terminal struct {
	mu  sync.Mutex
	old *unix.Termios // nil: as it was
}

// restore undoes raw mode.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.old != nil {
		unix.IoctlSetTermios(unix.Stdin, unix.TCSETSW, t.old)
		t.old = nil
	}
}

// raw sets the terminal up so that Ctrl-C and the like go to the guest, if
// standard input is one.
func (t *terminal) raw() (isTerminal bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, err := unix.IoctlGetTermios(unix.Stdin, unix.TCGETS)
	if err != nil {
		return false, nil
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(unix.Stdin, unix.TCSETS, &raw); err != nil {
		return true, err
	}
	t.old = old
	return true, nil
}

// input gives the guest uvm's standard input; from a terminal without the escape
// sequences, of which one calls quit.
func (t *terminal) input(quit context.CancelCauseFunc) (*os.File, error) {
	if isTerminal, err := t.raw(); err != nil {
		return nil, &vmm.HostError{What: "stdin", Err: err}
	} else if !isTerminal {
		return os.Stdin, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, &vmm.HostError{What: "stdin", Err: err}
	}
	go func() {
		defer w.Close()
		var f escapeFilter
		buf := make([]byte, 4096)
		for {
			n, err := os.Stdin.Read(buf)
			out, end := f.filter(buf[:n])
			if _, werr := w.Write(out); werr != nil || err != nil {
				return
			}
			if end {
				quit(&signalError{unix.SIGINT})
				return
			}
		}
	}()
	return r, nil
}

// escapeFilter takes escape sequences out of what is typed.
type escapeFilter struct{ escaped bool }

// filter returns what is left of b, in b's memory, and whether escape x was in it.
func (f *escapeFilter) filter(b []byte) (out []byte, quit bool) {
	out = b[:0]
	for _, c := range b {
		switch {
		case !f.escaped && c == escape:
			f.escaped = true
			continue
		case f.escaped && (c == 'x' || c == 'X'):
			return out, true
		}
		f.escaped = false
		out = append(out, c)
	}
	return out, false
}
