package main

import (
	"github.com/uvm-monitor/uvm/netring"
	"github.com/uvm-monitor/uvm/vmm"
)

// netRing is the network ring for the guest, or none. A non-negative status says that --net-ring
// is wrong, in words that are printed already.
func (s *settings) netRing() (vmm.NetRing, int) {
	switch s.NetRing {
	case "on":
		return netring.New(), -1
	case "off", "", "auto":
		return nil, -1
	}
	return nil, fail(exitUsage, "--net-ring %q: want on, off or auto", s.NetRing)
}
