package kvm

import (
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

func TestKickBeforeRun(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t, 0xe6, 0x80) // out 0x80, al
	g.Kick()
	for i := range 2 {
		if errno := g.Run(); errno != syscall.EINTR {
			t.Fatalf("Run() %d after Kick = %v, reason %v; want EINTR until ClearKick", i, errno, g.Reason())
		}
	}
	g.ClearKick()
	g.runTo(t, ExitIO)
}

// owner runs the guest on a thread of its own until Run gives up, as a monitor
// does, and reports the last answer.
func (g *guest) owner() <-chan syscall.Errno {
	done := make(chan syscall.Errno, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		g.Bind()
		errno := syscall.EINTR
		// A signal of the runtime's own is not a Kick.
		for errno == syscall.EINTR && g.run.mem[1] == 0 {
			if errno = g.Run(); errno == syscall.EINTR && g.run.mem[1] == 0 {
				g.interrupted.Add(1)
			}
		}
		g.Unbind() // before the next owner can bind
		done <- errno
	}()
	return done
}

func TestKickDuringRun(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t, counter...)
	for range 50 {
		done := g.owner()
		g.spinning(t)
		g.Kick()
		if errno := testutil.Wait(t, done, "Run after Kick"); errno != syscall.EINTR {
			t.Fatalf("Run() = %v, reason %v; want EINTR", errno, g.Reason())
		}
		g.ClearKick()
	}
	if g.kick.tid != 0 {
		t.Errorf("owner thread after Unbind = %d; want 0: a signal could hit another goroutine", g.kick.tid)
	}
}

// TestKickAnyTime leaves it to chance whether the Kick comes before Bind,
// between Bind and Run, or during Run. None may be lost.
func TestKickAnyTime(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t, 0xeb, 0xfe) // jmp -2
	for range 300 {
		done := g.owner()
		g.Kick()
		if errno := testutil.Wait(t, done, "Run after Kick"); errno != syscall.EINTR {
			t.Fatalf("Run() = %v, reason %v; want EINTR", errno, g.Reason())
		}
		g.ClearKick()
	}
}

func TestKickAfterClose(t *testing.T) {
	testutil.RequireKVM(t)
	g, err := makeGuest(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.close(); err != nil {
		t.Fatal(err)
	}
	g.Kick() // would write to the mapping that is gone
	if err := g.VCPU.Close(); err != nil {
		t.Errorf("second Close() = %v; want nil", err)
	}
}

// TestKickCloseRace kicks from many goroutines while the owner runs, stops and
// closes the vCPU.
func TestKickCloseRace(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	for range 20 {
		g, err := makeGuest(counter)
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						g.Kick()
					}
				}
			})
		}
		for range 5 {
			if errno := testutil.Wait(t, g.owner(), "Run"); errno != syscall.EINTR {
				t.Errorf("Run() = %v; want EINTR", errno)
			}
			g.ClearKick()
		}
		if err := g.close(); err != nil {
			t.Error(err)
		}
		close(stop)
		wg.Wait()
	}
}

// TestGCWhileRunning shows that a guest which never exits keeps nobody else
// waiting: KVM_RUN must be a syscall.Syscall. In a RawSyscall the runtime would
// take the thread for one that runs Go code, and would have to interrupt the
// guest by signal for each time that it stops the world.
func TestGCWhileRunning(t *testing.T) {
	testutil.Watchdog(t)
	g := newGuest(t, counter...)
	g.interrupted.Store(0)
	done := g.owner()
	g.spinning(t)
	const rounds = 20
	for range rounds {
		runtime.GC()
	}
	// A few may have other reasons: a signal that was on its way before Run.
	if n := g.interrupted.Load(); n >= rounds/2 {
		t.Errorf("Run was interrupted %d times by %d runs of the garbage collector; want it left alone", n, rounds)
	}
	g.spinning(t) // it has not ended meanwhile
	g.Kick()
	if errno := testutil.Wait(t, done, "Run after Kick"); errno != syscall.EINTR {
		t.Errorf("Run() = %v; want EINTR", errno)
	}
}
