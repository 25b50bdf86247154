package virtio

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/hostio"
)

var _ Device = (*Blk)(nil)

func TestBlkConfig(t *testing.T) {
	disk := newFakeDisk(t, 10*512+511)
	b, err := NewBlk(disk, false, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 60)
	copy(want, "\x0a")
	copy(want[12:], "\xfe")
	copy(want[20:], "\x00\x02")
	copy(want[36:], "\x00\x00\x40\x00\x01\x00\x00\x00\x08\x00\x00\x00\x00\x00\x40\x00\x01\x00\x00\x00\x01")
	if i := b.Info(); !bytes.Equal(i.Config, want) || i.Type != 2 || !slices.Equal(i.Queues, []uint16{256}) || b.PollFD() != -1 {
		t.Errorf("Info() = %+v, PollFD() = %d; want configuration % x, type 2, queues [256], -1", i, b.PollFD(), want)
	}
	for ro, want := range map[bool]uint64{false: 1<<2 | 1<<6 | 1<<9 | 1<<13 | 1<<14, true: 1<<2 | 1<<5 | 1<<6 | 1<<9} {
		if b, _ := NewBlk(newFakeDisk(t, 512), ro, "", nil); b.Info().Features != want {
			t.Errorf("features with readOnly %v = %#x; want %#x", ro, b.Info().Features, want)
		}
	}
	if err := b.Close(); err != nil || !disk.closed {
		t.Errorf("Close() = %v, and the disk is closed: %v; want nil, true", err, disk.closed)
	}
	if err := b.Serve(); err != nil {
		t.Errorf("Serve() without a queue = %v; want nil", err)
	}
}

// TestBlkRequests has every kind of request, and those that are refused with a
// status. The disk has 8 sectors.
func TestBlkRequests(t *testing.T) {
	const maxSector = 1<<64 - 1
	s := func(n int) []byte { return bytes.Repeat([]byte{0xee}, n) }
	seg := blkSegment
	for _, c := range []struct {
		name   string
		ro     bool
		kind   uint32
		sector uint64
		out    []byte
		in     int // without the status
		status byte
		used   uint32
		calls  string
	}{
		{"read", false, blkIn, 1, nil, 1024, blkOK, 1025, "read 512+1024"},
		{"read all", false, blkIn, 0, nil, 4096, blkOK, 4097, "read 0+4096"},
		{"read nothing", false, blkIn, 8, nil, 0, blkOK, 1, ""},
		{"read read-only", true, blkIn, 7, nil, 512, blkOK, 513, "read 3584+512"},
		{"read behind the end", false, blkIn, 8, nil, 512, blkIOErr, 1, ""},
		{"read over the end", false, blkIn, 7, nil, 1024, blkIOErr, 1, ""},
		{"read nothing behind the end", false, blkIn, 9, nil, 0, blkIOErr, 1, ""},
		{"read more than there is", false, blkIn, 0, nil, 4608, blkIOErr, 1, ""},
		{"read at the last sector of all", false, blkIn, maxSector, nil, 512, blkIOErr, 1, ""},
		{"read at a sector whose byte overflows", false, blkIn, 1 << 55, nil, 512, blkIOErr, 1, ""},
		{"read half a sector", false, blkIn, 0, nil, 256, blkIOErr, 1, ""},
		{"read a byte too much", false, blkIn, 0, nil, 513, blkIOErr, 1, ""},
		{"write", false, blkOut, 2, s(512), 0, blkOK, 1, "write 1024+512"},
		{"write nothing", false, blkOut, 0, nil, 0, blkOK, 1, ""},
		{"write with room to read", false, blkOut, 0, s(512), 512, blkOK, 1, "write 0+512"},
		{"write over the end", false, blkOut, 7, s(1024), 0, blkIOErr, 1, ""},
		{"write behind the end", false, blkOut, maxSector, s(512), 0, blkIOErr, 1, ""},
		{"write half a sector", false, blkOut, 0, s(100), 0, blkIOErr, 1, ""},
		{"write read-only", true, blkOut, 0, s(512), 0, blkIOErr, 1, ""},
		{"write nothing read-only", true, blkOut, 0, nil, 0, blkIOErr, 1, ""},
		{"flush", false, blkSync, 0, nil, 0, blkOK, 1, "flush 0+0"},
		{"flush with a sector and data", false, blkSync, maxSector, s(7), 9, blkOK, 1, "flush 0+0"},
		{"flush read-only", true, blkSync, 0, nil, 0, blkOK, 1, "flush 0+0"},
		{"serial", false, blkGetID, maxSector, nil, 20, blkOK, 21, ""},
		{"serial in too little", false, blkGetID, 0, nil, 5, blkOK, 6, ""},
		{"serial in too much", false, blkGetID, 0, nil, 30, blkOK, 21, ""},
		{"discard", false, 11, 99, seg(1, 3, 0), 0, blkOK, 1, "discard 512+1536"},
		{"discard nothing", false, 11, 0, seg(8, 0, 0), 0, blkOK, 1, ""},
		{"discard over the end", false, 11, 0, seg(7, 2, 0), 0, blkIOErr, 1, ""},
		{"discard behind the end", false, 11, 0, seg(maxSector, 1, 0), 0, blkIOErr, 1, ""},
		{"discard too much", false, 11, 0, seg(0, maxRange+1, 0), 0, blkIOErr, 1, ""},
		{"discard with a flag", false, 11, 0, seg(0, 1, 1), 0, blkUnsupp, 1, ""},
		{"discard two ranges", false, 11, 0, append(seg(0, 1, 0), seg(1, 1, 0)...), 0, blkIOErr, 1, ""},
		{"discard half a range", false, 11, 0, s(15), 0, blkIOErr, 1, ""},
		{"discard read-only", true, 11, 0, seg(0, 1, 0), 0, blkIOErr, 1, ""},
		{"write zeroes", false, 13, 0, seg(0, 8, 0), 0, blkOK, 1, "write of zeroes 0+4096"},
		{"write zeroes, free", false, 13, 0, seg(7, 1, 1), 0, blkOK, 1, "write of zeroes 3584+512"},
		{"write zeroes with an unknown flag", false, 13, 0, seg(7, 1, 2), 0, blkUnsupp, 1, ""},
		{"write zeroes over the end", false, 13, 0, seg(1, 8, 0), 0, blkIOErr, 1, ""},
		{"write zeroes read-only", true, 13, 0, seg(0, 1, 0), 0, blkIOErr, 1, ""},
		{"unknown", false, 1 << 31, 0, s(512), 512, blkUnsupp, 1, ""},
	} {
		// In one piece, in the usual three, and split at random.
		for cut := range 10 {
			rng := rand.New(rand.NewPCG(uint64(cut), 1))
			r := newBlkRig(t, newFakeDisk(t, 8*512), c.ro, blkFlush)
			before, header := slices.Clone(r.disk.data), blkHeader(c.kind, c.sector)
			out, in := [][]byte{append(header, c.out...)}, []int{c.in + 1}
			if cut == 1 && len(c.out) > 0 {
				out = [][]byte{header, c.out}
			} else if cut > 1 {
				out, in = cutBytes(rng, out[0], 20), cutSizes(rng, in[0], 20)
			}
			status, data, used := r.request(out, in...)
			if status != c.status || used != c.used {
				t.Errorf("%s, cut %d: status %d, used length %d; want %d, %d", c.name, cut, status, used, c.status, c.used)
			}
			if got := strings.Join(r.disk.calls, " "); cut == 0 && got != c.calls {
				t.Errorf("%s: the disk was asked for %q; want %q", c.name, got, c.calls)
			}
			off, want := c.sector*512, make([]byte, c.in)
			if c.kind == blkIn && c.status == blkOK {
				copy(want, before[off:])
			} else if c.kind == blkGetID {
				copy(want, "serial-0123456789abc")
			} else if c.kind == blkOut && c.status == blkOK {
				copy(before[off:], c.out)
			} else if (c.kind == blkDiscardKind || c.kind == blkZeroesKind) && c.status == blkOK {
				clear(before[512*le.Uint64(c.out):][:512*le.Uint32(c.out[8:])])
			}
			if !bytes.Equal(data, want) {
				t.Errorf("%s, cut %d: the guest has % x; want % x", c.name, cut, data, want)
			}
			if !bytes.Equal(r.disk.data, before) {
				t.Errorf("%s, cut %d: the disk has other bytes than it should have", c.name, cut)
			}
			if r.logs != nil {
				t.Errorf("%s, cut %d: logged %q; want nothing: the host has not failed", c.name, cut, r.logs)
			}
		}
	}
}

// TestBlkMalformed: chains that cannot carry an answer, or no question.
func TestBlkMalformed(t *testing.T) {
	for _, c := range []struct {
		name string
		out  [][]byte
		in   []int
	}{
		{"nothing", nil, []int{}},
		{"no header", nil, []int{513}},
		{"short header", [][]byte{make([]byte, 15)}, []int{1}},
		{"short header in pieces", [][]byte{{0}, {0, 0}, make([]byte, 12)}, []int{512, 1}},
		{"no status", [][]byte{blkHeader(blkOut, 0), make([]byte, 512)}, nil},
	} {
		r := newBlkRig(t, newFakeDisk(t, 4096), false, blkFlush)
		if c.out == nil && len(c.in) == 0 {
			r.Desc(0, bufBase, 0, 0, 0) // one empty buffer
			r.Offer(0)
		} else {
			r.Add(c.out, c.in...)
		}
		if err := r.rounds(); err == nil || len(r.disk.calls) != 0 {
			t.Errorf("%s: Serve() = %v after %q; want an error, and the disk left alone", c.name, err, r.disk.calls)
		}
		if _, _, ok := r.driver.Done(); ok {
			t.Errorf("%s: the chain was returned", c.name)
		}
		// After a reset it works again.
		r.restart(t, blkFlush)
		if status, _, _ := r.request([][]byte{blkHeader(blkSync, 0)}, 1); status != blkOK {
			t.Errorf("%s: status after a reset = %d; want 0", c.name, status)
		}
	}
}

// TestBlkDurability: a driver without FLUSH gets each write flushed before its
// status; one with it does not, until it asks.
func TestBlkDurability(t *testing.T) {
	write := [][]byte{blkHeader(blkOut, 1), make([]byte, 512)}
	for _, c := range []struct {
		features uint64
		calls    string
	}{
		{blkFlush, "write 512+512"},
		{0, "write 512+512,flush 0+0"},
		{blkSegMax, "write 512+512,flush 0+0"},
	} {
		r := newBlkRig(t, newFakeDisk(t, 4096), false, c.features)
		var seen byte
		_, bufs := r.Add(write, 1)
		bufs[0][0] = 0x77
		r.disk.fail = func(op string, _ int) devices.Errno {
			if _, _, ok := r.driver.Done(); ok {
				t.Errorf("features %#x: the request is complete before its %s", c.features, op)
			}
			seen = bufs[0][0]
			return 0
		}
		if err := r.rounds(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.disk.calls, ","); got != c.calls || seen != 0x77 || bufs[0][0] != blkOK {
			t.Errorf("features %#x: the disk was asked for %q, status %#x before and %d after; want %q, 0x77, 0", c.features, got, seen, bufs[0][0], c.calls)
		}
	}
	// A read needs no flush, and a write that failed does not get one.
	r := newBlkRig(t, newFakeDisk(t, 4096), false, 0)
	r.disk.fail = func(op string, _ int) devices.Errno {
		if op == "write" {
			return syscall.EIO
		}
		return 0
	}
	r.request([][]byte{blkHeader(blkIn, 0)}, 513)
	if status, _, _ := r.request(write, 1); status != blkIOErr || strings.Join(r.disk.calls, ",") != "read 0+512,write 512+512" {
		t.Errorf("status %d after %q; want 1 after a read and a write", status, r.disk.calls)
	}
}

// TestBlkFaults: the host fails at each piece of a request.
func TestBlkFaults(t *testing.T) {
	for _, e := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS, syscall.EBADF} {
		for _, c := range []struct {
			kind uint32
			op   string
			at   int
		}{
			{blkIn, "read", 0}, {blkIn, "read", 100}, {blkIn, "read", 1000},
			{blkOut, "write", 0}, {blkOut, "write", 100}, {blkOut, "write", 1000},
			{blkSync, "flush", 0}, {blkOut, "flush", 0},
		} {
			features := uint64(blkFlush)
			if c.kind == blkOut && c.op == "flush" {
				features = 0
			}
			r := newBlkRig(t, newFakeDisk(t, 4096), false, features)
			r.disk.fail = func(op string, off int) devices.Errno {
				if op == c.op && off == c.at {
					return e
				}
				return 0
			}
			out, in := [][]byte{blkHeader(c.kind, 0)}, []int{1}
			switch c.kind {
			case blkIn:
				in = []int{100, 900, 24, 1}
			case blkOut:
				out = append(out, make([]byte, 100), make([]byte, 900), make([]byte, 24))
			}
			for range 2 { // the device does not get stuck in it
				if status, _, used := r.request(out, in...); status != blkIOErr || used != 1 {
					t.Errorf("%v in %s at %d: status %d, used length %d; want 1, 1", e, c.op, c.at, status, used)
				}
			}
			if want := c.op + ": " + e.Error(); !slices.Equal(r.logs, []string{want, want}) {
				t.Errorf("%v in %s at %d: logged %q; want %q twice", e, c.op, c.at, r.logs, want)
			}
			r.disk.fail = nil
			if status, _, _ := r.request(out, in...); status != blkOK {
				t.Errorf("%s after %v = %d; want 0", c.op, e, status)
			}
		}
	}
}

// TestBlkOnFile goes through the transport to a real file.
func TestBlkOnFile(t *testing.T) {
	path := t.TempDir() + "/disk.img"
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err := hostio.OpenDisk(path, false, "", 512)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewBlk(disk, false, "file", func(op string, e devices.Errno) { t.Errorf("%s: %v", op, e) })
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, b)
	d := g.start(b.Info().Features)[0]
	want := bytes.Repeat([]byte("sector. "), 64)
	request := func(out [][]byte, in ...int) []byte {
		head, bufs := d.Add(out, in...)
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			_, fd := g.m.Serve()
			if h, _, ok := d.Done(); ok {
				if h != uint32(head) {
					t.Fatalf("used element = %d; want %d", h, head)
				}
				return bytes.Join(bufs, nil)
			}
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000)
		}
		t.Fatal("no answer for 10 s")
		return nil
	}
	check := func(what string, got []byte, want ...byte) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the guest has % .20x; want % .20x", what, got, want)
		}
	}
	check("write", request([][]byte{blkHeader(blkOut, 2047), want[:100], want[100:]}, 1), 0)
	check("flush", request([][]byte{blkHeader(blkSync, 0)}, 1), 0)
	check("read", request([][]byte{blkHeader(blkIn, 2047)}, 500, 12, 1), append(want, 0)...)
	check("read over the end", request([][]byte{blkHeader(blkIn, 2048)}, 1, 1), 0, blkIOErr)
	check("write", request([][]byte{blkHeader(blkOut, 2000), want, want}, 1), 0)
	check("write zeroes", request([][]byte{blkHeader(blkZeroesKind, 0), blkSegment(2000, 1, 0)}, 1), 0)
	check("discard", request([][]byte{blkHeader(blkDiscardKind, 0), blkSegment(0, 1000, 0)}, 1), 0)
	check("read", request([][]byte{blkHeader(blkIn, 2000)}, 1024, 1), append(append(make([]byte, 512), want...), 0)...)
	if n := g.irqs.Load(); n == 0 {
		t.Error("no interrupt")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[2047*512:], want) {
		t.Errorf("the file does not have what was written (%v)", err)
	}
}
