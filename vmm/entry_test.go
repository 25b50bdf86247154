package vmm

import (
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/loader"
)

// stored emits "mov [at], register" for a 64-bit register by its number in
// machine code, and returns at.
//
//	48 89 /r 25 disp32  mov [disp32], rax … rdi (4c for r8 … r15)
func (g *guest) stored(reg byte) uint32 {
	at := g.store(make([]byte, 8))
	rex := byte(0x48)
	if reg >= 8 {
		rex = 0x4c
	}
	g.emit(append([]byte{rex, 0x89, reg%8<<3 | 4, 0x25}, imm32(at)...)...)
	return at
}

// TestEntryState has a guest store all registers that it can read before it
// changes any, and holds them against the ABI ("Guest state at entry").
func TestEntryState(t *testing.T) {
	const rax = 0
	type field struct {
		name string
		at   uint32
		want uint64
	}
	g := guest{ring: Ring0}
	var fields []field
	want := func(name string, at uint32, v uint64) { fields = append(fields, field{name, at, v}) }

	// mov changes no flags and needs no stack: first the general registers.
	names := [...]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}
	for i, name := range names {
		switch at := g.stored(byte(i)); name {
		case "rsp":
			want(name, at, testMem-8)
		case "rdi":
			want(name, at, 0x10000)
		default:
			want(name, at, 0)
		}
	}
	g.emit(0x9c, 0x58) // pushfq; pop rax
	want("rflags", g.stored(rax), 2)
	rip := g.emit(0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff) // lea rax, [rip-7]: its own address
	want("rip", g.stored(rax), rip)
	for _, r := range []struct {
		name string
		code []byte
		want uint64
	}{
		{"cr0", []byte{0x0f, 0x20, 0xc0}, 0x80010021}, // mov rax, cr0
		{"cr3", []byte{0x0f, 0x20, 0xd8}, 0x2000},     // mov rax, cr3
		{"cr4", []byte{0x0f, 0x20, 0xe0}, 0x620},      // mov rax, cr4
		{"cs", []byte{0x48, 0x8c, 0xc8}, 0x08},        // mov rax, cs
		{"ss", []byte{0x48, 0x8c, 0xd0}, 0x10},        // mov rax, ss
		{"ds", []byte{0x48, 0x8c, 0xd8}, 0x10},        // mov rax, ds
		{"es", []byte{0x48, 0x8c, 0xc0}, 0x10},        // mov rax, es
		{"fs", []byte{0x48, 0x8c, 0xe0}, 0x10},        // mov rax, fs
		{"gs", []byte{0x48, 0x8c, 0xe8}, 0x10},        // mov rax, gs
		{"tr", []byte{0x48, 0x0f, 0x00, 0xc8}, 0},     // str rax
		{"ldtr", []byte{0x48, 0x0f, 0x00, 0xc0}, 0},   // sldt rax
	} {
		g.emit(r.code...)
		want(r.name, g.stored(rax), r.want)
	}
	// The result comes in two halves; storing rax takes the upper half of zero
	// along that rdmsr leaves there.
	g.emit(0xb9, 0x80, 0x00, 0x00, 0xc0) // mov ecx, 0xc0000080 (EFER)
	g.emit(0x0f, 0x32)                   // rdmsr
	want("efer, low half", g.stored(rax), 0x500)
	want("efer, high half", g.stored(2), 0) // rdx

	// Descriptor tables: a 16-bit limit, then the base.
	gdtr, idtr := g.store(make([]byte, 16)), g.store(make([]byte, 16))
	g.emit(append([]byte{0x0f, 0x01, 0x04, 0x25}, imm32(gdtr)...)...) // sgdt [gdtr]
	g.emit(append([]byte{0x0f, 0x01, 0x0c, 0x25}, imm32(idtr)...)...) // sidt [idtr]

	g.puts(dataAddr, len(g.data))
	g.halt(0)

	data := runGuest(t, &g, nil)
	for _, f := range fields {
		got := le.Uint64(data[f.at-dataAddr:])
		if f.name == "cr0" {
			got &^= 1 << 4 // ET: a processor that still has the bit reads it as one
		}
		if got != f.want {
			t.Errorf("%s at entry = %#x; want %#x", f.name, got, f.want)
		}
	}
	for _, d := range []struct {
		name  string
		at    uint32
		limit uint16
		base  uint64
	}{{"gdtr", gdtr, 0x17, 0x1000}, {"idtr", idtr, 0, 0}} {
		b := data[d.at-dataAddr:]
		if limit, base := le.Uint16(b), le.Uint64(b[2:]); limit != d.limit || base != d.base {
			t.Errorf("%s at entry = limit %#x, base %#x; want limit %#x, base %#x", d.name, limit, base, d.limit, d.base)
		}
	}
}

// TestEntrySegments asks KVM for the hidden parts of the segment registers,
// which no guest can read.
func TestEntrySegments(t *testing.T) {
	g := guest{ring: Ring0}
	g.halt(0)
	vm := newVM(t, g.config())
	s, err := vm.vcpu.Sregs()
	if err != nil {
		t.Fatal(err)
	}
	type seg struct {
		selector            uint16
		typ, present, dpl   uint8
		long, base0, limit4 bool
	}
	of := func(x kvm.Segment) seg {
		return seg{x.Selector, x.Type, x.Present, x.DPL, x.L == 1, x.Base == 0, x.Limit == 0xffffffff}
	}
	data := seg{selector: 0x10, typ: 3, present: 1, base0: true, limit4: true}
	for _, x := range []struct {
		name      string
		got, want seg
	}{
		{"cs", of(s.CS), seg{selector: 8, typ: 9, present: 1, long: true, base0: true, limit4: true}},
		{"ss", of(s.SS), data}, {"ds", of(s.DS), data}, {"es", of(s.ES), data},
		{"fs", of(s.FS), data}, {"gs", of(s.GS), data},
		{"tr", of(s.TR), seg{typ: 11, present: 1, base0: true}},
	} {
		if x.got != x.want {
			t.Errorf("%s = %+v; want %+v", x.name, x.got, x.want)
		}
	}
	if s.LDT.Unusable != 1 {
		t.Errorf("ldt unusable = %d; want 1", s.LDT.Unusable)
	}
	gdt, err := vm.mem.At(gpaGDT, 24)
	if want := le64s(0, 0x00af99000000ffff, 0x00cf93000000ffff); err != nil || string(gdt) != string(want) {
		t.Errorf("GDT = % x, %v; want % x", gdt, err, want)
	}
}

// TestBootInformation has a guest print what lies at 0x10000: the structure,
// the manifest and the command line.
func TestBootInformation(t *testing.T) { bothRings(t, testBootInformation) }

func testBootInformation(t *testing.T, ring Ring) {
	netNS(t)
	makeTap(t, "uvm0", 1400)
	makeTap(t, "uvm1", 1500)
	g := guest{ring: ring, devices: []loader.Device{
		{Name: "disk", Type: loader.DeviceBlock},
		{Name: "service", Type: loader.DeviceNet},
		{Name: "other", Type: loader.DeviceNet},
		{Name: strings.Repeat("n", 67), Type: loader.DeviceBlock},
	}}
	entries := 1 + len(g.devices)
	mftSize := 8 + 104*entries
	g.puts(0x10000, 56+mftSize+8192)
	g.halt(0)

	mac := [6]byte{0x02, 0x11, 0x22, 0x33, 0x44, 0x55}
	data := runGuest(t, &g, func(c *Config) {
		c.Memory = 6 << 20
		c.Args = []string{"one", "", "--two", "", ""}
		c.Disks = []Disk{{Path: image(t, 8192), BlockSize: 4096}, {Path: image(t, 1024)}}
		c.Nets = []Net{{TAP: "uvm0", MAC: mac}, {TAP: "uvm1", MTU: 9000}}
	})
	if len(data) != 56+mftSize+8192 {
		t.Fatalf("PUTS of boot information printed %d bytes; want %d", len(data), 56+mftSize+8192)
	}
	for _, f := range []struct {
		name      string
		off, size int
		want      uint64
	}{
		{"mem_size", 0, 8, 6 << 20},
		{"kernel_end", 8, 8, dataAddr + 0x1000},
		{"cmdline", 24, 8, 0x10000 + 56 + uint64(mftSize)},
		{"manifest", 32, 8, 0x10000 + 56},
		{"host_features", 40, 4, 0},
		{"guest_features", 44, 4, 0},
		{"net_ring", 48, 8, 0},
	} {
		var b [8]byte
		copy(b[:f.size], data[f.off:])
		if got := le.Uint64(b[:]); got != f.want {
			t.Errorf("boot_info %s = %#x; want %#x", f.name, got, f.want)
		}
	}
	// The frequency is the host's affair, but never below 100 MHz, and KVM
	// tells kHz.
	if hz := le.Uint64(data[16:]); hz < 1e8 || hz%1000 != 0 {
		t.Errorf("boot_info tsc_hz = %d; want a multiple of 1000, at least 10^8", hz)
	}

	mft := data[56:][:mftSize]
	want := loader.Manifest{Entries: []loader.Device{
		{Type: loader.DeviceReserved},
		{Name: "disk", Type: loader.DeviceBlock, Attached: true, Capacity: 8192, BlockSize: 4096},
		{Name: "service", Type: loader.DeviceNet, Attached: true, MAC: mac, MTU: 1400},
		{Name: "other", Type: loader.DeviceNet, Attached: true, MTU: 9000},
		{Name: strings.Repeat("n", 67), Type: loader.DeviceBlock, Attached: true, Capacity: 1024, BlockSize: 512},
	}}
	checkManifest(t, mft, &want)

	line := data[56+mftSize:]
	if got, _, _ := strings.Cut(string(line), "\x00"); got != "one  --two  " {
		t.Errorf("command line = %q; want %q", got, "one  --two  ")
	}
}

// checkManifest reads the guest's manifest by the offsets of the ABI, not by
// the loader's, and compares it with want. A wanted address of zero is random.
func checkManifest(t *testing.T, b []byte, want *loader.Manifest) {
	t.Helper()
	if v, n := le.Uint32(b), le.Uint32(b[4:]); v != 1 || int(n) != len(want.Entries) {
		t.Fatalf("manifest = version %d, %d entries; want 1, %d", v, n, len(want.Entries))
	}
	for i, w := range want.Entries {
		e := b[8+104*i:][:104]
		name, _, _ := strings.Cut(string(e[:68]), "\x00")
		got := loader.Device{Name: name, Type: loader.DeviceType(le.Uint32(e[68:])), Attached: e[96] == 1}
		switch got.Type {
		case loader.DeviceBlock:
			got.Capacity, got.BlockSize = le.Uint64(e[72:]), le.Uint16(e[80:])
		case loader.DeviceNet:
			copy(got.MAC[:], e[72:])
			got.MTU = le.Uint16(e[78:])
			if w.MAC == [6]byte{} {
				if got.MAC[0]&3 != 2 || got.MAC == [6]byte{2} {
					t.Errorf("manifest entry %d: MAC = %x; want a random unicast one, locally administered", i, got.MAC)
				}
				got.MAC = w.MAC
			}
		}
		if got != w {
			t.Errorf("manifest entry %d = %+v; want %+v", i, got, w)
		}
		if private := string(e[88:96]); private != strings.Repeat("\x00", 8) {
			t.Errorf("manifest entry %d: private bytes = % x; want zeros", i, private)
		}
	}
}

// TestCommandLineLimit finds the longest command line that fits.
func TestCommandLineLimit(t *testing.T) { bothRings(t, testCommandLineLimit) }

func testCommandLineLimit(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	g.puts(0x10000+56+8+104, 8192)
	g.halt(0)
	long := strings.Repeat("x", 8191)
	got := runGuest(t, &g, func(c *Config) { c.Args = []string{long[:4000], long[4001:]} })
	if want := long[:4000] + " " + long[4001:] + "\x00"; string(got) != want {
		t.Errorf("command line of 8191 bytes arrived as %d bytes that differ", len(got))
	}
	cfg := g.config()
	cfg.Args = []string{long, ""}
	if _, err := New(cfg); err == nil || err.Error() != "guest arguments: 8192 bytes, the limit is 8191" {
		t.Errorf("New with 8192 bytes of arguments = %v; want an error about the limit of 8191", err)
	}
	cfg.Args = []string{"a\x00b"}
	if _, err := New(cfg); err == nil || err.Error() != "guest arguments: a NUL byte at position 1" {
		t.Errorf("New with a NUL in the arguments = %v; want an error about position 1", err)
	}
}

// TestManifestOfManyDevices checks that the largest manifest leaves room for
// the command line behind it.
func TestManifestOfManyDevices(t *testing.T) { bothRings(t, testManifestOfManyDevices) }

func testManifestOfManyDevices(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	var disks []Disk
	path := image(t, 512)
	for range hypercall.MaxHandles - 1 {
		g.devices = append(g.devices, loader.Device{Name: "d", Type: loader.DeviceBlock})
		disks = append(disks, Disk{Path: path, ReadOnly: true})
	}
	size := 8 + 104*hypercall.MaxHandles
	g.puts(0x10000+56+uint64(size), 6)
	g.halt(0)
	got := runGuest(t, &g, func(c *Config) { c.Disks, c.Args = disks, []string{"hello"} })
	if string(got) != "hello\x00" {
		t.Errorf("command line behind 64 entries = %q; want %q", got, "hello\x00")
	}
}
