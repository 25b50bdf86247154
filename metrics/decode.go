package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/vmm"
)

// Bounds of what Decode takes.
const (
	mostObjects = 4096    // {} and [] of the JSON: what they become in memory is larger than they are
	mostCount   = 1 << 62 // of a counter; so sums of buckets do not overflow
)

// Decode reads the JSON of a vmm.Stats that somebody has sent who need not be believed. It takes nothing that VM.Stats
// would not say: no negative time, no histogram that is none.
func Decode(data []byte) (s vmm.Stats, err error) {
	if n := bytes.Count(data, []byte("{")) + bytes.Count(data, []byte("[")); n > mostObjects {
		return vmm.Stats{}, fmt.Errorf("statistics: %d objects; at most %d are possible", n, mostObjects)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return vmm.Stats{}, fmt.Errorf("statistics: %w", err)
	}
	if s.State == "" || len(s.VCPUs) == 0 {
		return vmm.Stats{}, errors.New("statistics: no state, or no vCPU")
	}
	if err := check(&s); err != nil {
		return vmm.Stats{}, fmt.Errorf("statistics: %w", err)
	}
	return s, nil
}

func check(s *vmm.Stats) error {
	if s.ProcessCPU < 0 {
		return fmt.Errorf("process_cpu_ns is %d", s.ProcessCPU)
	}
	for i := range s.VCPUs {
		if v := &s.VCPUs[i]; v.CPU < 0 || v.InKVM < 0 || v.Handling < 0 {
			return fmt.Errorf("vCPU %d has a negative time: %d, %d, %d ns", i, v.CPU, v.InKVM, v.Handling)
		}
	}
	for i := range s.Devices {
		for name, op := range s.Devices[i].Ops {
			if len(op.Latency) > devices.LatencyBuckets {
				return fmt.Errorf("device %d, %q: %d buckets; at most %d are possible", i, name, len(op.Latency), devices.LatencyBuckets)
			}
			for _, n := range op.Latency {
				if n > mostCount/devices.LatencyBuckets {
					return fmt.Errorf("device %d, %q: a bucket of %d", i, name, n)
				}
			}
		}
	}
	return nil
}
