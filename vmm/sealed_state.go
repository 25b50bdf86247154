package vmm

import (
	"encoding/binary"
	"fmt"
)

// saved is what is saved of a sealed guest, little-endian and without padding.
// Registers and memory are saved with the vCPU.
func (s *sealed) saved() []any {
	return []any{&s.gdt.Base, &s.idt.Base, &s.tss.Base, &s.gdt.Limit, &s.idt.Limit, &s.tss.Limit, &s.tr, &s.cr2, &s.traps}
}

// savedSize is their size, in bytes.
const savedSize = 3*8 + 4*2 + 2*8

// SaveState returns what the guest believes of its processor.
func (s *sealed) SaveState() (b []byte, err error) {
	for _, p := range s.saved() {
		if b, err = binary.Append(b, le, p); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// LoadState takes a saved state back. The addresses in it are as little trusted
// as when the guest gave them.
func (s *sealed) LoadState(b []byte) error {
	if len(b) != savedSize {
		return fmt.Errorf("sealed guest: saved state has %d bytes, need %d", len(b), savedSize)
	}
	for _, p := range s.saved() {
		n, err := binary.Decode(b, le, p)
		if err != nil {
			return fmt.Errorf("sealed guest: saved state: %w", err)
		}
		b = b[n:]
	}
	return nil
}
