package main

import (
	"time"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/vmm"
)

// sample is what a VM said at a time. It may be another user's, so nothing in it is believed: rates of
// counters that go backwards are 0.
type sample struct {
	info  control.Info
	stats vmm.Stats
	at    time.Time
	total totals
}

// totals are counters since the VM's start.
type totals struct{ cpu, exits, calls, rx, tx, read, write uint64 }

// row is a line of the table: a VM and what it does in a second.
type row struct {
	control.Info
	resident uint64
	rates    [7]float64 // by the order of totals; CPU in seconds
	fresh    bool       // without rates yet
}

// sampler asks the VMs, and remembers what they said before.
type sampler struct {
	dir  string
	last map[string]sample // by ID
}

// sample asks all VMs at once. VMs come and go between calls.
func (s *sampler) sample() ([]row, error) {
	dir, err := openDir(s.dir)
	if dir == nil {
		s.last = nil
		return nil, err
	}
	defer dir.Close()
	all, err := control.Each(dir, func(e control.Entry) (v sample, err error) {
		v.info, err = e.Ask(func(c *control.Client) error { return c.Call("stats", nil, &v.stats) })
		v.at = time.Now()
		v.total = sum(&v.stats)
		return v, err
	})
	if err != nil {
		return nil, err
	}
	now := make(map[string]sample, len(all))
	rows := make([]row, 0, len(all))
	for _, v := range all {
		r := row{Info: v.info, resident: v.stats.ResidentBytes, fresh: true}
		if before, ok := s.last[v.info.ID]; ok && v.info.State != control.StateSilent && before.info.State != control.StateSilent {
			r.fresh = false
			r.rates = rates(&before.total, &v.total, v.at.Sub(before.at))
		}
		now[v.info.ID] = v
		rows = append(rows, r)
	}
	s.last = now
	return rows, nil
}

// sum adds up what a VM counts.
func sum(s *vmm.Stats) (t totals) {
	t.cpu = uint64(max(s.ProcessCPU, 0))
	for i := range s.VCPUs {
		for _, n := range s.VCPUs[i].Exits {
			t.exits += n
		}
		for _, c := range s.VCPUs[i].Hypercalls {
			t.calls += c.Count
		}
	}
	for i := range s.Devices {
		ops := s.Devices[i].Ops
		switch s.Devices[i].Kind {
		case "net":
			t.rx += ops["rx"].Bytes
			t.tx += ops["tx"].Bytes
		case "disk":
			t.read += ops["read"].Bytes
			t.write += ops["write"].Bytes
		}
	}
	return t
}

// rates are the differences in a second.
func rates(before, now *totals, d time.Duration) (r [7]float64) {
	seconds := max(d, time.Microsecond).Seconds()
	a := [...]uint64{before.cpu, before.exits, before.calls, before.rx, before.tx, before.read, before.write}
	for i, n := range [...]uint64{now.cpu, now.exits, now.calls, now.rx, now.tx, now.read, now.write} {
		if n > a[i] {
			r[i] = float64(n-a[i]) / seconds
		}
	}
	r[0] /= 1e9
	return r
}
