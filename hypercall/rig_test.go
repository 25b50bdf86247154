package hypercall

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// The memory of the tests' guest:
//
//	0x0000 nothing    0x1000 read-only (boot info)   0x2000 hole
//	0x3000 read-only (text)   0x5000 read-write (data)   0x8000 hole
//	0x9000 read-write to the end
const (
	bootAddr = 0x1000
	holeAddr = 0x2000
	textAddr = 0x3000
	dataAddr = 0x5000
	gapAddr  = 0x8000
	heapAddr = 0x9000
	memSize  = 0x10000
)

// grants are the spans of that memory.
var grants = []struct {
	start, end memory.Addr
	perm       memory.Perm
}{
	{bootAddr, holeAddr, memory.Read}, {textAddr, dataAddr, memory.Read},
	{dataAddr, gapAddr, memory.ReadWrite}, {heapAddr, memSize, memory.ReadWrite},
}

// permAt is what the guest may do with one byte.
func permAt(a uint64) memory.Perm {
	for _, g := range grants {
		if uint64(g.start) <= a && a < uint64(g.end) {
			return g.perm
		}
	}
	return 0
}

// allowed is the model of View: byte by byte, sums without wrapping.
func allowed(a, n uint64, want memory.Perm) bool {
	if a > memSize || n > memSize-a {
		return false
	}
	for i := a; i < a+n; i++ {
		if permAt(i)&want != want {
			return false
		}
	}
	return true
}

// Handles of the tests' devices.
const (
	hNIC, hNIC63, hDisk = 1, 63, 2
)

// fakeNIC gives out in and takes what is written.
type fakeNIC struct {
	devices.NIC
	fd                 int
	in, out            []byte
	readErr, writeErr  syscall.Errno
	reads, writes, len int
}

func (n *fakeNIC) PollFD() int { return n.fd }

func (n *fakeNIC) ReadFrame(bufs [][]byte) (int, syscall.Errno) {
	b := bufs[0]
	n.reads++
	n.len = len(b)
	if n.readErr != 0 {
		return 0, n.readErr
	}
	return copy(b, n.in), 0
}

func (n *fakeNIC) WriteFrame(bufs [][]byte) syscall.Errno {
	b := bufs[0]
	n.writes++
	n.len = len(b)
	n.out = append(n.out[:0], b...)
	return n.writeErr
}

// fakeDisk is as large as size says and repeats fill.
type fakeDisk struct {
	devices.Disk
	size         int64
	fill         byte
	err          syscall.Errno
	off          int64
	got          []byte
	reads, wrote int
}

func (d *fakeDisk) Size() int64 { return d.size }

func (d *fakeDisk) ReadAt(b []byte, off int64) syscall.Errno {
	d.reads++
	d.off = off
	if d.err != 0 {
		return d.err
	}
	for i := range b {
		b[i] = d.fill
	}
	return 0
}

func (d *fakeDisk) WriteAt(b []byte, off int64) syscall.Errno {
	d.wrote++
	d.off = off
	d.got = append(d.got[:0], b...)
	return d.err
}

// fakeConsole keeps what was written last.
type fakeConsole struct {
	got []byte
	err error
}

func (c *fakeConsole) Write(b []byte) (int, error) {
	c.got = append(c.got[:0], b...)
	return len(b), c.err
}

// hostErr is a call of HostError.
type hostErr struct {
	dev    string
	handle int
	op     string
	err    syscall.Errno
}

// rig is a table with two NICs, a disk and a console.
type rig struct {
	*Table
	t           testing.TB
	mem         *memory.Memory
	nic, nic63  *fakeNIC
	disk        *fakeDisk
	console     *fakeConsole
	errs        []hostErr
	wake        int    // write end of the wake pipe
	ready, rd63 int    // write ends of the NICs'
	eax         []byte // of the OUT
}

func pipe(t testing.TB) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

func newRig(t testing.TB) *rig {
	t.Helper()
	mem, err := memory.New(memSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	v := memory.NewView(mem)
	for _, g := range grants {
		if err := v.Grant(g.start, g.end, g.perm); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{
		t: t, mem: mem, nic: &fakeNIC{}, nic63: &fakeNIC{}, eax: make([]byte, 4),
		disk: &fakeDisk{size: 4096, fill: 0xdd}, console: &fakeConsole{},
	}
	c := Config{View: v, Console: r.console, HasBatch: true}
	r.nic.fd, r.ready = pipe(t)
	r.nic63.fd, r.rd63 = pipe(t)
	c.WakeFD, r.wake = pipe(t)
	c.NICs[hNIC], c.NICs[hNIC63], c.Disks[hDisk] = r.nic, r.nic63, r.disk
	c.HostError = func(dev string, handle int, op string, err syscall.Errno) {
		r.errs = append(r.errs, hostErr{dev, handle, op, err})
	}
	r.Table = New(c)
	return r
}

// call makes a hypercall with the structure at gpa.
func (r *rig) call(c Call, gpa uint32) error {
	le.PutUint32(r.eax, gpa)
	return r.PortOut(PortBase+uint16(c), 4, r.eax)
}

// put stores 64-bit words at gpa.
func (r *rig) put(gpa uint64, words ...uint64) {
	for i, w := range words {
		le.PutUint64(r.mem.Host()[gpa+uint64(i)*8:], w)
	}
}

func (r *rig) u64(gpa uint64) uint64 { return le.Uint64(r.mem.Host()[gpa:]) }
func (r *rig) i32(gpa uint64) int32  { return int32(le.Uint32(r.mem.Host()[gpa:])) }

// ok makes a call that must succeed and change no byte but those of the given
// ranges (start, length).
func (r *rig) ok(c Call, gpa uint32, changed ...uint64) {
	r.t.Helper()
	want := bytes.Clone(r.mem.Host())
	if err := r.call(c, gpa); err != nil {
		r.t.Fatalf("%v at %#x = %v; want nil", c, gpa, err)
	}
	for ; len(changed) > 0; changed = changed[2:] {
		copy(want[changed[0]:], r.mem.Host()[changed[0]:changed[0]+changed[1]])
	}
	for i, b := range r.mem.Host() {
		if b != want[i] {
			r.t.Fatalf("%v at %#x changed the byte at %#x from %#x to %#x; want it left alone", c, gpa, i, want[i], b)
		}
	}
}

// hostErrs compares the calls of HostError since the last comparison.
func (r *rig) hostErrs(want ...hostErr) {
	r.t.Helper()
	if len(r.errs) != len(want) || len(want) > 0 && r.errs[0] != want[0] {
		r.t.Errorf("HostError was told %v; want %v", r.errs, want)
	}
	r.errs = r.errs[:0]
}

// refused makes a call that must fail with the given PointerError and change
// nothing.
func (r *rig) refused(c Call, gpa uint32, what string, a, n uint64, perm memory.Perm) {
	r.t.Helper()
	before := bytes.Clone(r.mem.Host())
	err := r.call(c, gpa)
	want := PointerError{c, what, memory.AccessError{Addr: memory.Addr(a), Len: n, Want: perm, End: memSize}}
	var pe *PointerError
	if !errors.As(err, &pe) || *pe != want {
		r.t.Fatalf("%v at %#x = %v; want %v", c, gpa, err, &want)
	}
	if !bytes.Equal(before, r.mem.Host()) {
		r.t.Fatalf("%v at %#x was refused and changed memory", c, gpa)
	}
}
