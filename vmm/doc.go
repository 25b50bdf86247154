// Package vmm builds a virtual machine out of a kernel, memory, devices and
// KVM, and runs it.
//
//	vm, err := vmm.New(vmm.Config{Kernel: "app.hvt", Console: os.Stdout})
//	if err != nil { … }
//	defer vm.Close()
//	result, err := vm.Run(ctx)
//
// The package keeps no global state, installs no signal handlers and starts no
// goroutine that outlives Close: any number of VMs live in one process.
package vmm
