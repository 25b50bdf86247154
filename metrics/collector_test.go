package metrics

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/vmm"
)

var epoch = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

func mark(name string, after time.Duration) devices.Mark {
	return devices.Mark{Name: name, At: epoch.Add(after)}
}

// hvtStats is an hvt guest with a disk and a net.
func hvtStats() vmm.Stats {
	return vmm.Stats{
		State: "running", MemoryBytes: 64 << 20, ResidentBytes: 1 << 20, ProcessCPU: 2.5e9, DroppedMarks: 3,
		VCPUs: []vmm.VCPUStats{{
			CPU: 2e9, InKVM: 1.5e9, Handling: 25e7,
			Exits:      map[string]uint64{"IO": 1010, "INTR": 3, "exit reason 40": 1, "exit reason 41": 2},
			Hypercalls: map[string]vmm.CallStats{"PUTS": {Count: 10, Time: 1e6}, "BLOCK_READ": {Count: 1000, Time: 24e7}},
			Traps:      map[string]uint64{"13": 7, "32": 1, "255": 4},
		}},
		Devices: []devices.DeviceStats{
			{Name: "data", Kind: "disk", Ops: map[string]devices.OpStats{
				"read": {Count: 1000, Bytes: 512000, Latency: []uint64{0, 11: 400, 13: 599, 35: 1}}, "write": {Errors: 2, Count: 2},
			}},
			{Name: "service", Kind: "net", Ops: map[string]devices.OpStats{"rx": {Count: 5, Bytes: 300}, "tx": {Count: 4, Bytes: 240}}},
		},
		Marks: []devices.Mark{
			mark("exec", 0), mark("kvm-open", time.Millisecond), mark("kernel", 2*time.Millisecond), mark("first-entry", 4*time.Millisecond),
			{Value: 'A', At: epoch.Add(7 * time.Millisecond)}, {Value: 'B', At: epoch.Add(8 * time.Millisecond)},
		},
	}
}

// pcStats is a PC with two vCPUs and virtio devices.
func pcStats() vmm.Stats {
	return vmm.Stats{
		State: "paused", MemoryBytes: 1 << 30, Unanswered: 12,
		VCPUs: []vmm.VCPUStats{{CPU: 1e9, Exits: map[string]uint64{"MMIO": 4}}, {CPU: 2e9, Exits: map[string]uint64{"MMIO": 5, "HLT": 1}}},
		Virtio: []vmm.VirtioStats{
			{Name: `disk "vda"`, Interrupts: 9}, {Name: `net "eth0"`, Interrupts: 8, RxDropped: 2, TxDropped: 1}, {Name: `net "eth0"`, Interrupts: 7},
		},
	}
}

// source is a VM that says what it is told to.
type source vmm.Stats

func (s source) Stats() vmm.Stats { return vmm.Stats(s) }

func fixed(vms ...Sample) func() Samples { return func() Samples { return Samples{VMs: vms} } }

// gather collects once, with all checks that a registry has.
func gather(t testing.TB, c prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(c); err != nil {
		t.Fatal(err)
	}
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]*dto.MetricFamily{}
	for _, f := range all {
		m[f.GetName()] = f
	}
	return m
}

// TestText compares all that two VMs give with what was looked at by hand.
func TestText(t *testing.T) {
	c := NewCollector(fixed(
		Sample{Labels: Labels{"0123456789ab", "web", "app.hvt"}, Version: "0.1", Stats: hvtStats()},
		Sample{Labels: Labels{"ba9876543210", "", "vmlinux"}, Stats: pcStats()},
		Sample{Labels: Labels{ID: "aaaaaaaaaaaa", Name: "stuck"}, Failure: Silent},
		Sample{Labels: Labels{ID: "bbbbbbbbbbbb", Name: "ended"}, Failure: Gone},
	))
	var names []string
	for i := range families {
		if i != scrapeTime {
			names = append(names, families[i].name)
		}
	}
	got, err := testutil.CollectAndFormat(c, expfmt.TypeTextPlain, names...)
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/two.txt"
	if *update {
		if err := os.WriteFile(file, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the metrics are not those of %s; go test -update writes them:\n%s", file, got)
	}
}

// TestLint applies the rules of promtool check metrics.
func TestLint(t *testing.T) {
	c := NewCollector(fixed(Sample{Labels: Labels{ID: "a"}, Stats: hvtStats()}, Sample{Labels: Labels{ID: "b"}, Stats: pcStats()}))
	problems, err := testutil.CollectAndLint(c)
	if err != nil || len(problems) > 0 {
		t.Errorf("CollectAndLint = %v, %v; want none", problems, err)
	}
	// Every family is among those that were looked at.
	got := gather(t, c)
	for i := range families {
		if got[families[i].name] == nil {
			t.Errorf("%s has no value from these VMs", families[i].name)
		}
	}
}

func value(f *dto.MetricFamily, labels ...string) (float64, bool) {
	for _, m := range f.GetMetric() {
		has := 0
		for i := 0; i < len(labels); i += 2 {
			for _, l := range m.GetLabel() {
				if l.GetName() == labels[i] && l.GetValue() == labels[i+1] {
					has++
				}
			}
		}
		if 2*has == len(labels) {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue(), true
		}
	}
	return 0, false
}

// TestSet adds and removes VMs as an embedder does.
func TestSet(t *testing.T) {
	s := NewSet()
	c := NewCollector(s.Samples)
	if err := s.Add(Labels{}, source{}); err == nil || !strings.Contains(err.Error(), "without an ID") {
		t.Errorf("Add without an ID = %v", err)
	}
	for _, id := range []string{"a", "b"} {
		if err := s.Add(Labels{ID: id, Name: "n", Kernel: "k"}, source(hvtStats())); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Add(Labels{ID: "a"}, source{}); err == nil {
		t.Error("Add of an ID that is there = nil")
	}
	for _, tc := range []struct {
		vms int
		do  func()
	}{{2, func() { s.Remove("a"); s.Remove("x") }}, {1, func() { s.Remove("b") }}, {0, func() {}}} {
		m := gather(t, c)
		if v, ok := value(m["uvm_scrape_vms"]); !ok || int(v) != tc.vms || len(m["uvm_exits_total"].GetMetric()) != 3*tc.vms {
			t.Errorf("with %d VMs: uvm_scrape_vms = %v, %d time series of exits", tc.vms, v, len(m["uvm_exits_total"].GetMetric()))
		}
		tc.do()
	}
}

// TestBootOnce scrapes VMs that come, start, are silent and go: each counts once in the histogram.
func TestBootOnce(t *testing.T) {
	var now Samples
	c := NewCollector(func() Samples { return now })
	starting := vmm.Stats{State: "created", Marks: hvtStats().Marks[:2]}
	entered := vmm.Stats{State: "running", Marks: hvtStats().Marks[:4]}
	vm := func(id string, s vmm.Stats, f Failure) Sample {
		return Sample{Labels: Labels{ID: id}, Stats: s, Failure: f}
	}
	for i, tc := range []struct {
		now          Samples
		total, guest uint64 // in the histogram
	}{
		{Samples{}, 0, 0},
		{Samples{VMs: []Sample{vm("a", starting, "")}}, 0, 0},
		{Samples{VMs: []Sample{vm("a", entered, "")}}, 1, 0},
		{Samples{VMs: []Sample{vm("a", vmm.Stats{}, Silent)}}, 1, 0},
		{Samples{VMs: []Sample{vm("a", hvtStats(), ""), vm("b", hvtStats(), "")}}, 2, 2},
		{Samples{VMs: []Sample{vm("a", hvtStats(), ""), vm("b", hvtStats(), "")}}, 2, 2},
		{Samples{Failures: []Failure{RunDir}}, 2, 2}, // they are there, and cannot be seen
		{Samples{VMs: []Sample{vm("a", hvtStats(), ""), vm("b", hvtStats(), "")}}, 2, 2},
		{Samples{}, 2, 2},
		{Samples{VMs: []Sample{vm("c", hvtStats(), "")}}, 3, 3},
	} {
		now = tc.now
		m := gather(t, c)["uvm_boot_phase_duration_seconds"]
		counts := map[string]uint64{}
		for _, v := range m.GetMetric() {
			counts[v.GetLabel()[0].GetValue()] = v.GetHistogram().GetSampleCount()
		}
		if counts["total"] != tc.total || counts["guest"] != tc.guest || counts["kernel"] != tc.total {
			t.Errorf("step %d: counts %v; want total, kernel %d, guest %d", i, counts, tc.total, tc.guest)
		}
	}
}
