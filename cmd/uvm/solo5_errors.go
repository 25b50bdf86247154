package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/uvm-monitor/uvm/devices/hostio"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/vmm"
)

// solo5Error says what went wrong in the words of Solo5's tender. run may be
// nil before the options are known.
func solo5Error(err error, run *solo5Run) error {
	var (
		kernel   *loader.Error
		missing  *vmm.UnattachedError
		config   *vmm.ConfigError
		capacity *vmm.CapacityError
		cmdline  *vmm.CommandLineError
		end      *hostio.Error
		guest    *vmm.GuestError
		sig      *signalError
		host     *vmm.HostError
	)
	switch {
	case errors.As(err, &kernel):
		return solo5Kernel(kernel)
	case errors.As(err, &config) && run != nil:
		// A name that is not in the manifest: find the option that it came from.
		if e := solo5Explain(run.kernel, run.words()); e != nil {
			return e
		}
	case errors.As(err, &missing):
		return solo5Missing(missing)
	case errors.As(err, &capacity):
		if capacity.Size%int64(capacity.BlockSize) != 0 {
			return solo5Fail("%s: Backing storage size must be block aligned (%d bytes)", capacity.Name, capacity.BlockSize)
		}
		return solo5Fail("%s: Backing storage must be at least 1 block (%d bytes) in size", capacity.Name, capacity.BlockSize)
	case errors.As(err, &cmdline):
		return solo5Fail("Guest command line too long (max=%d characters)", cmdline.Max)
	case errors.As(err, &end) && errors.As(err, &host) && strings.HasPrefix(host.What, "disk "):
		return solo5Fail("Could not open block device: %s: %s", end.Name, cError(end.Err))
	case errors.As(err, &end) && errors.As(err, &host) && run != nil:
		return run.tapError(end, host.What)
	case errors.As(err, &guest):
		return solo5Guest(guest)
	case errors.As(err, &sig):
		return solo5Fail("Exiting on signal %d", int(sig.sig))
	case errors.Is(err, vmm.ErrUnstableTSC):
		return solo5Fail("KVM: host TSC is unstable, cannot continue")
	case errors.As(err, &host) && host.Op != "":
		if path, ok := strings.CutPrefix(host.Op, "open "); ok {
			return solo5Fail("Could not open: %s: %s", path, cError(host.Err))
		}
		return solo5Fail("KVM: ioctl (%s) failed: %s", strings.TrimPrefix(host.Op, "KVM_"), cError(host.Err))
	}
	return solo5Fail("%v", err)
}

func solo5Kernel(e *loader.Error) error {
	switch e.Kind {
	case loader.ErrOpen:
		return solo5Fail("%s: Could not open: %s", e.Path, cError(e.Err))
	case loader.ErrNoABI:
		return solo5Fail("%s: No Solo5 ABI information found in executable", e.Path)
	case loader.ErrTarget:
		return solo5Fail("%s: Executable is not for the solo5-hvt target", e.Path)
	case loader.ErrABIVersion:
		return solo5Fail("%s: Executable requests unsupported ABI version %d", e.Path, e.Version)
	case loader.ErrNoManifest:
		return solo5Fail("%s: No Solo5 manifest found in executable", e.Path)
	case loader.ErrManifest:
		return solo5Fail("%s: Solo5 manifest is invalid", e.Path)
	}
	return solo5Fail("%s: invalid executable: %s", e.Path, e.Detail)
}

func solo5Missing(e *vmm.UnattachedError) error {
	exit := &solo5Exit{}
	for _, d := range e.Devices {
		typ := "<undefined type>"
		switch d.Type {
		case loader.DeviceBlock:
			typ = "BLOCK_BASIC"
		case loader.DeviceNet:
			typ = "NET_BASIC"
		}
		exit.lines = append(exit.lines, fmt.Sprintf("Device '%s' of type %s declared but not attached.", d.Name, typ))
	}
	exit.lines = append(exit.lines, "All declared devices must be attached. See --help for syntax.")
	return exit
}

// solo5Guest is what the guest did, with the texts of hvt ABI 2, "Failure
// exits".
func solo5Guest(e *vmm.GuestError) error {
	switch e.Kind {
	case vmm.FaultTranslation:
		return solo5Fail("KVM: host/guest translation fault: rip=%#x", e.RIP)
	case vmm.FaultEntry:
		return solo5Fail("KVM: entry failure: hw_entry_failure_reason=%#x", e.Code)
	case vmm.FaultInternal:
		return solo5Fail("KVM: internal error exit: suberror=%#x", e.Code)
	case vmm.FaultPort:
		return solo5Fail("Invalid guest port access: port=%#x", e.Addr)
	case vmm.FaultHypercall:
		return solo5Fail("Invalid guest hypercall: num=%d", e.Addr)
	case vmm.FaultPointer, vmm.FaultRing:
		var p *hypercall.PointerError
		if errors.As(e, &p) {
			return solo5Fail("Invalid guest access: gpa=%#x, sz=%d", uint64(p.Addr), p.Len)
		}
	}
	return solo5Fail("KVM: unhandled exit: exit_reason=%#x, rip=%#x", e.Exit, e.RIP)
}

// words are the --net: and --block: options, for a second look.
func (r *solo5Run) words() []string {
	var w []string
	for _, d := range r.disks {
		w = append(w, d.word)
	}
	for _, n := range r.nets {
		w = append(w, n.word)
	}
	return w
}

// tapError finds the option that names the device that vmm calls what.
func (r *solo5Run) tapError(e *hostio.Error, what string) error {
	for _, n := range r.nets {
		if what == fmt.Sprintf("net %q", n.Name) {
			_, value, _ := strings.Cut(n.word, "=")
			return solo5Invalid(n.word, solo5Attach(value, cError(e.Err)))
		}
	}
	return solo5Fail("%v", e)
}

// cError is an error as C's strerror says it.
func cError(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		s := errno.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return err.Error()
}
