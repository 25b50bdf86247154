package vmm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
)

const acpiBase = 0xe0000

// acpiAt returns the table at guest address addr, its checksum and header
// checked.
func acpiAt(t *testing.T, b []byte, addr uint64) []byte {
	t.Helper()
	if addr < acpiBase || addr-acpiBase > uint64(len(b)-36) {
		t.Fatalf("a table at %#x; want one inside the %d bytes", addr, len(b))
	}
	b = b[addr-acpiBase:]
	n := binary.LittleEndian.Uint32(b[4:])
	if n < 36 || int(n) > len(b) {
		t.Fatalf("table %q has %d bytes; want up to %d", b[:4], n, len(b))
	}
	if !sums(b[:n]) {
		t.Errorf("table %q: wrong checksum", b[:4])
	}
	return b[:n]
}

// acpiTree follows a guest's way from the RSDP (ACPI 6.4 section 5.2.5.3) to
// every table.
func acpiTree(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	if string(b[:8]) != "RSD PTR " || !sums(b[:20]) || !sums(b[:36]) || b[15] != 2 || le.Uint32(b[20:]) != 36 {
		t.Fatalf("RSDP = % x; want revision 2, 36 bytes, both checksums", b[:36])
	}
	xsdt := acpiAt(t, b, le.Uint64(b[24:]))
	tables := map[string][]byte{"XSDT": xsdt}
	for e := xsdt[36:]; len(e) >= 8; e = e[8:] {
		table := acpiAt(t, b, le.Uint64(e))
		tables[string(table[:4])] = table
	}
	if f := tables["FACP"]; f != nil {
		dsdt := acpiAt(t, b, uint64(le.Uint32(f[40:])))
		tables[string(dsdt[:4])] = dsdt
		facs := le.Uint32(f[36:])
		if facs%64 != 0 {
			t.Errorf("FACS at %#x; want a multiple of 64", facs)
		}
		facs -= acpiBase
		tables[string(b[facs:facs+4])] = b[facs : facs+le.Uint32(b[facs+4:])]
	}
	if got, want := slices.Sorted(maps.Keys(tables)), []string{"APIC", "DSDT", "FACP", "FACS", "XSDT"}; !slices.Equal(got, want) {
		t.Fatalf("tables %q; want %q", got, want)
	}
	return tables
}

// TestMADT: section 5.2.12.
func TestMADT(t *testing.T) {
	le := binary.LittleEndian
	for _, cpus := range []int{1, 2, 16} {
		m := acpiTree(t, acpiTables(acpiBase, cpus, 0))["APIC"]
		if a, f := le.Uint32(m[36:]), le.Uint32(m[40:]); a != 0xfee00000 || f != 1 {
			t.Errorf("%d CPUs: local APIC at %#x, flags %#x; want 0xfee00000, 1", cpus, a, f)
		}
		var got []string
		for e := m[44:]; len(e) > 0; e = e[e[1]:] {
			switch e[0] {
			case 0:
				got = append(got, fmt.Sprintf("cpu %d: apic %d, flags %d", e[2], e[3], le.Uint32(e[4:])))
			case 1:
				got = append(got, fmt.Sprintf("ioapic %d: %#x, gsi %d", e[2], le.Uint32(e[4:]), le.Uint32(e[8:])))
			case 4:
				got = append(got, fmt.Sprintf("nmi %#x: flags %d, lint %d", e[2], le.Uint16(e[3:]), e[5]))
			default:
				t.Fatalf("%d CPUs: structure of type %d", cpus, e[0])
			}
		}
		var want []string
		for id := range cpus {
			want = append(want, fmt.Sprintf("cpu %d: apic %d, flags 1", id, id))
		}
		want = append(want, fmt.Sprintf("ioapic %d: 0xfec00000, gsi 0", cpus+1), "nmi 0xff: flags 0, lint 1")
		if !slices.Equal(got, want) {
			t.Errorf("%d CPUs: MADT has %q; want %q", cpus, got, want)
		}
	}
}

// TestFADT does what a guest does with the registers that the FADT names
// (section 5.2.9), to the devices that have them.
func TestFADT(t *testing.T) {
	le := binary.LittleEndian
	f := acpiTree(t, acpiTables(acpiBase, 1, 0))["FACP"]
	if f[8] != 5 || len(f) != 268 {
		t.Errorf("FADT revision %d, %d bytes; want 5, 268", f[8], len(f))
	}
	flags := le.Uint32(f[112:])
	for _, c := range []struct {
		what string
		bit  int
		want uint32
	}{
		{"WBINVD", 0, 1}, {"power button is fixed hardware: no", 4, 1}, {"sleep button: no", 5, 1}, {"RTC wake: no", 6, 1},
		{"reset register", 10, 1}, {"hardware-reduced", 20, 0},
	} {
		if got := flags >> c.bit & 1; got != c.want {
			t.Errorf("flag %s = %d; want %d", c.what, got, c.want)
		}
	}
	if got := le.Uint16(f[109:]); got&2 != 0 || got&0x20 == 0 {
		t.Errorf("boot flags = %#x; want no i8042 (0x2 clear), no CMOS clock (0x20 set)", got)
	}
	if smi := le.Uint32(f[48:]); smi != 0 {
		t.Errorf("SMI_CMD = %#x; want 0: ACPI mode is on", smi)
	}
	if irq, century := le.Uint16(f[46:]), f[108]; irq != 3 || century != 0x32 {
		t.Errorf("SCI %d, century at %#x; want 3, which no device has, and 0x32", irq, century)
	}
	p := devices.NewPower()
	b := make([]byte, 2)
	control := uint16(le.Uint32(f[64:]))
	if err := p.PortIn(control, int(f[89]), b); err != nil || b[0]&1 != 1 {
		t.Errorf("PM1a control at %#x reads % x, %v; want SCI_EN", control, b, err)
	}
	// The enable register follows the status register and keeps its bits.
	enable := uint16(le.Uint32(f[56:])) + uint16(f[88]/2)
	if err := errors.Join(p.PortOut(enable, 2, []byte{0x20, 0}), p.PortIn(enable, 2, b)); err != nil || b[0] != 0x20 {
		t.Errorf("PM1a enable at %#x reads % x, %v; want 20 00 as written", enable, b, err)
	}
	sleep := le.AppendUint16(nil, uint16(s5Type(t))<<10|1<<13)
	var s *devices.Stop
	if err := p.PortOut(control, 2, sleep); !errors.As(err, &s) || s.Reason != devices.StopPowerOff {
		t.Errorf("SLP_EN with the type of S5 = %v; want poweroff", err)
	}
	if f[116] != 1 || f[117] != 8 {
		t.Errorf("reset register in space %d, %d bits; want I/O, 8", f[116], f[117])
	}
	if err := p.PortOut(uint16(le.Uint64(f[120:])), 1, f[128:129]); !errors.As(err, &s) || s.Reason != devices.StopReset {
		t.Errorf("reset value at the reset register = %v; want reset", err)
	}
}

// s5Type is the SLP_TYP of S5: the first element of the package \_S5.
func s5Type(t *testing.T) byte {
	t.Helper()
	d := acpiTree(t, acpiTables(acpiBase, 1, 0))["DSDT"]
	_, s5, ok := bytes.Cut(d, []byte("\x08_S5_\x12\x06\x04"))
	if !ok || s5[0] != 0 { // ZeroOp
		t.Fatalf("\\_S5 = % x; want a package of 4 that begins with 0", s5)
	}
	return 0
}

// TestDSDT compares with what iasl -oi -of (20200925) makes of the ASL in
// dsdtBody's comment for two devices; \_S5 is without -oi, which spells its
// zeros as bytes.
func TestDSDT(t *testing.T) {
	want := "" +
		"\x08_S5_\x12\x06\x04\x00\x00\x00\x00" +
		"\x10@\x08_SB_" +
		"[\x82;VM00\x08_HID\x0dLNRO0005\x00\x08_UID\x0a\x00" +
		"\x08_CRS\x11\x1a\x0a\x17\x86\x09\x00\x01\x00\x00\x00\xd0\x00\x10\x00\x00\x89\x06\x00\x03\x01\x05\x00\x00\x00y\x00" +
		"[\x82;VM01\x08_HID\x0dLNRO0005\x00\x08_UID\x0a\x01" +
		"\x08_CRS\x11\x1a\x0a\x17\x86\x09\x00\x01\x00\x10\x00\xd0\x00\x10\x00\x00\x89\x06\x00\x03\x01\x06\x00\x00\x00y\x00"
	got := acpiTree(t, acpiTables(acpiBase, 1, 2))["DSDT"][36:]
	if string(got) != want {
		t.Errorf("DSDT = % x; want % x", got, want)
	}
}

// TestACPIPlace: every table moves with the base.
func TestACPIPlace(t *testing.T) {
	a, b := acpiTables(acpiBase, 3, 0), acpiTables(acpiBase+0x1000, 3, 0)
	le := binary.LittleEndian
	if d := le.Uint64(b[24:]) - le.Uint64(a[24:]); d != 0x1000 || len(a) != len(b) {
		t.Errorf("XSDT moves by %#x, %d and %d bytes; want 0x1000, the same", d, len(a), len(b))
	}
	if n := len(acpiTables(acpiBase, 16, len(pcIRQs))); n > 0x10000 {
		t.Errorf("16 CPUs and %d devices need %d bytes; want up to 64 KiB", len(pcIRQs), n)
	}
}
