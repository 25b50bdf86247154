package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/loader"
	"github.com/uvm-monitor/uvm/memory"
)

// deputyPointer is a pointer that a guest gives the monitor.
type deputyPointer struct {
	call  hypercall.Call
	what  string      // as messages call it
	size  uint64      // bytes there
	want  memory.Perm // what the monitor does with them
	field int         // offset in the structure; -1 = the structure itself
	rest  []uint64    // the structure
}

var deputyPointers = []deputyPointer{
	{hypercall.Walltime, "argument", 8, memory.Write, -1, nil},
	{hypercall.Puts, "argument", 16, memory.Read, -1, nil},
	{hypercall.Puts, "buffer", 100, memory.Read, 0, []uint64{0, 100}},
	{hypercall.Poll, "argument", 24, memory.ReadWrite, -1, nil},
	{hypercall.BlockWrite, "argument", 40, memory.ReadWrite, -1, nil},
	{hypercall.BlockWrite, "buffer", 512, memory.Read, 16, []uint64{1, 0, 0, 512, 0}},
	{hypercall.BlockRead, "argument", 40, memory.ReadWrite, -1, nil},
	{hypercall.BlockRead, "buffer", 512, memory.Write, 16, []uint64{1, 0, 0, 512, 0}},
	{hypercall.NetWrite, "argument", 32, memory.ReadWrite, -1, nil},
	{hypercall.NetWrite, "buffer", 64, memory.Read, 8, []uint64{2, 0, 64, 0}},
	{hypercall.NetRead, "argument", 32, memory.ReadWrite, -1, nil},
	{hypercall.NetRead, "buffer", 1514, memory.Write, 8, []uint64{2, 0, 1514, 0}},
	{hypercall.Batch, "argument", 24, memory.ReadWrite, -1, nil},
	{hypercall.Batch, "requests", 96, memory.ReadWrite, 0, []uint64{0, 2, 0}},
	{hypercall.Batch, "buffer of request 0", 512, memory.Read, 40, []uint64{0x180018, 1, 0, 1, 0, 0, 512, 0, 4}},
	{hypercall.Batch, "buffer of request 0", 512, memory.Write, 40, []uint64{0x180018, 1, 0, 1, 0, 0, 512, 0, 5}},
	{hypercall.Batch, "buffer of request 0", 64, memory.Read, 32, []uint64{0x180018, 1, 0, 2, 0, 64, 0, 0, 6}},
	{hypercall.Batch, "buffer of request 0", 1514, memory.Write, 32, []uint64{0x180018, 1, 0, 2, 0, 1514, 0, 0, 7}},
	{hypercall.HaltCall, "argument", 16, memory.Read, -1, nil},
	{hypercall.HaltCall, "cookie", 512, memory.Read, 0, []uint64{0, 0}},
}

// deputyPerm is what the guest of TestConfusedDeputy may do at an address,
// written down by hand.
func deputyPerm(a uint64) memory.Perm {
	switch {
	case a < 0x10000 || a >= testMem: // the monitor's, and no memory
		return 0
	case a < 0x100000: // boot information
		return memory.Read
	case a < codeAddr+0x1000, a >= dataAddr && a < dataAddr+0x1000: // text, read-only data
		return memory.Read
	}
	return memory.ReadWrite
}

// TestConfusedDeputy points every pointer of every hypercall into every page
// that is not the guest's, and across each border. The calls go straight to
// the bus, as an exit brings them there.
func TestConfusedDeputy(t *testing.T) { bothRings(t, testConfusedDeputy) }

func testConfusedDeputy(t *testing.T, ring Ring) {
	netNS(t)
	makeTap(t, "uvm0", 1500)
	g := guest{ring: ring, readOnly: true, devices: append(oneDisk[:1:1], oneNet...)}
	g.halt(0)
	cfg := g.config()
	g.withNote(0)(&cfg)
	cfg.Disks, cfg.Nets = []Disk{{Path: image(t, 4096)}}, []Net{{TAP: "uvm0"}}
	vm := newVM(t, cfg)
	host := vm.mem.Host()
	// All that the guest must not write.
	const heap = codeAddr + 0x1000
	before := bytes.Clone(host[:heap])
	rodata := bytes.Clone(host[dataAddr : dataAddr+0x1000])

	const structure = 0x180000
	for i := range deputyPointers {
		p := &deputyPointers[i]
		var at []uint64
		for page := uint64(0); page < 0x10000; page += memory.PageSize {
			at = append(at, page, page+0x68, page+memory.PageSize/2)
		}
		for _, border := range []uint64{0x10000, 0x100000, heap, dataAddr, dataAddr + 0x1000, testMem} {
			at = append(at, border-p.size, border-p.size+1, border-p.size/2, border-1, border)
		}
		at = append(at, 1<<32-1, 1<<32-p.size)
		for _, a := range at {
			if p.what == "cookie" && a == 0 {
				continue // there is none
			}
			arg, want := a, p.want
			if p.field >= 0 {
				b := le64s(p.rest...)
				le.PutUint64(b[p.field:], a)
				copy(host[structure:], b)
				arg = structure
			}
			good := true
			for b := a; b < a+p.size; b++ {
				good = good && deputyPerm(b)&want == want
			}
			err := vm.ports.Access(hypercall.PortBase+uint16(p.call), 4, imm32(uint32(arg)), true)
			if err != nil {
				err = vm.portFault(vm.vcpu, err)
			}
			var e *GuestError
			var refused *hypercall.PointerError
			if ok := !errors.As(err, &refused) || refused.What != p.what; ok != good {
				t.Errorf("%v with %s at %#x = %v; want good = %v", p.call, p.what, a, err, good)
			} else if !good && (!errors.As(err, &e) || e.Kind != FaultPointer || e.Addr != a) {
				t.Errorf("%v with %s at %#x = %v; want kind %q, address %#x", p.call, p.what, a, err, FaultPointer, a)
			}
			if !bytes.Equal(host[:heap], before) || !bytes.Equal(host[dataAddr:dataAddr+0x1000], rodata) {
				t.Fatalf("%v with %s at %#x changed memory that the guest may not write", p.call, p.what, a)
			}
			if good && want&memory.Write != 0 && a >= heap && a+p.size <= testMem {
				clear(host[a : a+p.size])
			}
		}
	}
}

// TestDeputyOpensNoPort is the attack that the prototype fell to: a POLL whose
// result lies in the TSS clears the I/O bitmap, and a forbidden port opens.
func TestDeputyOpensNoPort(t *testing.T) {
	for off := uint32(0); off <= 104+0x508/8+1; off += 8 {
		g := guest{ring: RingSealed}
		insn := g.call(hypercall.Poll, uint32(sealedTSS)+off)
		g.emit(0xe6, 0x80) // out 0x80, al
		g.halt(0)
		vm := newVM(t, g.config())
		low := bytes.Clone(vm.mem.Host()[:gpaBootInfo])
		_, err := runVM(t, vm)
		var e *GuestError
		if !errors.As(err, &e) || e.Kind != FaultPointer || e.Addr != uint64(sealedTSS)+uint64(off) {
			t.Fatalf("Run() = %v; want kind %q, address %#x", err, FaultPointer, uint64(sealedTSS)+uint64(off))
		}
		wantAt(t, e, insn, 1)
		if !bytes.Equal(vm.mem.Host()[:gpaBootInfo], low) {
			t.Errorf("POLL at %#x changed the monitor's memory", e.Addr)
		}
		vm.Close()
	}
}

// TestDeputyByDisk has a guest read a disk over each of the monitor's pages and
// over its own text.
func TestDeputyByDisk(t *testing.T) {
	path := image(t, 4096)
	for _, page := range []uint64{0, uint64(gpaGDT), uint64(gpaPML4), uint64(gpaPDPT), uint64(gpaPD), uint64(gpaPT0), uint64(sealedIDT),
		uint64(sealedStubs), uint64(sealedTSS), uint64(sealedStack) - 0x1000, uint64(gpaBootInfo), codeAddr} {
		t.Run(fmt.Sprintf("%#x", page), func(t *testing.T) {
			g := guest{ring: RingSealed, devices: []loader.Device{{Name: "d", Type: loader.DeviceBlock}}}
			g.block(hypercall.BlockRead, 1, 0, page, 4096)
			g.halt(0)
			e := faultOf(t, &g, func(c *Config) { c.Disks = []Disk{{Path: path}} })
			if e.Kind != FaultPointer || e.Addr != page {
				t.Errorf("Run() = %v; want kind %q, address %#x", e, FaultPointer, page)
			}
		})
	}
}
