package vmm

import (
	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/kvm"
)

// Capability is KVM's answer to one question.
type Capability struct {
	Name   string // as in <linux/kvm.h>, without KVM_CAP_
	Value  int    // 0 = absent
	Needed bool   // uvm cannot work without it
}

// KVMInfo is what a KVM device says of itself.
type KVMInfo struct {
	Capabilities []Capability
	TSCKHz       uint64 // frequency of a guest's time-stamp counter, kHz
	CPUIDEntries int    // CPUID leaves that KVM supports
}

// ProbeKVM asks the KVM device at path ("" = /dev/kvm) what it can do. The
// error is a *HostError.
func ProbeKVM(path string) (*KVMInfo, error) {
	vm := &VM{cfg: Config{KVM: path, Memory: hvtPage}, timer: devices.NewBootTimer()}
	defer vm.release()
	if err := vm.openKVM(); err != nil {
		return nil, err
	}
	cpuid, err := vm.createVM(vm.hvtMemory)
	if err != nil {
		return nil, err
	}
	info := &KVMInfo{CPUIDEntries: len(cpuid.Entries())}
	for _, c := range []struct {
		name   string
		cap    kvm.Cap
		needed bool
	}{
		{"USER_MEMORY", kvm.CapUserMemory, true},
		{"EXT_CPUID", kvm.CapExtCPUID, true},
		{"GET_TSC_KHZ", kvm.CapGetTSCKHz, true},
		{"IMMEDIATE_EXIT", kvm.CapImmediateExit, true},
		{"IRQCHIP", kvm.CapIRQChip, false},
		{"PIT2", kvm.CapPIT2, false},
		{"IRQFD", kvm.CapIRQFD, false},
		{"IOEVENTFD", kvm.CapIOEventFD, false},
		{"SYNC_REGS", kvm.CapSyncRegs, false},
		{"READONLY_MEM", kvm.CapReadonlyMem, false},
		{"NR_MEMSLOTS", kvm.CapNRMemslots, false},
		{"MAX_VCPUS", kvm.CapMaxVCPUs, false},
	} {
		n, err := vm.sys.Check(c.cap)
		if err != nil {
			return nil, kvmError(err)
		}
		info.Capabilities = append(info.Capabilities, Capability{c.name, n, c.needed})
	}
	if info.TSCKHz, err = vm.vcpu.TSCKHz(); err != nil {
		return nil, tscError(err)
	}
	return info, nil
}
