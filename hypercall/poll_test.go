package hypercall

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// signal makes the other end of a pipe readable.
func signal(t testing.TB, w int) {
	t.Helper()
	if _, err := unix.Write(w, []byte{1}); err != nil {
		t.Fatal(err)
	}
}

const forever = 1<<64 - 1

func TestPoll(t *testing.T) {
	for _, c := range []struct {
		name             string
		timeout          uint64
		wake, nic, nic63 bool
		wantReady, wantN uint64
		atLeast          time.Duration
		closed           bool
	}{
		{name: "nothing, at once"},
		{name: "nothing, after 20 ms", timeout: 20e6, atLeast: 20 * time.Millisecond},
		{name: "one NIC", nic: true, wantReady: 1 << hNIC, wantN: 1},
		{name: "one NIC, for ever", timeout: forever, nic: true, wantReady: 1 << hNIC, wantN: 1},
		{name: "the last handle", timeout: forever, nic63: true, wantReady: 1 << hNIC63, wantN: 1},
		{name: "two NICs", timeout: 1, nic: true, nic63: true, wantReady: 1<<hNIC | 1<<hNIC63, wantN: 2},
		{name: "wake and a NIC", timeout: forever, wake: true, nic: true, wantReady: 1 << hNIC, wantN: 1},
		{name: "a NIC whose other side is gone", timeout: forever, closed: true, wantReady: 1 << hNIC, wantN: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			testutil.Watchdog(t)
			r := newRig(t)
			for _, s := range []struct {
				on bool
				w  int
			}{{c.wake, r.wake}, {c.nic, r.ready}, {c.nic63, r.rd63}} {
				if s.on {
					signal(t, s.w)
				}
			}
			if c.closed {
				unix.Close(r.ready)
			}
			// Twice, because readiness is a level: nobody read in between.
			for range 2 {
				r.put(dataAddr, c.timeout, 77, 77<<32|77)
				start := time.Now()
				r.ok(Poll, dataAddr, dataAddr+8, 8, dataAddr+16, 4)
				if got, n := r.u64(dataAddr+8), r.i32(dataAddr+16); got != c.wantReady || n != int32(c.wantN) {
					t.Errorf("POLL = ready set %#x, ret %d; want %#x, %d", got, n, c.wantReady, c.wantN)
				}
				if d := time.Since(start); d < c.atLeast {
					t.Errorf("POLL returned after %v; want %v at least", d, c.atLeast)
				}
			}
			r.hostErrs()
		})
	}
}

// TestPollWaits has POLL wait in the kernel before anything happens. A signal,
// as the runtime sends them, is nothing that may end it.
func TestPollWaits(t *testing.T) {
	for _, c := range []struct {
		name  string
		fd    func(*rig) int
		err   error
		ready uint64
	}{
		{"wake", func(r *rig) int { return r.wake }, devices.ErrInterrupted, 77}, // nothing is written
		{"frame", func(r *rig) int { return r.rd63 }, nil, 1 << hNIC63},
	} {
		t.Run(c.name, func(t *testing.T) {
			testutil.Watchdog(t)
			r := newRig(t)
			r.put(dataAddr, forever, 77, 77)
			tids, done := make(chan int, 1), make(chan error, 1)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				tids <- unix.Gettid()
				done <- r.call(Poll, dataAddr)
			}()
			tid := <-tids
			for range 3 {
				testutil.UntilInSyscall(t, tid, unix.SYS_PPOLL)
				if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
					t.Fatal(err)
				}
			}
			testutil.UntilInSyscall(t, tid, unix.SYS_PPOLL)
			select {
			case err := <-done:
				t.Fatalf("POLL = %v after a signal; want it to wait", err)
			default:
			}
			signal(t, c.fd(r))
			if err := testutil.Wait(t, done, "POLL"); err != c.err || r.u64(dataAddr+8) != c.ready {
				t.Errorf("POLL = %v, ready set %#x; want %v, %#x", err, r.u64(dataAddr+8), c.err, c.ready)
			}
		})
	}
}

// TestPollInterrupted: a POLL that was woken for the monitor's sake goes on with the time
// that was left, whatever the structure says by then; the next one has its own again.
func TestPollInterrupted(t *testing.T) {
	testutil.Watchdog(t)
	r := newRig(t)
	for _, timeout := range []uint64{forever, 1 << 63, uint64(time.Hour)} {
		signal(t, r.wake)
		r.put(dataAddr, timeout, 77, 77)
		for range 2 {
			left := r.left
			if err := r.call(Poll, dataAddr); err != devices.ErrInterrupted || r.u64(dataAddr+8) != 77 {
				t.Fatalf("POLL = %v, ready set %d; want %v and no result", err, r.u64(dataAddr+8), devices.ErrInterrupted)
			}
			if r.polling && left != 0 && r.left > left {
				t.Errorf("%d ns are left of a POLL, after %d; want less", r.left, left)
			}
		}
		if _, err := unix.Read(r.WakeFD, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		r.left = 1
		r.ok(Poll, dataAddr, dataAddr+8, 8, dataAddr+16, 4) // else it would wait for ever
		if r.polling || r.u64(dataAddr+8) != 0 {
			t.Errorf("POLL = ready set %#x, goes on %v; want 0, false", r.u64(dataAddr+8), r.polling)
		}
		r.left = 0
	}
}

// TestPollBroken: poll itself fails. The guest sees a time-out.
func TestPollBroken(t *testing.T) {
	r := newRig(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// More descriptors than the limit allows make ppoll answer EINVAL. Some
	// hosts allow a billion.
	low := unix.Rlimit{Cur: min(limit.Cur, 1024), Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	r.pollFDs = make([]unix.PollFd, low.Cur+1)
	r.put(dataAddr, forever, 77, 77)
	r.ok(Poll, dataAddr, dataAddr+8, 8, dataAddr+16, 4)
	if r.u64(dataAddr+8) != 0 || r.i32(dataAddr+16) != 0 {
		t.Errorf("POLL = ready set %#x, ret %d; want 0, 0", r.u64(dataAddr+8), r.i32(dataAddr+16))
	}
	r.hostErrs(hostErr{"net", 0, "poll", unix.EINVAL})
}
