package vmm

import "encoding/binary"

// Where a PC-like machine has what its tables tell of.
const (
	mpTableAddr = 0x9fc00 // the last KiB below 640 KiB, where guests look
	lapicAddr   = 0xfee00000
	ioapicAddr  = 0xfec00000
	ioapicPins  = 24
)

// ioapicID is the IOAPIC's id, which no CPU has: theirs are 0 to cpus-1.
func ioapicID(cpus int) byte { return byte(cpus + 1) }

// mpTable returns what belongs at mpTableAddr for 1 to 16 CPUs, at most 1 KiB:
// the floating pointer and the configuration table of the MultiProcessor
// Specification 1.4, chapter 4. ISA interrupt n is pin n of the IOAPIC, beyond
// the 16 of a real ISA bus too: Linux knows only pins that a table tells of.
func mpTable(cpus int) []byte {
	le := binary.LittleEndian
	b := make([]byte, 16+44)
	copy(b, "_MP_")
	le.PutUint32(b[4:], mpTableAddr+16)
	b[8], b[9] = 1, 4 // 16 bytes, specification 1.4
	setChecksum(b[:16], 10)

	for id := range cpus {
		// Enabled; signature and features are for who has no CPUID.
		b = append(b, 0, byte(id), 0x14, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	b[16+44+3] |= 2 // CPU 0 boots the others
	b = append(b, "\x01\x00ISA   "...)
	b = le.AppendUint32(append(b, 2, ioapicID(cpus), 0x11, 1), ioapicAddr)
	for pin := range byte(ioapicPins) {
		b = append(b, 3, 0, 0, 0, 0, pin, ioapicID(cpus), pin) // as on the bus: edge, active high
	}
	b = append(b, 4, 3, 0, 0, 0, 0, 0, 0)    // ExtINT, the 8259s: LINT0 of CPU 0
	b = append(b, 4, 1, 0, 0, 0, 0, 0xff, 1) // NMI: LINT1 of all

	t := b[16:]
	copy(t, "PCMP")
	le.PutUint16(t[4:], uint16(len(t)))
	t[6] = 4
	copy(t[8:], "UVM     PC          ")
	le.PutUint16(t[34:], uint16(cpus+1+1+ioapicPins+2))
	le.PutUint32(t[36:], lapicAddr)
	setChecksum(t, 7)
	return b
}

// setChecksum changes the byte at off so that all of b add up to 0.
func setChecksum(b []byte, off int) {
	var sum byte
	for _, v := range b {
		sum += v
	}
	b[off] -= sum
}
