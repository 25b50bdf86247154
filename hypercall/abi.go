package hypercall

import (
	"encoding/binary"
	"fmt"

	"github.com/uvm-monitor/uvm/memory"
)

// PortBase is the port of hypercall 0; FirstPort to LastPort are the ones that
// can be called.
const (
	PortBase  = 0x500
	FirstPort = PortBase
	LastPort  = PortBase + NumCalls - 1
)

// Bits of host_features: the network ring is there, and Batch. Solo5 counts its own
// features from bit 0 up.
const FeatureRing, FeatureBatch = 1 << 0, 1 << 31

// Call is the number of a hypercall.
type Call uint8

// The hypercalls (hvt ABI 2). Number 0 is reserved; Batch is uvm's own.
const (
	Walltime Call = iota + 1
	Puts
	Poll
	BlockWrite
	BlockRead
	NetWrite
	NetRead
	HaltCall
	Batch
	NumCalls = iota + 1 // with the reserved one
)

func (c Call) String() string {
	names := [NumCalls]string{"hypercall 0", "WALLTIME", "PUTS", "POLL", "BLOCK_WRITE", "BLOCK_READ", "NET_WRITE", "NET_READ", "HALT", "BATCH"}
	if c < NumCalls {
		return names[c]
	}
	return fmt.Sprintf("hypercall %d", uint8(c))
}

// Results of a hypercall, as the guest sees them.
const (
	resultOK    = 0
	resultAgain = 1
	resultInval = 2
	resultError = 3 // SOLO5_R_EUNSPEC
)

// Offsets of results in the argument structures, in bytes: what is not named here is
// an input at a multiple of eight.
const (
	pollOffReady = 8
	pollOffRet   = 16
	blockOffRet  = 32
	netOffLen    = 16 // an input too
	netOffRet    = 24
	batchOffDone = 8 // an input too
	batchOffRet  = 16

	requestOffCall = 40 // of a batch's request, behind the single call's structure
)

// A batch has at most batchMax requests of requestSize bytes, and ends early when it
// has moved batchBytes: a VM has to be stoppable.
const (
	batchMax    = 64
	requestSize = 48
	batchBytes  = 1 << 20
)

const cookieSize = 512 // of HALT, bytes

var le = binary.LittleEndian

// InvalidCallError is a hypercall number that does not exist, or belongs to a
// kind of device that the guest has none of.
type InvalidCallError struct{ Call Call }

func (e *InvalidCallError) Error() string {
	return fmt.Sprintf("no hypercall number %d", uint8(e.Call))
}

// PointerError is a hypercall whose structure, or a pointer in it, leaves the
// memory that the guest may use.
type PointerError struct {
	Call Call
	What string // which pointer
	memory.AccessError
}

func (e *PointerError) Error() string {
	return fmt.Sprintf("hypercall %v, %s: %v", e.Call, e.What, &e.AccessError)
}

func (e *PointerError) Unwrap() error { return &e.AccessError }

// Halt is how a guest's own HALT reaches the run loop.
type Halt struct {
	Status int32
	Frame  *TrapFrame // the guest trapped and says where; nil otherwise
}

func (h *Halt) Error() string { return fmt.Sprintf("guest halted with status %d", h.Status) }

// TrapFrame is what a Solo5 guest leaves at HALT's cookie when it dies of a
// trap (hvt ABI 2, HALT), in its order there.
type TrapFrame struct{ CR2, ErrorCode, RIP, CS, RFLAGS, RSP, SS uint64 }
