package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

func TestEscapeFilter(t *testing.T) {
	for _, c := range []struct {
		in   []string // as it is read
		out  string
		quit bool
	}{
		{[]string{"abc"}, "abc", false},
		{[]string{"a\x03b"}, "a\x03b", false},
		{[]string{"a\x01xb"}, "a", true},
		{[]string{"a\x01", "X"}, "a", true},
		{[]string{"\x01\x01"}, "\x01", false},
		{[]string{"\x01", "\x01", "x"}, "\x01x", false},
		{[]string{"\x01\x01\x01x"}, "\x01", true},
		{[]string{"\x01ab"}, "ab", false},
		{[]string{"\x01"}, "", false},
		{nil, "", false},
	} {
		var f escapeFilter
		var out []byte
		quit := false
		for _, in := range c.in {
			b, q := f.filter([]byte(in))
			out, quit = append(out, b...), quit || q
		}
		if string(out) != c.out || quit != c.quit {
			t.Errorf("filter(%q) = %q, %t; want %q, %t", c.in, out, quit, c.out, c.quit)
		}
	}
}

// openTerminal makes a pseudo-terminal: the user's side, and uvm's.
func openTerminal(t *testing.T) (user, tty *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	fd := int(user.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return user, tty
}

func termios(t *testing.T, tty *os.File) unix.Termios {
	t.Helper()
	tio, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *tio
}

// TestTerminal types at a guest: it gets what is typed, Ctrl-C too, until the
// escape sequence or a signal ends uvm. The terminal is then as it was, also
// where no guest could be started.
func TestTerminal(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	// A kernel that says "on" and prints each byte that it gets.
	code := []byte{
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xb0, 'o', 0xee, // mov al, 'o'; out dx, al
		0xb0, 'n', 0xee,
		0x66, 0xba, 0xfd, 0x03, // wait: mov dx, 0x3fd
		0xec,       // in al, dx
		0xa8, 0x01, // test al, 1
		0x74, 0xf7, // jz wait
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xec, 0xee, // in al, dx; out dx, al
		0xeb, 0xef, // jmp wait
	}
	kernel := writeFile(t, "echo", hvtelf.PC{Code: code, Data: []byte{0}, PVH: 4}.ELF())
	for _, c := range []struct {
		name   string
		end    func(user *os.File, r *running)
		status int
	}{
		{"escape", func(user *os.File, r *running) { user.WriteString("\x01x") }, 130},
		{"signal", func(user *os.File, r *running) { r.kill(syscall.SIGTERM) }, 143},
	} {
		user, tty := openTerminal(t)
		before := termios(t, tty)
		cmd := program(t, "uvm", "run", kernel, "-m", "4M")
		cmd.Stdin = tty
		r := follow(t, cmd)
		first := make([]byte, 2)
		if n, _ := r.out.Read(first); n == 0 {
			// No Linux on this KVM: a start that fails, after raw mode.
			if e := r.wait(); e.status != exitHost || !strings.Contains(e.stderr, "emulates ring 0") || os.Getenv("UVM_LAB") == "1" {
				t.Errorf("%s: run = %+v; want a guest, or outside the lab its refusal", c.name, e)
			}
		} else {
			if string(first[:n]) == "o" {
				r.expect("n")
			}
			if raw := termios(t, tty); raw.Lflag&(unix.ICANON|unix.ISIG|unix.ECHO) != 0 {
				t.Errorf("%s: local modes %#x while the guest runs; want raw mode", c.name, raw.Lflag)
			}
			user.WriteString("hi\x03\x01\x01\r")
			r.expect("hi\x03\x01\r")
			c.end(user, r)
			if e := r.wait(); e.status != c.status {
				t.Errorf("%s: run = %+v; want status %d", c.name, e, c.status)
			}
		}
		if after := termios(t, tty); after != before {
			t.Errorf("%s: the terminal is %+v afterwards; want %+v", c.name, after, before)
		}
	}
}
