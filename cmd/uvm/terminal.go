package main

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/vmm"
)

// escape is Ctrl-A: escape x ends the VM, escape escape sends one.
const escape = 0x01

// stdin gives the guest uvm's standard input. A terminal is put into raw mode,
// so that Ctrl-C and the like go to the guest; restore undoes that, and quit
// ends the VM. If the guest has no use for input, nothing of this happens.
func stdin(restore *func(), quit context.CancelCauseFunc) func() (*os.File, error) {
	return func() (*os.File, error) {
		fd := int(os.Stdin.Fd())
		old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return os.Stdin, nil // not a terminal
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, &vmm.HostError{What: "stdin", Err: err}
		}
		raw := *old
		raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
			return nil, &vmm.HostError{What: "stdin", Err: err}
		}
		*restore = func() { unix.IoctlSetTermios(fd, unix.TCSETSW, old) }
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
