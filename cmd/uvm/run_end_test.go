package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestGuestStatus passes a guest's status through, under both names.
func TestGuestStatus(t *testing.T) {
	testutil.RequireKVM(t)
	for guestSays, want := range map[int32]int{0: 0, 1: 1, 7: 7, 124: 124, 255: 255, 256: 0, 300: 44, -1: 255, -2147483648: 0} {
		kernel := new(guest).halt(guestSays).file(t)
		wantQuiet(t, uvm(t, "run", kernel), want, "")
		wantQuiet(t, solo5(t, kernel), want, "")
	}
}

// TestGuestFaults are guests that break. stderr names the instruction, and the
// status cannot be mistaken for anything else but the guest's own 255.
func TestGuestFaults(t *testing.T) {
	testutil.RequireKVM(t)
	const past = 0x40000000 // no memory there
	for _, tt := range []struct {
		name  string
		guest *guest
		want  []string
	}{
		{"port", new(guest).emit(hvtelf.Out(0x80, 1)...), []string{"invalid port access", "port 0x80"}},
		{"hypercall", new(guest).call(0, 0), []string{"invalid hypercall"}},
		{"hypercall of a device it has none of", new(guest).call(hypercall.NetRead, hvtelf.DataAddr), []string{"invalid hypercall", "number 7"}},
		{"pointer", new(guest).puts(past, 5), []string{"invalid guest pointer", "PUTS", "0x40000000"}},
		{"structure", new(guest).call(hypercall.HaltCall, past), []string{"invalid guest pointer", "HALT", "0x40000000"}},
		// c6 04 25 imm32 00  mov byte [CodeAddr], 0
		// Before Linux 6.8 KVM does not tell the address; vmm's tests ask for it
		// where it does.
		{"write to the code", new(guest).emit(0xc6, 0x04, 0x25, 0, 0, 0x10, 0, 0), []string{"translation fault", "rip=0x1000"}},
		{"hlt", new(guest).hlt(), []string{"HLT"}},
		// 0f 0b  ud2
		{"exception", new(guest).emit(0x0f, 0x0b), []string{"exception without a handler", "vector 6"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code := len(tt.guest.code)
			got := uvm(t, "run", tt.guest.print("survived").halt(0).file(t))
			wantLine(t, got, exitGuest, append(tt.want, "guest fault", "rip=0x1000")...)
			if got.stdout != "" {
				t.Errorf("stdout = %q; want nothing after the fault", got.stdout)
			}
			var rip uint64
			if _, after, ok := strings.Cut(got.stderr, "rip="); ok {
				fmt.Sscanf(after, "%v", &rip)
			}
			if rip < hvtelf.CodeAddr || rip > hvtelf.CodeAddr+uint64(code) {
				t.Errorf("rip = %#x; want it between %#x and %#x", rip, hvtelf.CodeAddr, hvtelf.CodeAddr+code)
			}
		})
	}
}

// TestRings runs the same faulting guest in both rings: the option decides who
// sees the fault first.
func TestRings(t *testing.T) {
	testutil.RequireKVM(t)
	path := new(guest).emit(0x0f, 0x0b).file(t) // ud2
	wantLine(t, uvm(t, "run", "--ring", "sealed", path), exitGuest, "exception without a handler, vector 6")
	wantLine(t, uvm(t, "run", "--ring", "0", path), exitGuest, "triple fault")
	wantLine(t, uvm(t, "run", "--ring", "3", path), exitUsage, `ring "3"`, "sealed or 0")
}

func TestTimeout(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	kernel := new(guest).print("on\n").spin().file(t)
	got := uvm(t, "run", kernel, "--timeout", "200ms")
	wantLine(t, got, exitTimeout, "--timeout")
	if got.stdout != "on\n" {
		t.Errorf("stdout = %q; want what the guest said before", got.stdout)
	}
	// In time, it does not matter.
	wantQuiet(t, uvm(t, "run", hello(t), "--timeout", "40s"), 0, "hello\n")
}

// TestSignalWhileBlocked stops a guest whose output nobody takes.
func TestSignalWhileBlocked(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	g := new(guest)
	g.print("0123456789abcdef")
	// eb rel8  jmp to the start
	g.emit(0xeb, byte(-len(g.code)-2))
	r := follow(t, program(t, "uvm", "run", g.file(t)))
	out := int(r.out.(*os.File).Fd())
	room, err := unix.FcntlInt(uintptr(out), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	testutil.Until(t, "the pipe is full", func() bool {
		n, err := unix.IoctlGetInt(out, unix.TIOCINQ)
		return err != nil || n > room-4096 // poll(2) calls a pipe full when its last page is in use
	})
	r.kill(syscall.SIGTERM)
	if got, want := r.wait(), (ended{status: 143}); got != want {
		t.Errorf("run = %+v; want %+v", got, want)
	}
}

func TestConsole(t *testing.T) {
	testutil.RequireKVM(t)
	kernel := hello(t)
	path := filepath.Join(t.TempDir(), "console")
	for _, want := range []string{"hello\n", "hello\nhello\n"} { // the second run appends
		wantQuiet(t, uvm(t, "run", kernel, "--console", "file:"+path), 0, "")
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("console file = %q, %v; want %q", b, err, want)
		}
	}
	wantQuiet(t, uvm(t, "run", kernel, "--console", "none"), 0, "")
	wantQuiet(t, uvm(t, "run", kernel, "--console", "stdio"), 0, "hello\n")
	// The file is there, with its content, when the guest fails later.
	fault := filepath.Join(t.TempDir(), "fault")
	wantLine(t, uvm(t, "run", new(guest).print("x").hlt().file(t), "--console", "file:"+fault), exitGuest)
	if b, err := os.ReadFile(fault); err != nil || string(b) != "x" {
		t.Errorf("console file after a fault = %q, %v; want %q", b, err, "x")
	}
}

// TestConsoleReaderGone ends the guest as SIGPIPE ends a process: silently.
func TestConsoleReaderGone(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	for _, argv := range [][]string{{"uvm", "run"}, {solo5Name}} {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		reader.Close()
		cmd := program(t, append(argv, new(guest).print("x").spin().file(t))...)
		cmd.Stdout = writer
		got := run(t, cmd)
		writer.Close()
		if want := (ended{status: 141}); got != want {
			t.Errorf("%s: run = %+v; want %+v", argv[0], got, want)
		}
	}
}

// TestLog writes to a full disk, which is for the log and not for the guest.
func TestLog(t *testing.T) {
	testutil.RequireKVM(t)
	kernel := new(guest).print("x").print("y").halt(0).file(t)
	args := []string{"run", kernel, "--console", "file:/dev/full"}
	got := uvm(t, append(args, "--log-format", "json")...)
	if got.status != 0 || strings.Count(got.stderr, "\n") != 2 {
		t.Errorf("run = %+v; want status 0 and two lines on stderr", got)
	}
	for line := range strings.Lines(got.stderr) {
		var entry struct{ Time, Level, Msg, Error string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level != "ERROR" || entry.Time == "" || entry.Msg == "" ||
			!strings.Contains(entry.Error, "no space left") {
			t.Errorf("log line %s = %+v, %v; want a time, level ERROR, a message and the error", line, entry, err)
		}
	}
	got = uvm(t, append(args, "--log-format", "text")...)
	if got.status != 0 || strings.Count(got.stderr, "level=ERROR") != 2 {
		t.Errorf("run = %+v; want status 0 and two errors in the log", got)
	}
	// Nothing is above error, so that the level shows nowhere but in its check.
	got = uvm(t, append(args, "--log-level", "error")...)
	if got.status != 0 || strings.Count(got.stderr, "level=ERROR") != 2 {
		t.Errorf("run = %+v; want status 0 and two errors in the log", got)
	}
}

// TestArguments are what follows --, as the guest gets it.
func TestArguments(t *testing.T) {
	testutil.RequireKVM(t)
	const want = "a  --help -- -m é "
	args := []string{"a", "", "--help", "--", "-m", "é", ""}
	kernel := new(guest).cmdline(len(want)).puts(0x10000, 0).halt(0).file(t)
	wantQuiet(t, uvm(t, append([]string{"run", kernel, "-m", "2", "--"}, args...)...), 0, want)
	wantQuiet(t, solo5(t, append([]string{kernel}, args...)...), 0, want)
	wantQuiet(t, solo5(t, append([]string{"--mem=2", "--", kernel}, args...)...), 0, want)

	long := strings.Repeat("x", 8191)
	kernel = new(guest).cmdline(len(long)).halt(0).file(t)
	wantQuiet(t, uvm(t, "run", kernel, "--", long), 0, long)
	wantQuiet(t, solo5(t, kernel, long), 0, long)
}
