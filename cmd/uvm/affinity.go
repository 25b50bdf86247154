package main

import (
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/vmm"
)

// affinity is the set of CPUs that the process may use, before entry_amd64.s bound
// it to one; empty if that has not happened.
var affinity unix.CPUSet

// pinnedTime is how long a run stays bound: a unikernel has started by then, and
// some have ended.
const pinnedTime = 20 * time.Millisecond

// busy is how many goroutines of a VM work at a time: its vCPUs, its devices, and one for
// all the rest (docs/startup.md).
func busy(cfg *vmm.Config) int {
	return max(cfg.CPUs, 1) + len(cfg.Nets) + len(cfg.Disks) + len(cfg.Virtio) + 1
}

// unpin lets all threads use all CPUs that uvm was given, and n goroutines run at a time.
func unpin(n int) {
	if affinity.Count() == 0 {
		return
	}
	// Twice, for threads that others have made meanwhile.
	for range 2 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		for _, t := range tasks {
			if tid, err := strconv.Atoi(t.Name()); err == nil {
				unix.SchedSetaffinity(tid, &affinity) // it may have ended
			}
		}
	}
	runtime.GOMAXPROCS(n)
}
