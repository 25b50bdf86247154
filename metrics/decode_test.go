package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/vmm"
)

func encode(t testing.TB, s vmm.Stats) []byte {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecode(t *testing.T) {
	for _, s := range []vmm.Stats{hvtStats(), pcStats()} {
		if got, err := Decode(encode(t, s)); err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("Decode = %+v, %v; want %+v", got, err, s)
		}
	}
	vm := func(vcpu, rest string) string {
		return `{"state": "running", "vcpus": [{` + vcpu + `}]` + rest + `}`
	}
	for _, tc := range []struct{ data, want string }{ // want "" = good
		{vm("", ""), ""},
		{vm(`"exits": {"IO": 18446744073709551615}`, ""), ""},
		{"", "unexpected end"},
		{"null", "no state"},
		{"[]", "cannot unmarshal"},
		{"{}", "no state"},
		{`{"state": "running"}`, "no vCPU"},
		{`{"state": "running", "vcpus": null}`, "no vCPU"},
		{vm("", `, "memory_bytes": NaN`), "invalid character 'N'"},
		{vm("", `, "memory_bytes": -1`), "cannot unmarshal"},
		{vm("", `, "memory_bytes": 1.5`), "cannot unmarshal"},
		{vm("", `, "memory_bytes": 1e400`), "cannot unmarshal"},
		{vm("", `, "memory_bytes": 18446744073709551616`), "cannot unmarshal"},
		{vm("", `, "memory_bytes": "1"`), "cannot unmarshal"},
		{vm("", `, "process_cpu_ns": -5`), "process_cpu_ns is -5"},
		{vm(`"cpu_ns": -1`, ""), "vCPU 0 has a negative time"},
		{vm(`"handling_ns": -9223372036854775808`, ""), "vCPU 0 has a negative time"},
		{vm(`"exits": {"IO": -1}`, ""), "cannot unmarshal"},
		{vm("", `, "devices": [{"ops": {"rx": {"latency_log2_ns": [1, -1]}}}]`), "cannot unmarshal"},
		{vm("", `, "devices": [{"ops": {"rx": {"latency_log2_ns": [18446744073709551615]}}}]`), "a bucket of 18446744073709551615"},
		{vm("", `, "devices": [{"ops": {"rx": {"latency_log2_ns": [`+strings.Repeat("1,", 36)+`1]}}}]`), "37 buckets"},
		{vm("", `, "devices": [`+strings.Repeat("{},", 5000)+`{}]`), "5005 objects"},
		{vm("", `, "devices": `+strings.Repeat("[", 5000)), "objects; at most"},
		{vm("", "") + "{}", "after top-level value"},
	} {
		_, err := Decode([]byte(tc.data))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Decode(%.90s) = %v; want %q", tc.data, err, tc.want)
		}
	}
}

// mostSeries is the most time series that a VM can have, whatever it says: a histogram is one here.
var mostSeries = 16 + 3*mostVCPUs + len(exitReasons) + 2*len(callNames) + len(exceptions) + 4 + mostDevices*(4*len(deviceOpNames)+3)

// seriesOf is what a sample becomes, for all a registry and the text format check.
func seriesOf(t testing.TB, all ...Sample) int {
	t.Helper()
	n := 0
	for name, f := range gather(t, NewCollector(fixed(all...))) {
		if !strings.HasPrefix(name, "uvm_scrape_") && !strings.HasPrefix(name, "uvm_boot_") {
			n += len(f.GetMetric())
		}
	}
	return n
}

// TestCardinality has VMs make names up.
func TestCardinality(t *testing.T) {
	many := func(n int) (m map[string]uint64) {
		m = map[string]uint64{}
		for i := range n {
			m[fmt.Sprint("invented ", i)] = 1
		}
		return m
	}
	calls, ops := map[string]vmm.CallStats{}, map[string]devices.OpStats{}
	for name := range many(900) {
		calls[name], ops[name] = vmm.CallStats{Count: 1, Time: 1}, devices.OpStats{Count: 1, Latency: []uint64{1}}
	}
	for _, op := range deviceOpNames {
		ops[op] = devices.OpStats{Count: 1, Latency: []uint64{1}}
	}
	s := vmm.Stats{State: "on holiday"}
	for i := range 2 * mostDevices {
		exits := many(900)
		for _, r := range exitReasons {
			exits[r] = 1
		}
		s.VCPUs = append(s.VCPUs, vmm.VCPUStats{Handling: 1, Exits: exits, Traps: many(900), Hypercalls: calls})
		s.Devices = append(s.Devices, devices.DeviceStats{Name: strings.Repeat("x\xff", i%3*100), Kind: fmt.Sprint("kind", i), Ops: ops})
		s.Virtio = append(s.Virtio, vmm.VirtioStats{Name: fmt.Sprintf("net %q", strings.Repeat("\xc3", i%5)), RxDropped: 1})
		s.Marks = append(s.Marks, devices.Mark{Value: byte(i)}, devices.Mark{Name: fmt.Sprint("mark", i)})
	}
	long := strings.Repeat("\xf0\x9f", 500)
	got := seriesOf(t, Sample{Labels: Labels{long, long, long}, Version: long, Stats: s}, Sample{Labels: Labels{ID: long}, Stats: s})
	if got > mostSeries {
		t.Errorf("a VM that lies has %d time series; want at most %d", got, mostSeries)
	}
	for name, f := range gather(t, NewCollector(fixed(Sample{Labels: Labels{long, long, long}, Version: long, Stats: s}))) {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if v := l.GetValue(); len(v) > mostLabel+8 || strings.Contains(v, "invented") {
					t.Errorf("%s has the label %s=%q", name, l.GetName(), v)
				}
			}
		}
	}
}

// FuzzDecode has a VM answer with anything: what Decode takes, a registry takes too.
func FuzzDecode(f *testing.F) {
	f.Add(encode(f, hvtStats()))
	f.Add(encode(f, pcStats()))
	f.Add([]byte(`{"state":"","vcpus":[{"exits":{"\ud800":1}}],"devices":[{"name":"a"},{"name":"a"},{"name":"a#2"}],"virtio":[{"name":"net \"\\xff\""}],"boot_marks":[{"name":"first-entry","at":"9999-01-01T00:00:00Z"},{"name":"exec","at":"0001-01-01T00:00:01Z"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			return
		}
		c := NewCollector(fixed(Sample{Labels: Labels{ID: "a"}, Stats: s}, Sample{Labels: Labels{ID: "b"}, Stats: hvtStats()}))
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(c)
		all, err := reg.Gather()
		if err != nil {
			t.Fatalf("Gather = %v", err)
		}
		n := 0
		for _, m := range all {
			n += len(m.GetMetric())
		}
		if limit := 2*mostSeries + 40; n > limit {
			t.Errorf("%d time series; want at most %d", n, limit)
		}
		// Decoding what was decoded gives the same.
		again, err := Decode(encode(t, s))
		if err != nil || !slices.Equal(slices.Sorted(maps.Keys(again.VCPUs[0].Exits)), slices.Sorted(maps.Keys(s.VCPUs[0].Exits))) {
			t.Errorf("Decode of what was decoded = %v", err)
		}
	})
}
