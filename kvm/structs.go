package kvm

// The structures of <linux/kvm.h> for x86-64, field by field; abi_test.go
// holds every size and offset against the header.

// Regs is struct kvm_regs: the general registers.
type Regs struct {
	RAX, RBX, RCX, RDX uint64
	RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11   uint64
	R12, R13, R14, R15 uint64
	RIP, RFLAGS        uint64
}

// Segment is struct kvm_segment: a segment register with its hidden part.
type Segment struct {
	Base     uint64
	Limit    uint32 // in bytes, already scaled by G
	Selector uint16

	Type, Present, DPL, DB, S, L, G, AVL, Unusable, _ uint8
}

// DTable is struct kvm_dtable: GDTR or IDTR.
type DTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

// Sregs is struct kvm_sregs: segments, tables and control registers.
type Sregs struct {
	CS, DS, ES, FS, GS, SS Segment
	TR, LDT                Segment
	GDT, IDT               DTable
	CR0, CR2, CR3, CR4     uint64
	CR8                    uint64
	EFER                   uint64
	APICBase               uint64
	InterruptBitmap        [4]uint64
}

// CPUIDEntry is struct kvm_cpuid_entry2: what one CPUID leaf answers.
type CPUIDEntry struct {
	Function, Index, Flags uint32
	EAX, EBX, ECX, EDX     uint32
	_                      [3]uint32
}

// maxCPUID bounds the table of KVM_GET_SUPPORTED_CPUID; current kernels return
// about 40 entries (KVM_MAX_CPUID_ENTRIES is 256).
const maxCPUID = 256

// CPUID is struct kvm_cpuid2 with room for maxCPUID entries: a table of CPUID
// leaves.
type CPUID struct {
	nent    uint32
	_       uint32
	entries [maxCPUID]CPUIDEntry
}

// oneMSR is struct kvm_msrs with room for one entry.
type oneMSR struct {
	nmsrs uint32
	_     uint32
	index uint32
	_     uint32
	data  uint64
}

// userMemoryRegion is struct kvm_userspace_memory_region.
type userMemoryRegion struct {
	slot, flags   uint32
	guestPhysAddr uint64
	memorySize    uint64
	userspaceAddr uint64
}

// irqLevel is struct kvm_irq_level.
type irqLevel struct{ irq, level uint32 }

// ioEventFD is struct kvm_ioeventfd.
type ioEventFD struct {
	_, addr uint64 // the first is datamatch
	len     uint32
	fd      int32
	flags   uint32
	_       [9]uint32
}

// pitConfig is struct kvm_pit_config.
type pitConfig struct {
	flags uint32
	_     [15]uint32
}

// kvmRun is struct kvm_run, as far as uvm uses it: what the kernel and a vCPU's
// owner tell each other (section 5).
type kvmRun struct {
	_             uint8
	immediateExit uint8
	_             [6]uint8
	exitReason    uint32
	_             [20]uint8
	exit          [256]byte // a union that the exit reason selects
	// Which registers KVM_RUN leaves in sync, and which it takes over from there.
	validRegs, dirtyRegs uint64
	sync                 syncArea
}

const (
	syncRegs  = 1 << 0 // KVM_SYNC_X86_REGS
	syncSregs = 1 << 1 // KVM_SYNC_X86_SREGS
)

// syncArea is the part of struct kvm_sync_regs that uvm uses.
type syncArea struct {
	regs  Regs
	sregs Sregs
}

// exitIO is the union's io member: one IN or OUT, or count of them with a REP
// prefix, whose data lies dataOffset bytes into the mapping.
type exitIO struct {
	direction  uint8 // 0 in, 1 out
	size       uint8 // 1, 2 or 4 bytes
	port       uint16
	count      uint32
	dataOffset uint64
}

// exitMMIO is the union's mmio member.
type exitMMIO struct {
	physAddr uint64
	data     [8]byte
	len      uint32
	isWrite  uint8
}

// guestDebug is struct kvm_guest_debug.
type guestDebug struct {
	control uint32
	_       uint32
	regs    [8]uint64
}

// DebugExit is the union's debug member, struct kvm_debug_exit_arch.
type DebugExit struct {
	Exception uint32 // 1 = #DB, 3 = #BP
	_         uint32
	PC        uint64 // linear address
	DR6, DR7  uint64
}

// exitFailEntry is the union's fail_entry member.
type exitFailEntry struct {
	hardwareReason uint64
	cpu            uint32
}

// exitInternal is the union's internal member, in the reading that
// emulation_failure gives it: flags bit 0 says that insn holds bytes.
type exitInternal struct {
	suberror uint32
	ndata    uint32
	flags    uint64
	insnSize uint8
	insn     [15]byte
}

// exitMemoryFault is the union's memory_fault member.
type exitMemoryFault struct {
	flags     uint64
	gpa, size uint64
}
