package kvm

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runSize is what uvm uses of struct kvm_run, in bytes.
const runSize = unsafe.Sizeof(kvmRun{})

// runPage is the mapping that a vCPU shares with the kernel.
type runPage struct{ mem []byte }

func mapRun(fd, size int) (runPage, error) {
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return runPage{}, &OpError{Op: "mmap of kvm_run", Err: err.(syscall.Errno)}
	}
	return runPage{mem}, nil
}

func (r runPage) page() *kvmRun { return (*kvmRun)(unsafe.Pointer(&r.mem[0])) }

// union returns the part of kvm_run that the exit reason selects.
func (r runPage) union() unsafe.Pointer { return unsafe.Pointer(&r.page().exit) }

// setImmediateExit writes one byte that another thread may be reading in the
// kernel. Go has no atomic byte, so it changes the 32-bit word around it.
func (r runPage) setImmediateExit(on bool) {
	const bit = uint32(1) << (8 * unsafe.Offsetof(kvmRun{}.immediateExit))
	word := (*uint32)(unsafe.Pointer(r.page()))
	if on {
		atomic.OrUint32(word, bit)
	} else {
		atomic.AndUint32(word, ^bit)
	}
}

// Reason says why the last Run returned 0.
func (v *VCPU) Reason() ExitReason { return ExitReason(v.run.page().exitReason) }

// IO is a port access. Data is a borrowed view of the kvm_run mapping, valid
// until the next Run: for OUT what the guest wrote, for IN where its answer
// goes. It holds Count items of Size bytes.
type IO struct {
	Port  uint16
	Out   bool
	Size  int // 1, 2 or 4 bytes
	Count int // above 1 only for INS and OUTS with REP
	Data  []byte
}

// IO describes an exit whose reason is ExitIO. The numbers come from the
// kernel, not from the guest; they are checked all the same, because a slice
// that leaves the mapping would end the monitor.
func (v *VCPU) IO() IO {
	x := (*exitIO)(v.run.union())
	n := uint64(x.size) * uint64(x.count)
	size := uint64(len(v.run.mem))
	if x.dataOffset > size || n > size-x.dataOffset {
		n, x.dataOffset = 0, 0
	}
	return IO{
		Port: x.port, Out: x.direction == 1, Size: int(x.size), Count: int(x.count),
		Data: v.run.mem[x.dataOffset : x.dataOffset+n : x.dataOffset+n],
	}
}

// MMIO is an access to a guest-physical address that no memory slot backs, or
// a write to memory that is read-only on the host.
type MMIO struct {
	Addr  uint64
	Len   int // 1 to 8 bytes
	Write bool
	Data  []byte // borrowed, as in IO
}

// MMIO describes an exit whose reason is ExitMMIO.
func (v *VCPU) MMIO() MMIO {
	x := (*exitMMIO)(v.run.union())
	n := min(int(x.len), len(x.data))
	return MMIO{Addr: x.physAddr, Len: n, Write: x.isWrite != 0, Data: x.data[:n:n]}
}

// Debug describes an exit whose reason is ExitDebug.
func (v *VCPU) Debug() DebugExit { return *(*DebugExit)(v.run.union()) }

// FailEntry is the hardware's reason for an exit of kind ExitFailEntry.
func (v *VCPU) FailEntry() uint64 { return (*exitFailEntry)(v.run.union()).hardwareReason }

// InternalError describes an exit whose reason is ExitInternalError. insn is a copy
// of the instruction that KVM's emulator refused, where the kernel tells it.
func (v *VCPU) InternalError() (suberror uint32, insn []byte) {
	x := (*exitInternal)(v.run.union())
	const hasInsn = 1 // KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
	if x.suberror == SuberrorEmulation && x.ndata >= 3 && x.flags&hasInsn != 0 {
		insn = append(insn, x.insn[:min(int(x.insnSize), len(x.insn))]...)
	}
	return x.suberror, insn
}

// MemoryFault is the guest-physical address that made Run answer EFAULT, where
// the kernel tells it (Linux 6.8 and later).
func (v *VCPU) MemoryFault() (gpa uint64, ok bool) {
	if v.Reason() != ExitMemoryFault {
		return 0, false
	}
	return (*exitMemoryFault)(v.run.union()).gpa, true
}
