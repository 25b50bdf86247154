package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// asProgram in the environment makes the test binary be the program itself.
const asProgram = "UVM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		main()
	}
	os.Exit(m.Run())
}

// TestUsage has all that uvm never says. What it says has its tests in cmd/uvm.
func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		want   string // on stderr, in one line
	}{
		{nil, exitUsage, "unknown command"},
		{[]string{"frob"}, exitUsage, `unknown command "frob"`},
		{[]string{"clean", "x"}, exitUsage, `unknown command "clean x"`},
		{[]string{"clean", "--frob"}, exitUsage, "unknown flag: --frob"},
		{[]string{"clean", "--netns", "uvm-no-such"}, exitHost, "there is no network namespace uvm-no-such"},
		{[]string{"open"}, exitUsage, `unknown command "open"`},
		{[]string{"open", "x"}, exitUsage, "invalid character"},
		{[]string{"open", "[" + strings.Repeat("{},", 64) + "{}]"}, exitUsage, "65 network interfaces; at most 64"},
		{[]string{"open", `[{"label":"service"}]`}, exitUsage, `net "service": no interface named`},
		{[]string{"open", `[{"name":"tap0","guest":"10.0.0.2"}]`}, exitUsage, "10.0.0.2/24"},
		{[]string{"open", `[{"name":"tap0","netns":"uvm-no-such"}]`}, exitHost, "there is no network namespace uvm-no-such"},
		{[]string{"open", "[]"}, exitHost, "descriptor 3"},
	} {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), exe, tt.args...)
		cmd.Env = append(os.Environ(), asProgram+"=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := stderr.String(); cmd.ProcessState.ExitCode() != tt.status || !strings.HasPrefix(got, "uvm: ") || !strings.Contains(got, tt.want) || strings.Count(got, "\n") != 1 {
			t.Errorf("uvm-net %q = status %d, stderr %q; want %d and one line with %q", tt.args, cmd.ProcessState.ExitCode(), got, tt.status, tt.want)
		}
	}
}
