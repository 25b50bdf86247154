package virtio_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/devices/hostio"
	"github.com/uvm-monitor/uvm/devices/virtio"
)

// socketNIC is one end of a socket pair that keeps frames apart, with the descriptors
// and system calls of a TAP and without its privilege.
type socketNIC struct{ fd int }

func (n *socketNIC) ReadFrame(bufs [][]byte) (int, devices.Errno) {
	k, err := unix.Readv(n.fd, bufs)
	if err != nil {
		return 0, err.(syscall.Errno)
	}
	return k, 0
}

func (n *socketNIC) WriteFrame(bufs [][]byte) devices.Errno {
	if _, err := unix.Writev(n.fd, bufs); err != nil {
		return err.(syscall.Errno)
	}
	return 0
}

func (n *socketNIC) VnetHeader() int              { return netHeader }
func (n *socketNIC) SetOffload(int) syscall.Errno { return 0 }
func (n *socketNIC) PollFD() int                  { return n.fd }
func (n *socketNIC) MTU() int                     { return 1500 }
func (n *socketNIC) Close() error                 { return unix.Close(n.fd) }

const netHeader = 12

// frameOf is a vnet header that asks for nothing and a frame of n bytes.
func frameOf(n int, fill byte) []byte {
	return append(make([]byte, netHeader), bytes.Repeat([]byte{fill}, n)...)
}

func netSubject(t *testing.T) (*subject, func()) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	peer, b := p[1], make([]byte, 1<<17)
	empty := func(fd int) {
		for {
			if _, err := unix.Read(fd, b); err != nil {
				return
			}
		}
	}
	dev := virtio.NewNet(&socketNIC{p[0]}, [6]byte{2, 0, 0, 0, 0, 1}, 1500)
	s := newSubject(t, "net", 1, dev)
	long, short := frameOf(9000, 3), frameOf(60, 4)
	s.offer = func(s *subject, q int) {
		if d := s.drivers[q]; d.Free > d.Size-2 {
			return
		} else if q == 0 {
			d.Add(nil, netHeader+1+s.rng.IntN(500), 1) // room for some frames
		} else {
			d.Add([][]byte{short[:netHeader+s.rng.IntN(61)]})
		}
	}
	s.host = func(s *subject) {
		unix.Write(peer, long)
		unix.Write(peer, short[:1+s.rng.IntN(len(short))])
		empty(peer)
	}
	s.prove = func(s *subject) {
		s.reset() // and nobody else reads what is left from before
		empty(p[0])
		empty(peer)
		s.start(1000)
		_, in := s.drivers[0].Add(nil, 256)
		want := frameOf(100, 9)
		if _, err := unix.Write(peer, want); err != nil {
			s.t.Fatal(err)
		}
		if _, n := s.used(0); int(n) != len(want) || !bytes.Equal(in[0][netHeader:n], want[netHeader:]) {
			s.t.Fatalf("net after %d resets: received %d bytes; want the frame of %d", s.resets, n, len(want))
		}
		s.drivers[1].Add([][]byte{want})
		s.used(1)
		if n, err := unix.Read(peer, b); err != nil || !bytes.Equal(b[:n], want) {
			s.t.Fatalf("net after %d resets: sent %d bytes, %v; want the frame of %d", s.resets, n, err, len(want))
		}
	}
	return s, func() {
		dev.Close()
		unix.Close(peer)
	}
}

const diskSize = 1 << 20

// request offers a request of a kind (section 5.2.6) for n bytes at sector.
func request(s *subject, kind uint32, sector uint64, data []byte, n int) (in [][]byte) {
	h := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, kind), 0)
	binary.LittleEndian.PutUint64(h[4:], 0)
	h = append(h, 0, 0, 0, 0)
	binary.LittleEndian.PutUint64(h[8:], sector)
	out := [][]byte{h}
	if data != nil {
		out = append(out, data)
	}
	if n > 0 {
		_, in = s.drivers[0].Add(out, n, 1)
	} else {
		_, in = s.drivers[0].Add(out, 1)
	}
	return in
}

func blkSubject(t *testing.T, name string, seed uint64, disk devices.Disk) (*subject, func()) {
	dev, err := virtio.NewBlk(disk, false, "serial", func(string, devices.Errno) {})
	if err != nil {
		t.Fatal(err)
	}
	s := newSubject(t, name, seed, dev)
	block := bytes.Repeat([]byte{7}, 512)
	s.offer = func(s *subject, _ int) {
		if d := s.drivers[0]; d.Free > d.Size-3 {
			return
		}
		sector := s.rng.Uint64N(diskSize/512 + 2)
		switch s.rng.IntN(4) {
		case 0:
			request(s, 1, sector, block, 0)
		case 1:
			request(s, []uint32{4, 8, 11, 13, 99}[s.rng.IntN(5)], sector, block[:16], 0)
		default:
			request(s, 0, sector, nil, 512<<s.rng.IntN(2))
		}
	}
	s.host = func(*subject) {}
	s.prove = func(s *subject) {
		want := make([]byte, 512)
		for i := range want {
			want[i] = byte(s.rng.Uint32())
		}
		st := request(s, 1, 5, want, 0)
		if s.used(0); st[0][0] != 0 {
			s.t.Fatalf("%s after %d resets: a write ends with status %d; want 0", name, s.resets, st[0][0])
		}
		in := request(s, 0, 5, nil, 512)
		if _, n := s.used(0); n != 513 || in[1][0] != 0 || !bytes.Equal(in[0], want) {
			s.t.Fatalf("%s after %d resets: a read has %d bytes, status %d; want 513, 0 and what was written", name, s.resets, n, in[1][0])
		}
	}
	return s, func() { dev.Close() }
}

func diskSubject(t *testing.T) (*subject, func()) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, diskSize), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := hostio.OpenDisk(image, false, "", 512)
	if err != nil {
		t.Fatal(err)
	}
	return blkSubject(t, "disk", 2, d)
}

func slowSubject(t *testing.T) (*subject, func()) {
	return blkSubject(t, "slow disk", 3, &slowDisk{data: make([]byte, diskSize), fd: eventfd(t)})
}

// slowDisk has goroutines of its own that touch a request's memory late, in any order:
// a reset that does not wait for them is caught.
type slowDisk struct {
	devices.Disk
	data []byte
	fd   int
	mu   sync.Mutex
}

func (d *slowDisk) Size() int64  { return diskSize }
func (d *slowDisk) Close() error { return nil }

func (d *slowDisk) Queue(n int) (devices.DiskQueue, error) {
	q := &slowQueue{slowDisk: d, todo: make(chan slowRequest, n), done: make(chan int, n)}
	for range 3 {
		go func() {
			for r := range q.todo {
				q.do(&r)
			}
		}()
	}
	return q, nil
}

type slowRequest struct {
	tag  int
	op   devices.DiskOp
	bufs [][]byte
	off  int64
}

type slowQueue struct {
	*slowDisk
	todo     chan slowRequest
	done     chan int
	inFlight int
}

func (q *slowQueue) do(r *slowRequest) {
	for range r.off / 512 % 8 {
		runtime.Gosched()
	}
	q.mu.Lock()
	for off := r.off; r.op == devices.DiskRead && len(r.bufs) > 0; r.bufs = r.bufs[1:] {
		off += int64(copy(r.bufs[0], q.data[off:]))
	}
	for off := r.off; r.op == devices.DiskWrite && len(r.bufs) > 0; r.bufs = r.bufs[1:] {
		off += int64(copy(q.data[off:], r.bufs[0]))
	}
	q.mu.Unlock()
	q.done <- r.tag
	unix.Write(q.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (q *slowQueue) Do(tag int, op devices.DiskOp, bufs [][]byte, off, _ int64) {
	q.inFlight++
	q.todo <- slowRequest{tag, op, append([][]byte(nil), bufs...), off}
}

func (q *slowQueue) Done(wait bool) (tag int, e devices.Errno) {
	unix.Read(q.fd, make([]byte, 8))
	if wait && q.inFlight > 0 {
		tag = <-q.done
	} else {
		select {
		case tag = <-q.done:
		default:
			return -1, 0
		}
	}
	q.inFlight--
	return tag, 0
}

func (q *slowQueue) PollFD() int { return q.fd }

func (q *slowQueue) Close() error {
	close(q.todo)
	return nil
}
