package vmm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestManyVMs builds, runs and closes many VMs in one process, some of them at
// the same time, and looks for what they left behind: threads, descriptors,
// mappings.
func TestManyVMs(t *testing.T) { bothRings(t, testManyVMs) }

func testManyVMs(t *testing.T, ring Ring) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	const total, atOnce = 50, 8
	// How a VM's life ends, by its number.
	ends := []func(g *guest){
		func(g *guest) { g.halt(1) },
		func(g *guest) { g.emit(0xf4) },       // hlt
		func(g *guest) { g.emit(0x0f, 0x0b) }, // ud2
		(*guest).spin,                         // closed while it runs
	}
	one := func(i int) error {
		g := guest{ring: ring, devices: oneDisk}
		g.print("hello")
		g.block(hypercall.BlockWrite, 1, 0, dataAddr, 4)
		ends[i%len(ends)](&g)
		var console onWrite
		var ready <-chan struct{}
		console, ready = started()
		cfg := g.config()
		cfg.Memory, cfg.Console, cfg.Disks = 64<<20, console, []Disk{{Path: image(t, 4096)}}
		vm, err := New(cfg)
		if err != nil {
			return err
		}
		done := runAside(context.Background(), vm)
		<-ready
		if i%len(ends) == 3 {
			if err := vm.Close(); err != nil {
				return err
			}
		}
		o := <-done
		if bad := o.err == nil && i%len(ends) != 0 || o.err == ErrClosed && i%len(ends) != 3; bad {
			return fmt.Errorf("VM %d: Run() = %+v, %v", i, o.res, o.err)
		}
		return vm.Close()
	}
	batch := func(n int) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, atOnce)
		for i := range n {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := one(i); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	batch(2 * atOnce) // the runtime makes the threads that it keeps
	runtime.GC()
	threads, vcpus, maps := testutil.Threads(t), mappings(t), mapCount(t)
	batch(total)
	// The runtime may yet grow: by a few threads and mappings, not by one or
	// more for every VM.
	testutil.Until(t, fmt.Sprintf("threads as before, about %d", threads), func() bool { return testutil.Threads(t) <= threads+atOnce })
	if n := mappings(t); n != vcpus {
		t.Errorf("mappings of vCPUs = %d; want %d as before", n, vcpus)
	}
	testutil.Until(t, fmt.Sprintf("mappings as before, about %d", maps), func() bool { return mapCount(t) <= maps+total/2 })
}

// mapCount is the number of mappings in the process's address space.
func mapCount(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte("\n"))
}

// TestCloseGivesMemoryBack has a guest touch much memory: it is the host's
// again when Close returns.
func TestCloseGivesMemoryBack(t *testing.T) { bothRings(t, testCloseGivesMemoryBack) }

func testCloseGivesMemoryBack(t *testing.T, ring Ring) {
	const size = 64 << 20
	// A read of the disk touches pages faster than an emulated guest can.
	g := guest{ring: ring, devices: oneDisk}
	g.block(hypercall.BlockRead, 1, 0, 2<<20, 60<<20)
	g.halt(0)
	cfg := g.config()
	cfg.Memory, cfg.Disks = size, []Disk{{Path: image(t, 60<<20)}}
	before := rss(t)
	vm := newVM(t, cfg)
	if _, err := runVM(t, vm); err != nil {
		t.Fatalf("Run() = %v; want nil", err)
	}
	if grown := rss(t) - before; grown < 50<<10 {
		t.Fatalf("resident memory grew by %d KiB; want the guest's 60 MiB to be there", grown)
	}
	if err := vm.Close(); err != nil {
		t.Fatal(err)
	}
	if grown := rss(t) - before; grown > 30<<10 {
		t.Errorf("resident memory after Close = %d KiB more than before; want the guest's 60 MiB to be gone", grown)
	}
}
