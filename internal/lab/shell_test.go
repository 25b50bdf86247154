package lab

import (
	"bufio"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestShell types into the shell of make lab-shell.
func TestShell(t *testing.T) {
	t.Parallel()
	cmd, _ := childCommand(t, "shell")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(3*time.Minute, func() { _ = cmd.Cancel() })
	defer timer.Stop()
	var seen strings.Builder
	for r := bufio.NewReader(out); ; {
		b, err := r.ReadByte()
		if err != nil {
			break
		}
		seen.WriteByte(b)
		if strings.HasSuffix(seen.String(), "lab:/src# ") {
			in.Write([]byte("uvm run bin/guests/hello.hvt -- typed && solo5-hvt bin/guests/hello.hvt; exit\n"))
		}
	}
	if err := cmd.Wait(); err != nil || strings.Count(seen.String(), "Hello from uvm") != 2 {
		t.Errorf("the shell ended with %v; want two greetings in\n%s", err, seen.String())
	}
}
