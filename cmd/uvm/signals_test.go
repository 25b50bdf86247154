package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// entryDir is where entryBinary has put it, for TestMain to remove.
var entryDir string

// entryBinary is uvm with its own entry point, as the Makefile links it. The lab
// has it built.
var entryBinary = sync.OnceValues(func() (string, error) {
	if os.Getenv("UVM_LAB") == "1" {
		return exec.LookPath("uvm")
	}
	var err error
	if entryDir, err = os.MkdirTemp("", "uvm-entry"); err != nil {
		return "", err
	}
	path := filepath.Join(entryDir, "uvm")
	cmd := exec.Command("go", "build", "-ldflags", "-E _rt0_uvm", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

// entered has cmd run uvm with its own entry point, if entry says so.
func entered(t *testing.T, entry bool, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if !entry {
		return cmd
	}
	path, err := entryBinary()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = path
	return cmd
}

// TestSignals ends a guest that never leaves its loop.
func TestSignals(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	kernel := new(guest).print("on\n").spin().file(t)
	for _, entry := range []bool{false, true} {
		for _, tt := range []struct {
			sig    syscall.Signal
			status int
		}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}} {
			r := follow(t, entered(t, entry, program(t, "uvm", "run", kernel)))
			r.expect("on\n")
			r.kill(tt.sig)
			if got, want := r.wait(), (ended{status: tt.status}); got != want {
				t.Errorf("%v: run = %+v; want %+v", tt.sig, got, want)
			}
		}
	}
}

// TestSecondSignal has uvm hang on a report that nobody reads: the second
// signal ends it there, as if it caught none.
func TestSecondSignal(t *testing.T) {
	testutil.RequireKVM(t)
	for _, entry := range []bool{false, true} {
		t.Run(fmt.Sprintf("entry=%t", entry), func(t *testing.T) { testSecondSignal(t, entry) })
	}
}

func testSecondSignal(t *testing.T, entry bool) {
	testutil.Watchdog(t)
	fifo := filepath.Join(t.TempDir(), "report")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := entered(t, entry, program(t, "uvm", "run", new(guest).print("on\n").spin().file(t), "--boot-summary", "--boot-report", fifo))
	summary, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer summary.Close()
	cmd.Stderr = stderr
	r := follow(t, cmd)
	stderr.Close()
	r.expect("on\n")
	r.kill(syscall.SIGTERM)
	r.out = summary // it comes right before the report
	r.expect("uvm: boot")
	r.kill(syscall.SIGINT)
	if got, want := r.wait(), (ended{status: -1, signal: syscall.SIGINT}); got != want {
		t.Errorf("run = %+v; want %+v", got, want)
	}
}

// TestSignalOutsideRun sends a signal where nobody waits for one: uvm reads its
// settings from a pipe that says nothing.
func TestSignalOutsideRun(t *testing.T) {
	testutil.Watchdog(t)
	for _, entry := range []bool{false, true} {
		cmd := entered(t, entry, program(t, "uvm", "run", "--config", "-"))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		r := &running{t: t, cmd: cmd}
		r.start()
		time.Sleep(50 * time.Millisecond) // whether it is in time or not, the end is the same
		r.kill(syscall.SIGTERM)
		if got, want := r.wait(), (ended{status: -1, signal: syscall.SIGTERM}); got != want {
			t.Errorf("entry=%t: run = %+v; want %+v", entry, got, want)
		}
	}
}

// TestAffinity: the CPUs that uvm was started with are all its threads', soon
// after the start, and no others.
func TestAffinity(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	var last unix.CPUSet
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			last = unix.CPUSet{}
			last.Set(cpu)
		}
	}
	kernel := new(guest).print("on\n").spin().file(t)
	for _, want := range []unix.CPUSet{all, last} {
		if err := unix.SchedSetaffinity(0, &want); err != nil {
			t.Fatal(err)
		}
		r := follow(t, entered(t, true, program(t, "uvm", "run", kernel)))
		r.expect("on\n")
		dir := fmt.Sprintf("/proc/%d/task", r.cmd.Process.Pid)
		testutil.Until(t, "all threads may use the CPUs of the start", func() bool {
			tasks, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, task := range tasks {
				tid, _ := strconv.Atoi(task.Name())
				var got unix.CPUSet
				if err := unix.SchedGetaffinity(tid, &got); err == nil && got != want {
					return false
				}
			}
			return true
		})
		r.kill(syscall.SIGTERM)
		r.wait()
	}
}
