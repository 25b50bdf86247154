package metrics

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/vmm"
)

// Collector is a prometheus.Collector of all statistics of a set of VMs, whatever they say: strings that a VM may have
// made up do not become labels, and the number of time series has a bound for each VM.
type Collector struct {
	gather func() Samples
	descs  [numFamilies]*prometheus.Desc

	mu     sync.Mutex // held during a scrape
	boot   *bootTimes
	errors *prometheus.CounterVec
}

// NewCollector returns a Collector of the VMs that gather returns at a scrape, as Set.Samples does. gather should not take
// long; it is not called twice at a time.
func NewCollector(gather func() Samples) *Collector {
	c := &Collector{gather: gather, boot: newBootTimes()}
	for i := range families {
		c.descs[i] = families[i].desc()
	}
	f := &families[scrapeErrors]
	c.errors = prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.name, Help: f.help}, f.labels)
	for _, reason := range failures {
		c.errors.WithLabelValues(string(reason)) // so that the first one is an increase
	}
	return c
}

// Describe is prometheus.Collector's.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for i, d := range c.descs {
		if i != bootPhase && i != scrapeErrors {
			ch <- d
		}
	}
	c.boot.Describe(ch)
	c.errors.Describe(ch)
}

// Collect is prometheus.Collector's.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	all := c.gather()
	there := map[string]bool{}
	vms := 0
	for i := range all.VMs {
		v := &all.VMs[i]
		if there[v.ID] {
			v.Failure = Malformed // two of one ID; the first one counts
		}
		if v.Failure != "" {
			c.fail(v.Failure)
		}
		if there[v.ID] || v.Failure == Gone {
			continue
		}
		there[v.ID] = true
		vms++
		s := series{c, ch, v.Labels.clean()}
		if v.Failure != "" {
			s.put(vmUp, 0)
			continue
		}
		s.put(vmUp, 1)
		s.put(vmInfo, 1, clean(v.Version))
		s.stats(&v.Stats)
	}
	for _, f := range all.Failures {
		c.fail(f)
	}
	c.boot.observe(all.VMs, len(all.Failures) > 0)
	c.boot.Collect(ch)
	c.errors.Collect(ch)
	s := series{c, ch, Labels{}}
	s.put(scrapeVMs, float64(vms))
	s.put(scrapeTime, time.Since(start).Seconds())
}

func (c *Collector) fail(f Failure) {
	if !slices.Contains(failures, f) {
		f = Malformed
	}
	c.errors.WithLabelValues(string(f)).Inc()
}

// mostLabel is the longest value of a label in bytes.
const mostLabel = 64

// clean is s as the value of a label.
func clean(s string) string {
	if len(s) > mostLabel {
		s = s[:mostLabel]
	}
	return strings.ToValidUTF8(s, "?")
}

func (l Labels) clean() Labels { return Labels{clean(l.ID), clean(l.Name), clean(l.Kernel)} }

// series makes the metrics of one VM.
type series struct {
	c  *Collector
	ch chan<- prometheus.Metric
	vm Labels
}

// values are the values of a family's labels.
func (s *series) values(family int, own []string) []string {
	switch families[family].of {
	case ofVM:
		return append([]string{s.vm.ID, s.vm.Name, s.vm.Kernel}, own...)
	case ofSocket:
		return append([]string{s.vm.ID, s.vm.Name}, own...)
	}
	return own
}

func (s *series) put(family int, v float64, own ...string) {
	kind := prometheus.GaugeValue
	if families[family].kind == counter {
		kind = prometheus.CounterValue
	}
	s.ch <- prometheus.MustNewConstMetric(s.c.descs[family], kind, v, s.values(family, own)...)
}

// counts puts a counter of named things, all that is not known under other.
func (s *series) counts(family int, m map[string]float64, known []string) {
	other := 0.0
	for name, n := range m {
		if slices.Contains(known, name) {
			s.put(family, n, name)
		} else {
			other += n
		}
	}
	if other > 0 {
		s.put(family, other, otherLabel)
	}
}

func seconds(ns int64) float64 { return float64(ns) / 1e9 }

// stats puts all that a VM has said.
func (s *series) stats(v *vmm.Stats) {
	state := otherLabel
	if slices.Contains(states, v.State) {
		state = v.State
	}
	s.put(vmState, 1, state)
	var first time.Time
	guest := v.DroppedMarks
	for i := range v.Marks {
		m := &v.Marks[i]
		if m.Guest() {
			guest++
		} else if first.IsZero() {
			first = m.At
		}
	}
	if !first.IsZero() {
		s.put(vmStart, float64(first.UnixMicro())/1e6)
	}
	s.put(memorySize, float64(v.MemoryBytes))
	s.put(memoryResident, float64(v.ResidentBytes))
	s.put(processCPU, seconds(v.ProcessCPU))
	s.put(unanswered, float64(v.Unanswered))
	s.put(guestMarks, float64(guest))
	s.vcpus(v.VCPUs)
	s.devices(v.Devices)
	s.virtio(v.Virtio)
}

// virtio puts what vmm says of virtio devices, whose names are a kind and, where there may be several, a quoted name.
func (s *series) virtio(all []vmm.VirtioStats) {
	taken := names{}
	for i := range min(len(all), mostDevices) {
		d := &all[i]
		kind, name, _ := strings.Cut(d.Name, " ")
		if unquoted, err := strconv.Unquote(name); err == nil {
			name = unquoted
		}
		if !slices.Contains(virtioKinds, kind) {
			kind, name = otherLabel, d.Name
		}
		name = taken.unique(kind, name)
		s.put(virtioInterrupts, float64(d.Interrupts), name, kind)
		if kind == "net" {
			s.put(virtioDropped, float64(d.RxDropped), name, kind, "rx")
			s.put(virtioDropped, float64(d.TxDropped), name, kind, "tx")
		}
	}
}

// vcpus puts what vCPUs do; what they count is added up.
func (s *series) vcpus(all []vmm.VCPUStats) {
	ex, calls, callTime, tr := map[string]float64{}, map[string]float64{}, map[string]float64{}, map[string]float64{}
	timed := false // the VM takes times
	for i := range min(len(all), mostVCPUs) {
		v, n := &all[i], strconv.Itoa(i)
		s.put(vcpuCPU, seconds(v.CPU), n)
		if v.InKVM+v.Handling != 0 {
			timed = true
			s.put(vcpuKVM, seconds(v.InKVM), n)
			s.put(vcpuHandling, seconds(v.Handling), n)
		}
		add(ex, v.Exits)
		add(tr, v.Traps)
		for name, c := range v.Hypercalls {
			calls[name] += float64(c.Count)
			callTime[name] += float64(c.Time) / 1e9
		}
	}
	s.counts(exits, ex, exitReasons)
	s.counts(hypercalls, calls, callNames)
	if timed {
		s.counts(hypercallTime, callTime, callNames)
	}
	s.counts(traps, tr, exceptions)
}

func add(sum map[string]float64, m map[string]uint64) {
	for name, n := range m {
		sum[name] += float64(n)
	}
}

// devices puts what devices have moved.
func (s *series) devices(all []devices.DeviceStats) {
	taken := names{}
	for i := range min(len(all), mostDevices) {
		d := &all[i]
		kind := otherLabel
		if slices.Contains(deviceKinds, d.Kind) {
			kind = d.Kind
		}
		name := taken.unique(kind, d.Name)
		for op, o := range d.Ops {
			if !slices.Contains(deviceOpNames, op) {
				continue // the device's uvm is newer than this program, or lies
			}
			s.put(deviceOps, float64(o.Count), name, kind, op)
			s.put(deviceBytes, float64(o.Bytes), name, kind, op)
			s.put(deviceErrors, float64(o.Errors), name, kind, op)
			if len(o.Latency) > 0 {
				s.ch <- &log2{s.c.descs[deviceTime], prometheus.MakeLabelPairs(s.c.descs[deviceTime], s.values(deviceTime, []string{name, kind, op})), o.Latency}
			}
		}
	}
}
