package vmm

import (
	"encoding/binary"
	"fmt"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// sciIRQ is ACPI's own interrupt, which the machine never raises. Guests make
// it level-triggered, so no device may share it; 3 would be a second serial
// port's.
const sciIRQ = 3

// mmioDevice is a virtio-mmio device: its registers, one page below 4 GiB, and
// its interrupt.
type mmioDevice struct {
	addr uint32
	irq  uint32
}

// acpiTables returns what belongs at base, a multiple of 64 below 4 GiB: the
// RSDP, where guests that scan 0xe0000-0xfffff find it, and the tables that it
// leads to (ACPI 6.4 chapter 5). They say: CPUs and IOAPIC as in mpTable, the
// virtio-mmio devices, PM1a registers and reset register as package devices
// has them, and no i8042, clock or VGA that a driver should look for.
//
// The hardware is not "reduced": Linux would then ignore the PIC, the PIT and
// the ISA interrupts.
func acpiTables(base memory.Addr, cpus int, mmio []mmioDevice) []byte {
	le := binary.LittleEndian
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
	dsdt := add("DSDT", 2, dsdtBody(mmio))

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
func dsdtBody(mmio []mmioDevice) []byte {
	var s []byte
	for i, d := range mmio {
		s = fmt.Appendf(s, "\x5b\x82\x3bVM%02X\x08_HID\x0dLNRO0005\x00\x08_UID\x0a%c", i, i)
		s = append(s, "\x08_CRS\x11\x1a\x0a\x17\x86\x09\x00\x01"...)
		s = binary.LittleEndian.AppendUint32(s, d.addr)
		s = append(s, "\x00\x10\x00\x00\x89\x06\x00\x03\x01"...)
		s = binary.LittleEndian.AppendUint32(s, d.irq)
		s = append(s, "\x79\x00"...)
	}
	n := len(s) + 2 + 4 // the length's own two bytes, the name
	b := append([]byte("\x08_S5_\x12\x06\x04\x00\x00\x00\x00\x10"), byte(n&15|0x40), byte(n>>4))
	return append(append(b, "_SB_"...), s...)
}
