// Package testutil holds what the tests of several packages share: what they
// need of the host, and proof that they give back what they took. Only tests
// import it.
package testutil

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// KVMDevice is the device that RequireKVM asks for.
const KVMDevice = "/dev/kvm"

// Environment variables that turn a missing requirement from a failure into a
// skip, for hosts that cannot meet it. They are set to 1.
const (
	EnvNoKVM  = "UVM_TEST_NO_KVM"
	EnvNoRoot = "UVM_TEST_NO_ROOT"
)

// RequireKVM fails the test where /dev/kvm cannot be opened, and says what
// would help. With UVM_TEST_NO_KVM=1 it skips the test instead, on every host,
// so that a run without KVM means the same everywhere.
func RequireKVM(t testing.TB) {
	t.Helper()
	if os.Getenv(EnvNoKVM) == "1" {
		t.Skip("skipped by " + EnvNoKVM + "=1; unset it on a host with " + KVMDevice)
	}
	fd, err := unix.Open(KVMDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		unix.Close(fd)
		t.Attr("kvm", "1") // internal/testreport counts these
	case unix.EACCES, unix.EPERM:
		t.Fatalf("open %s: %v; add yourself to its group (sudo usermod -aG kvm $USER, then log in again), or set %s=1 to skip", KVMDevice, err, EnvNoKVM)
	default:
		t.Fatalf("open %s: %v; load the module (sudo modprobe kvm_intel or kvm_amd, with virtualisation enabled in the firmware), or set %s=1 to skip", KVMDevice, err, EnvNoKVM)
	}
}

// RequireRoot fails a test that does not run as root. With UVM_TEST_NO_ROOT=1
// it skips the test instead.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(EnvNoRoot) == "1" {
		t.Skip("skipped by " + EnvNoRoot + "=1; unset it and run as root")
	}
	if os.Geteuid() != 0 {
		t.Fatalf("need root; run sudo -E env PATH=$PATH go test, or set %s=1 to skip", EnvNoRoot)
	}
}

// hangAfter bounds every wait of the tests. It is no expectation of speed: only
// a hang reaches it.
const hangAfter = 60 * time.Second

// Watchdog ends the test program with all goroutines' stacks if the test is
// still running after a minute. A test that waits for a guest or for another
// goroutine begins with it.
func Watchdog(t testing.TB) {
	name := t.Name()
	timer := time.AfterFunc(hangAfter, func() {
		buf := make([]byte, 1<<20)
		os.Stderr.Write(buf[:runtime.Stack(buf, true)])
		panic(name + " hangs")
	})
	t.Cleanup(func() { timer.Stop() })
}

// Wait receives from done, or fails the test after a minute.
func Wait[T any](t testing.TB, done <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(hangAfter)
	defer timer.Stop()
	select {
	case v := <-done:
		return v
	case <-timer.C:
		t.Fatalf("%s: still waiting after %v", what, hangAfter)
		panic("unreachable")
	}
}

// Until calls ok until it says true, or fails the test after a minute. It is
// for states that only the kernel can be asked about, such as a thread's.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); {
		if time.Since(start) > hangAfter {
			t.Fatalf("%s: still not so after %v", what, hangAfter)
		}
		time.Sleep(time.Millisecond)
	}
}

// UntilInSyscall returns once the kernel has the thread tid of this process in
// one of the given system calls, so that what follows finds it waiting there.
func UntilInSyscall(t testing.TB, tid int, numbers ...int) {
	t.Helper()
	file := fmt.Sprintf("/proc/self/task/%d/syscall", tid)
	Until(t, fmt.Sprintf("thread %d in system call %v", tid, numbers), func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.Atoi(first) // "running" has no number
		return err == nil && slices.Contains(numbers, n)
	})
}

// FDs returns the process's open descriptors and what each one refers to.
func FDs(t testing.TB) map[string]string {
	t.Helper()
	const dir = "/proc/self/fd"
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	fds := map[string]string{}
	for _, n := range names {
		// The descriptor of the listing itself is closed by now.
		if target, err := os.Readlink(filepath.Join(dir, n.Name())); err == nil {
			fds[n.Name()] = target
		}
	}
	return fds
}

// CheckFDs fails the test if descriptors are open at its end that were not open
// at the call. The runtime's own (its epoll instance and the eventfd that
// wakes it) do not count. Tests that run in parallel cannot use it.
func CheckFDs(t testing.TB) {
	t.Helper()
	before := FDs(t)
	t.Cleanup(func() {
		var leaked []string
		for n, target := range FDs(t) {
			if before[n] != target && !runtimeFD(target) {
				leaked = append(leaked, n+" -> "+target)
			}
		}
		if len(leaked) > 0 {
			t.Errorf("descriptors leaked: %s", strings.Join(leaked, ", "))
		}
	})
}

// runtimeFD says whether target is what the Go runtime opens when it first
// polls. The eventfds of the code under test look the same, which is why
// CheckFDs counts on the runtime having made its own: see init.
func runtimeFD(target string) bool { return target == "anon_inode:[eventpoll]" }

// init has the runtime make its epoll instance and eventfd, before any test
// counts descriptors: a pipe made by package os is registered with the poller.
func init() {
	r, w, err := os.Pipe()
	if err != nil {
		return
	}
	r.Close()
	w.Close()
}

// Threads returns the number of the process's threads.
func Threads(t testing.TB) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(tasks)
}

// CheckThreads calls f rounds times and fails the test if threads grow with it.
// The runtime keeps the threads it once made, so the first call, which is extra,
// does not count, and a few more are allowed for the runtime's own work: what
// fails is a thread for every call.
func CheckThreads(t testing.TB, rounds int, f func()) {
	t.Helper()
	f()
	before := Threads(t)
	for range rounds {
		f()
	}
	// A thread whose goroutine ended while locked to it needs time to die.
	limit := before + max(rounds/2, 1)
	Until(t, "threads after the test", func() bool { return Threads(t) <= limit })
}
