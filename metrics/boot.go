package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/uvm-monitor/uvm/vmm"
)

// phases are the marks of vmm that end a phase of the start, which the mark before it in this order began.
var phases = [...]string{vmm.MarkExec, vmm.MarkKVM, vmm.MarkKernel, vmm.MarkDevices, vmm.MarkVM, vmm.MarkMemory, vmm.MarkLoad, vmm.MarkEntry}

// phaseTotal is from the first of these marks to the guest's first instruction, phaseGuest from there to its first mark.
const (
	phaseTotal = "total"
	phaseGuest = "guest"
)

// bootTimes is the histogram of VMs that were seen.
type bootTimes struct {
	*prometheus.HistogramVec
	seen map[string]counted // of VMs that there are
}

// counted is what of a VM the histogram has.
type counted struct{ start, guest bool }

func newBootTimes() *bootTimes {
	f := &families[bootPhase]
	b := &bootTimes{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: f.name, Help: f.help,
		Buckets:                     prometheus.ExponentialBuckets(16e-6, 2, 18), // to 2 s
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
	}, f.labels), map[string]counted{}}
	for _, p := range append(phases[1:], phaseTotal, phaseGuest) {
		b.WithLabelValues(p) // so that the first start is an increase
	}
	return b
}

// observe counts what it has not counted yet. It forgets VMs that are not there any more, unless some are missing.
func (b *bootTimes) observe(all []Sample, missing bool) {
	there := map[string]counted{}
	if missing {
		there = b.seen
	}
	for i := range all {
		v := &all[i]
		c := b.seen[v.ID]
		if v.Failure == "" {
			b.count(&v.Stats, &c)
		}
		there[v.ID] = c
	}
	b.seen = there
}

func (b *bootTimes) count(s *vmm.Stats, c *counted) {
	var (
		at    [len(phases)]time.Time
		guest time.Time
	)
	for i := range s.Marks {
		m := &s.Marks[i]
		if p := slices.Index(phases[:], m.Name); p >= 0 && at[p].IsZero() {
			at[p] = m.At
		} else if m.Guest() && guest.IsZero() {
			guest = m.At
		}
	}
	entry := at[len(at)-1]
	if entry.IsZero() {
		return // it is not there yet
	}
	if !c.start {
		c.start = true
		var first, last time.Time
		for p, t := range at {
			switch {
			case t.IsZero(): // a PC has not all of them
			case first.IsZero():
				first, last = t, t
			default:
				b.add(phases[p], t.Sub(last))
				last = t
			}
		}
		b.add(phaseTotal, entry.Sub(first))
	}
	if !c.guest && !guest.IsZero() {
		c.guest = true
		b.add(phaseGuest, guest.Sub(entry))
	}
}

// mostPhase is longer than any start.
const mostPhase = time.Hour

// add leaves out what a clock that was set makes of it.
func (b *bootTimes) add(phase string, d time.Duration) {
	if d >= 0 && d < mostPhase {
		b.WithLabelValues(phase).Observe(d.Seconds())
	}
}
