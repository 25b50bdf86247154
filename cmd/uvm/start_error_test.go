package main

import (
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

// TestStartError covers hints, one of which root never sees.
func TestStartError(t *testing.T) {
	open := func(e syscall.Errno) error { return &vmm.HostError{What: "KVM", Op: "open /dev/kvm", Err: e} }
	for _, c := range []struct {
		err  error
		want string
	}{
		{open(syscall.ENOENT), "KVM: no such file or directory (no KVM here: load the module kvm_intel or kvm_amd, or enable virtualisation in the firmware; see uvm doctor)"},
		{open(syscall.EACCES), "KVM: permission denied (add yourself to the group kvm: sudo usermod -aG kvm $USER, then log in again)"},
		{open(syscall.EPERM), "KVM: operation not permitted (add yourself to the group kvm: sudo usermod -aG kvm $USER, then log in again)"},
		{open(syscall.EBUSY), "KVM: device or resource busy"},
		{&vmm.HostError{What: "initrd", Err: syscall.ENOENT}, "initrd: no such file or directory"},
		{&vmm.UnattachedError{Devices: []loader.Device{{Name: "data", Type: loader.DeviceBlock}, {Name: "service", Type: loader.DeviceNet}, {Name: "gpu", Type: 5}}},
			`block device "data" is not attached (add --disk data=FILE); net device "service" is not attached (add --net service=TAP); type 0x5 device "gpu" is not attached`},
	} {
		if got := startError(c.err); got != c.want {
			t.Errorf("startError(%v) = %q; want %q", c.err, got, c.want)
		}
	}
}
