package vmm

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

var errEnough = errors.New("enough")

// TestStop cancels the context of guests that do not end by themselves,
// wherever they are; Run returns the cause.
func TestStop(t *testing.T) { bothRings(t, testStop) }

func testStop(t *testing.T, ring Ring) {
	// A pipe that nobody reads, as full as it gets.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fillPipe(t, int(w.Fd()))

	for _, tt := range []struct {
		name string
		emit func(g *guest)
		pipe bool
	}{
		{"endless loop", (*guest).spin, false},
		{"endless POLL", func(g *guest) { g.poll(1<<64 - 1); g.halt(0) }, false},
		{"long POLL", func(g *guest) { g.poll(uint64(time.Hour)); g.halt(0) }, false},
		{"endless POLLs", func(g *guest) { loop := g.here(); g.poll(1e6); g.jumpBack(0xeb, loop) }, false}, // jmp loop
		{"endless hypercalls", func(g *guest) { loop := g.here(); g.poll(0); g.jumpBack(0xeb, loop) }, false},
		{"full pipe", func(g *guest) { g.print("nobody reads this"); g.spin() }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testutil.Watchdog(t)
			for _, early := range []bool{true, false} {
				g := guest{ring: ring}
				g.mark('!')
				tt.emit(&g)
				cfg := g.config()
				if tt.pipe {
					cfg.Console = w
				}
				vm := newVM(t, cfg)
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				if early { // before Run
					cancel(errEnough)
				}
				done := runAside(ctx, vm)
				if !early {
					testutil.Until(t, "the guest's mark", func() bool { return guestMarks(vm) != "" })
					cancel(errEnough)
				}
				if o := testutil.Wait(t, done, "Run"); o.err != errEnough || o.res != (Result{}) {
					t.Errorf("Run() = %+v, %v; want the context's cause %q (cancelled early: %v)", o.res, o.err, errEnough, early)
				}
				wantState(t, vm, Stopped)
			}
		})
	}
}

// fillPipe writes to a pipe until it takes no more.
func fillPipe(t *testing.T, fd int) {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); ; {
		if _, err := unix.Write(fd, buf); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}

// TestStopByDeadline lets the context end by itself.
func TestStopByDeadline(t *testing.T) { bothRings(t, testStopByDeadline) }

func testStopByDeadline(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	g := guest{ring: ring}
	g.spin()
	const limit = 10 * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	start := time.Now()
	res, err := newVM(t, g.config()).Run(ctx)
	if err != context.DeadlineExceeded {
		t.Errorf("Run() = %+v, %v; want %v", res, err, context.DeadlineExceeded)
	}
	if d := time.Since(start); d < limit {
		t.Errorf("Run() took %v; want at least %v", d, limit)
	}
}

// TestResultBeatsLaterStop cancels when the guest has ended already.
func TestResultBeatsLaterStop(t *testing.T) { bothRings(t, testResultBeatsLaterStop) }

func testResultBeatsLaterStop(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.halt(5)
	vm := newVM(t, g.config())
	ctx, cancel := context.WithCancelCause(context.Background())
	res, err := vm.Run(ctx)
	cancel(errEnough)
	if err != nil || res.Status != 5 {
		t.Errorf("Run() = %+v, %v; want status 5", res, err)
	}
	// A cause that arrives at a VM which is closed finds nothing to do.
	if err := vm.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
	vm.stop(errEnough)
	wantState(t, vm, Closed)
}

// TestFirstCauseWins stops a VM twice before it runs.
func TestFirstCauseWins(t *testing.T) { bothRings(t, testFirstCauseWins) }

func testFirstCauseWins(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	g := guest{ring: ring}
	g.spin()
	vm := newVM(t, g.config())
	vm.stop(errEnough)
	vm.stop(ErrClosed)
	if res, err := runVM(t, vm); err != errEnough {
		t.Errorf("Run() = %+v, %v; want the first cause, %v", res, err, errEnough)
	}
}

// TestStopIsQuick measures how long a guest that never exits outlives its
// context. The median is held against what the project promises, 50 ms; single
// runs may suffer from whatever else the machine does.
func TestStopIsQuick(t *testing.T) { bothRings(t, testStopIsQuick) }

func testStopIsQuick(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	const promised, hard = 50 * time.Millisecond, 2 * time.Second
	var took []time.Duration
	for range 20 {
		vm, ready := spinner(t, ring)
		ctx, cancel := context.WithCancelCause(context.Background())
		done := runAside(ctx, vm)
		testutil.Wait(t, ready, "guest")
		start := time.Now()
		cancel(errEnough)
		o := testutil.Wait(t, done, "Run")
		d := time.Since(start)
		if o.err != errEnough {
			t.Fatalf("Run() = %+v, %v; want %v", o.res, o.err, errEnough)
		}
		if d > hard {
			t.Errorf("Run() returned %v after cancel; want at most %v", d, hard)
		}
		took = append(took, d)
		vm.Close()
	}
	slices.Sort(took)
	median := took[len(took)/2]
	if median > promised {
		t.Errorf("Run() returned %v after cancel in the median of %v; want at most %v", median, took, promised)
	}
	t.Logf("cancel to Run's return: median %v, least %v, most %v", median, took[0], took[len(took)-1])
}

// TestCollectorRunsBesideGuest has the runtime stop the world while a guest
// spins: it must not wait for KVM_RUN.
func TestCollectorRunsBesideGuest(t *testing.T) { bothRings(t, testCollectorRunsBesideGuest) }

func testCollectorRunsBesideGuest(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	vm, ready := spinner(t, ring)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := runAside(ctx, vm)
	testutil.Wait(t, ready, "guest")
	collected := make(chan struct{})
	go func() {
		for range 5 {
			runtime.GC()
		}
		debug.FreeOSMemory()
		close(collected)
	}()
	testutil.Wait(t, collected, "runtime.GC and debug.FreeOSMemory")
	wantState(t, vm, Running)
	cancel(errEnough)
	if o := testutil.Wait(t, done, "Run"); o.err != errEnough {
		t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, errEnough)
	}
}

// TestStraySignals sends the vCPU's thread what it is kicked with, though
// nobody asked for it, as the Go runtime does: the guest goes on.
func TestStraySignals(t *testing.T) { bothRings(t, testStraySignals) }

func testStraySignals(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	const rounds = 100
	tid := make(chan int, 1)
	g := guest{ring: ring}
	g.print("tid")
	loop := g.here()
	g.poll(1e6)
	g.mark('.')
	g.jumpBack(0xeb, loop) // jmp loop
	cfg := g.config()
	cfg.Console = onWrite(func([]byte) { tid <- unix.Gettid() })
	vm := newVM(t, cfg)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := runAside(ctx, vm)
	thread := testutil.Wait(t, tid, "guest")
	for range rounds {
		if err := unix.Tgkill(unix.Getpid(), thread, unix.SIGURG); err != nil {
			t.Fatal(err)
		}
		vm.vcpu.Kick() // and with the flag set, but no cause
	}
	before := len(guestMarks(vm))
	testutil.Until(t, "a mark after the signals", func() bool { return len(guestMarks(vm)) > before })
	wantState(t, vm, Running)
	cancel(errEnough)
	if o := testutil.Wait(t, done, "Run"); o.err != errEnough {
		t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, errEnough)
	}
}
