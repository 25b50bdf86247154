package vmm

import (
	"bytes"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/loader"
)

// Results that a guest sees (hvt ABI 2, "Hypercalls").
const (
	retOK     = 0
	retAgain  = 1
	retInval  = 2
	retUnspec = 3
)

var oneDisk = []loader.Device{{Name: "data", Type: loader.DeviceBlock}}

// block emits a block request. Its result field starts out as rubbish, so that
// a result that nobody wrote is seen; the guest prints it, four bytes.
func (g *guest) block(c hypercall.Call, handle, off, ptr, n uint64) {
	at := g.store(le64s(handle, off, ptr, n, 0xdeadbeef))
	g.call(c, at)
	g.puts(uint64(at)+32, 4)
}

// results decodes what block printed.
func results(b []byte) []int32 {
	var r []int32
	for ; len(b) >= 4; b = b[4:] {
		r = append(r, int32(le.Uint32(b)))
	}
	return r
}

// TestDisk writes and reads an image and tries the edges. The results are
// those of Solo5's tender, with its oddities.
func TestDisk(t *testing.T) { bothRings(t, testDisk) }

func testDisk(t *testing.T, ring Ring) {
	const size = 4096
	const w, r = hypercall.BlockWrite, hypercall.BlockRead
	g := guest{ring: ring, devices: oneDisk}
	pattern := bytes.Repeat([]byte("uvm!"), 128)
	src, dst := uint64(g.store(pattern)), uint64(g.store(make([]byte, 1024)))
	var want []int32
	for _, x := range []struct {
		call                hypercall.Call
		handle, off, ptr, n uint64
		want                int32
	}{
		{w, 1, 512, src, 512, retOK},
		{r, 1, 512, dst, 512, retOK},
		{w, 1, size - 512, src, 512, retOK}, // the last sector
		{r, 1, 0, dst + 512, 4, retOK},      // length and offset need not be whole sectors
		{w, 1, 100, src, 4, retOK},
		{r, 1, 10, dst, 0, retOK},
		{r, 1, size - 511, dst, 512, retInval},
		{r, 1, size, dst, 0, retInval}, // an empty request at the very end
		{r, 1, 1<<64 - 1, dst, 2, retInval},
		{r, 1, 0, dst, 1<<64 - 1, retInval},
		{r, 1, 0, dst, 1 << 63, retInval},
		{w, 0, 0, src, 512, retInval}, // the reserved entry
		{w, 2, 0, src, 512, retInval},
		{w, 63, 0, src, 512, retInval},
		{w, 64, 0, src, 512, retInval},
		{w, 1<<64 - 1, 0, src, 512, retInval},
		{w, 1 << 32, 0, src, 512, retInval},
	} {
		g.block(x.call, x.handle, x.off, x.ptr, x.n)
		want = append(want, x.want)
	}
	g.puts(dst, 512)
	g.halt(0)

	path := image(t, size)
	out := runGuest(t, &g, func(c *Config) { c.Disks = []Disk{{Path: path}} })
	n := 4 * len(want)
	if len(out) != n+512 {
		t.Fatalf("output = %d bytes; want %d", len(out), n+512)
	}
	if got := results(out[:n]); !slices.Equal(got, want) {
		t.Errorf("results = %v; want %v", got, want)
	}
	if !bytes.Equal(out[n:], pattern) {
		t.Errorf("sector 1 was read as % x …; want % x …", out[n:n+8], pattern[:8])
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	model := make([]byte, size)
	copy(model[512:], pattern)
	copy(model[size-512:], pattern)
	copy(model[100:], pattern[:4])
	if !bytes.Equal(disk, model) {
		t.Errorf("the image differs from what the guest wrote")
	}
}

// TestDiskDirect has a guest write and read by direct I/O, also at addresses that the host's
// does not take, and asks for less than a sector, which it cannot do.
func TestDiskDirect(t *testing.T) { bothRings(t, testDiskDirect) }

func testDiskDirect(t *testing.T, ring Ring) {
	g := guest{ring: ring, devices: oneDisk}
	pattern := bytes.Repeat([]byte("direct! "), 256)
	src, dst := uint64(g.store(pattern)), uint64(g.store(make([]byte, 2048)))
	for _, skew := range []uint64{0, 8, 513} {
		g.block(hypercall.BlockWrite, 1, 512, src+skew, 1024)
		g.block(hypercall.BlockRead, 1, 512, dst+skew, 1024)
	}
	g.block(hypercall.BlockRead, 1, 512, dst, 4)
	g.puts(dst+513, 1024)
	g.halt(0)
	path := image(t, 4096)
	out := runGuest(t, &g, func(c *Config) { c.Disks = []Disk{{Path: path, Cache: "none"}} })
	const n = 7 * 4
	if got, want := results(out[:n]), append(make([]int32, 6), retUnspec); !slices.Equal(got, want) {
		t.Errorf("results = %v; want %v", got, want)
	}
	want := pattern[513:][:1024]
	if disk, err := os.ReadFile(path); err != nil || !bytes.Equal(disk[512:1536], want) || !bytes.Equal(out[n:], want) {
		t.Errorf("the guest read and the image has other bytes than were written (%v)", err)
	}
}

// TestDisksByName attaches two images in the other order than the manifest's.
func TestDisksByName(t *testing.T) { bothRings(t, testDisksByName) }

func testDisksByName(t *testing.T, ring Ring) {
	g := guest{ring: ring, devices: []loader.Device{{Name: "first", Type: loader.DeviceBlock}, {Name: "second", Type: loader.DeviceBlock}}}
	g.block(hypercall.BlockWrite, 2, 0, uint64(g.store([]byte("two"))), 3)
	g.block(hypercall.BlockWrite, 1, 0, uint64(g.store([]byte("one"))), 3)
	g.halt(0)
	one, two := image(t, 512), image(t, 1024)
	runGuest(t, &g, func(c *Config) { c.Disks = []Disk{{Name: "second", Path: two}, {Path: one, Name: "first"}} })
	for path, want := range map[string]string{one: "one", two: "two"} {
		if b, err := os.ReadFile(path); err != nil || string(b[:3]) != want {
			t.Errorf("image of %q begins with %q, %v", want, b[:3], err)
		}
	}
}

// TestDiskReadOnly lets a guest write to a disk that it may only read.
func TestDiskReadOnly(t *testing.T) { bothRings(t, testDiskReadOnly) }

func testDiskReadOnly(t *testing.T, ring Ring) {
	g := guest{ring: ring, devices: oneDisk}
	buf := uint64(g.store(make([]byte, 512)))
	g.block(hypercall.BlockWrite, 1, 0, buf, 512)
	g.block(hypercall.BlockRead, 1, 0, buf, 512)
	g.halt(0)
	path := image(t, 512)
	// Read-only is enough of a permission, and of a lock: another reader holds one.
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	change := func(c *Config) {
		c.Disks = []Disk{{Path: path, ReadOnly: true}}
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	}
	other := g.config()
	change(&other)
	newVM(t, other)
	if got, want := results(runGuest(t, &g, change)), []int32{retUnspec, retOK}; !slices.Equal(got, want) {
		t.Errorf("results = %v; want %v", got, want)
	}
	wantLines(t, &log, []string{`level=ERROR msg="disk write failed" device=data error="read-only file system" count=1`})
}

// wantLines compares a log, without its times.
func wantLines(t *testing.T, log *bytes.Buffer, want []string) {
	t.Helper()
	var got []string
	for line := range strings.Lines(log.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), " ")
		got = append(got, line)
	}
	if !slices.Equal(got, want) {
		t.Errorf("log =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// onWrite is a console that runs a function for every PUTS, on the vCPU's
// thread, while the guest waits.
type onWrite func(b []byte)

func (f onWrite) Write(b []byte) (int, error) { f(b); return len(b), nil }

// TestDiskTruncated cuts the image short under a running guest: the guest
// learns of it and lives on, and the log stays short however often it tries.
func TestDiskTruncated(t *testing.T) { bothRings(t, testDiskTruncated) }

func testDiskTruncated(t *testing.T, ring Ring) {
	const tries = 9
	g := guest{ring: ring, devices: oneDisk}
	buf := uint64(g.store(make([]byte, 512)))
	g.block(hypercall.BlockRead, 1, 512, buf, 512)
	g.print("cut!")
	for range tries {
		g.block(hypercall.BlockRead, 1, 512, buf, 512)
	}
	g.block(hypercall.BlockRead, 1, 0, buf, 256) // what is left
	g.block(hypercall.BlockRead, 1, 0, buf, 512) // half of it is
	g.halt(0)

	path := image(t, 1024)
	var log bytes.Buffer
	var got []int32
	runGuest(t, &g, func(c *Config) {
		c.Disks = []Disk{{Path: path}}
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
		c.Console = onWrite(func(b []byte) {
			if string(b) != "cut!" {
				got = append(got, results(b)...)
			} else if err := os.Truncate(path, 256); err != nil {
				t.Error(err)
			}
		})
	})
	want := append([]int32{retOK}, slices.Repeat([]int32{retUnspec}, tries)...)
	want = append(want, retOK, retUnspec)
	if !slices.Equal(got, want) {
		t.Errorf("results = %v; want %v", got, want)
	}
	var lines []string
	for _, n := range []string{"1", "2", "4", "8"} {
		lines = append(lines, `level=ERROR msg="disk read failed" device=data error="input/output error" count=`+n)
	}
	wantLines(t, &log, lines)
}

// TestDiskLock holds an image in one VM and wants it in another.
func TestDiskLock(t *testing.T) {
	g := guest{devices: oneDisk}
	g.halt(0)
	path := image(t, 512)
	config := func(readOnly bool) Config {
		cfg := g.config()
		cfg.Disks = []Disk{{Path: path, ReadOnly: readOnly}}
		return cfg
	}
	testutil.CheckFDs(t)
	for _, tt := range []struct{ first, second, free bool }{ // whether read-only
		{false, false, false}, {false, true, false}, {true, false, false}, {true, true, true},
	} {
		a := newVM(t, config(tt.first))
		b, err := New(config(tt.second))
		if free := err == nil; free != tt.free {
			t.Errorf("New(read-only %v) beside one of read-only %v = %v; want free = %v", tt.second, tt.first, err, tt.free)
		}
		if err == nil {
			b.Close()
		} else if want := `disk "data": ` + path + ": open: in use"; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("New() = %q; want it to begin with %q", err, want)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		// Close has released the lock.
		c, err := New(config(false))
		if err != nil {
			t.Fatalf("New() after Close = %v; want the lock to be free", err)
		}
		c.Close()
	}
}
