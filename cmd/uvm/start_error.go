package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

// startError is an error of vmm.New with what mends it on the command line.
func startError(err error) string {
	var (
		missing *vmm.UnattachedError
		host    *vmm.HostError
	)
	switch {
	case errors.As(err, &missing):
		var all []string
		for _, d := range missing.Devices {
			s := (&vmm.UnattachedError{Devices: []loader.Device{d}}).Error()
			switch d.Type {
			case loader.DeviceNet:
				s += fmt.Sprintf(" (add --net %s=TAP)", d.Name)
			case loader.DeviceBlock:
				s += fmt.Sprintf(" (add --disk %s=FILE)", d.Name)
			}
			all = append(all, s)
		}
		return strings.Join(all, "; ")
	case errors.As(err, &host) && strings.HasPrefix(host.Op, "open "): // the KVM device
		switch {
		case errors.Is(err, syscall.ENOENT):
			return err.Error() + " (no KVM here: load the module kvm_intel or kvm_amd, or enable virtualisation in the firmware; see uvm doctor)"
		case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
			return err.Error() + " (add yourself to the group kvm: sudo usermod -aG kvm $USER, then log in again)"
		}
	}
	return err.Error()
}
