package vmm

import (
	"encoding/binary"
	"fmt"

	"github.com/uvm-monitor/uvm/kvm"
)

// sealedState is what is saved of a sealed guest, little-endian and without
// padding. Registers and memory are saved with the vCPU.
type sealedState struct {
	GDT, IDT, TSS                uint64 // bases
	GDTLimit, IDTLimit, TSSLimit uint16
	TR                           uint16
	CR2, Traps                   uint64
}

// SaveState returns what the guest believes of its processor.
func (s *sealed) SaveState() ([]byte, error) {
	return binary.Append(nil, le, sealedState{
		s.gdt.Base, s.idt.Base, s.tss.Base, s.gdt.Limit, s.idt.Limit, s.tss.Limit, s.tr, s.cr2, s.traps,
	})
}

// LoadState takes a saved state back. The addresses in it are as little trusted
// as when the guest gave them.
func (s *sealed) LoadState(b []byte) error {
	var st sealedState
	if n := binary.Size(st); len(b) != n {
		return fmt.Errorf("sealed guest: saved state has %d bytes, need %d", len(b), n)
	}
	if _, err := binary.Decode(b, le, &st); err != nil {
		return fmt.Errorf("sealed guest: saved state: %w", err)
	}
	s.gdt = kvm.DTable{Base: st.GDT, Limit: st.GDTLimit}
	s.idt = kvm.DTable{Base: st.IDT, Limit: st.IDTLimit}
	s.tss = kvm.DTable{Base: st.TSS, Limit: st.TSSLimit}
	s.tr, s.cr2, s.traps = st.TR, st.CR2, st.Traps
	return nil
}
