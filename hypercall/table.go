package hypercall

import (
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
	// Limits are those of a handle's writes, and of its reads; nil = none. A guest waits
	// in the call for what it writes and for its disks, in POLL for frames.
	Limits   [MaxHandles][2]*devices.Limiter
	HasBatch bool // the guest is one that may know Batch
	// WakeFD becomes readable to interrupt a POLL, or the wait for a limit.
	WakeFD int
	// HostError is told what fails on the host's side. dev is "disk", "net" or
	// "console", handle the device's handle. The guest decides how often it is
	// called, so it must not write a line for each.
	HostError func(dev string, handle int, op string, err syscall.Errno)
}

// callTable says what carries a hypercall out. size is that of its argument structure
// with padding, in bytes; perm what the guest has to be allowed to do with it: a
// structure that takes a result must be writable. live is the structure in guest
// memory, for the result; arg the copy of it, for everything else.
var callTable = [NumCalls]struct {
	run  func(t *Table, c Call, arg, live []byte) error
	size uint64
	perm memory.Perm
}{
	Walltime:   {(*Table).walltime, 8, memory.Write},   // 0 ns
	Puts:       {(*Table).puts, 16, memory.Read},       // 0 pointer, 8 length
	Poll:       {(*Table).poll, 24, memory.ReadWrite},  // 0 timeout in ns
	BlockWrite: {(*Table).block, 40, memory.ReadWrite}, // 0 handle, 8 offset, 16 pointer, 24 length
	BlockRead:  {(*Table).block, 40, memory.ReadWrite}, //
	NetWrite:   {(*Table).net, 32, memory.ReadWrite},   // 0 handle, 8 pointer, 16 length
	NetRead:    {(*Table).net, 32, memory.ReadWrite},   //
	HaltCall:   {(*Table).halt, 16, memory.Read},       // 0 cookie, 8 exit status (32 bits)
	Batch:      {(*Table).batch, 24, memory.ReadWrite}, // 0 pointer, 8 number of requests
}

// Table dispatches hypercalls. It is a devices.PortDevice for ports FirstPort
// to LastPort.
type Table struct {
	Config
	exists [NumCalls]bool

	// pollFDs are the NICs and, last, the wake descriptor; pollHandles says
	// whose each one is.
	pollFDs     []unix.PollFd
	pollHandles []uint8

	// Of a call that was interrupted: the rest of POLL's time, the bytes that PUTS has written.
	polling bool
	left    uint64 // ns
	written int

	last  [16]Record // the n-th call's is at n modulo 16
	count uint64

	frame    [1][]byte                    // argument of the NICs; on the stack it would be allocated
	requests [batchMax * requestSize]byte // copy of a batch's
}

// New returns a table for the given devices. As with Solo5's tender the block
// and net calls exist only if there is such a device.
func New(c Config) *Table {
	t := &Table{Config: c, exists: [NumCalls]bool{Walltime: true, Puts: true, Poll: true, HaltCall: true}}
	for h := range c.Disks {
		if c.Disks[h] != nil {
			t.exists[BlockWrite], t.exists[BlockRead], t.exists[Batch] = true, true, true
		}
		if c.NICs[h] != nil {
			t.exists[NetWrite], t.exists[NetRead], t.exists[Batch] = true, true, true
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
	if size != 4 || len(data) != 4 || n >= NumCalls || Call(n) == Batch && !t.HasBatch {
		return devices.NewPortError(port, size, data, true)
	}
	c, call := Call(n), &callTable[n]
	if !t.exists[n] {
		return &InvalidCallError{c}
	}
	live, err := t.View.Access(memory.Addr(le.Uint32(data)), call.size, call.perm)
	if err != nil {
		return pointerError(c, "argument", err)
	}
	r := &t.last[t.count%uint64(len(t.last))]
	t.count++
	r.Call, r.Done, r.Addr, r.Result = c, false, le.Uint32(data), 0
	arg := r.Arg[:call.size]
	copy(arg, live)
	if err = call.run(t, c, arg, live); err == nil && call.perm == memory.ReadWrite {
		r.Result = int32(le.Uint32(live[call.size-8:])) // is there in all of them
	}
	r.Done = err == nil
	return err
}

// Record is a hypercall that was made.
type Record struct {
	Call   Call
	Done   bool     // else it ended the guest, or was interrupted
	Addr   uint32   // of its structure
	Arg    [40]byte // what that held before the call, and behind it what other calls have left
	Result int32    // of a call that has one
}

// Last are the last 16 hypercalls, or as many as there were, the latest one first. It is for the vCPU's goroutine,
// or when that has ended.
func (t *Table) Last() (calls []Record) {
	for i := t.count; i > 0 && t.count-i < uint64(len(t.last)); i-- {
		calls = append(calls, t.last[(i-1)%uint64(len(t.last))])
	}
	return calls
}

// Arg is the structure of the last hypercall as it was before the call, borrowed.
func (t *Table) Arg() []byte { return t.last[(t.count-1)%uint64(len(t.last))].Arg[:] }

// PortIn is refused: nothing can be read from a hypercall port.
func (t *Table) PortIn(port uint16, size int, data []byte) error {
	return devices.NewPortError(port, size, data, false)
}

// SaveState returns nothing: a hypercall is over when the guest runs again,
// and the devices behind it belong to the host.
func (t *Table) SaveState() ([]byte, error) { return nil, nil }

// LoadState accepts what SaveState returns.
func (t *Table) LoadState(state []byte) error {
	return devices.LoadState("hypercalls", nil, state, nil)
}

// buffer returns the n bytes at ptr, for the guest to read into or to write from;
// what names them in the error.
func (t *Table) buffer(c Call, what string, ptr, n uint64) ([]byte, error) {
	perm := memory.Read
	if c == BlockRead || c == NetRead {
		perm = memory.Write
	}
	b, err := t.View.Access(memory.Addr(ptr), n, perm)
	if err != nil {
		return nil, pointerError(c, what, err)
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
