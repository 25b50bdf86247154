package kvm

import "strconv"

// The names and values below are those of the Linux UAPI header <linux/kvm.h>;
// abi_test.go compiles that header and compares every one of them.

// apiVersion is the only KVM API version there has been since Linux 2.6.22
// (Documentation/virt/kvm/api.rst, section 4.1).
const apiVersion = 12

// ioctl request numbers. The second part of each name says which descriptor
// takes it, as in the kernel's own documentation.
const (
	ioGetAPIVersion     = 0xae00     // system
	ioCreateVM          = 0xae01     // system
	ioCheckExtension    = 0xae03     // system, vm
	ioGetVCPUMmapSize   = 0xae04     // system
	ioGetSupportedCPUID = 0xc008ae05 // system
	ioCreateVCPU        = 0xae41     // vm
	ioSetUserMemory     = 0x4020ae46 // vm
	ioSetTSSAddr        = 0xae47     // vm
	ioCreateIRQChip     = 0xae60     // vm
	ioIRQLine           = 0x4008ae61 // vm
	ioCreatePIT2        = 0x4040ae77 // vm
	ioIOEventFD         = 0x4040ae79 // vm
	ioRun               = 0xae80     // vcpu
	ioGetRegs           = 0x8090ae81 // vcpu
	ioSetRegs           = 0x4090ae82 // vcpu
	ioGetSregs          = 0x8138ae83 // vcpu
	ioSetSregs          = 0x4138ae84 // vcpu
	ioSetMSRs           = 0x4008ae89 // vcpu
	ioSetCPUID2         = 0x4008ae90 // vcpu
	ioSetGuestDebug     = 0x4048ae9b // vcpu
	ioGetTSCKHz         = 0xaea3     // vcpu
	ioGetXSave          = 0x9000aea4 // vcpu
	ioSetXSave          = 0x5000aea5 // vcpu
)

// ExitReason says why KVM_RUN returned.
type ExitReason uint32

// Exit reasons that uvm names; any other prints as a number.
const (
	ExitUnknown       ExitReason = 0
	ExitException     ExitReason = 1
	ExitIO            ExitReason = 2
	ExitHypercall     ExitReason = 3
	ExitDebug         ExitReason = 4
	ExitHLT           ExitReason = 5
	ExitMMIO          ExitReason = 6
	ExitShutdown      ExitReason = 8
	ExitFailEntry     ExitReason = 9
	ExitIntr          ExitReason = 10
	ExitInternalError ExitReason = 17
	ExitSystemEvent   ExitReason = 24
	ExitMemoryFault   ExitReason = 39
)

// String is the name in <linux/kvm.h> without its KVM_EXIT_ prefix.
func (r ExitReason) String() string {
	names := [...]string{
		ExitUnknown: "UNKNOWN", ExitException: "EXCEPTION", ExitIO: "IO", ExitHypercall: "HYPERCALL", ExitDebug: "DEBUG", ExitHLT: "HLT",
		ExitMMIO: "MMIO", ExitShutdown: "SHUTDOWN", ExitFailEntry: "FAIL_ENTRY", ExitIntr: "INTR", ExitInternalError: "INTERNAL_ERROR",
		ExitSystemEvent: "SYSTEM_EVENT", ExitMemoryFault: "MEMORY_FAULT",
	}
	if int(r) < len(names) && names[r] != "" {
		return names[r]
	}
	return "exit reason " + strconv.FormatUint(uint64(r), 10)
}

// Bits of SetGuestDebug's control. Debug exits come from single steps, INT3, and debug registers.
const (
	DebugEnable   = 1 << 0
	DebugStep     = 1 << 1
	DebugSoft     = 1 << 16
	DebugHard     = 1 << 17
	DebugBlockIRQ = 1 << 20 // no interrupts to the guest meanwhile; Linux 5.15 and later
)

// SuberrorEmulation of ExitInternalError: KVM's instruction emulator refused an
// instruction.
const SuberrorEmulation = 1
