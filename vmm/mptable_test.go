package vmm

import (
	"encoding/binary"
	"testing"
)

// sums says whether all of b add up to 0.
func sums(b []byte) bool {
	var s byte
	for _, v := range b {
		s += v
	}
	return s == 0
}

// parsedMP is what the MultiProcessor Specification 1.4 lets a guest find in a
// table.
type parsedMP struct {
	cpus    map[byte]byte // local APIC id to flags
	buses   map[byte]string
	ioapic  map[byte]uint32 // id to address; enabled ones
	ints    map[[2]byte][2]byte
	flags   map[uint16]bool // of all interrupt entries
	lint    map[[2]byte]byte
	entries int
}

// parseMP reads a table as a guest does that finds it at addr.
func parseMP(t *testing.T, b []byte, addr uint32) parsedMP {
	t.Helper()
	le := binary.LittleEndian
	p := parsedMP{map[byte]byte{}, map[byte]string{}, map[byte]uint32{}, map[[2]byte][2]byte{}, map[uint16]bool{}, map[[2]byte]byte{}, 0}
	// Section 4.1, floating pointer structure.
	if string(b[:4]) != "_MP_" || b[8] != 1 || b[9] != 4 || !sums(b[:16]) {
		t.Fatalf("floating pointer = % x; want _MP_, 16 bytes, 1.4, a checksum", b[:16])
	}
	if [5]byte(b[11:16]) != [5]byte{} {
		t.Errorf("features = % x; want 0: there is a table, and no IMCR", b[11:16])
	}
	// Section 4.2, header.
	c := b[le.Uint32(b[4:])-addr:]
	if n := le.Uint16(c[4:]); string(c[:4]) != "PCMP" || int(n) != len(c) || c[6] != 4 || !sums(c[:n]) {
		t.Fatalf("header = % x, %d bytes follow; want PCMP, that length, 1.4, a checksum", c[:44], len(c))
	}
	if got := le.Uint32(c[36:]); got != 0xfee00000 {
		t.Errorf("local APIC at %#x; want 0xfee00000", got)
	}
	count := int(le.Uint16(c[34:]))
	if extended := le.Uint32(c[40:]); extended != 0 || le.Uint32(c[28:]) != 0 || le.Uint16(c[32:]) != 0 {
		t.Errorf("OEM or extended table in % x; want none", c[:44])
	}
	// Sections 4.3.1 to 4.3.5, in ascending order of type.
	last := byte(0)
	for c = c[44:]; len(c) > 0; p.entries++ {
		if c[0] < last {
			t.Errorf("entry %d of type %d comes after type %d", p.entries, c[0], last)
		}
		size := 8
		switch last = c[0]; last {
		case 0:
			size = 20
			p.cpus[c[1]] = c[3]
		case 1:
			p.buses[c[1]] = string(c[2:8])
		case 2:
			if c[3]&1 == 1 {
				p.ioapic[c[1]] = le.Uint32(c[4:])
			}
		case 3:
			if c[1] != 0 {
				t.Errorf("interrupt entry of type %d; want 0, INT", c[1])
			}
			p.flags[le.Uint16(c[2:])] = true
			p.ints[[2]byte{c[4], c[5]}] = [2]byte{c[6], c[7]}
		case 4:
			p.flags[le.Uint16(c[2:])] = true
			p.lint[[2]byte{c[6], c[7]}] = c[1]
		default:
			t.Fatalf("entry %d has type %d", p.entries, last)
		}
		c = c[size:]
	}
	if p.entries != count {
		t.Errorf("the table has %d entries and says %d", p.entries, count)
	}
	return p
}

func TestMPTable(t *testing.T) {
	for _, cpus := range []int{1, 2, 16} {
		b := mpTable(cpus)
		if len(b) > 1024 {
			t.Errorf("%d CPUs: %d bytes; want up to 1024", cpus, len(b))
		}
		p := parseMP(t, b, mpTableAddr)
		for id := range byte(cpus) {
			want := byte(1) // enabled
			if id == 0 {
				want = 3 // and boots
			}
			if p.cpus[id] != want {
				t.Errorf("%d CPUs: flags of CPU %d = %#x; want %#x", cpus, id, p.cpus[id], want)
			}
		}
		if len(p.cpus) != cpus || len(p.buses) != 1 || p.buses[0] != "ISA   " {
			t.Errorf("%d CPUs: found %d, buses %q; want that many, ISA", cpus, len(p.cpus), p.buses)
		}
		id := byte(cpus + 1)
		if len(p.ioapic) != 1 || p.ioapic[id] != 0xfec00000 {
			t.Errorf("%d CPUs: IOAPICs %#x; want %d at 0xfec00000", cpus, p.ioapic, id)
		}
		for pin := range byte(24) {
			if got, ok := p.ints[[2]byte{0, pin}]; !ok || got != [2]byte{id, pin} {
				t.Errorf("%d CPUs: ISA interrupt %d goes to %v; want IOAPIC %d, pin %d", cpus, pin, got, id, pin)
			}
		}
		if len(p.ints) != 24 || len(p.lint) != 2 || p.lint[[2]byte{0, 0}] != 3 || p.lint[[2]byte{0xff, 1}] != 1 {
			t.Errorf("%d CPUs: %d interrupts, local %v; want 24, ExtINT at LINT0 of CPU 0, NMI at LINT1 of all", cpus, len(p.ints), p.lint)
		}
		if len(p.flags) != 1 || !p.flags[0] {
			t.Errorf("%d CPUs: polarity and trigger %v; want those of the bus", cpus, p.flags)
		}
	}
}
