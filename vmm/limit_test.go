package vmm

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestDiskLimit reads and writes more than a disk's rate allows at once. That takes time,
// which the guest sleeps.
func TestDiskLimit(t *testing.T) { bothRings(t, testDiskLimit) }

func testDiskLimit(t *testing.T, ring Ring) {
	const size, n, burst, rate = 64 << 10, 32, 1 << 20, 2 << 20
	g := guest{ring: ring, devices: oneDisk}
	buf := uint64(g.store(make([]byte, size)))
	for i := range uint64(n) {
		g.block([]hypercall.Call{hypercall.BlockRead, hypercall.BlockWrite}[i%2], 1, i*size, buf, size)
	}
	g.halt(0)
	runtime.LockOSThread() // Run is the vCPU
	defer runtime.UnlockOSThread()
	start, used := time.Now(), threadTime(t)
	out := runGuest(t, &g, func(c *Config) {
		c.Disks = []Disk{{Path: image(t, n*size), Limit: devices.Limit{Bytes: rate, Burst: burst * time.Second / rate}}}
	})
	for i, r := range results(out) {
		if r != retOK {
			t.Errorf("request %d = %d; want %d", i, r, retOK)
		}
	}
	took, used := time.Since(start), threadTime(t)-used
	// The bucket is full at first, and the last request may begin when nothing is owed.
	if least := ((n-1)*size - burst) * time.Second / rate; took < least || len(out) != 4*n {
		t.Errorf("%d requests took %v; want %d, %v at least", len(out)/4, took, n, least)
	}
	if used > took/2 {
		t.Errorf("the vCPU used %v of %v; want it to sleep", used, took)
	}
}

// threadTime is the processor time of the calling thread.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// TestNetLimit sends more frames than the rate allows at once. All of them arrive.
func TestNetLimit(t *testing.T) {
	testutil.RequireKVM(t)
	netNS(t)(t)
	makeTap(t, "uvm0", 1500)
	const n, rate = 10, 50
	g := guest{devices: oneNet}
	frame := append(append(make([]byte, 12), testEtherType>>8, testEtherType&0xff), make([]byte, 46)...)
	frame[0], frame[6] = 2, 2
	write := g.store(le64s(1, uint64(g.store(frame)), uint64(len(frame)), 0xdeadbeef))
	for range n {
		g.call(hypercall.NetWrite, write)
		g.puts(uint64(write)+24, 4)
	}
	g.halt(0)
	sock := packetSocket(t, "uvm0")
	start := time.Now()
	out := runGuest(t, &g, func(c *Config) {
		c.Nets = []Net{{TAP: "uvm0", TxLimit: devices.Limit{Ops: rate, Burst: 1}}}
	})
	if took, least := time.Since(start), (n-1)*time.Second/rate; took < least || !bytes.Equal(out, make([]byte, 4*n)) {
		t.Errorf("%d frames took %v, results % x; want %v at least, and all OK", n, took, out, least)
	}
	for i := range n {
		b := make([]byte, 100)
		if got, err := unix.Read(sock, b); err != nil || got != len(frame) {
			t.Fatalf("frame %d = %d bytes, %v; want %d", i, got, err, len(frame))
		}
	}
}

// TestStopLimit stops guests that wait for minutes, for their disk.
func TestStopLimit(t *testing.T) { bothRings(t, testStopLimit) }

func testStopLimit(t *testing.T, ring Ring) {
	for name, emit := range map[string]func(g *guest, buf uint64){
		"BLOCK_WRITE": func(g *guest, buf uint64) { g.block(hypercall.BlockWrite, 1, 0, buf, 512) },
		"BATCH":       func(g *guest, buf uint64) { g.batch(5, 0, buf, 512) },
		"endless reads": func(g *guest, buf uint64) {
			loop := g.here()
			g.block(hypercall.BlockRead, 1, 0, buf, 512)
			g.jumpBack(0xeb, loop) // jmp loop
		},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Watchdog(t)
			g := guest{ring: ring, devices: oneDisk}
			buf := uint64(g.store(make([]byte, 512)))
			g.block(hypercall.BlockWrite, 1, 0, buf, 512)
			emit(&g, buf)
			g.halt(0)
			cfg := g.config()
			g.withNote(0)(&cfg)
			cfg.Disks = []Disk{{Path: image(t, 512), Limit: devices.Limit{Bytes: 1, Burst: 1}}} // the first one owes for 512 s
			vm := newVM(t, cfg)
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			tid, done := make(chan int, 1), make(chan error, 1)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				tid <- unix.Gettid()
				_, err := vm.Run(ctx)
				done <- err
			}()
			testutil.UntilInSyscall(t, <-tid, unix.SYS_PPOLL)
			cancel(errEnough)
			if err := testutil.Wait(t, done, "Run"); err != errEnough {
				t.Errorf("Run() = %v; want %v", err, errEnough)
			}
		})
	}
}

// TestPCLimits finds the limits at the devices of a PC, each where it belongs.
func TestPCLimits(t *testing.T) {
	testutil.RequireKVM(t)
	netNS(t)(t)
	makeTap(t, "uvm0", 1500)
	makeTap(t, "uvm1", 1500)
	limit := func(n uint64) devices.Limit { return devices.Limit{Bytes: n, Ops: n + 1, Burst: time.Duration(n + 2)} }
	g := new(pcGuest)
	g.poweroff()
	cfg := g.pcConfig()
	cfg.Disks = []Disk{{Path: image(t, 512), Limit: limit(10)}, {Path: image(t, 512)}}
	cfg.Nets = []Net{{TAP: "uvm0", RxLimit: limit(20), TxLimit: limit(30)}, {TAP: "uvm1"}}
	vm := newVM(t, cfg)
	var got []devices.Limit
	for i := range vm.pc.virtio {
		limiters := []*devices.Limiter{}
		switch d := vm.pc.virtio[i].dev.(type) {
		case *virtio.Blk:
			limiters = append(limiters, d.Limit)
		case *virtio.Net:
			limiters = append(limiters, d.RxLimit, d.TxLimit)
		}
		for _, l := range limiters {
			if l == nil {
				l = new(devices.Limiter)
			}
			got = append(got, l.Limit)
		}
	}
	none := devices.Limit{}
	if want := []devices.Limit{limit(10), none, limit(20), limit(30), none, none}; !slices.Equal(got, want) {
		t.Errorf("limits of the devices = %+v; want %+v", got, want)
	}
}

// TestBadLimit: what is no limit is refused before anything is opened.
func TestBadLimit(t *testing.T) {
	for _, l := range []devices.Limit{{Burst: 1}, {Ops: 1, Burst: -1}, {Bytes: 1, Burst: time.Hour + 1}} {
		for _, change := range []func(*Config){
			func(c *Config) { c.Disks = []Disk{{Path: "/none", Limit: l}} },
			func(c *Config) { c.Nets = []Net{{TAP: "uvm-none", RxLimit: l}} },
			func(c *Config) { c.Nets = []Net{{TAP: "uvm-none", TxLimit: l}} },
		} {
			cfg := new(guest).config()
			change(&cfg)
			var ce *ConfigError
			if _, err := New(cfg); !errors.As(err, &ce) || !strings.Contains(err.Error(), "burst") {
				t.Errorf("New with a limit of %+v = %v; want a ConfigError about the burst", l, err)
			}
		}
	}
}
