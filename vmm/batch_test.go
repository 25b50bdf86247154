package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
)

// batch emits a batch of one request and prints its count and result, 12 bytes.
func (g *guest) batch(op, off, ptr, n uint64) (insn uint64) {
	request := g.store(le64s(1, off, ptr, n, 0, op))
	at := g.store(le64s(uint64(request), 1, 0xdeadbeef))
	insn = g.call(hypercall.Batch, at)
	g.puts(uint64(at)+8, 12)
	return insn
}

// TestBatch runs a batch of a guest with uvm's note, which boot information announces.
func TestBatch(t *testing.T) { bothRings(t, testBatch) }

func testBatch(t *testing.T, ring Ring) {
	g := guest{ring: ring, devices: oneDisk}
	text := uint64(g.store([]byte("uvm!")))
	back := uint64(g.store(make([]byte, 8)))
	g.batch(4, 512, text, 4)
	g.batch(5, 512, back, 4)
	g.batch(5, 4096, back, 4)
	g.puts(back, 4)
	g.puts(uint64(gpaBootInfo)+40, 4)
	g.halt(0)
	out := runGuest(t, &g, func(c *Config) {
		g.withNote(0)(c)
		c.Disks = []Disk{{Path: image(t, 4096)}}
	})
	want := bytes.Join([][]byte{le64s(1), imm32(retOK), le64s(1), imm32(retOK), le64s(0), imm32(retInval), []byte("uvm!"), imm32(1 << 31)}, nil)
	if !bytes.Equal(out, want) {
		t.Errorf("output = % x; want % x", out, want)
	}
}

// TestBatchWithoutNote: a guest of Solo5's finds its ABI as it is there, whatever
// the I/O bitmap opens.
func TestBatchWithoutNote(t *testing.T) { bothRings(t, testBatchWithoutNote) }

func testBatchWithoutNote(t *testing.T, ring Ring) {
	var out bytes.Buffer
	g := guest{ring: ring, devices: oneDisk}
	g.puts(uint64(gpaBootInfo)+40, 4)
	insn := g.batch(4, 0, dataAddr, 4)
	e := faultOf(t, &g, func(c *Config) { c.Disks, c.Console = []Disk{{Path: image(t, 4096)}}, &out })
	if e.Kind != FaultPort || e.Addr != 0x509 {
		t.Errorf("Run() = %v; want kind %q, port 0x509", e, FaultPort)
	}
	wantAt(t, e, insn, 1)
	if !bytes.Equal(out.Bytes(), make([]byte, 4)) {
		t.Errorf("host_features = % x; want none", out.Bytes())
	}
}

// TestBatchWithoutDevice: as with the single calls.
func TestBatchWithoutDevice(t *testing.T) {
	bothRings(t, func(t *testing.T, ring Ring) {
		g := guest{ring: ring}
		g.batch(4, 0, dataAddr, 4)
		var missing *hypercall.InvalidCallError
		if e := faultOf(t, &g, g.withNote(0)); e.Kind != FaultHypercall || !errors.As(e, &missing) || missing.Call != hypercall.Batch {
			t.Errorf("Run() = %v; want kind %q, call 9", e, FaultHypercall)
		}
	})
}

// TestDeputyByBatch reads a disk over each of the monitor's pages and the guest's own
// text, by a batch whose first request is good.
func TestDeputyByBatch(t *testing.T) {
	for _, page := range []uint64{0, uint64(gpaGDT), uint64(gpaPML4), uint64(gpaPDPT), uint64(gpaPD), uint64(gpaPT0), uint64(sealedIDT),
		uint64(sealedStubs), uint64(sealedTSS), uint64(sealedStack) - 0x1000, uint64(gpaBootInfo), codeAddr} {
		t.Run(fmt.Sprintf("%#x", page), func(t *testing.T) {
			g := guest{ring: RingSealed, devices: oneDisk}
			requests := g.store(le64s(1, 0, dataAddr+0x800, 512, 0, 5, 1, 0, page, 4096, 0, 5))
			insn := g.call(hypercall.Batch, g.store(le64s(uint64(requests), 2, 0)))
			g.halt(0)
			cfg := g.config()
			g.withNote(0)(&cfg)
			cfg.Disks = []Disk{{Path: image(t, 4096)}}
			vm := newVM(t, cfg)
			before := bytes.Clone(vm.mem.Host()[:codeAddr+0x1000])
			_, err := runVM(t, vm)
			var e *GuestError
			if !errors.As(err, &e) || e.Kind != FaultPointer || e.Addr != page || !strings.Contains(err.Error(), "BATCH, buffer of request 1") {
				t.Fatalf("Run() = %v; want kind %q, request 1, address %#x", err, FaultPointer, page)
			}
			wantAt(t, e, insn, 1)
			if !bytes.Equal(vm.mem.Host()[:len(before)], before) {
				t.Errorf("BATCH changed memory that the guest may not write")
			}
		})
	}
}

// TestBatchGuest runs the sample that checks a disk, which has batches of its own; and,
// without its note, as a guest of Solo5's that has none.
func TestBatchGuest(t *testing.T) {
	path := filepath.Join(sampleGuests(t), "blkcheck.hvt")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const note = "\x04\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00"
	stock := bytes.Replace(file, []byte(note+"uvm\x00"), []byte(note+"xyz\x00"), 1)
	if bytes.Equal(stock, file) {
		t.Fatal("blkcheck.hvt has no note of uvm's")
	}
	bothRings(t, func(t *testing.T, ring Ring) {
		for kind, file := range map[string][]byte{"one hypercall": file, "single calls": stock} {
			for _, size := range []int64{512, 1024, 1 << 20} {
				var out bytes.Buffer
				cfg := Config{Kernel: path, KernelFile: bytes.NewReader(file), Memory: 4 << 20, Ring: ring, TSSAvailable: inLab, Console: &out, Disks: []Disk{{Path: image(t, size)}}}
				res, err := runVM(t, newVM(t, cfg))
				if err != nil || res.Status != 0 || !strings.Contains(out.String(), "batches: "+kind+"\n") {
					t.Errorf("blkcheck of %d bytes: Run() = %+v, %v; want status 0 and batches: %s\n%s", size, res, err, kind, out.String())
				}
			}
		}
	})
}
