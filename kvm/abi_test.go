package kvm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"testing"
)

// abiField is a field of a structure that the kernel shares: its names in Go
// and in C, and its offset in bytes. An empty C name is the Go name in lower
// case.
type abiField struct {
	name, c string
	offset  uintptr
}

// abiStruct is a Go structure beside the C expression for the same one. size is
// what the structure takes in Go; whole says that C's must be the same.
type abiStruct struct {
	typ    reflect.Type
	c      string // type name, or a member of struct kvm_run as "run.member"
	size   uintptr
	whole  bool
	fields []abiField
	// ifdef is a macro without which the header lacks the structure.
	ifdef string
}

var abiStructs = []abiStruct{
	{typ: reflect.TypeFor[Regs](), c: "struct kvm_regs", size: 144, whole: true, fields: []abiField{
		{"RAX", "", 0}, {"RBX", "", 8}, {"RCX", "", 16}, {"RDX", "", 24},
		{"RSI", "", 32}, {"RDI", "", 40}, {"RSP", "", 48}, {"RBP", "", 56},
		{"R8", "", 64}, {"R9", "", 72}, {"R10", "", 80}, {"R11", "", 88},
		{"R12", "", 96}, {"R13", "", 104}, {"R14", "", 112}, {"R15", "", 120},
		{"RIP", "", 128}, {"RFLAGS", "", 136},
	}},
	{typ: reflect.TypeFor[Segment](), c: "struct kvm_segment", size: 24, whole: true, fields: []abiField{
		{"Base", "", 0}, {"Limit", "", 8}, {"Selector", "", 12}, {"Type", "", 14}, {"Present", "", 15},
		{"DPL", "", 16}, {"DB", "", 17}, {"S", "", 18}, {"L", "", 19}, {"G", "", 20}, {"AVL", "", 21}, {"Unusable", "", 22},
	}},
	{typ: reflect.TypeFor[DTable](), c: "struct kvm_dtable", size: 16, whole: true, fields: []abiField{
		{"Base", "", 0}, {"Limit", "", 8},
	}},
	{typ: reflect.TypeFor[Sregs](), c: "struct kvm_sregs", size: 312, whole: true, fields: []abiField{
		{"CS", "", 0}, {"DS", "", 24}, {"ES", "", 48}, {"FS", "", 72}, {"GS", "", 96}, {"SS", "", 120},
		{"TR", "", 144}, {"LDT", "", 168}, {"GDT", "", 192}, {"IDT", "", 208},
		{"CR0", "", 224}, {"CR2", "", 232}, {"CR3", "", 240}, {"CR4", "", 248}, {"CR8", "", 256},
		{"EFER", "", 264}, {"APICBase", "apic_base", 272}, {"InterruptBitmap", "interrupt_bitmap", 280},
	}},
	{typ: reflect.TypeFor[CPUIDEntry](), c: "struct kvm_cpuid_entry2", size: 40, whole: true, fields: []abiField{
		{"Function", "", 0}, {"Index", "", 4}, {"Flags", "", 8}, {"EAX", "", 12}, {"EBX", "", 16}, {"ECX", "", 20}, {"EDX", "", 24},
	}},
	{typ: reflect.TypeFor[CPUID](), c: "struct kvm_cpuid2", size: 8 + maxCPUID*40, fields: []abiField{
		{"nent", "", 0}, {"entries", "", 8},
	}},
	{typ: reflect.TypeFor[userMemoryRegion](), c: "struct kvm_userspace_memory_region", size: 32, whole: true, fields: []abiField{
		{"slot", "", 0}, {"flags", "", 4}, {"guestPhysAddr", "guest_phys_addr", 8},
		{"memorySize", "memory_size", 16}, {"userspaceAddr", "userspace_addr", 24},
	}},
	{typ: reflect.TypeFor[irqLevel](), c: "struct kvm_irq_level", size: 8, whole: true, fields: []abiField{
		{"irq", "", 0}, {"level", "", 4},
	}},
	{typ: reflect.TypeFor[ioEventFD](), c: "struct kvm_ioeventfd", size: 64, whole: true, fields: []abiField{
		{"addr", "", 8}, {"len", "", 16}, {"fd", "", 20}, {"flags", "", 24},
	}},
	{typ: reflect.TypeFor[pitConfig](), c: "struct kvm_pit_config", size: 64, whole: true, fields: []abiField{{"flags", "", 0}}},
	{typ: reflect.TypeFor[oneMSR](), c: "struct kvm_msrs", size: 24, fields: []abiField{
		{"nmsrs", "", 0}, {"index", "entries[0].index", 8}, {"data", "entries[0].data", 16},
	}},
	{typ: reflect.TypeFor[syncArea](), c: "struct kvm_sync_regs", size: 456, fields: []abiField{
		{"regs", "", 0}, {"sregs", "", 144},
	}},
	{typ: reflect.TypeFor[kvmRun](), c: "struct kvm_run", size: 760, fields: []abiField{
		{"immediateExit", "immediate_exit", 1}, {"exitReason", "exit_reason", 8}, {"exit", "io", exitOffset},
		{"validRegs", "kvm_valid_regs", 288}, {"dirtyRegs", "kvm_dirty_regs", 296}, {"sync", "s.regs", 304},
	}},
	{typ: reflect.TypeFor[exitIO](), c: "run.io", size: 16, whole: true, fields: []abiField{
		{"direction", "", 0}, {"size", "", 1}, {"port", "", 2}, {"count", "", 4}, {"dataOffset", "data_offset", 8},
	}},
	{typ: reflect.TypeFor[exitMMIO](), c: "run.mmio", size: 24, whole: true, fields: []abiField{
		{"physAddr", "phys_addr", 0}, {"data", "", 8}, {"len", "", 16}, {"isWrite", "is_write", 20},
	}},
	{typ: reflect.TypeFor[guestDebug](), c: "struct kvm_guest_debug", size: 72, whole: true, fields: []abiField{
		{"control", "", 0}, {"regs", "arch.debugreg", 8},
	}},
	{typ: reflect.TypeFor[DebugExit](), c: "run.debug.arch", size: 32, whole: true, fields: []abiField{
		{"Exception", "", 0}, {"PC", "", 8}, {"DR6", "", 16}, {"DR7", "", 24},
	}},
	{typ: reflect.TypeFor[exitFailEntry](), c: "run.fail_entry", size: 16, whole: true, fields: []abiField{
		{"hardwareReason", "hardware_entry_failure_reason", 0}, {"cpu", "", 8},
	}},
	{typ: reflect.TypeFor[exitInternal](), c: "run.emulation_failure", size: 32, whole: true, fields: []abiField{
		{"suberror", "", 0}, {"ndata", "", 4}, {"flags", "", 8}, {"insnSize", "insn_size", 16}, {"insn", "insn_bytes", 17},
	}},
	{typ: reflect.TypeFor[exitMemoryFault](), c: "run.memory_fault", size: 24, whole: true, fields: []abiField{
		{"flags", "", 0}, {"gpa", "", 8}, {"size", "", 16},
	}, ifdef: "KVM_EXIT_MEMORY_FAULT"},
}

// TestStructLayout holds the layout against numbers, where no compiler is
// needed, and sees to it that abiStructs leaves no field out.
func TestStructLayout(t *testing.T) {
	for _, s := range abiStructs {
		if got := s.typ.Size(); got != s.size {
			t.Errorf("size of %v = %d; want %d", s.typ, got, s.size)
		}
		listed := map[string]bool{}
		for _, f := range s.fields {
			listed[f.name] = true
			if sf, ok := s.typ.FieldByName(f.name); !ok {
				t.Errorf("%v has no field %s", s.typ, f.name)
			} else if sf.Offset != f.offset {
				t.Errorf("offset of %v.%s = %d; want %d", s.typ, f.name, sf.Offset, f.offset)
			}
		}
		for i := range s.typ.NumField() {
			if n := s.typ.Field(i).Name; n != "_" && !listed[n] {
				t.Errorf("%v.%s is not in the table of this test", s.typ, n)
			}
		}
	}
}

// abiConsts are all constants of consts.go beside their names in C.
var abiConsts = []struct {
	name, c string
	value   uint64
}{
	{"apiVersion", "KVM_API_VERSION", apiVersion},
	{"ioGetAPIVersion", "KVM_GET_API_VERSION", ioGetAPIVersion},
	{"ioCreateVM", "KVM_CREATE_VM", ioCreateVM},
	{"ioCheckExtension", "KVM_CHECK_EXTENSION", ioCheckExtension},
	{"ioGetVCPUMmapSize", "KVM_GET_VCPU_MMAP_SIZE", ioGetVCPUMmapSize},
	{"ioGetSupportedCPUID", "KVM_GET_SUPPORTED_CPUID", ioGetSupportedCPUID},
	{"ioCreateVCPU", "KVM_CREATE_VCPU", ioCreateVCPU},
	{"ioSetUserMemory", "KVM_SET_USER_MEMORY_REGION", ioSetUserMemory},
	{"ioSetTSSAddr", "KVM_SET_TSS_ADDR", ioSetTSSAddr},
	{"ioCreateIRQChip", "KVM_CREATE_IRQCHIP", ioCreateIRQChip},
	{"ioIRQLine", "KVM_IRQ_LINE", ioIRQLine},
	{"ioCreatePIT2", "KVM_CREATE_PIT2", ioCreatePIT2},
	{"ioIOEventFD", "KVM_IOEVENTFD", ioIOEventFD},
	{"ioRun", "KVM_RUN", ioRun},
	{"ioGetRegs", "KVM_GET_REGS", ioGetRegs},
	{"ioSetRegs", "KVM_SET_REGS", ioSetRegs},
	{"ioGetSregs", "KVM_GET_SREGS", ioGetSregs},
	{"ioSetSregs", "KVM_SET_SREGS", ioSetSregs},
	{"ioSetMSRs", "KVM_SET_MSRS", ioSetMSRs},
	{"ioSetCPUID2", "KVM_SET_CPUID2", ioSetCPUID2},
	{"ioSetGuestDebug", "KVM_SET_GUEST_DEBUG", ioSetGuestDebug},
	{"ioGetTSCKHz", "KVM_GET_TSC_KHZ", ioGetTSCKHz},
	{"ioGetXSave", "KVM_GET_XSAVE", ioGetXSave},
	{"ioSetXSave", "KVM_SET_XSAVE", ioSetXSave},

	{"ExitUnknown", "KVM_EXIT_UNKNOWN", uint64(ExitUnknown)},
	{"ExitException", "KVM_EXIT_EXCEPTION", uint64(ExitException)},
	{"ExitIO", "KVM_EXIT_IO", uint64(ExitIO)},
	{"ExitHypercall", "KVM_EXIT_HYPERCALL", uint64(ExitHypercall)},
	{"ExitDebug", "KVM_EXIT_DEBUG", uint64(ExitDebug)},
	{"ExitHLT", "KVM_EXIT_HLT", uint64(ExitHLT)},
	{"ExitMMIO", "KVM_EXIT_MMIO", uint64(ExitMMIO)},
	{"ExitShutdown", "KVM_EXIT_SHUTDOWN", uint64(ExitShutdown)},
	{"ExitFailEntry", "KVM_EXIT_FAIL_ENTRY", uint64(ExitFailEntry)},
	{"ExitIntr", "KVM_EXIT_INTR", uint64(ExitIntr)},
	{"ExitInternalError", "KVM_EXIT_INTERNAL_ERROR", uint64(ExitInternalError)},
	{"ExitSystemEvent", "KVM_EXIT_SYSTEM_EVENT", uint64(ExitSystemEvent)},
	{"ExitMemoryFault", "KVM_EXIT_MEMORY_FAULT", uint64(ExitMemoryFault)},

	{"DebugEnable", "KVM_GUESTDBG_ENABLE", DebugEnable},
	{"DebugStep", "KVM_GUESTDBG_SINGLESTEP", DebugStep},
	{"DebugSoft", "KVM_GUESTDBG_USE_SW_BP", DebugSoft},
	{"DebugHard", "KVM_GUESTDBG_USE_HW_BP", DebugHard},
	{"DebugBlockIRQ", "KVM_GUESTDBG_BLOCKIRQ", DebugBlockIRQ},

	{"SuberrorEmulation", "KVM_INTERNAL_ERROR_EMULATION", SuberrorEmulation},
}

// lateConsts came to the header after the oldest kernel that builds these
// tests (Linux 6.1): where the header lacks one, the value is not compared.
var lateConsts = map[string]bool{"KVM_EXIT_MEMORY_FAULT": true}

// TestConstsListed sees to it that abiConsts leaves no constant of consts.go
// out.
func TestConstsListed(t *testing.T) {
	listed := map[string]bool{}
	for _, c := range abiConsts {
		listed[c.name] = true
	}
	f, err := parser.ParseFile(token.NewFileSet(), "consts.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			for _, id := range s.(*ast.ValueSpec).Names {
				n++
				if !listed[id.Name] {
					t.Errorf("constant %s is not in the table of this test", id.Name)
				}
			}
		}
	}
	if n != len(abiConsts) {
		t.Errorf("consts.go has %d constants; want %d, as in the table", n, len(abiConsts))
	}
}

// TestExitReasonString derives each name from the one in C.
func TestExitReasonString(t *testing.T) {
	for _, c := range abiConsts {
		if want, ok := strings.CutPrefix(c.c, "KVM_EXIT_"); ok {
			if got := ExitReason(c.value).String(); got != want {
				t.Errorf("ExitReason(%d).String() = %q; want %q", c.value, got, want)
			}
		}
	}
	if got, want := ExitReason(1<<32-1).String(), "exit reason 4294967295"; got != want {
		t.Errorf("ExitReason(1<<32-1).String() = %q; want %q", got, want)
	}
}
