// Package kvm talks to /dev/kvm by ioctl: one type for each kind of file
// descriptor (System, VM, VCPU), and nothing that a monitor could want
// otherwise. Section numbers in comments refer to the kernel's
// Documentation/virt/kvm/api.rst.
//
// Threads: System and VM may be used from any goroutine. A VCPU belongs to the
// one goroutine that calls Run; only Kick may be called from elsewhere.
package kvm
