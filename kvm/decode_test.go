package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"testing"
)

var le = binary.LittleEndian

// exitOffset is where the union of struct kvm_run starts.
const exitOffset = 32

// forged is a vCPU whose kvm_run says what the test wants; it cannot run.
func forged(reason ExitReason, union ...any) *VCPU {
	mem := make([]byte, 8192)
	le.PutUint32(mem[8:], uint32(reason))
	b := mem[exitOffset:exitOffset]
	for _, x := range union {
		b, _ = binary.Append(b, le, x)
	}
	return &VCPU{run: runPage{mem}}
}

func TestOpError(t *testing.T) {
	err := opError("KVM_CREATE_VM", syscall.EBUSY)
	if got, want := err.Error(), "KVM_CREATE_VM: device or resource busy"; got != want {
		t.Errorf("OpError.Error() = %q; want %q", got, want)
	}
	if !errors.Is(err, syscall.EBUSY) {
		t.Errorf("errors.Is(%v, EBUSY) = false; want true", err)
	}
	if err := opError("KVM_CREATE_VM", 0); err != nil {
		t.Errorf("opError(_, 0) = %v; want nil, and not a typed nil pointer", err)
	}
}

// TestIODecode includes values that no kernel gives, because a slice outside
// the mapping would crash the monitor.
func TestIODecode(t *testing.T) {
	const size = 8192
	for _, c := range []struct {
		dir, item uint8
		port      uint16
		count     uint32
		offset    uint64
		wantLen   int
	}{
		{1, 4, 0x501, 1, 4096, 4},
		{0, 1, 0x3f0, 1, 4096, 1},
		{1, 2, 0xffff, 3, 4096, 6},
		{1, 4, 0, 1, size - 4, 4},
		{1, 4, 0, 1, size - 3, 0},
		{1, 1, 0, 0, size, 0},
		{1, 1, 0, 1, size, 0},
		{1, 1, 0, 1, size + 1, 0},
		{1, 1, 0, 1, 1<<64 - 1, 0},
		{1, 255, 0, 1<<32 - 1, 4096, 0},
		{1, 1, 0, size, 0, size},
	} {
		v := forged(ExitIO, c.dir, c.item, c.port, c.count, c.offset)
		got := v.IO()
		data := got.Data
		got.Data = nil
		want := IO{Port: c.port, Out: c.dir == 1, Size: int(c.item), Count: int(c.count)}
		if fmt.Sprint(got) != fmt.Sprint(want) || len(data) != c.wantLen || cap(data) != c.wantLen {
			t.Errorf("IO() for %+v = %+v, %d bytes of data, capacity %d; want %+v, %d bytes", c, got, len(data), cap(data), want, c.wantLen)
		}
		if c.wantLen > 0 && &data[0] != &v.run.mem[c.offset] {
			t.Errorf("IO().Data for %+v does not lie at the offset", c)
		}
	}
}

func TestMMIODecode(t *testing.T) {
	data := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	for _, c := range []struct {
		len     uint32
		write   uint8
		wantLen int
	}{{1, 1, 1}, {8, 0, 8}, {9, 1, 8}, {1<<32 - 1, 1, 8}, {0, 0, 0}} {
		v := forged(ExitMMIO, uint64(0xfee00000), data, c.len, c.write)
		got := v.MMIO()
		if got.Addr != 0xfee00000 || got.Len != c.wantLen || got.Write != (c.write == 1) || !bytes.Equal(got.Data, data[:c.wantLen]) {
			t.Errorf("MMIO() with len %d, write %d = %+v; want address 0xfee00000, %d bytes of %v", c.len, c.write, got, c.wantLen, data)
		}
	}
}

func TestInternalErrorDecode(t *testing.T) {
	insn := [15]byte{0xc5, 0xf8, 0x77} // vzeroupper
	for _, c := range []struct {
		suberror, ndata uint32
		flags           uint64
		size            uint8
		want            []byte
	}{
		{SuberrorEmulation, 4, 1, 3, insn[:3]},
		{SuberrorEmulation, 4, 1, 15, insn[:]},
		{SuberrorEmulation, 4, 1, 255, insn[:]}, // no kernel says so
		{SuberrorEmulation, 4, 0, 3, nil},       // bytes not valid
		{SuberrorEmulation, 2, 1, 3, nil},       // too little data
		{2, 4, 1, 3, nil},                       // another suberror
	} {
		v := forged(ExitInternalError, c.suberror, c.ndata, c.flags, c.size, insn)
		suberror, insn := v.InternalError()
		if suberror != c.suberror || !bytes.Equal(insn, c.want) {
			t.Errorf("InternalError() for %+v = %d, %x; want suberror %d, bytes %x", c, suberror, insn, c.suberror, c.want)
		}
		if len(insn) > 0 && &insn[0] == &v.run.mem[exitOffset+17] {
			t.Errorf("the bytes of InternalError() are a view of kvm_run; want a copy")
		}
	}
}

func TestFailEntryDecode(t *testing.T) {
	if got := forged(ExitFailEntry, uint64(0x80000021), uint32(7)).FailEntry(); got != 0x80000021 {
		t.Errorf("FailEntry() = %#x; want 0x80000021", got)
	}
}

func TestMemoryFaultDecode(t *testing.T) {
	v := forged(ExitMemoryFault, uint64(8), uint64(0x12000), uint64(4096))
	if gpa, ok := v.MemoryFault(); gpa != 0x12000 || !ok {
		t.Errorf("MemoryFault() = %#x, %v; want 0x12000, true", gpa, ok)
	}
	// The kernel leaves the union alone on an older kernel's EFAULT.
	v = forged(ExitIO, uint64(8), uint64(0x12000), uint64(4096))
	if gpa, ok := v.MemoryFault(); gpa != 0 || ok {
		t.Errorf("MemoryFault() after an IO exit = %#x, %v; want 0, false", gpa, ok)
	}
}

// TestImmediateExitByte checks that the 32-bit operation changes one byte only.
func TestImmediateExitByte(t *testing.T) {
	for _, fill := range []byte{0, 0xff} {
		v := forged(ExitIO)
		for i := range v.run.mem[:8] {
			v.run.mem[i] = fill
		}
		want := [8]byte{fill, fill | 1, fill, fill, fill, fill, fill, fill}
		v.run.setImmediateExit(true)
		if got := [8]byte(v.run.mem); got != want {
			t.Errorf("kvm_run after setImmediateExit(true) = %x; want %x", got, want)
		}
		want[1] = fill &^ 1
		v.run.setImmediateExit(false)
		if got := [8]byte(v.run.mem); got != want {
			t.Errorf("kvm_run after setImmediateExit(false) = %x; want %x", got, want)
		}
	}
}
