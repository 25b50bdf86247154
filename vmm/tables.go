package vmm

import (
	"fmt"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// sciIRQ is ACPI's own interrupt, which the machine never raises. Guests make
// it level-triggered, so no device may share it; 3 would be a second serial
// port's.
const sciIRQ = 3

// acpiTables returns what belongs at base, a multiple of 64 below 4 GiB: the
// RSDP, where guests that scan 0xe0000-0xfffff find it, and the tables that it
// leads to (ACPI 6.4 chapter 5). They say: CPUs and IOAPIC as in mpTable, devs
// virtio-mmio devices, PM1a registers and reset register as package devices
// has them, and no i8042, clock or VGA that a driver should look for.
//
// The hardware is not "reduced": Linux would then ignore the PIC, the PIT and
// the ISA interrupts.
func acpiTables(base memory.Addr, cpus, devs int) []byte {
	b := make([]byte, 64) // RSDP
	// add appends a table and returns where it is in the guest's memory.
	add := func(signature string, revision byte, body []byte) uint32 {
		b = append(b, make([]byte, -len(b)&63)...)
		at := len(b)
		b = append(b, signature...)
		b = le.AppendUint32(b, uint32(36+len(body)))
		b = append(b, revision, 0)
		b = append(b, "UVM   UVM     \x01\x00\x00\x00UVM \x01\x00\x00\x00"...)
		b = append(b, body...)
		setChecksum(b[at:], 9)
		return uint32(base) + uint32(at)
	}

	facs := uint32(base) + uint32(len(b))
	b = append(b, "FACS\x40\x00\x00\x00"...)
	b = append(b, make([]byte, 56)...)
	dsdt := add("DSDT", 2, dsdtBody(devs))

	f := make([]byte, 268) // revision 5, whose 64-bit fields may be 0; offsets as in table 5.9
	for at, v := range map[int]uint32{36: facs, 40: dsdt, 46: sciIRQ,
		56: devices.PM1aEvent, 64: devices.PM1aControl, 88: 4 | 2<<8, // and their lengths
		96:  0xffffffff,                    // no C2, no C3
		108: devices.CMOSCentury | 0x25<<8, // ISA devices; no VGA, no CMOS clock, no i8042
		112: 0x475,                         // WBINVD, C1, no fixed power button, sleep button, RTC wake; reset register,
		116: 0x01000801,                    // which is an I/O port of 8 bits:
		120: devices.ResetPort, 128: devices.ResetValue} {
		le.PutUint32(f[at:], v)
	}
	fadt := add("FACP", 5, f[36:])

	m := le.AppendUint64(nil, 1<<32|lapicAddr) // with two 8259s
	for id := range byte(cpus) {
		m = append(m, 0, 8, id, id, 1, 0, 0, 0)
	}
	m = le.AppendUint32(append(m, 1, 12, ioapicID(cpus), 0), ioapicAddr)
	m = append(m, 0, 0, 0, 0, 4, 6, 0xff, 0, 0, 1) // its first GSI; NMI: LINT1 of all
	madt := add("APIC", 3, m)

	xsdt := add("XSDT", 1, le.AppendUint64(le.AppendUint64(nil, uint64(fadt)), uint64(madt)))
	copy(b, "RSD PTR \x00UVM   \x02")
	b[20] = 36
	le.PutUint64(b[24:], uint64(xsdt))
	setChecksum(b[:20], 8)
	setChecksum(b[:36], 32)
	return b
}

// dsdtBody is AML (ACPI 6.4 chapter 20) for
//
//	Name (\_S5, Package () {0, 0, 0, 0}) // SLP_TYP of "off"
//	Scope (\_SB) {
//	    Device (VM00) { // for each device
//	        Name (_HID, "LNRO0005")
//	        Name (_UID, 0)
//	        Name (_CRS, ResourceTemplate () {
//	            Memory32Fixed (ReadWrite, 0xd0000000, 0x1000)
//	            Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {5}
//	        })
//	    }
//	}
func dsdtBody(devs int) []byte {
	var s []byte
	for i := range devs {
		s = fmt.Appendf(s, "\x5b\x82\x3bVM%02X\x08_HID\x0dLNRO0005\x00\x08_UID\x0a%c", i, i)
		s = append(s, "\x08_CRS\x11\x1a\x0a\x17\x86\x09\x00\x01"...)
		s = le.AppendUint32(s, uint32(virtioAddr(i)))
		s = append(s, "\x00\x10\x00\x00\x89\x06\x00\x03\x01"...)
		s = le.AppendUint32(s, pcIRQs[i])
		s = append(s, "\x79\x00"...)
	}
	n := len(s) + 2 + 4 // the length's own two bytes, the name
	b := append([]byte("\x08_S5_\x12\x06\x04\x00\x00\x00\x00\x10"), byte(n&15|0x40), byte(n>>4))
	return append(append(b, "_SB_"...), s...)
}

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
