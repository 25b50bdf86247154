package vmm

import (
	"fmt"

	"github.com/uvm-monitor/uvm/kvm"
)

// A saved state is nine 64-bit words: base and limit of GDT and IDT, the task
// register, base and limit of its TSS, CR2, and the number of traps. Registers
// and memory are saved with the vCPU.
const sealedStateSize = 9 * 8

// SaveState returns what the guest believes of its processor.
func (s *sealed) SaveState() ([]byte, error) {
	var b []byte
	for _, w := range [...]uint64{
		s.gdt.Base, uint64(s.gdt.Limit), s.idt.Base, uint64(s.idt.Limit),
		uint64(s.tr), s.tss.Base, uint64(s.tss.Limit), s.cr2, s.traps,
	} {
		b = le.AppendUint64(b, w)
	}
	return b, nil
}

// LoadState takes a saved state back. The addresses in it are as little trusted
// as when the guest gave them.
func (s *sealed) LoadState(b []byte) error {
	if len(b) != sealedStateSize {
		return fmt.Errorf("sealed guest: saved state has %d bytes, need %d", len(b), sealedStateSize)
	}
	var w [sealedStateSize / 8]uint64
	for i := range w {
		w[i] = le.Uint64(b[i*8:])
	}
	for _, i := range [...]int{1, 3, 4, 6} {
		if w[i] > 0xffff {
			return fmt.Errorf("sealed guest: saved state: word %d is %#x, more than 16 bits", i, w[i])
		}
	}
	s.gdt = kvm.DTable{Base: w[0], Limit: uint16(w[1])}
	s.idt = kvm.DTable{Base: w[2], Limit: uint16(w[3])}
	s.tr, s.tss = uint16(w[4]), kvm.DTable{Base: w[5], Limit: uint16(w[6])}
	s.cr2, s.traps = w[7], w[8]
	return nil
}
