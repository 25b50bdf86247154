package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tracefs = "/sys/kernel/tracing"
	// traceTime is how long KVM is listened to, traceLines how much is told of it.
	traceTime  = 500 * time.Millisecond
	traceLines = 60
)

// diagnose tells what the lab's threads and its KVM are doing, for a job that
// takes too long: whether its guest runs, waits for an interrupt, or has none of
// the processor. The agent's own threads are left out.
func diagnose() []byte {
	var b bytes.Buffer
	b.WriteString("the job has taken too long; threads in the lab: program, state, times in user, system and guest mode, where it waits\n")
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	for _, dir := range tasks {
		// proc(5): the name stands in brackets and may have any in it.
		stat, _ := os.ReadFile(dir + "/stat")
		end := bytes.LastIndexByte(stat, ')')
		if f := strings.Fields(string(stat[end+1:])); end > 0 && len(f) > 40 && !strings.HasPrefix(dir, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			line, _ := os.ReadFile(dir + "/cmdline")
			if len(line) == 0 {
				continue // the kernel's own
			}
			wait, _ := os.ReadFile(dir + "/wchan")
			call, _ := os.ReadFile(dir + "/syscall")
			fmt.Fprintf(&b, "%s %s %s user %s system %s guest %s %s %s", filepath.Base(dir), stat[bytes.IndexByte(stat, '('):end+1], f[0], f[11], f[12], f[40], wait, call)
		}
	}
	fmt.Fprintf(&b, "KVM for %v, the end of it:\n%s\n", traceTime, traceKVM())
	return b.Bytes()
}

// traceKVM returns the last events of KVM's tracepoints.
func traceKVM() string {
	if err := unix.Mount("tracefs", tracefs, "tracefs", 0, ""); err != nil && err != unix.EBUSY {
		return err.Error()
	}
	const enable = tracefs + "/events/kvm/enable"
	if err := os.WriteFile(enable, []byte("1"), 0); err != nil {
		return err.Error()
	}
	time.Sleep(traceTime)
	_ = os.WriteFile(enable, []byte("0"), 0)
	text, err := os.ReadFile(tracefs + "/trace")
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(text), "\n")
	return strings.Join(lines[max(0, len(lines)-traceLines):], "\n")
}
