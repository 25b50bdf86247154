package main

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
)

// TestInspectPC describes kernels for the PC-like machine.
func TestInspectPC(t *testing.T) {
	code, data := []byte{0xf4, 0xeb, 0xfd}, []byte("data") // hlt; jmp -3
	elf := func(pvh int) []byte { return hvtelf.PC{Code: code, Data: data, PVH: pvh}.ELF() }
	const segments = `limits   command line of 2047 bytes, initrd up to 0x7fffffff
entry    0x100000
memory   0x100000 to 0x112000, so --memory 2M at the very least, and more for an initrd
segment  0x100000 rwx 3 bytes in memory, 3 from the file
segment  0x110000 rwx 4100 bytes in memory, 4 from the file
`
	wantQuiet(t, uvm(t, "inspect", writeFile(t, "pvh", elf(4))), 0, "kind     pvh (ELF, Xen PVH entry)\n"+segments)
	wantQuiet(t, uvm(t, "inspect", writeFile(t, "vmlinux", elf(0))), 0, "kind     linux (ELF, Linux 64-bit boot protocol)\n"+segments)
	bz := writeFile(t, "bzImage", hvtelf.BzImage(code))
	wantQuiet(t, uvm(t, "inspect", bz), 0, `kind     linux (bzImage, Linux 64-bit boot protocol 2.15)
version  "6.1.0-test (uvm) #1"
limits   command line of 2047 bytes, initrd up to 0x7fffffff
entry    0x200200
memory   0x200000 to 0x324000, so --memory 4M at the very least, and more for an initrd
segment  0x200000 rwx 1193046 bytes in memory, 528 from the file
`)
	wantQuiet(t, uvm(t, "inspect", "--json", bz), 0, `{
  "path": "`+bz+`",
  "kind": "linux",
  "linux": {
    "format": "bzImage",
    "version": "6.1.0-test (uvm) #1",
    "protocol": "2.15",
    "start": "0x200000",
    "initrd_max": "0x7fffffff",
    "command_line_max": 2047
  },
  "entry": "0x200200",
  "end": "0x324000",
  "minimum_memory": "4M",
  "segments": [
    {
      "address": "0x200000",
      "file_bytes": 528,
      "memory_bytes": 1193046,
      "permissions": "rwx"
    }
  ]
}
`)
	wantLine(t, uvm(t, "inspect", writeFile(t, "cut", hvtelf.BzImage(code)[:0x240])), exitKernel, "truncated: setup header ends at 0x26c, the file has 576 bytes")
}

// TestInspectPCProblem: kernels that would not load, and strings that would
// harm a terminal.
func TestInspectPCProblem(t *testing.T) {
	le := binary.LittleEndian
	f := hvtelf.BzImage([]byte{0xf4})
	le.PutUint32(f[0x260:], 0xffffffff) // init_size
	copy(f[0x300:], "\x1b[2J\xff\x00")
	got := uvm(t, "inspect", writeFile(t, "large", f))
	for _, want := range []string{"problem  kernel ", "its last byte 0x1001ffffe is beyond", `version  "\x1b[2J?"`} {
		if got.status != 0 || got.stderr != "" || !strings.Contains(got.stdout, want) || strings.Contains(got.stdout, "memory  ") {
			t.Errorf("uvm inspect = %+v; want %q", got, want)
		}
	}
	for name, off := range map[string]uint16{"none": 0, "behind the setup": 4 * 512} {
		f := hvtelf.BzImage([]byte{0xf4})
		le.PutUint16(f[0x20e:], off) // kernel_version
		if got := uvm(t, "inspect", writeFile(t, "k", f)); got.status != 0 || strings.Contains(got.stdout, "version  ") {
			t.Errorf("%s: uvm inspect = %+v; want no version", name, got)
		}
	}
}
