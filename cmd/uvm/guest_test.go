package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/loader"
)

// guest is a unikernel in the making. Its methods append machine code and what
// that needs in the data segment.
type guest struct {
	code, data []byte
	devices    []loader.Device
}

// Device lists for guests.
var (
	oneNet   = []loader.Device{{Name: "service", Type: loader.DeviceNet}}
	oneDisk  = []loader.Device{{Name: "storage", Type: loader.DeviceBlock}}
	twoDisks = []loader.Device{{Name: "data", Type: loader.DeviceBlock}, {Name: "logs", Type: loader.DeviceBlock}}
	netDisk  = append(append([]loader.Device{}, oneNet...), oneDisk...)
)

func (g *guest) emit(code ...byte) *guest {
	g.code = append(g.code, code...)
	return g
}

// store puts data into the data segment, aligned to eight bytes, and returns
// its address.
func (g *guest) store(b []byte) uint32 {
	for len(g.data)%8 != 0 {
		g.data = append(g.data, 0)
	}
	at := hvtelf.DataAddr + uint32(len(g.data))
	g.data = append(g.data, b...)
	return at
}

// words is a structure of 64-bit fields.
func words(w ...uint64) []byte {
	var b []byte
	for _, v := range w {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// call makes a hypercall with its structure at arg:
//
//	b8 imm32    mov eax, arg
//	66 ba imm16 mov dx, 0x500 + call
//	ef          out dx, eax
func (g *guest) call(c hypercall.Call, arg uint32) *guest {
	return g.emit(hvtelf.Out(hypercall.PortBase+uint16(c), arg)...)
}

// puts prints n bytes at an address.
func (g *guest) puts(addr, n uint64) *guest { return g.call(hypercall.Puts, g.store(words(addr, n))) }

func (g *guest) print(s string) *guest {
	return g.puts(uint64(g.store([]byte(s))), uint64(len(s)))
}

func (g *guest) halt(status int32) *guest {
	return g.call(hypercall.HaltCall, g.store(words(0, uint64(uint32(status)))))
}

// mark writes a byte to the boot-time port:
//
//	b0 imm8     mov al, b
//	66 ba imm16 mov dx, 0x3f0
//	ee          out dx, al
func (g *guest) mark(b byte) *guest {
	return g.emit(0xb0, b, 0x66, 0xba, devices.MarkPort&0xff, devices.MarkPort>>8, 0xee)
}

// spin never ends and never leaves the guest.
//
//	eb fe  jmp .
func (g *guest) spin() *guest { return g.emit(0xeb, 0xfe) }

// hlt halts the processor, which nothing would ever wake.
//
//	f4  hlt
func (g *guest) hlt() *guest { return g.emit(0xf4) }

// Where the guest finds what it is told: struct hvt_boot_info, then the
// manifest, then the command line (hvt ABI 3).
const (
	gpaManifest  = 0x10000 + 56
	manifestHead = 8
	manifestSize = 104 // of an entry
	offMAC       = 72  // in an entry: MAC address, MTU
)

// gpaEntry is the address of the manifest entry of a handle.
func gpaEntry(handle uint64) uint64 { return gpaManifest + manifestHead + handle*manifestSize }

// cmdline prints the first n bytes of the command line.
func (g *guest) cmdline(n int) *guest {
	return g.puts(gpaEntry(uint64(len(g.devices))+1), uint64(n))
}

func (g *guest) elf() []byte {
	return hvtelf.Guest{Code: g.code, Data: g.data, Devices: g.devices}.ELF()
}

// file is the path of the finished guest.
func (g *guest) file(t testing.TB) string {
	t.Helper()
	return writeFile(t, "guest.hvt", g.elf())
}

func writeFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// hello greets and ends.
func hello(t testing.TB) string { return new(guest).print("hello\n").halt(0).file(t) }

// withDevices asks for devices and ends at once.
func withDevices(t testing.TB, d []loader.Device) string {
	t.Helper()
	return (&guest{devices: d}).halt(0).file(t)
}

// image is the path of a disk image of size bytes.
func image(t testing.TB, size int64) string {
	t.Helper()
	path := writeFile(t, "disk.img", nil)
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// Where hvtelf.Guest puts what the tests break: offsets in the file.
const (
	elfClass    = 4
	noteABI     = 64 + 4*56 // the program headers end here
	noteMFT     = 328
	noteType    = 8
	noteABIDesc = noteABI + 20
	noteMFTDesc = noteMFT + 24
)

// broken is a good guest with a byte changed.
func broken(t testing.TB, offset int, b byte) string {
	t.Helper()
	elf := new(guest).halt(0).elf()
	if elf[offset] == b {
		t.Fatalf("byte %d of the guest is %#x already", offset, b)
	}
	elf[offset] = b
	return writeFile(t, "broken.hvt", elf)
}
