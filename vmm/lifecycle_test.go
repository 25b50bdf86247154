package vmm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestStateMoves goes through all pairs of states.
func TestStateMoves(t *testing.T) {
	all := []State{Created, Running, Paused, Stopped, Closed}
	legal := map[[2]State]bool{
		{Created, Running}: true, {Created, Closed}: true,
		{Running, Stopped}: true, {Running, Paused}: true,
		{Paused, Stopped}: true, {Paused, Running}: true,
		{Stopped, Closed}: true,
	}
	for _, from := range all {
		for _, to := range all {
			vm := &VM{state: from}
			vm.changed.L = &vm.mu
			err := vm.move(to)
			if legal[[2]State{from, to}] {
				if err != nil || vm.State() != to {
					t.Errorf("move(%v) from %v = %v, now %v; want it made", to, from, err, vm.State())
				}
				continue
			}
			var e *StateError
			if !errors.As(err, &e) || *e != (StateError{from, to}) || vm.State() != from {
				t.Errorf("move(%v) from %v = %v, now %v; want a *StateError and no move", to, from, err, vm.State())
			} else if want := "a VM that is " + from.String() + " cannot become " + to.String(); e.Error() != want {
				t.Errorf("Error() = %q; want %q", e.Error(), want)
			}
		}
	}
}

// wantState checks where vm is in its life.
func wantState(t *testing.T, vm *VM, want State) {
	t.Helper()
	if got := vm.State(); got != want {
		t.Errorf("State() = %v; want %v", got, want)
	}
}

// wantStateError checks that err refuses the move from one state to another.
func wantStateError(t *testing.T, err error, from, to State) {
	t.Helper()
	var e *StateError
	if !errors.As(err, &e) || *e != (StateError{from, to}) {
		t.Errorf("error = %v; want a *StateError from %v to %v", err, from, to)
	}
}

func TestRunTwice(t *testing.T) { bothRings(t, testRunTwice) }

func testRunTwice(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.halt(3)
	vm := newVM(t, g.config())
	wantState(t, vm, Created)
	if res, err := runVM(t, vm); err != nil || res.Status != 3 {
		t.Fatalf("Run() = %+v, %v; want status 3", res, err)
	}
	wantState(t, vm, Stopped)
	res, err := runVM(t, vm)
	wantStateError(t, err, Stopped, Running)
	if res != (Result{}) {
		t.Errorf("second Run() = %+v; want nothing", res)
	}
	wantState(t, vm, Stopped)
}

func TestCloseBeforeRun(t *testing.T) { bothRings(t, testCloseBeforeRun) }

func testCloseBeforeRun(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.halt(0)
	vm := newVM(t, g.config())
	for range 3 {
		if err := vm.Close(); err != nil {
			t.Errorf("Close() = %v; want nil, however often", err)
		}
		wantState(t, vm, Closed)
	}
	_, err := vm.Run(context.Background())
	wantStateError(t, err, Closed, Running)
}

// started returns a console that tells by a channel when a guest first prints.
func started() (console onWrite, ready <-chan struct{}) {
	c := make(chan struct{})
	var once sync.Once
	return func([]byte) { once.Do(func() { close(c) }) }, c
}

// outcome is what Run returned.
type outcome struct {
	res Result
	err error
}

// runAside runs vm on a goroutine of its own.
func runAside(ctx context.Context, vm *VM) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		res, err := vm.Run(ctx)
		c <- outcome{res, err}
	}()
	return c
}

// spinner is a guest that says so and then never exits.
func spinner(t testing.TB, ring Ring) (vm *VM, ready <-chan struct{}) {
	g := guest{ring: ring}
	g.print("spinning")
	g.spin()
	cfg := g.config()
	cfg.Console, ready = started()
	return newVM(t, cfg), ready
}

// TestCloseDuringRun closes from several goroutines; when the first returns,
// Run has returned.
func TestCloseDuringRun(t *testing.T) { bothRings(t, testCloseDuringRun) }

func testCloseDuringRun(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	vm, ready := spinner(t, ring)
	done := runAside(context.Background(), vm)
	testutil.Wait(t, ready, "guest")
	wantState(t, vm, Running)
	if _, err := vm.Run(context.Background()); true {
		wantStateError(t, err, Running, Running)
	}
	closed := make(chan error, 3)
	for range cap(closed) {
		go func() {
			err := vm.Close()
			if s := vm.State(); s != Closed {
				t.Errorf("State() after Close = %v; want %v", s, Closed)
			}
			closed <- err
		}()
	}
	for range cap(closed) {
		if err := testutil.Wait(t, closed, "Close"); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	}
	// The VM's done channel is what Close waits for.
	select {
	case <-vm.done:
	default:
		t.Errorf("Close() returned before Run did")
	}
	if o := testutil.Wait(t, done, "Run"); o.err != ErrClosed {
		t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, ErrClosed)
	}
	if err := vm.Close(); err != nil {
		t.Errorf("Close() again = %v; want nil", err)
	}
}

// TestCloseRacesRun closes at the moment of Run. Whichever is first, Close
// succeeds and Run ends.
func TestCloseRacesRun(t *testing.T) { bothRings(t, testCloseRacesRun) }

func testCloseRacesRun(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	g := guest{ring: ring}
	g.spin()
	for range 25 {
		vm := newVM(t, g.config())
		// Others who want the lock draw apart whatever steps Close has.
		var stop atomic.Bool
		var others sync.WaitGroup
		for range 4 {
			others.Go(func() {
				for !stop.Load() {
					vm.State()
				}
			})
		}
		closed := make(chan error, 1)
		go func() { closed <- vm.Close() }()
		done := runAside(context.Background(), vm)
		if err := testutil.Wait(t, closed, "Close"); err != nil {
			t.Errorf("Close() beside Run = %v; want nil", err)
			vm.Close()
		}
		o := testutil.Wait(t, done, "Run")
		stop.Store(true)
		others.Wait()
		var e *StateError
		if o.err != ErrClosed && !errors.As(o.err, &e) {
			t.Errorf("Run() = %v; want %v or a *StateError", o.err, ErrClosed)
		}
		wantState(t, vm, Closed)
	}
}

// TestPanicInConsole panics where only the caller's own code can: on the way
// up, Run leaves a VM that can be closed.
func TestPanicInConsole(t *testing.T) { bothRings(t, testPanicInConsole) }

func testPanicInConsole(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	g := guest{ring: ring}
	g.print("boom")
	g.halt(0)
	cfg := g.config()
	cfg.Console = onWrite(func([]byte) { panic("console broke") })
	vm := newVM(t, cfg)
	func() {
		defer func() {
			if r := recover(); r != "console broke" {
				t.Errorf("recover() = %v; want %q", r, "console broke")
			}
		}()
		res, err := vm.Run(context.Background())
		t.Errorf("Run() = %+v, %v; want the console's panic", res, err)
	}()
	wantState(t, vm, Stopped)
	if err := vm.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
}
