package metrics

import (
	"strconv"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/vmm"
)

// The values that labels can have where a VM's answer says them. All others are this one.
const otherLabel = "other"

// Bounds for each VM; what is beyond has no metrics. vmm allows 16 vCPUs and some 70 devices.
const (
	mostVCPUs   = 64
	mostDevices = 128
)

var (
	states        = stateNames()
	exitReasons   = []string{"UNKNOWN", "EXCEPTION", "IO", "HYPERCALL", "DEBUG", "HLT", "MMIO", "SHUTDOWN", "FAIL_ENTRY", "INTR", "INTERNAL_ERROR", "SYSTEM_EVENT", "MEMORY_FAULT"}
	callNames     = hypercallNames()
	exceptions    = numbers(32) // Intel SDM volume 3, section 6.3.1: vectors from 32 on are the system's own
	deviceKinds   = []string{"net", "disk", "console"}
	virtioKinds   = []string{"net", "disk", "console", "rng", "vsock"}
	deviceOpNames = []string{"rx", "tx", "read", "write", "flush", "discard", "zero", "zero-free"}
)

func stateNames() (all []string) {
	for s := vmm.Created; s <= vmm.Closed; s++ {
		all = append(all, s.String())
	}
	return all
}

func hypercallNames() (all []string) {
	for c := range hypercall.Call(hypercall.NumCalls) {
		all = append(all, c.String())
	}
	return all
}

func numbers(n int) (all []string) {
	for i := range n {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// names makes the names of one VM's devices different from each other.
type names map[string]bool

// unique is name as a label, which none of its kind has had.
func (taken names) unique(kind, name string) string {
	name = clean(name)
	for n := 1; ; n++ {
		label := name
		if n > 1 {
			label += "#" + strconv.Itoa(n)
		}
		if !taken[kind+" "+label] {
			taken[kind+" "+label] = true
			return label
		}
	}
}
