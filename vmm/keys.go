package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
)

// Protection keys (AMD64 APM volume 2, section 5.6.7): four bits of a user
// page's table entry, and for each of the 16 keys two bits in the register
// PKRU that take away data accesses, or writes. Instruction fetches ignore
// them. docs/sealed.md says what they are worth.
const (
	cr4PKE   = 1 << 22
	pteKey   = 59         // position of the key in a page-table entry
	pfKey    = 1 << 5     // in a page fault's error code: PKRU forbade the access
	keyText  = 15         // the key of execute-only text
	pkruInit = 0x55555554 // no data accesses to any key but 0, as Linux has it
)

var wrpkru = []byte{0x0f, 0x01, 0xef}

// sealText gives executable segments the key that nothing unlocks, unless
// they have one of their own.
func sealText(img *loader.Image) {
	for i := range img.Segments {
		if s := &img.Segments[i]; s.X && s.Key == 0 {
			s.Key = keyText
		}
	}
}

// usesKeys says whether any segment has a key.
func usesKeys(img *loader.Image) bool {
	return slices.ContainsFunc(img.Segments, func(s loader.Segment) bool { return s.Key != 0 })
}

// agree holds the kernel against the configuration. It comes before anything that
// reads the segments.
func (vm *VM) agree(img *loader.Image) error {
	if vm.cfg.SealExecOnly {
		sealText(img)
	}
	switch most := img.MaxMemory(); {
	case vm.cfg.Memory > most:
		return configError("guest memory of %s: an hvt guest has at most %s, unless it has uvm's own note and says that it is sealed",
			formatBytes(vm.cfg.Memory), formatBytes(most))
	case vm.cfg.Ring == RingSealed:
	case vm.cfg.Memory > hvtMaxMem:
		return configError("guest memory of %s: in ring 0 there are at most %s: run it in ring %s",
			formatBytes(vm.cfg.Memory), formatBytes(hvtMaxMem), RingSealed)
	case usesKeys(img):
		return configError("kernel %s: its segments have protection keys, which ring 0 does not obey: run it in ring %s", img.Path, RingSealed)
	}
	return nil
}

// keyOf is the protection key that an exception at addr is due to, or 0.
func (vm *VM) keyOf(f *trapFrame, addr uint64) uint8 {
	if f.vector != vecPF || f.code&pfKey == 0 {
		return 0
	}
	for i := range vm.keyed {
		if m := &vm.keyed[i]; uint64(m.start) <= addr && addr < uint64(m.end) {
			return m.key
		}
	}
	return 0
}

// ErrNoKeys says that a VM needs protection keys, and that they do not work here.
var ErrNoKeys = errors.New("this KVM or its processor has none, which --seal-exec-only and kernels with keys of their own need")

func noKeys(why string) *HostError {
	return &HostError{What: "protection keys", Err: fmt.Errorf("%w: %s", ErrNoKeys, why)}
}

// enableKeys sets PKRU and proves that it holds. CPUID does not tell: there
// are KVMs that hide keys that work. So a few instructions run in ring 3, where
// the guest's first ones will be: WRPKRU, whose effect stays, and a read that
// has to fault. In the end memory is as it was, the registers are not.
func (s *sealed) enableKeys(maps, keyed []mapping) error {
	i := slices.IndexFunc(maps, func(m mapping) bool { return m.exec })
	if i < 0 {
		return nil // without text the guest gets nowhere
	}
	text := maps[i]
	probe := append(bytes.Clone(wrpkru),
		0x8a, 0x03, // mov al, [rbx]
		0x0f, 0x0b) // ud2
	code, err := s.vm.mem.At(text.start, uint64(len(probe)))
	if err != nil {
		return err
	}
	old := bytes.Clone(code)
	copy(code, probe)
	defer copy(code, old)

	secret := uint64(keyed[0].start)
	regs := kvm.Regs{RIP: uint64(text.start), RFLAGS: flagsReserved, RAX: pkruInit, RBX: secret}
	if err := s.vm.vcpu.SetRegs(&regs); err != nil {
		return err
	}
	if errno := runProbe(s.vm.vcpu); errno != 0 {
		return s.vm.runError(s.vm.vcpu, errno)
	}
	io := s.vm.vcpu.IO()
	if reason := s.vm.vcpu.Reason(); reason != kvm.ExitIO || io.Port >= sealedVectors {
		return noKeys("WRPKRU ended with exit " + reason.String())
	}
	f, err := s.frame(io.Port)
	if err != nil {
		return err
	}
	const want = pteP | pteU | pfKey // as an error code: present, ring 3, key
	switch {
	case f.vector == vecUD && f.rip == uint64(text.start):
		return noKeys("WRPKRU is not a valid instruction")
	case f.vector == vecUD:
		return noKeys("a read that a key forbids went through")
	case f.vector != vecPF || f.code != want || f.sregs.CR2 != secret:
		return noKeys(fmt.Sprintf("a read that a key forbids ended with vector %d, error code %#x", f.vector, f.code))
	}
	return s.vm.vcpu.SetSregs(&s.userSregs)
}

// warnLiftable tells of a WRPKRU in execute-only text: with it the guest can
// take the seal away. Text is all that the guest can execute, and cannot change.
func (vm *VM) warnLiftable() {
	for i := range vm.keyed {
		m := &vm.keyed[i]
		if m.key != keyText {
			continue
		}
		if at := bytes.Index(vm.mem.Host()[m.start:m.end], wrpkru); at >= 0 {
			vm.log.Warn("execute-only text contains a WRPKRU, which can make it readable", "address", fmt.Sprintf("%#x", uint64(m.start)+uint64(at)))
			return
		}
	}
}
