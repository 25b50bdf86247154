package main

import (
	"fmt"

	"github.com/uvm-monitor/uvm/netring"
	"github.com/uvm-monitor/uvm/vmm"
)

// netRing is the network ring for a guest, or none: as mode says, which is on, off or auto, the
// default. For auto docs/net-ring.md has the rule and what was measured.
func netRing(mode string, cfg *vmm.Config) (vmm.NetRing, error) {
	switch mode {
	case "on":
		return netring.New(), nil
	case "off", "", "auto":
		return nil, nil
	}
	return nil, &vmm.ConfigError{Msg: fmt.Sprintf("network ring %q: want on, off or auto", mode)}
}
