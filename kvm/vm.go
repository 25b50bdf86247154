package kvm

import "golang.org/x/sys/unix"

// VM is the descriptor of one virtual machine.
type VM struct {
	fd       int
	mmapSize int
	sync     bool // see VCPU
}

// SetMemory maps mem at guest-physical address gpa as memory slot slot
// (section 4.35). gpa and len(mem) are multiples of 4 KiB. mem must come from
// mmap and stay mapped as long as the VM lives; an empty mem deletes the slot.
func (vm *VM) SetMemory(slot uint32, gpa uint64, mem []byte) error {
	r := userMemoryRegion{
		slot: slot, flags: 0, guestPhysAddr: gpa,
		memorySize: uint64(len(mem)), userspaceAddr: userAddr(mem),
	}
	return opError("KVM_SET_USER_MEMORY_REGION", ioctlPtr(vm.fd, ioSetUserMemory, &r))
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
	v := &VCPU{fd: int(fd), run: run, sync: vm.sync, state: run.state()}
	if !v.sync {
		v.state = new(syncArea)
	}
	return v, nil
}

// Close releases the descriptor; the kernel frees the VM when its last vCPU is
// closed too.
func (vm *VM) Close() error { return unix.Close(vm.fd) }
