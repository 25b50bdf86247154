package gdb

import "errors"

// Target is a machine under a debugger. A Server calls it from one goroutine at a time. Threads are numbered from 0.
type Target interface {
	// Threads is the number of vCPUs, at least 1.
	Threads() int

	// Describe says in a few words what a thread is.
	Describe(thread int) string

	// Program is the path of the file that the guest's symbols are in; "" = unknown.
	Program() string

	// Halt stops all vCPUs, if they run, for as long as Resume is not called. The
	// methods below are called on a machine that is stopped.
	Halt() error

	// Resume lets the vCPUs go on, each as modes says. When it has stopped again, by itself or
	// by Interrupt, all of it has, and Events says why.
	Resume(modes []Mode) error

	// Interrupt has a machine that runs stop; it may have stopped meanwhile. The
	// stop's Signal is SIGINT.
	Interrupt()

	// Events tells of stops, one after each Resume. It does not block the machine: it has room for one. An
	// event may also come while the machine is stopped, when somebody else ends it.
	Events() <-chan Event

	Registers(thread int) (Registers, error)
	SetRegisters(thread int, r *Registers) error

	// ReadMemory reads from a virtual address of the thread's, as far as there is memory.
	ReadMemory(thread int, addr uint64, b []byte) (n int, err error)
	// WriteMemory writes all of b, or nothing.
	WriteMemory(thread int, addr uint64, b []byte) error

	// SetPoint and ClearPoint plant a breakpoint or watchpoint of size bytes and take it away; setting one that
	// is set and clearing one that is not are no errors. ErrUnsupported is one that could never fire here.
	SetPoint(kind PointKind, thread int, addr, size uint64) error
	ClearPoint(kind PointKind, addr, size uint64) error

	// Monitor carries out a command of the user's and returns what to show.
	Monitor(command string) string

	// Kill ends the machine.
	Kill()

	// Detach is the end of a client that Halt was called for: it takes everything of the debugger's out of the guest
	// and lets it run, if it has not ended.
	Detach()
}

// ErrUnsupported is a request that this machine cannot fulfil.
var ErrUnsupported = errors.New("not possible on this machine")

// Mode is what Resume makes of a vCPU.
type Mode uint8

// The modes.
const (
	Stay Mode = iota // stay stopped
	Run
	Step // execute one instruction
)

// PointKind is a kind of breakpoint or watchpoint, by the number that the protocol gives it.
type PointKind uint8

// The kinds.
const (
	SoftwareBreak PointKind = iota // an instruction in place of the guest's
	HardwareBreak
	WatchWrite
	WatchRead
	WatchAccess
)

// Event is why a machine has stopped.
type Event struct {
	Thread int
	Signal int // Unix number, as gdb shows it: 2 interrupted, 5 trap, 11 fault …

	// A stop by a point is known by its kind, and a watchpoint by an address in it.
	Point bool
	Kind  PointKind
	Addr  uint64

	// Exited is a machine that has ended: with Status, or Signal if that is not 0.
	Exited bool
	Status uint8
}
