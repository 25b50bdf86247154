package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/memory"
	"github.com/uvm-monitor/uvm/netring"
)

// ringBase is where a guest of testMem bytes has its network ring.
const ringBase = testMem + 2<<20

// poke emits a store to a word of memory.
//
//	c7 04 25 addr32 imm32  mov dword [at], v
func (g *guest) poke(at, v uint32) {
	g.emit(slices.Concat([]byte{0xc7, 0x04, 0x25}, imm32(at), imm32(v))...)
}

// await emits a loop that ends when a word of memory is v.
//
//	81 3c 25 addr32 imm32  cmp dword [at], v
//	75 f3                  jne to the cmp
func (g *guest) await(at, v uint32) {
	loop := g.emit(slices.Concat([]byte{0x81, 0x3c, 0x25}, imm32(at), imm32(v))...)
	g.jumpBack(0x75, loop)
}

// entry emits the stores that make the i-th entry of the ring, with the id i+100, and move the
// tail behind it.
func (g *guest) entry(i, op, handle uint32, ptr uint64, n uint32) {
	for j, v := range []uint32{op, handle, uint32(ptr), uint32(ptr >> 32), n, i + 100} {
		g.poke(ringBase+128+i*32+uint32(j)*4, v)
	}
	g.poke(ringBase, i+1)
}

// withRing gives a configuration the interface and a ring.
func withRing(tap string) func(*Config) {
	return func(c *Config) { c.Nets, c.NetRing = []Net{{TAP: tap}}, netring.New() }
}

// TestNetRing takes a frame by the ring and sends it back, with a halt right behind.
func TestNetRing(t *testing.T) { bothRings(t, testNetRing) }

func testNetRing(t *testing.T, ring Ring) {
	netNS(t)
	makeTap(t, "uvm0", 1500)
	sock := packetSocket(t, "uvm0")
	frame := append(slices.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 1, testEtherType>>8, testEtherType&0xff)
	frame = append(frame, "a frame that goes through the network ring, both ways"...)
	g := guest{ring: ring, devices: oneNet}
	buf := g.store(make([]byte, 1600))
	g.puts(uint64(gpaBootInfo)+40, 16) // features, ring
	g.poll(1<<64 - 1)
	g.entry(0, 2, 1, uint64(buf), 1600)
	g.out(ringPort, 0)
	g.await(ringBase+68, 1)
	g.entry(1, 1, 1, uint64(buf), uint32(len(frame)))
	g.out(ringPort, 0)
	copied := g.store(make([]byte, 16)) // the monitor's pointers do not reach the ring
	for i := range uint32(4) {
		// 8b 04 25 addr32  mov eax, [commit]; 89 04 25 addr32  mov [copied], eax
		g.emit(slices.Concat([]byte{0x8b, 0x04, 0x25}, imm32(ringBase+32896+4*i), []byte{0x89, 0x04, 0x25}, imm32(copied+4*i))...)
	}
	g.puts(uint64(copied), 16)
	g.halt(0)
	var console bytes.Buffer
	cfg := g.config()
	withRing("uvm0")(&cfg)
	cfg.Console = &console
	vm := newVM(t, cfg)
	waitRunning(t, "uvm0")
	if _, err := unix.Write(sock, frame); err != nil {
		t.Fatal(err)
	}
	if res, err := runVM(t, vm); err != nil || res.Status != 0 {
		t.Fatalf("Run() = %+v, %v; want status 0", res, err)
	}
	got := make([]byte, 2048)
	if n, err := unix.Read(sock, got); err != nil || !bytes.Equal(got[:n], frame) {
		t.Errorf("frame from the guest = %q, %v; want %q", got[:n], err, frame)
	}
	want := le64s(hypercall.FeatureRing, ringBase, 100, uint64(len(frame))) // id 100, result 0
	if !bytes.Equal(console.Bytes(), want) {
		t.Errorf("boot information and commit = % x; want % x", console.Bytes(), want)
	}
}

// TestNetRingAttacks: what a guest must not do with the ring ends it.
func TestNetRingAttacks(t *testing.T) { bothRings(t, testNetRingAttacks) }

func testNetRingAttacks(t *testing.T, ring Ring) {
	enter := netNS(t)
	makeTap(t, "uvm0", 1500)
	const end = ringBase + 13*memory.PageSize
	absent := map[Ring]FaultKind{Ring0: FaultShutdown, RingSealed: FaultException}[ring]
	for _, tt := range []struct {
		name string
		emit func(g *guest)
		kind FaultKind
		text string
	}{
		{"read into text", func(g *guest) { g.entry(0, 2, 1, codeAddr, 64) }, FaultRing, "NET_READ, buffer of entry 0: guest memory access at 0x100000, 64 bytes: no write permission"},
		{"write of page tables", func(g *guest) { g.entry(0, 1, 1, 0x2000, 64) }, FaultRing, "NET_WRITE, buffer of entry 0"},
		{"read into the ring", func(g *guest) { g.entry(0, 2, 1, ringBase, 64) }, FaultRing, "beyond the end of memory"},
		{"a wild pointer", func(g *guest) { g.entry(0, 1, 1, 1<<64-1, 1<<32-1) }, FaultRing, "beyond the end of memory"},
		{"a wild tail", func(g *guest) { g.poke(ringBase, 0x80000000) }, FaultRing, "entries up to 2147483648, of which 0 are carried out"},
		{"PUTS of the ring", func(g *guest) { g.puts(ringBase, 8) }, FaultPointer, "beyond the end"},
		{"a structure in the ring", func(g *guest) { g.call(hypercall.Walltime, ringBase+0x1000) }, FaultPointer, "beyond the end"},
		{"one byte to the doorbell", func(g *guest) { g.port(ringPort); g.emit(0xee) }, FaultPort, "1-byte OUT to port 0x600"},
		{"IN from the doorbell", func(g *guest) { g.port(ringPort); g.emit(0xed) }, FaultPort, "4-byte IN from port 0x600"},
		{"between memory and ring", func(g *guest) { g.poke(testMem, 1) }, absent, ""},
		{"right before the ring", func(g *guest) { g.poke(ringBase-4, 1) }, absent, ""},
		{"right behind the ring", func(g *guest) { g.poke(end, 1) }, absent, ""},
		{"the next 2 MiB", func(g *guest) { g.poke(ringBase+2<<20, 1) }, absent, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			enter(t)
			g := guest{ring: ring, devices: oneNet}
			tt.emit(&g)
			g.out(ringPort, 0)
			g.spin()
			if e := faultOf(t, &g, withRing("uvm0")); e.Kind != tt.kind || !strings.Contains(e.Error(), tt.text) {
				t.Errorf("Run() = %v; want kind %q with %q", e, tt.kind, tt.text)
			}
		})
	}
	if ring == RingSealed {
		g := guest{devices: oneNet}
		g.pointAt(ringBase + 0x1000)
		g.callRBX()
		if e := faultOf(t, &g, withRing("uvm0")); e.Kind != FaultException || e.RIP != ringBase+0x1000 || e.Code != codePresent|codeUser|codeFetch {
			t.Errorf("Run() of code in the ring = %v; want kind %q there, for the fetch", e, FaultException)
		}
	}
}

// flood emits a loop without end that moves the tail and rings, and waits until the head is there.
//
//	ff 04 25 addr32  inc dword [tail]
//	8b 04 25 addr32  mov eax, [head]
//	3b 04 25 addr32  cmp eax, [tail]; jne to the mov
func (g *guest) flood() {
	at := g.emit(slices.Concat([]byte{0xff, 0x04, 0x25}, imm32(ringBase))...)
	g.out(ringPort, 0)
	wait := g.emit(slices.Concat([]byte{0x8b, 0x04, 0x25}, imm32(ringBase+64), []byte{0x3b, 0x04, 0x25}, imm32(ringBase))...)
	g.jumpBack(0x75, wait)
	g.jumpBack(0xeb, at)
}

// TestNetRingPause pauses a guest in full flow, often: its ring stands still with it.
func TestNetRingPause(t *testing.T) { bothRings(t, testNetRingPause) }

func testNetRingPause(t *testing.T, ring Ring) {
	testutil.Watchdog(t)
	netNS(t)
	makeTap(t, "uvm0", 1500)
	g := guest{ring: ring, devices: oneNet}
	buf := uint64(g.store(make([]byte, 64)))
	for i := range uint32(8) { // of the 1024; the others are no operation
		g.entry(i, 1+i%2, 1, buf, 64)
	}
	g.flood()
	cfg := g.config()
	withRing("uvm0")(&cfg)
	vm := newVM(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := runAside(ctx, vm)
	testutil.Until(t, "Running", func() bool { return vm.State() == Running })
	head := func() uint32 {
		state, err := vm.cfg.NetRing.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		return le.Uint32(state)
	}
	last := uint32(0)
	for i := range 50 {
		pause(t, vm)
		at := head()
		if i%10 == 0 {
			time.Sleep(5 * time.Millisecond) // for what should not happen
		}
		if again := head(); again != at {
			t.Fatalf("the ring went from %d to %d in a pause", at, again)
		}
		resume(t, vm)
		if i == 0 || i == 49 {
			testutil.Until(t, "the ring goes on", func() bool { pause(t, vm); defer resume(t, vm); return head() != at })
		}
		last = at
	}
	pause(t, vm) // a paused VM can be stopped, with its ring
	cancel()
	if o := testutil.Wait(t, done, "Run"); !errors.Is(o.err, context.Canceled) || last == 0 {
		t.Errorf("Run() = %+v, %v, last head %d; want %v and some", o.res, o.err, last, context.Canceled)
	}
}

// TestNetRingLimit writes more frames than its rate allows at once. They take the time that they
// would by hypercall.
func TestNetRingLimit(t *testing.T) {
	netNS(t)
	makeTap(t, "uvm0", 1500)
	const n, rate = 10, 50
	g := guest{devices: oneNet}
	frame := uint64(g.store(make([]byte, 64)))
	for i := range uint32(n) {
		g.entry(i, 1, 1, frame, 64)
	}
	g.out(ringPort, 0)
	g.await(ringBase+64, n)
	g.halt(0)
	start := time.Now()
	runGuest(t, &g, func(c *Config) {
		withRing("uvm0")(c)
		c.Nets[0].TxLimit = devices.Limit{Ops: rate, Burst: time.Millisecond}
	})
	if took, least := time.Since(start), (n-2)*time.Second/rate; took < least {
		t.Errorf("%d frames took %v; want %v at least", n, took, least)
	}
}

// TestNetRingStops stops guests that never let the ring rest, and one whose ring sleeps, by
// their context and by Close, and looks for what they leave.
func TestNetRingStops(t *testing.T) { bothRings(t, testNetRingStops) }

func testNetRingStops(t *testing.T, ring Ring) {
	enter := netNS(t)
	makeTap(t, "uvm0", 1500)
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	for name, loop := range map[string]func(g *guest){
		"asleep":   (*guest).spin,
		"in POLL":  func(g *guest) { g.poll(1<<64 - 1) },
		"doorbell": func(g *guest) { at := g.here(); g.out(ringPort, 0); g.jumpBack(0xeb, at) },
		"scribbles": func(g *guest) {
			at := g.here()
			g.emit(slices.Concat([]byte{0xff, 0x04, 0x25}, imm32(ringBase+64))...)
			g.jumpBack(0xeb, at)
		}, // inc [head]
		"flood": (*guest).flood,
	} {
		for _, close := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, close=%v", name, close), func(t *testing.T) {
				enter(t)
				g := guest{ring: ring, devices: oneNet}
				g.print("runs")
				loop(&g)
				var ready <-chan struct{}
				cfg := g.config()
				withRing("uvm0")(&cfg)
				cfg.Console, ready = started()
				vm := newVM(t, cfg)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := runAside(ctx, vm)
				testutil.Wait(t, ready, "the guest runs")
				want := ErrClosed
				if close {
					if err := vm.Close(); err != nil {
						t.Errorf("Close() = %v; want nil", err)
					}
				} else {
					want = context.Canceled
					cancel()
				}
				if o := testutil.Wait(t, done, "Run"); !errors.Is(o.err, want) {
					t.Errorf("Run() = %+v, %v; want %v", o.res, o.err, want)
				}
			})
		}
	}
}

// brokenRing cannot be attached.
type brokenRing struct{ NetRing }

func (brokenRing) Attach(*hypercall.Config) ([]byte, int, error) { return nil, 0, unix.EMFILE }

// TestNetRingConfig: who gets a ring, and who cannot have one.
func TestNetRingConfig(t *testing.T) {
	netNS(t)
	makeTap(t, "uvm0", 1500)
	makeTap(t, "uvm1", 1500)
	testutil.CheckFDs(t)
	// Without a net there is none.
	g := guest{}
	g.puts(uint64(gpaBootInfo)+40, 16)
	g.halt(0)
	if got := runGuest(t, &g, func(c *Config) { c.NetRing = netring.New() }); !bytes.Equal(got, make([]byte, 16)) {
		t.Errorf("features and ring of a guest without nets = % x; want 0", got)
	}
	g.out(ringPort, 0)
	// One that is another VM's already, and one that the host cannot make.
	taken := netring.New()
	if _, _, err := taken.Attach(new(hypercall.Config)); err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, ring := range []NetRing{taken, brokenRing{}} {
		n := guest{devices: oneNet}
		n.halt(0)
		cfg := n.config()
		withRing("uvm0")(&cfg)
		cfg.NetRing = ring
		var he *HostError
		if vm, err := New(cfg); !errors.As(err, &he) || he.What != "network ring" {
			t.Errorf("New with a %T = %v, %v; want a HostError", ring, vm, err)
		}
	}
	var pc pcGuest
	pc.poweroff()
	cfg := pc.pcConfig()
	cfg.NetRing = netring.New()
	var ce *ConfigError
	if _, err := New(cfg); !errors.As(err, &ce) || !strings.Contains(err.Error(), "network ring") {
		t.Errorf("New of a PC with a network ring = %v; want a ConfigError", err)
	}
	// A ring that is for guests without uvm's note, given to each kind.
	cfg.NetRingStock = true
	if vm, err := New(cfg); err != nil || vm.Close() != nil {
		t.Errorf("New of a PC with a network ring for stock guests = %v; want nil", err)
	}
	for tap, native := range map[string]bool{"uvm0": false, "uvm1": true} {
		g := guest{devices: oneNet}
		g.puts(uint64(gpaBootInfo)+40, 1)
		g.halt(0)
		out := runGuest(t, &g, func(c *Config) {
			withRing(tap)(c)
			c.NetRingStock = true
			if native {
				g.withNote(0)(c)
			}
		})
		if (out[0]&1 == 0) != native {
			t.Errorf("host_features of a guest with uvm's note (%v), with a ring for stock guests = %#x; want bit 0 to be set in one without it", native, out[0])
		}
	}
}

// TestNetRingTables: the ring is mapped writable and not executable, with nothing next to it,
// behind memory of any size.
func TestNetRingTables(t *testing.T) {
	enter := netNS(t)
	makeTap(t, "uvm0", 1500)
	for _, size := range append([]uint64{testMem, 64 << 20, 1<<30 - 2<<20, 1 << 30, 4<<30 - 4<<20, 4 << 30}, largeSizes...) {
		t.Run(formatBytes(size), func(t *testing.T) {
			enter(t)
			g := guest{devices: oneNet}
			at := size + 2<<20
			g.pointAt(at + 12*memory.PageSize) // its last page
			g.emit(0xb0, 0x5a)                 // mov al, 0x5a
			g.storeByte()
			g.halt(0)
			cfg := g.config()
			g.large(size)(&cfg)
			withRing("uvm0")(&cfg)
			vm := newVM(t, cfg)
			for a, want := range map[uint64]pageRights{
				size - 0x1000: {true, true, true, true}, size: {}, at - 0x1000: {}, at: {true, true, true, true},
				at + 12*0x1000: {true, true, true, true}, at + 13*0x1000: {}, at + 2<<20: {}, uint64(vm.tablesAt()): {},
			} {
				if pa, got := walkSealed(t, vm, a); got != want || got.present && pa != a {
					t.Errorf("page %#x = %#x, %+v; want the same address, %+v", a, pa, got, want)
				}
			}
			if res, err := runVM(t, vm); err != nil || res.Status != 0 {
				t.Errorf("Run() = %+v, %v; want status 0", res, err)
			}
		})
	}
}
