package vmm

import (
	"golang.org/x/sys/unix"
)

// vcpuTimerSlack is how late the kernel may wake the vCPU's thread, in ns: its
// own default. A program may have chosen more for its other threads.
const vcpuTimerSlack = 50_000

// setTimerSlack changes the calling thread's timer slack and returns what it
// was, for the caller to put back. The guest's POLL depends on it.
func setTimerSlack(ns uintptr) (old uintptr) {
	if n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil {
		old = uintptr(n)
	}
	// It cannot fail: any thread may choose any slack but 0 for itself.
	unix.Prctl(unix.PR_SET_TIMERSLACK, ns, 0, 0, 0)
	return old
}
