package vmm

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/meter"
)

// TestStats counts what a guest did that has ended.
func TestStats(t *testing.T) { bothRings(t, testStats) }

func testStats(t *testing.T, ring Ring) {
	for _, timing := range []bool{false, true} {
		g := guest{ring: ring, devices: oneDisk}
		g.mark('a')
		for range 3 {
			g.print("hello")
		}
		g.poll(5e6)
		g.call(hypercall.BlockWrite, g.store(le64s(1, 512, dataAddr, 512, 0)))
		g.call(hypercall.BlockRead, g.store(le64s(1, 0, dataAddr+4096, 1024, 0)))
		g.halt(0)
		cfg := g.config()
		cfg.Disks, cfg.Timing = []Disk{{Path: image(t, 4096)}}, timing
		cfg.Meter = meter.New(timing)
		var out bytes.Buffer
		cfg.Console = &out
		vm := newVM(t, cfg)
		if s := vm.Stats(); s.State != "created" || len(s.VCPUs) != 1 || len(s.VCPUs[0].Exits) != 0 || s.MemoryBytes != testMem {
			t.Errorf("Stats() before Run = %+v; want no exits", s)
		}
		if _, err := runVM(t, vm); err != nil {
			t.Fatal(err)
		}
		s := vm.Stats()
		v := s.VCPUs[0]
		delete(v.Exits, "INTR")
		if want := map[string]uint64{"IO": 8}; !maps.Equal(v.Exits, want) {
			t.Errorf("exits = %v; want %v", v.Exits, want)
		}
		calls := map[string]uint64{}
		for name, c := range v.Hypercalls {
			if calls[name] = c.Count; (c.Time > 0) != timing {
				t.Errorf("%s took %d ns with timing %v", name, c.Time, timing)
			}
		}
		if want := map[string]uint64{"PUTS": 3, "POLL": 1, "BLOCK_WRITE": 1, "BLOCK_READ": 1, "HALT": 1}; !maps.Equal(calls, want) {
			t.Errorf("hypercalls = %v; want %v", calls, want)
		}
		if timing && (v.Hypercalls["POLL"].Time < 5e6 || v.Handling < 5e6 || v.InKVM <= 0) {
			t.Errorf("POLL of 5 ms took %d ns of %d, %d in KVM; want at least as much", v.Hypercalls["POLL"].Time, v.Handling, v.InKVM)
		}
		if !timing && v.Handling+v.InKVM != 0 {
			t.Errorf("times without timing: %d, %d ns", v.Handling, v.InKVM)
		}
		if s.State != "stopped" || v.CPU <= 0 || s.ProcessCPU < v.CPU || s.ResidentBytes == 0 || s.ResidentBytes > testMem || s.ResidentBytes%4096 != 0 {
			t.Errorf("Stats() = %+v; want processor times and some of %d bytes resident", s, testMem)
		}
		if n := len(s.Marks); n == 0 || s.Marks[n-1].Name != MarkExit {
			t.Errorf("marks = %+v; want those of Timeline", s.Marks)
		}
		dev := map[string]devices.DeviceStats{}
		for _, d := range s.Devices {
			dev[d.Kind] = d
		}
		op := func(kind, op string, count, bytes uint64) {
			o := dev[kind].Ops[op]
			var hist uint64
			for _, n := range o.Latency {
				hist += n
			}
			want := uint64(0)
			if timing {
				want = count
			}
			if o.Count != count || o.Bytes != bytes || o.Errors != 0 || hist != want {
				t.Errorf("%s %s = %+v; want %d, %d bytes, times %v", kind, op, o, count, bytes, timing)
			}
		}
		op("disk", "read", 1, 1024)
		op("disk", "write", 1, 512)
		op("console", "write", 3, 15)
		if b, err := json.Marshal(s); err != nil || !bytes.Contains(b, []byte(`"exits":{"IO":8}`)) {
			t.Errorf("JSON = %s, %v", b, err)
		}
		vm.Close()
		if s := vm.Stats(); s.State != "closed" || s.ResidentBytes != 0 || s.VCPUs[0].CPU != v.CPU {
			t.Errorf("Stats() after Close = %+v; want the last figures", s)
		}
	}
}

// TestStatsTraps counts the exceptions of a sealed guest by vector.
func TestStatsTraps(t *testing.T) {
	g := guest{}
	for range 3 {
		g.emit(0xfa) // cli
	}
	g.halt(0)
	vm := newVM(t, g.config())
	if _, err := runVM(t, vm); err != nil {
		t.Fatal(err)
	}
	if got := vm.Stats().VCPUs[0].Traps; !maps.Equal(got, map[string]uint64{"13": 3}) {
		t.Errorf("traps = %v; want 3 of vector 13", got)
	}
}

// TestStatsDisturbsNobody asks often while a guest spins: nothing kicks its vCPU.
func TestStatsDisturbsNobody(t *testing.T) {
	testutil.Watchdog(t)
	vm, ready := spinner(t, RingSealed)
	done := runAside(context.Background(), vm)
	testutil.Wait(t, ready, "guest")
	testutil.Until(t, "the guest to spin", func() bool { return vm.Stats().VCPUs[0].Exits["IO"] == 1 })
	before := vm.Stats()
	for range 2000 {
		vm.Stats()
	}
	testutil.Until(t, "processor time", func() bool {
		return vm.Stats().VCPUs[0].CPU > before.VCPUs[0].CPU+int64(time.Millisecond)
	})
	after := vm.Stats()
	if !maps.Equal(after.VCPUs[0].Exits, before.VCPUs[0].Exits) {
		t.Errorf("exits are %v, and were %v before 2,000 calls of Stats; want no kick", after.VCPUs[0].Exits, before.VCPUs[0].Exits)
	}
	vm.stop(errEnough)
	if o := testutil.Wait(t, done, "Run"); o.err != errEnough {
		t.Errorf("Run() = %v; want %v", o.err, errEnough)
	}
}

// TestStatsBesideTheEnd asks all through a VM's life and after it.
func TestStatsBesideTheEnd(t *testing.T) {
	testutil.Watchdog(t)
	for range 5 {
		vm, ready := spinner(t, RingSealed)
		asked := make(chan string)
		go func() {
			for {
				if s := vm.Stats(); s.State == "closed" {
					asked <- s.State
					return
				}
			}
		}()
		done := runAside(context.Background(), vm)
		testutil.Wait(t, ready, "guest")
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
		testutil.Wait(t, done, "Run")
		testutil.Wait(t, asked, "Stats")
	}
}
