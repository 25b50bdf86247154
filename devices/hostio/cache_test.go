package hostio

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// isDirect asks the kernel.
func isDirect(t testing.TB, d *Disk) bool {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(d.fd), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_DIRECT != 0
}

// TestCacheModes: who has O_DIRECT, and whose flush reaches the kernel.
func TestCacheModes(t *testing.T) {
	for _, c := range []struct {
		cache          string
		direct, unsafe bool
	}{{"", false, false}, {"writeback", false, false}, {"none", true, false}, {"unsafe", false, true}} {
		for name, newEngine := range engines {
			d, q := openQueueCache(t, 1<<20, newEngine, c.cache)
			if got := isDirect(t, d); got != c.direct || (d.align > 0) != c.direct {
				t.Errorf("cache=%s: O_DIRECT = %v, align = %d; want direct I/O %v", c.cache, got, d.align, c.direct)
			}
			seen := &watched{engine: q.engine}
			q.engine = seen
			if e := q.one(t, devices.DiskFlush, nil, 0, 0); e != 0 || slices.Contains(seen.ops, devices.DiskFlush) == c.unsafe {
				t.Errorf("cache=%s, %s: flush = %v, the engine is asked for %v; want 0 and a flush: %v", c.cache, name, e, seen.ops, !c.unsafe)
			}
		}
	}
}

// watched notes what its engine is asked for.
type watched struct {
	engine
	ops []devices.DiskOp
}

func (w *watched) start(tag int, s *slot) {
	w.ops = append(w.ops, s.op)
	w.engine.start(tag, s)
}

// TestDirectRefused: a file system without direct I/O. tmpfs was one until Linux 6.6.
func TestDirectRefused(t *testing.T) {
	d, err := OpenDisk("/proc/version", true, "none", 512)
	if want := "/proc/version: open: " + errNoDirect.Error(); d != nil || err == nil || err.Error() != want || !errors.Is(err, errNoDirect) {
		t.Errorf("OpenDisk(/proc/version, cache none) = %v, %v; want %q", d, err, want)
	}
}

// skewed is n bytes whose address is skew above a multiple of maxAlign.
func skewed(n, skew int) []byte {
	b := make([]byte, n+4*maxAlign)
	for misaligned(iovec(b[:maxAlign]), maxAlign) {
		b = b[1:]
	}
	return b[skew:][:n]
}

// TestBounceIsAligned: what cut relies on.
func TestBounceIsAligned(t *testing.T) {
	for range 100 {
		s := slot{op: devices.DiskRead, left: 4096, iov: []unix.Iovec{iovec(skewed(4096, 1))}}
		if s.cut(512); len(s.bounce) != 4096 || misaligned(s.part[0], maxAlign) {
			t.Fatalf("a buffer of %d bytes, aligned: %v; want 4096 and true", len(s.bounce), !misaligned(s.part[0], maxAlign))
		}
	}
	if misaligned(iovec(zeroes()), maxAlign) {
		t.Error("zeroes() are not aligned to a page")
	}
}

// TestDirectTransfer has buffers at all kinds of addresses, whole and cut where no
// sector ends.
func TestDirectTransfer(t *testing.T) {
	const size = 1 << 20
	for name, newEngine := range engines {
		d, q := openQueueCache(t, size, newEngine, "none")
		rng := rand.New(rand.NewPCG(2, 3))
		model, buffered := make([]byte, size), openShared(t, d)
		for i, c := range []struct{ off, n, skew int }{
			{0, 512, 0}, {512, 4096, 512}, {0, 4096, 1}, {4096, 3 * bounceSize, 3}, {512, size - 1024, 256},
			{size - 512, 512, 4095}, {0, size, 0}, {0, size, 8}, {512 * 7, bounceSize + 512, 511},
		} {
			for _, cut := range []bool{false, true} {
				out, in := skewed(c.n, c.skew), skewed(c.n, c.skew)
				for j := range out {
					out[j] = byte(rng.Uint32())
				}
				copy(model[c.off:], out)
				bufs := func(b []byte) [][]byte {
					if cut {
						return cutUp(rand.New(rand.NewPCG(uint64(i), 5)), b)
					}
					return [][]byte{b}
				}
				off, n := int64(c.off), int64(c.n)
				if e := q.one(t, devices.DiskWrite, bufs(out), off, n); e != 0 {
					t.Fatalf("%s: write of %d bytes at %d from an address + %d = %v; want 0", name, n, off, c.skew, e)
				}
				if e := q.one(t, devices.DiskRead, bufs(in), off, n); e != 0 || !bytes.Equal(in, out) {
					t.Fatalf("%s: read of %d bytes at %d to an address + %d = %v, or other bytes than were written", name, n, off, c.skew, e)
				}
				clear(in)
				if e := d.ReadAt(in, off); e != 0 || !bytes.Equal(in, out) {
					t.Fatalf("ReadAt(%d bytes at an address + %d, %d) = %v, or other bytes", n, c.skew, off, e)
				}
				out[0]++
				model[c.off]++
				if e := d.WriteAt(out, off); e != 0 {
					t.Fatalf("WriteAt(%d bytes at an address + %d, %d) = %v; want 0", n, c.skew, off, e)
				}
			}
		}
		if got, err := os.ReadFile(buffered); err != nil || !bytes.Equal(got, model) {
			t.Errorf("%s: the file differs from what was written (%v)", name, err)
		}
		// Neither is a whole number of sectors, which direct I/O cannot do.
		for _, c := range []struct{ off, n int }{{0, 100}, {100, 512}} {
			if e := d.ReadAt(make([]byte, c.n), int64(c.off)); e != unix.EINVAL {
				t.Errorf("ReadAt(%d bytes, %d) with direct I/O = %v; want EINVAL", c.n, c.off, e)
			}
		}
	}
}

// openShared is a path to the disk's file.
func openShared(t testing.TB, d *Disk) string {
	t.Helper()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.fd))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDirectZeroes: zeroes that uvm has to write itself.
func TestDirectZeroes(t *testing.T) {
	for name, newEngine := range engines {
		d, q := openQueueCache(t, 1<<20, newEngine, "none")
		if e := d.WriteAt(bytes.Repeat([]byte{1}, 1<<20), 0); e != 0 {
			t.Fatal(e)
		}
		q.engine = &noFallocate{engine: q.engine}
		if e := q.one(t, devices.DiskZero, nil, 512, 1<<20-1024); e != 0 {
			t.Errorf("%s: zeroes = %v; want 0", name, e)
		}
		got := make([]byte, 1<<20)
		if e := d.ReadAt(got, 0); e != 0 || got[511] != 1 || got[1<<20-512] != 1 || bytes.Count(got, []byte{0}) != 1<<20-1024 {
			t.Errorf("%s: other bytes than asked for are zero (%v)", name, e)
		}
	}
}

// noFallocate is on a file system that cannot zero a range.
type noFallocate struct {
	engine
	refused bool
	tag     int
}

func (n *noFallocate) start(tag int, s *slot) {
	if n.refused, n.tag = s.op > devices.DiskFlush, tag; !n.refused {
		n.engine.start(tag, s)
	}
}

func (n *noFallocate) reap(wait bool) (int, int) {
	if n.refused {
		return n.tag, -int(unix.EOPNOTSUPP)
	}
	return n.engine.reap(wait)
}

// TestDirectAllocs: nothing is allocated, also where a buffer is not aligned.
func TestDirectAllocs(t *testing.T) {
	for name, newEngine := range engines {
		d, q := openQueueCache(t, 1<<20, newEngine, "none")
		bufs, b := [][]byte{skewed(4096, 0), skewed(512, 7)}, skewed(512, 9)
		if n := testing.AllocsPerRun(20, func() {
			q.Do(0, devices.DiskWrite, bufs, 0, 4608)
			q.Do(1, devices.DiskRead, bufs, 8192, 4608)
			q.Done(true)
			q.Done(true)
			if e := d.ReadAt(b, 512); e != 0 {
				t.Fatal(e)
			}
		}); n != 0 {
			t.Errorf("%s: a write, a read and a ReadAt allocate %v times; want 0", name, n)
		}
	}
}
