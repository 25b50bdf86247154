package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/netring"
	"github.com/uvm-monitor/uvm/vmm"
)

// setNetRing gives the guest the network ring or not, as mode says: on, off or auto, the
// default. For auto docs/net-ring.md has the rule and what was measured.
func setNetRing(mode string, cfg *vmm.Config) error {
	switch mode {
	case "on":
		cfg.NetRing = netring.New()
	case "", "auto":
		if len(cfg.Nets) > 0 && spareCPU() {
			cfg.NetRing, cfg.NetRingStock = netring.New(), true
		}
	case "off":
	default:
		return &vmm.ConfigError{Msg: fmt.Sprintf("network ring %q: want on, off or auto", mode)}
	}
	return nil
}

// spareCPU says whether a second thread of this process is likely to find a CPU of its own:
// there are two, and in the last minute no more than half of those were busy that this process may use.
func spareCPU() bool {
	var info unix.Sysinfo_t
	cpus := affinity.Count()
	return cpus > 1 && unix.Sysinfo(&info) == nil && info.Loads[0]>>16 < uint64(cpus+1)/2
}
