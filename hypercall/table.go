package hypercall

import (
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/memory"
)

// MaxHandles is the number of manifest entries, and of device handles.
const MaxHandles = 64

// Config is what a Table is made from.
type Config struct {
	View    *memory.View // what the guest may reach
	Console io.Writer    // takes PUTS
	// Disks and NICs have the handle as their index; nil where the handle is
	// of another type or not attached.
	Disks [MaxHandles]devices.Disk
	NICs  [MaxHandles]devices.NIC
	// WakeFD becomes readable to end a POLL before its time.
	WakeFD int
	// HostError is told what fails on the host's side. dev is "disk", "net" or
	// "console", handle the device's handle. The guest decides how often it is
	// called, so it must not write a line for each.
	HostError func(dev string, handle int, op string, err syscall.Errno)
}

// Table dispatches hypercalls. It is a devices.PortDevice for ports FirstPort
// to LastPort.
type Table struct {
	Config
	calls [numCalls]func(*Table, Call, memory.Addr) error // nil: no such call here

	// pollFDs are the NICs and, last, the wake descriptor; pollHandles says
	// whose each one is.
	pollFDs     []unix.PollFd
	pollHandles []uint8

	frame [1][]byte // argument of the NICs; on the stack it would be allocated
}

// New returns a table for the given devices. As with Solo5's tender the block
// and net calls exist only if there is such a device.
func New(c Config) *Table {
	t := &Table{Config: c}
	t.calls[Walltime], t.calls[Puts], t.calls[Poll], t.calls[HaltCall] = (*Table).walltime, (*Table).puts, (*Table).poll, (*Table).halt
	for h := range c.Disks {
		if c.Disks[h] != nil {
			t.calls[BlockWrite], t.calls[BlockRead] = (*Table).block, (*Table).block
		}
		if c.NICs[h] != nil {
			t.calls[NetWrite], t.calls[NetRead] = (*Table).net, (*Table).net
			t.addPoll(c.NICs[h].PollFD(), uint8(h))
		}
	}
	t.addPoll(c.WakeFD, 0)
	return t
}

func (t *Table) addPoll(fd int, handle uint8) {
	t.pollFDs = append(t.pollFDs, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	t.pollHandles = append(t.pollHandles, handle)
}

// PortOut is one hypercall. The error is a *Halt when the guest ends itself.
func (t *Table) PortOut(port uint16, size int, data []byte) error {
	n := port - PortBase
	if size != 4 || len(data) != 4 || n >= numCalls {
		return devices.NewPortError(port, size, data, true)
	}
	if call := t.calls[n]; call != nil {
		return call(t, Call(n), memory.Addr(le.Uint32(data)))
	}
	return &InvalidCallError{Call(n)}
}

// PortIn is refused: nothing can be read from a hypercall port.
func (t *Table) PortIn(port uint16, size int, data []byte) error {
	return devices.NewPortError(port, size, data, false)
}

// SaveState returns nothing: a hypercall is over when the guest runs again,
// and the devices behind it belong to the host.
func (t *Table) SaveState() ([]byte, error) { return nil, nil }

// LoadState accepts what SaveState returns.
func (t *Table) LoadState(state []byte) error {
	if len(state) != 0 {
		return fmt.Errorf("hypercalls: saved state has %d bytes, need 0", len(state))
	}
	return nil
}

// argument copies the structure at gpa into buf and returns the live bytes as
// well, for results. A structure that takes a result must be writable.
func (t *Table) argument(c Call, gpa memory.Addr, buf []byte, result bool) ([]byte, error) {
	access := t.View.Readable
	if result {
		access = t.View.ReadWritable
	}
	live, err := access(gpa, uint64(len(buf)))
	if err != nil {
		return nil, pointerError(c, "argument", err)
	}
	copy(buf, live)
	return live, nil
}

// buffer returns the n bytes at ptr, for the guest to read into or to write from.
func (t *Table) buffer(c Call, ptr, n uint64) ([]byte, error) {
	access := t.View.Readable
	if c == BlockRead || c == NetRead {
		access = t.View.Writable
	}
	b, err := access(memory.Addr(ptr), n)
	if err != nil {
		return nil, pointerError(c, "buffer", err)
	}
	return b, nil
}

func pointerError(c Call, what string, err error) error {
	return &PointerError{Call: c, What: what, AccessError: *err.(*memory.AccessError)}
}

func (t *Table) hostError(dev string, handle int, op string, err syscall.Errno) {
	if t.HostError != nil {
		t.HostError(dev, handle, op, err)
	}
}
