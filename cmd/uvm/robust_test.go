package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestLeavesNothing runs the program 30 times to every kind of end and looks
// for processes, files and descriptors that are left.
func TestLeavesNothing(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	// A child of the program that outlived it would become ours.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

	tmp, disk := t.TempDir(), image(t, 1<<20)
	good, fault, missing := hello(t), new(guest).hlt().file(t), withDevices(t, oneNet)
	blk, spin := (&guest{devices: oneDisk}).print("on\n").halt(3).file(t), new(guest).print("on\n").spin().file(t)
	runs := []struct {
		argv   []string
		kill   syscall.Signal
		status int
	}{
		{[]string{"uvm", "run", good}, 0, 0},
		{[]string{"uvm", "run", blk, "--disk", disk}, 0, 3},
		{[]string{"uvm", "run", fault}, 0, 255},
		{[]string{"uvm", "run", spin, "--timeout", "10ms"}, 0, 124},
		{[]string{"uvm", "run", spin}, syscall.SIGINT, 130},
		{[]string{"uvm", "run", spin}, syscall.SIGKILL, -1},
		{[]string{"uvm", "run", missing, "--console", "file:" + tmp + "/console", "--boot-report", tmp + "/report"}, 0, 125},
		{[]string{"uvm", "run", good, "--cpus", "9"}, 0, 125},
		{[]string{solo5Name, "--block:storage=" + disk, blk}, 0, 3},
		{[]string{solo5Name, spin}, syscall.SIGTERM, 1},
	}
	const rounds = 3
	for range rounds {
		for _, tt := range runs {
			cmd := program(t, tt.argv...)
			cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
			cmd.Dir = tmp
			var got ended
			if tt.kill != 0 {
				r := follow(t, cmd)
				r.expect("on\n")
				r.kill(tt.kill)
				got = r.wait()
				r.out.(*os.File).Close()
			} else {
				got = run(t, cmd)
			}
			if got.status != tt.status {
				t.Errorf("%q = %+v; want status %d", tt.argv, got, tt.status)
			}
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("files left = %v, %v; want none", left, err)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("wait4(-1) = %d, %v; want no processes left", pid, err)
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("lock of the image: %v; want it to be free", err)
	}
}

// TestSampleGuests runs programs written in C for any tender, built here from
// guests/.
func TestSampleGuests(t *testing.T) {
	testutil.RequireKVM(t)
	// A directory of its own, since tests of other packages may build too.
	dir := t.TempDir()
	guests := map[string]string{"hello": "", "args": "", "blkcheck": "", "marks": ""}
	args := []string{"-C", "../../guests", "OUT=" + dir}
	for name := range guests {
		guests[name] = filepath.Join(dir, name+".hvt")
		args = append(args, guests[name])
	}
	if out, err := exec.Command("make", args...).CombinedOutput(); err != nil {
		t.Fatalf("make -C guests: %v (needs make, gcc and binutils: sudo apt-get install build-essential): %s", err, out)
	}
	disk := image(t, 64*512)
	for _, tt := range []struct {
		argv   []string
		status int
		stdout string // its beginning
	}{
		{[]string{"uvm", "run", guests["hello"]}, 0, "Hello from uvm"},
		{[]string{solo5Name, "--mem=4", guests["hello"], "one", "two"}, 0, "Hello from uvm"},
		{[]string{"uvm", "run", guests["args"], "--", "--exit", "300"}, 44, "argc=2\nargv[0]=\"--exit\"\nargv[1]=\"300\"\n"},
		{[]string{solo5Name, guests["args"], "--exit", "-1"}, 255, "argc=2\n"},
		{[]string{solo5Name, "--block:storage=" + disk, guests["blkcheck"]}, 0, ""},
		{[]string{"uvm", "run", guests["blkcheck"], "--disk", disk + ",ro", "--", "verify"}, 0, ""},
		{[]string{"uvm", "run", guests["blkcheck"], "--disk", "storage=" + disk + ",ro", "--", "ro"}, 0, ""},
		{[]string{"uvm", "run", guests["marks"]}, 0, ""},
		{[]string{solo5Name, guests["marks"]}, 1, ""},
	} {
		got := run(t, program(t, tt.argv...))
		if got.status != tt.status || !strings.HasPrefix(got.stdout, tt.stdout) {
			t.Errorf("%q = %+v; want status %d, stdout %q", tt.argv, got, tt.status, tt.stdout)
		}
	}
}
