package meter

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
)

// fake is a NIC, disk, queue and console that answers what a test says.
type fake struct {
	errno  syscall.Errno
	err    error
	n, hdr int
	done   []int
	closed *int
}

func (f *fake) SetOffload(int) syscall.Errno            { return f.errno }
func (f *fake) PollFD() int                             { return -1 }
func (f *fake) MTU() int                                { return 1500 }
func (f *fake) VnetHeader() int                         { return f.hdr }
func (f *fake) ReadFrame([][]byte) (int, syscall.Errno) { return f.n, f.errno }
func (f *fake) WriteFrame([][]byte) syscall.Errno       { return f.errno }
func (f *fake) Close() error                            { *f.closed++; return nil }
func (f *fake) Write(b []byte) (int, error)             { return f.n, f.err }
func (f *fake) Do(tag int, _ devices.DiskOp, _ [][]byte, _, _ int64) {
	f.done = append(f.done, tag)
}
func (f *fake) Done(bool) (int, syscall.Errno) {
	if len(f.done) == 0 {
		return -1, 0
	}
	tag := f.done[0]
	f.done = f.done[1:]
	return tag, f.errno
}

// fakeDisk has its queue apart, whose Close is another.
type fakeDisk struct {
	errno syscall.Errno
	queue *fake
}

func (d *fakeDisk) ReadAt([]byte, int64) syscall.Errno  { return d.errno }
func (d *fakeDisk) WriteAt([]byte, int64) syscall.Errno { return d.errno }
func (d *fakeDisk) Flush() syscall.Errno                { return d.errno }
func (d *fakeDisk) Size() int64                         { return 4096 }
func (d *fakeDisk) Close() error                        { return nil }
func (d *fakeDisk) Queue(n int) (devices.DiskQueue, error) {
	if d.queue == nil {
		return nil, errors.New("no queue")
	}
	return d.queue, nil
}

// row is one operation of the only device, as COUNT BYTES ERRORS.
func rowOf(m *Meter, op string) string {
	o := m.Stats()[0].Ops[op]
	return fmt.Sprint(o.Count, " ", o.Bytes, " ", o.Errors)
}

func want(t *testing.T, m *Meter, op, want string) {
	t.Helper()
	if got := rowOf(m, op); got != want {
		t.Errorf("%s = %s; want %s", op, got, want)
	}
}

func TestNIC(t *testing.T) {
	for _, hdr := range []int{0, 12} {
		m := New(false)
		f := &fake{n: 98 + hdr, hdr: hdr, closed: new(int)}
		n := m.NIC("eth0", f)
		bufs := [][]byte{make([]byte, hdr), make([]byte, 14), make([]byte, 50)}
		for _, e := range []syscall.Errno{0, 0, syscall.EAGAIN, syscall.EIO} {
			f.errno = e
			if got, errno := n.ReadFrame(bufs); got != f.n || errno != e {
				t.Errorf("ReadFrame() = %d, %v; want %d, %v", got, errno, f.n, e)
			}
			if errno := n.WriteFrame(bufs); errno != e {
				t.Errorf("WriteFrame() = %v; want %v", errno, e)
			}
		}
		want(t, m, "rx", "3 196 1")
		want(t, m, "tx", "4 128 2") // a full queue of the host's is an error for who sends
		if n.VnetHeader() != hdr || n.Close() != nil || *f.closed != 1 {
			t.Error("what is not counted does not come through")
		}
		if s := m.Stats()[0]; s.Name != "eth0" || s.Kind != "net" || s.Ops["rx"].Latency != nil {
			t.Errorf("Stats() = %+v; want a net eth0 without times", s)
		}
	}
}

func TestDisk(t *testing.T) {
	m := New(true)
	f := &fakeDisk{queue: &fake{}}
	d := m.Disk("vda", f)
	d.ReadAt(make([]byte, 512), 0)
	d.WriteAt(make([]byte, 1024), 0)
	f.errno = syscall.EIO
	d.ReadAt(make([]byte, 512), 0)
	q, err := d.Queue(4)
	if err != nil {
		t.Fatal(err)
	}
	q.Do(3, devices.DiskRead, nil, 0, 4096)
	q.Do(0, devices.DiskFlush, nil, 0, 0)
	q.Do(1, devices.DiskDiscard, nil, 0, 1<<30)
	for _, wantTag := range []int{3, 0, 1, -1} {
		f.queue.errno = map[int]syscall.Errno{1: syscall.EIO}[wantTag]
		if tag, e := q.Done(false); tag != wantTag || e != f.queue.errno {
			t.Errorf("Done() = %d, %v; want %d, %v", tag, e, wantTag, f.queue.errno)
		}
	}
	want(t, m, "read", "3 4608 1")
	want(t, m, "write", "1 1024 0")
	want(t, m, "flush", "1 0 0")
	want(t, m, "discard", "1 0 1")
	want(t, m, "zero", "0 0 0")
	hist := uint64(0)
	for _, n := range m.Stats()[0].Ops["read"].Latency {
		hist += n
	}
	if hist != 3 {
		t.Errorf("latencies of %d reads; want 3", hist)
	}
	f.queue = nil
	if _, err := d.Queue(4); err == nil {
		t.Error("Queue() = nil; want the disk's error")
	}
}

func TestConsole(t *testing.T) {
	m := New(false)
	f := &fake{n: 3}
	w := m.Console("ttyS0", f)
	for _, err := range []error{nil, devices.ErrInterrupted, io.ErrShortWrite} {
		f.err = err
		if n, got := w.Write([]byte("hello")); n != 3 || got != err {
			t.Errorf("Write() = %d, %v; want 3, %v", n, got, err)
		}
	}
	want(t, m, "write", "3 6 1")
}

// TestLatency has the buckets grow with the time, up to the last.
func TestLatency(t *testing.T) {
	m := New(true)
	d := m.add("x", "net")
	for _, ns := range []int64{1000, 1 << 20, 1 << 50} {
		d.done(rx, 1, false, d.now()-time.Duration(ns))
	}
	l := m.Stats()[0].Ops["rx"].Latency
	if len(l) != devices.LatencyBuckets || l[devices.LatencyBuckets-1] != 1 {
		t.Errorf("latencies = %v; want one in the last of %d buckets", l, devices.LatencyBuckets)
	}
	n := uint64(0)
	for i, c := range l[:devices.LatencyBuckets-1] {
		if n += c; c > 0 && i < 10 {
			t.Errorf("a latency of 1 µs or more in bucket %d, up to %d ns", i, 1<<i)
		}
	}
	if n != 2 {
		t.Errorf("latencies = %v; want 3", l)
	}
}

// TestConcurrent reads while devices write; nothing on that way allocates.
func TestConcurrent(t *testing.T) {
	m := New(true)
	n := m.NIC("eth0", &fake{n: 60})
	d, q := m.Disk("vda", &fakeDisk{queue: &fake{}}), devices.DiskQueue(nil)
	q, _ = d.Queue(1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			n.ReadFrame(nil)
		}
	})
	wg.Go(func() {
		for range 1000 {
			d.ReadAt(nil, 0)
		}
	})
	for range 100 {
		m.Stats()
	}
	wg.Wait()
	if got := testing.AllocsPerRun(100, func() {
		n.ReadFrame(nil)
		n.WriteFrame(nil)
		d.ReadAt(nil, 0)
		q.Do(0, devices.DiskRead, nil, 0, 1)
	}); got > 0.2 { // the fake's own list grows
		t.Errorf("an operation allocates %v times; want 0", got)
	}
}
