package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/kvmprobe"
	"github.com/uvm-monitor/uvm/vmm"
)

// finding is one line of `uvm doctor`.
type finding struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, note or fail
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

const (
	stateOK   = "ok"
	stateNote = "note" // works, but something cannot be had here
	stateFail = "fail" // uvm run cannot work
)

func doctorMain(args []string) int {
	f := newFlags("doctor")
	asJSON := f.Bool("json", false, "print JSON")
	if status := parse(f, "doctor", args); status >= 0 {
		return status
	}
	if f.NArg() > 0 {
		return fail(exitUsage, "unexpected argument %q", f.Arg(0))
	}
	findings := diagnose()
	status := exitOK
	for _, x := range findings {
		if x.State == stateFail {
			status = exitHost
		}
	}
	if *asJSON {
		if s := printJSON(findings); s != exitOK {
			return s
		}
		return status
	}
	for _, x := range findings {
		fmt.Printf("%-5s %s: %s\n", x.State, x.Name, x.Detail)
		if x.Remedy != "" {
			fmt.Printf("      to mend it: %s\n", x.Remedy)
		}
	}
	return status
}

func diagnose() []finding {
	findings := []finding{checkDevice("KVM device", "/dev/kvm",
		"sudo modprobe kvm_intel || sudo modprobe kvm_amd (if that fails, enable virtualisation in the firmware, or nesting in the hypervisor)",
		"sudo usermod -aG kvm $USER, then log in again", stateFail)}
	if findings[0].State == stateOK {
		findings = append(findings, checkKVM()...)
	}
	return append(findings, checkDevice("TUN/TAP", "/dev/net/tun", "sudo modprobe tun",
		"sudo chmod 0666 /dev/net/tun (the driver checks the right to each interface itself)", stateNote))
}

// checkDevice looks whether a device file is there and may be opened.
func checkDevice(name, path, ifMissing, ifDenied, state string) finding {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return finding{name, stateOK, path + " is there and may be opened", ""}
	case errors.Is(err, fs.ErrNotExist):
		return finding{name, state, path + " does not exist", ifMissing}
	case errors.Is(err, fs.ErrPermission):
		return finding{name, state, path + " may not be opened by this user", ifDenied}
	}
	return finding{name, state, err.Error(), ifMissing}
}

// checkKVM looks what KVM offers and what it can execute in ring 0.
func checkKVM() []finding {
	info, err := kvmprobe.Probe("/dev/kvm")
	if err != nil {
		return []finding{{"KVM", stateFail, err.Error(), ""}}
	}
	var findings []finding
	var have, lack []string
	for _, c := range info.Capabilities {
		switch {
		case c.Value != 0:
			have = append(have, c.Name)
		case c.Needed:
			findings = append(findings, finding{"KVM capability", stateFail, c.Name + " is missing", "use a newer kernel"})
		default:
			lack = append(lack, c.Name)
		}
	}
	detail := "has " + strings.Join(have, " ")
	if len(lack) > 0 {
		detail += "; lacks " + strings.Join(lack, " ")
	}
	findings = append(findings,
		finding{"KVM capabilities", stateOK, detail, ""},
		finding{"TSC", stateOK, fmt.Sprintf("%d kHz, stable", info.TSCKHz), ""})
	return append(findings, checkSealed(), checkKeys(), checkRing0(), checkPC())
}

// checkSealed runs a unikernel in ring 3, as every guest runs by default.
func checkSealed() finding {
	const name = "ring sealed"
	if err := runProbe(halt(), vmm.Config{}); err != nil {
		return finding{name, stateFail, "a guest that only halts: " + err.Error(), "uvm run --ring 0"}
	}
	return finding{name, stateOK, "a guest in ring 3 starts and ends", ""}
}

// checkKeys runs a unikernel whose text is execute-only: CPUID does not tell
// whether protection keys work.
func checkKeys() finding {
	const name = "protection keys"
	err := runProbe(halt(), vmm.Config{SealExecOnly: true})
	var host *vmm.HostError
	switch {
	case err == nil:
		return finding{name, stateOK, "work in ring 3, so --seal-exec-only does", ""}
	case errors.Is(err, vmm.ErrNoKeys) && errors.As(err, &host):
		return finding{name, stateNote, host.Err.Error(),
			"use a processor with protection keys (Intel since Skylake-SP, AMD since Zen 3) and a KVM that gives them to guests"}
	}
	return finding{name, stateFail, "a guest with execute-only text: " + err.Error(), ""}
}

// checkPC starts a kernel on the PC-like machine.
func checkPC() finding {
	const name = "Linux"
	elf := hvtelf.PC{Code: []byte{0xb0, 0xfe, 0xe6, 0x64}, PVH: 4}.ELF() // mov al, 0xfe; out 0x64, al: reset
	err := runVM(vmm.Config{Kernel: "probe", KernelFile: bytes.NewReader(elf), Memory: 2 << 20})
	switch {
	case err == nil:
		return finding{name, stateOK, "PC kernels, Linux among them, can run", ""}
	case errors.Is(err, vmm.ErrNoRing0):
		return finding{name, stateNote, vmm.ErrNoRing0.Error(), "use a machine with VT-x or AMD-V, or a VM with nested virtualisation"}
	}
	return finding{name, stateFail, "a kernel that only resets: " + err.Error(), ""}
}

// checkRing0 runs a unikernel per instruction.
func checkRing0() finding {
	const name = "ring 0"
	var missing []string
	for _, p := range ring0Probes {
		ok, err := p.run()
		if err != nil {
			return finding{name, stateFail, fmt.Sprintf("a guest that executes %s: %v", p.name, err), ""}
		}
		if !ok {
			missing = append(missing, p.name)
		}
	}
	ns, err := ring0Speed()
	if err != nil {
		return finding{name, stateFail, err.Error(), ""}
	}
	speed := fmt.Sprintf("%.3g ns per loop turn of two instructions", ns)
	if len(missing) == 0 {
		return finding{name, stateOK, "executes everything that was tried, " + speed, ""}
	}
	return finding{name, stateNote, fmt.Sprintf("cannot execute %s, %s", strings.Join(missing, ", "), speed),
		"this KVM emulates ring 0; use a host with VT-x or SVM for guests that need these instructions"}
}
