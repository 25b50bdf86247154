package metrics

import (
	"errors"
	"fmt"
	"sync"

	"github.com/uvm-monitor/uvm/vmm"
)

// Labels say which VM it is. Kernel should be one of few: a file's name, not its path in a temporary folder.
type Labels struct{ ID, Name, Kernel string }

// Sample is a VM at a scrape.
type Sample struct {
	Labels
	Version string // of the VM's uvm; "" = this program's
	Stats   vmm.Stats
	Failure Failure // if not "", there are no Stats
}

// Samples is what a scrape found.
type Samples struct {
	VMs      []Sample
	Failures []Failure // what failed beside single VMs
}

// Failure is why something is missing: the label reason of uvm_scrape_errors_total.
type Failure string

const (
	Silent    Failure = "silent"        // the VM's monitor did not answer in time
	Gone      Failure = "gone"          // the VM ended, or had been killed; there is no uvm_vm_up of it
	Refused   Failure = "refused"       // the VM's monitor answered with an error
	Malformed Failure = "malformed"     // its answer was not what it should be
	RunDir    Failure = "run_directory" // a run directory could not be read
)

var failures = []Failure{Silent, Gone, Refused, Malformed, RunDir}

// Source is a VM, such as *vmm.VM. Stats is called from other goroutines.
type Source interface{ Stats() vmm.Stats }

// Set is the VMs of one program. Its methods may be called from any goroutine.
type Set struct {
	mu  sync.Mutex
	vms map[string]member
}

type member struct {
	Labels
	Source
}

// NewSet returns a Set without VMs.
func NewSet() *Set { return &Set{vms: map[string]member{}} }

// Add has a VM in all scrapes until Remove. No other one in the Set may have its ID.
func (s *Set) Add(l Labels, vm Source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch _, taken := s.vms[l.ID]; {
	case l.ID == "":
		return errors.New("metrics: a VM without an ID")
	case taken:
		return fmt.Errorf("metrics: there is a VM %q already", l.ID)
	}
	s.vms[l.ID] = member{l, vm}
	return nil
}

// Remove takes a VM out, if it is there.
func (s *Set) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.vms, id)
}

// Samples asks all VMs. It is for NewCollector.
func (s *Set) Samples() (all Samples) {
	s.mu.Lock()
	members := make([]member, 0, len(s.vms))
	for _, m := range s.vms {
		members = append(members, m)
	}
	s.mu.Unlock()
	for _, m := range members {
		all.VMs = append(all.VMs, Sample{Labels: m.Labels, Stats: m.Stats()})
	}
	return all
}
