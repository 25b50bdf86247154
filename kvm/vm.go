package kvm

import (
	"cmp"

	"golang.org/x/sys/unix"
)

// VM is the descriptor of one virtual machine.
type VM struct {
	fd       int
	mmapSize int
}

// SetMemory maps mem at guest-physical address gpa as memory slot slot
// (section 4.35). gpa and len(mem) are multiples of 4 KiB. mem must come from
// mmap and stay mapped as long as the VM lives; an empty mem deletes the slot.
func (vm *VM) SetMemory(slot uint32, gpa uint64, mem []byte) error {
	r := userMemoryRegion{slot: slot, flags: 0, guestPhysAddr: gpa, memorySize: uint64(len(mem)), userspaceAddr: userAddr(mem)}
	return opError("KVM_SET_USER_MEMORY_REGION", ioctlPtr(vm.fd, ioSetUserMemory, &r))
}

// CreatePC gives the VM what a PC has in KVM itself: two 8259 PICs, an IOAPIC and
// a local APIC for each vCPU (section 4.24), and an 8254 timer whose speaker port
// answers (section 4.71). It comes before the first vCPU.
func (vm *VM) CreatePC() error {
	// Three pages of guest-physical addresses for KVM's own use on VMX, below
	// the firmware's end at 4 GiB (section 4.36).
	const tssAddr, speakerDummy = 0xfffbd000, 1
	_, tss := ioctl(vm.fd, ioSetTSSAddr, tssAddr)
	_, chip := ioctl(vm.fd, ioCreateIRQChip, 0)
	pit := ioctlPtr(vm.fd, ioCreatePIT2, &pitConfig{flags: speakerDummy})
	return cmp.Or(opError("KVM_SET_TSS_ADDR", tss), opError("KVM_CREATE_IRQCHIP", chip), opError("KVM_CREATE_PIT2", pit))
}

// Pulse raises an edge on interrupt line gsi (section 4.25). Any goroutine may. An irqfd
// would have a thread of the kernel's do the same, because an IOAPIC's line takes a lock.
func (vm *VM) Pulse(gsi uint32) error {
	high, low := ioctlPtr(vm.fd, ioIRQLine, &irqLevel{gsi, 1}), ioctlPtr(vm.fd, ioIRQLine, &irqLevel{gsi, 0})
	return opError("KVM_IRQ_LINE", cmp.Or(high, low))
}

// IOEventPort says that the address of an IOEventFD is a port.
const IOEventPort = 2 // KVM_IOEVENTFD_FLAG_PIO

// IOEventFD signals the eventfd when the guest writes size bytes to an address,
// whatever they are, instead of an exit (section 4.59). flags is 0 or IOEventPort.
func (vm *VM) IOEventFD(eventFD int, addr uint64, size, flags uint32) error {
	return opError("KVM_IOEVENTFD", ioctlPtr(vm.fd, ioIOEventFD, &ioEventFD{addr: addr, len: size, fd: int32(eventFD), flags: flags}))
}

// CreateVCPU makes vCPU number id and maps its kvm_run page (section 4.7).
func (vm *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, errno := ioctl(vm.fd, ioCreateVCPU, uintptr(id))
	if errno != 0 {
		return nil, opError("KVM_CREATE_VCPU", errno)
	}
	run, err := mapRun(int(fd), vm.mmapSize)
	if err != nil {
		unix.Close(int(fd))
		return nil, err
	}
	return &VCPU{ID: id, fd: int(fd), run: run}, nil
}

// Close releases the descriptor; the kernel frees the VM when its last vCPU is
// closed too.
func (vm *VM) Close() error { return unix.Close(vm.fd) }
