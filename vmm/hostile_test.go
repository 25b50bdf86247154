package vmm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// runHostile runs code, whatever it is, and checks that it ends in one of the
// ways that Run documents. The guest starts with registers that make accidents
// likely: nothing here depends on what it does with them.
func runHostile(t *testing.T, ring Ring, code []byte) {
	t.Helper()
	testutil.Watchdog(t)
	g := guest{ring: ring, code: code, devices: oneDisk}
	cfg := g.config()
	cfg.Disks = []Disk{{Path: image(t, 4096)}}
	vm, err := New(cfg)
	if err != nil {
		t.Fatalf("New with %d bytes of code = %v; want a VM", len(code), err)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errEnough)
	defer cancel()
	res, err := vm.Run(ctx)
	var e *GuestError
	switch {
	case err == nil, err == errEnough:
	case errors.As(err, &e):
		if e.Error() == "" || !slices.Contains(faultKinds, e.Kind) {
			t.Errorf("Run() = %#v; want a known kind of fault", e)
		}
	default:
		t.Errorf("Run() = %+v, %v (%T); want a result, a *GuestError or the context's cause", res, err, err)
	}
	if err := vm.Close(); err != nil {
		t.Errorf("Close() = %v; want nil", err)
	}
}

// mutant is code of the given seed: random bytes, among them port accesses with
// random values, since bytes alone rarely get that far.
func mutant(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	var g guest
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	for range 1 + r.IntN(20) {
		switch r.IntN(4) {
		case 0: // anything
			g.emit(random(1 + r.IntN(8))...)
		case 1: // a hypercall on anything
			g.out(uint16(0x500+r.IntN(16)), r.Uint32())
		case 2: // a hypercall on random data
			g.out(uint16(0x500+r.IntN(8)), g.store(random(64)))
		case 3: // on data that mostly makes sense
			g.out(uint16(0x501+r.IntN(7)), g.store(le64s(uint64(r.IntN(3)), uint64(r.IntN(4096)), dataAddr+uint64(r.IntN(1<<20)), uint64(r.IntN(4096)), 0)))
		}
	}
	g.spin()
	return g.code
}

// TestHostileGuests runs a hundred guests of random code.
func TestHostileGuests(t *testing.T) { bothRings(t, testHostileGuests) }

func testHostileGuests(t *testing.T, ring Ring) {
	testutil.RequireKVM(t)
	testutil.CheckFDs(t)
	threads, vcpus := testutil.Threads(t), mappings(t)
	for seed := range uint64(100) {
		runHostile(t, ring, mutant(seed))
	}
	if n := mappings(t); n != vcpus {
		t.Errorf("mappings of vCPUs = %d; want %d as before", n, vcpus)
	}
	testutil.Until(t, "threads as before", func() bool { return testutil.Threads(t) <= threads+8 })
}

// FuzzGuestCode runs any code as a guest.
func FuzzGuestCode(f *testing.F) {
	testutil.RequireKVM(f)
	for seed := range uint64(5) {
		f.Add(mutant(seed))
	}
	f.Add([]byte{0xf4})             // hlt
	f.Add([]byte{0xeb, 0xfe})       // jmp .
	f.Add([]byte{0x0f, 0x01, 0xd9}) // vmmcall
	f.Fuzz(func(t *testing.T, code []byte) {
		if len(code) == 0 || len(code) > 4096 {
			return
		}
		for _, ring := range []Ring{Ring0, RingSealed} {
			runHostile(t, ring, code)
		}
	})
}

// TestHostileArguments gives every hypercall random structures, many in one
// guest: whatever does not end it must not end the monitor either.
func TestHostileArguments(t *testing.T) { bothRings(t, testHostileArguments) }

func testHostileArguments(t *testing.T, ring Ring) {
	testutil.RequireKVM(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		g := guest{ring: ring, devices: oneDisk}
		for range 10 {
			var w []uint64
			for range 5 {
				w = append(w, [...]uint64{0, 1, 2, 512, 4096, dataAddr, testMem - 1, testMem, 1<<32 - 1, 1 << 63, 1<<64 - 1, r.Uint64()}[r.IntN(12)])
			}
			// POLL would wait; nothing is wrong with that, but it takes time.
			call := [...]uint16{1, 2, 4, 5, 8}[r.IntN(5)]
			g.out(0x500+call, g.store(le64s(w...)))
		}
		g.halt(0)
		cfg := g.config()
		cfg.Disks = []Disk{{Path: image(t, 4096)}}
		vm := newVM(t, cfg)
		res, err := runVM(t, vm)
		var e *GuestError
		if err != nil && (!errors.As(err, &e) || e.Kind != FaultPointer) {
			t.Errorf("Run() = %+v, %v; want a result or kind %q", res, err, FaultPointer)
		}
		vm.Close()
	}
}

// changing is a kernel file that somebody else is writing to: the n-th read
// and all later ones are given to change.
type changing struct {
	file   []byte
	reads  int
	n      int
	change func(file []byte) []byte
}

func (c *changing) ReadAt(b []byte, off int64) (int, error) {
	if c.reads == c.n {
		c.file = c.change(bytes.Clone(c.file))
	}
	c.reads++
	return bytes.NewReader(c.file).ReadAt(b, off)
}

// TestKernelChangesWhileLoaded shrinks, empties, scrambles and breaks the file
// between any two reads of it. What was checked stays what is used.
func TestKernelChangesWhileLoaded(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	g := guest{devices: oneDisk}
	g.halt(0)
	path := image(t, 512)
	r := rand.New(rand.NewPCG(3, 4))
	broken := errors.New("read failed")
	for name, change := range map[string]func([]byte) []byte{
		"shrinks":    func(b []byte) []byte { return b[:len(b)/2] },
		"is emptied": func([]byte) []byte { return nil },
		"scrambled": func(b []byte) []byte {
			for i := range b {
				b[i] ^= byte(r.Uint32())
			}
			return b
		},
		"filled with ones": func(b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				file := &changing{file: g.elf(), n: n, change: change}
				cfg := g.config()
				cfg.KernelFile, cfg.Disks = file, []Disk{{Path: path}}
				vm, err := New(cfg)
				var e *loader.Error
				switch {
				case err == nil:
					ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errEnough)
					vm.Run(ctx) // random code again, or the guest's own
					cancel()
					vm.Close()
				case !errors.As(err, &e):
					t.Errorf("New() when read %d and later find a file that %s = %v (%T); want a *loader.Error", n, name, err, err)
				}
				if file.reads <= n {
					break // the change came after the last read
				}
			}
		})
	}
	for n := range 8 {
		cfg := g.config()
		cfg.KernelFile, cfg.Disks = &failing{r: g.kernel(), n: n, err: broken}, []Disk{{Path: path}}
		vm, err := New(cfg)
		if err == nil {
			vm.Close()
			continue
		}
		var e *loader.Error
		if !errors.As(err, &e) || !errors.Is(err, broken) || e.Kind != loader.ErrOpen {
			t.Errorf("New() when read %d fails = %v; want a *loader.Error of %q", n, err, broken)
		}
	}
}

// failing fails its n-th read.
type failing struct {
	r   io.ReaderAt
	n   int
	err error
}

func (f *failing) ReadAt(b []byte, off int64) (int, error) {
	if f.n--; f.n < 0 {
		return 0, f.err
	}
	return f.r.ReadAt(b, off)
}

// TestGarbageIsNoKernel mutates the file itself. Whether or not New takes it,
// the VM ends and is gone.
func TestGarbageIsNoKernel(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	var g guest
	g.halt(0)
	r := rand.New(rand.NewPCG(5, 6))
	for range 100 {
		file := g.elf()
		for range 1 + r.IntN(4) {
			file[r.IntN(600)] = byte(r.Uint32()) // headers and notes lie there
		}
		cfg := g.config()
		cfg.KernelFile = bytes.NewReader(file)
		vm, err := New(cfg)
		if err != nil {
			var e *loader.Error
			var u *UnattachedError
			if !errors.As(err, &e) && !errors.As(err, &u) {
				t.Errorf("New() of a mutated file = %v (%T); want a *loader.Error or *UnattachedError", err, err)
			}
			continue
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errEnough)
		_, err = vm.Run(ctx)
		cancel()
		var e *GuestError
		if err != nil && err != errEnough && !errors.As(err, &e) {
			t.Errorf("Run() of a mutated file = %v (%T); want a result, a *GuestError or the context's cause", err, err)
		}
		vm.Close()
	}
}

var faultKinds = []FaultKind{
	FaultTranslation, FaultMMIO, FaultPort, FaultHypercall, FaultPointer, FaultInternal, FaultEntry,
	FaultShutdown, FaultHLT, FaultExit, FaultException, FaultPrivileged, FaultSeal,
}
