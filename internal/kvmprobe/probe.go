// Package kvmprobe asks a KVM device what it can do, for people and for tests: no
// VM needs the answers.
package kvmprobe

import (
	"errors"
	"syscall"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/vmm"
)

// Capability is KVM's answer to one question.
type Capability struct {
	Name   string // as in <linux/kvm.h>, without KVM_CAP_
	Value  int    // 0 = absent
	Needed bool   // uvm cannot work without it
}

// Info is what a KVM device says of itself.
type Info struct {
	Capabilities []Capability
	TSCKHz       uint64 // frequency of a guest's time-stamp counter, kHz
	CPUIDEntries int    // CPUID leaves that KVM supports
}

// capability is a question; probe_test.go holds names and numbers against the
// header.
type capability struct {
	name   string
	number kvm.Cap
	needed bool
}

var capabilities = []capability{
	{"USER_MEMORY", 3, true}, {"EXT_CPUID", 7, true}, {"GET_TSC_KHZ", 61, true}, {"IMMEDIATE_EXIT", 136, true},
	{"IRQCHIP", 0, false}, {"PIT2", 33, false}, {"IRQFD", 32, false}, {"IOEVENTFD", 36, false},
	{"SYNC_REGS", 74, true}, {"READONLY_MEM", 81, false}, {"NR_MEMSLOTS", 10, false}, {"MAX_VCPUS", 66, false},
}

// Probe asks the KVM device at path, usually /dev/kvm, what it can do. The error
// is a *vmm.HostError.
func Probe(path string) (*Info, error) {
	info, err := probe(path)
	if err != nil {
		return nil, &vmm.HostError{What: "KVM", Err: err}
	}
	return info, nil
}

func probe(path string) (*Info, error) {
	sys, err := kvm.Open(path)
	if err != nil {
		return nil, err
	}
	defer sys.Close()
	vm, err := sys.CreateVM()
	if err != nil {
		return nil, err
	}
	defer vm.Close()
	vcpu, err := vm.CreateVCPU(0)
	if err != nil {
		return nil, err
	}
	defer vcpu.Close()
	cpuid, err := sys.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	info := &Info{CPUIDEntries: len(cpuid.Entries())}
	for _, c := range capabilities {
		n, err := sys.Check(c.number)
		if err != nil {
			return nil, err
		}
		info.Capabilities = append(info.Capabilities, Capability{c.name, n, c.needed})
	}
	if info.TSCKHz, err = vcpu.TSCKHz(); errors.Is(err, syscall.EIO) {
		err = vmm.ErrUnstableTSC
	}
	return info, err
}
