package virtio

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
)

// Console is the console device (section 5.3) with one port and no size.
type Console struct {
	Base
	out    io.Writer
	in     int // -1: none, or it has ended
	rx, tx *Queue
	ready  bool   // rx has a buffer for input
	sent   uint64 // bytes of tx's next chain that are written
	c      Chain
}

// NewConsole returns a console that writes to out, and reads the descriptor in
// unless that is -1. out does not keep what it is given; what it refuses is lost.
// The console owns neither.
func NewConsole(out io.Writer, in int) *Console { return &Console{out: out, in: in} }

// Info is that of a console with receiveq and transmitq of port 0. The configuration
// space is empty: its fields belong to features that are not offered.
func (d *Console) Info() Info { return Info{Type: 3, Queues: []uint16{64, 64}} }

// Start begins.
func (d *Console) Start(_ uint64, q []*Queue) { d.rx, d.tx = q[0], q[1] }

// Serve writes what the guest sends, and reads as far as the guest has buffers.
func (d *Console) Serve() error {
	if err := d.transmit(); err != nil {
		return err
	}
	return d.receive()
}

// transmit makes one write, of a part of a buffer if that is long.
func (d *Console) transmit() error {
	for {
		ok, err := d.tx.Pop(&d.c)
		if !ok || err != nil {
			return err
		}
		if len(d.c.In) > 0 {
			return errors.New("console: a chain to transmit has writable buffers")
		}
		if rest := d.c.Out.Skip(d.sent); len(rest) > 0 {
			b := rest[0][:min(len(rest[0]), maxTransfer)]
			n, err := d.out.Write(b)
			if err != devices.ErrInterrupted {
				n = len(b)
			}
			d.sent += uint64(n)
			d.tx.Again()
			return nil
		}
		d.sent = 0
		d.tx.Push(d.c.Head, 0)
	}
}

func (d *Console) receive() error {
	d.ready = false
	for d.in >= 0 {
		ok, err := d.rx.Pop(&d.c)
		if !ok || err != nil {
			return err
		}
		if len(d.c.Out) > 0 || len(d.c.In) == 0 {
			return errors.New("console: a chain to receive has readable buffers, or no writable one")
		}
		b := d.c.In[0]
		n := d.read(b[:min(len(b), maxTransfer)])
		if d.ready = n == 0; d.ready {
			d.rx.Unpop()
			return nil
		}
		d.rx.Push(d.c.Head, uint32(n))
	}
	return nil
}

// read returns 0 where nothing waits, and at the end of the input, which is for
// good. A descriptor that blocks is asked first.
func (d *Console) read(b []byte) int {
	fds := [1]unix.PollFd{{Fd: int32(d.in), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds[:], 0); n <= 0 || err != nil {
		return 0
	}
	n, err := unix.Read(d.in, b)
	if n <= 0 && err != unix.EINTR && err != unix.EAGAIN {
		d.in = -1
	}
	return max(n, 0)
}

// PollFD is the input while it can be taken.
func (d *Console) PollFD() int {
	if d.ready {
		return d.in
	}
	return -1
}

// Reset forgets the driver. The end of the input stays.
func (d *Console) Reset() { *d = Console{out: d.out, in: d.in} }

// SaveState is how much of the chain in transmission is written, 8 bytes.
func (d *Console) SaveState() ([]byte, error) { return le.AppendUint64(nil, d.sent), nil }

// LoadState takes any number: a chain that is shorter is done.
func (d *Console) LoadState(state []byte) error {
	if len(state) != 8 {
		return fmt.Errorf("console: saved state has %d bytes, need 8", len(state))
	}
	d.sent = le.Uint64(state)
	return nil
}
