package vmm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/uvm-monitor/uvm/kvm"
	"github.com/uvm-monitor/uvm/memory"
)

// Exception vectors (AMD64 APM volume 2, section 8.2).
const (
	vecDB = 1
	vecBP = 3
	vecOF = 4
	vecUD = 6
	vecDF = 8
	vecSS = 12
	vecGP = 13
	vecPF = 14
)

// hasErrorCode has a bit for each vector that pushes an error code.
const hasErrorCode = 1<<vecDF | 1<<10 | 1<<11 | 1<<vecSS | 1<<vecGP | 1<<vecPF | 1<<17 | 1<<21 | 1<<29 | 1<<30

// Bits of RFLAGS.
const (
	flagsReserved = 1 << 1
	flagsTF       = 1 << 8
	flagsIF       = 1 << 9
	// flagsGuest is what a guest may set: the arithmetic flags, DF, TF, AC and
	// ID. IOPL must stay 0, or the I/O bitmap would mean nothing.
	flagsGuest = 0xcd5 | flagsTF | 1<<18 | 1<<21
)

func guestFlags(f uint64) uint64 { return f&flagsGuest | flagsReserved }

// What a guest believes its selectors to be: those of ring 0 in hvt ABI 2.
const (
	abiCode = 0x08
	abiData = 0x10
)

// sealed is what the monitor remembers of a guest in ring 3 instead of the
// processor: the tables that the guest loaded, and where it is when it traps.
//
// It is a devices.Saver.
type sealed struct {
	vm        *VM
	userSregs kvm.Sregs // the state in ring 3, but for what the guest changed

	gdt, idt kvm.DTable // of the guest's LGDT and LIDT
	tr       uint16     // of its LTR
	tss      kvm.DTable // what that selector meant then; zero before
	cr2      uint64     // what it would read from CR2
	traps    uint64     // exceptions so far

	rip, code uint64 // of the last exception, for Trace
}

// trapFrame is an exception as the processor left it on the ring-0 stack.
type trapFrame struct {
	vector, code     uint64
	rip, rflags, rsp uint64
	cs, ss           uint64
	// Borrowed, see kvm.VCPU.State. RIP, RSP and RFLAGS are the stub's there.
	regs  *kvm.Regs
	sregs *kvm.Sregs
}

// pushesCode says whether the exception has an error code on the stack. (A shift
// by more than the width gives 0: interrupts have none.)
func (f *trapFrame) pushesCode() bool { return uint64(hasErrorCode)>>f.vector&1 != 0 }

func newSealed(vm *VM, cr4 uint64) *sealed {
	code := kvm.Segment{Limit: 0xffffffff, Selector: selUserCode, Type: 11, Present: 1, S: 1, L: 1, G: 1, DPL: 3}
	data := kvm.Segment{Limit: 0xffffffff, Selector: selUserData, Type: 3, Present: 1, S: 1, DB: 1, G: 1, DPL: 3}
	tss := kvm.Segment{Base: uint64(sealedTSS), Limit: sealedTSSSize - 1, Selector: selTSS, Type: 11, Present: 1} // busy, as every processor wants it
	if vm.cfg.TSSAvailable {
		tss.Type = 9
	}
	return &sealed{vm: vm, userSregs: kvm.Sregs{
		CS: code, SS: data, DS: data, ES: data, FS: data, GS: data,
		TR:  tss,
		LDT: kvm.Segment{Unusable: 1},
		GDT: kvm.DTable{Base: uint64(gpaGDT), Limit: 6*8 - 1},
		IDT: kvm.DTable{Base: uint64(sealedIDT), Limit: 256*16 - 1},
		CR0: ring0CR0, CR3: uint64(gpaPML4), CR4: cr4, EFER: sealedEFER,
	}}
}

// trap handles an exception, which a stub has brought here by an OUT to the
// port of its vector. nil lets the guest go on.
func (s *sealed) trap(vector uint16) error {
	s.traps++
	f, err := s.frame(vector)
	if err != nil {
		return err
	}
	s.rip, s.code = f.rip, f.code
	if regs := f.regs; vector == vecPF && f.rip == syscallSentinel && bytes.HasPrefix(s.vm.bytesAt(regs.RCX-2), []byte{0x0f, 0x05}) {
		// SYSCALL without EFER.SCE, on a KVM that does not honour that: make it
		// what it should have been.
		f.vector, f.code, f.rip, f.rflags = vecUD, 0, regs.RCX-2, regs.R11
	}
	switch {
	case f.vector == vecDF:
		return s.fault(f, FaultSeal, noAddr)
	case s.vm.cfg.Debug != nil && s.debug(f):
	case f.vector == vecGP:
		err = s.privileged(f)
	case f.vector == vecPF && s.violates(f, f.sregs.CR2):
		return s.fault(f, FaultTranslation, f.sregs.CR2)
	default:
		if f.vector == vecPF {
			s.cr2 = f.sregs.CR2
		}
		err = s.deliver(f)
	}
	if err != nil {
		return err
	}
	s.resume(f)
	return nil
}

// frame reads the exception frame and checks that it is one that the processor
// made: everything else means that ring 0 was reached in another way.
func (s *sealed) frame(vector uint16) (*trapFrame, error) {
	regs, sregs, err := s.vm.vcpu.State()
	if err != nil {
		return nil, err
	}
	f := &trapFrame{vector: uint64(vector), regs: regs, sregs: sregs}
	size := uint64(5 * 8)
	if f.pushesCode() {
		size += 8
	}
	b, err := s.vm.mem.At(sealedStack-memory.Addr(size), size)
	if err != nil {
		return nil, err
	}
	if size > 40 {
		f.code, b = le.Uint64(b), b[8:]
	}
	f.rip, f.cs, f.rflags, f.rsp, f.ss = le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
	// KVMs differ in whether rip is at the stub's OUT or past it.
	stub := uint64(sealedStubs) + uint64(vector)*stubSize
	if regs.RSP != uint64(sealedStack)-size || f.cs != selUserCode && f.rip != syscallSentinel ||
		sregs.CS.Selector != selKernelCode || regs.RIP != stub && regs.RIP != stub+2 {
		return nil, s.fault(f, FaultSeal, noAddr)
	}
	return f, nil
}

// resume continues the guest in ring 3 where f says.
func (s *sealed) resume(f *trapFrame) {
	regs, sregs := f.regs, f.sregs
	sregs.CS, sregs.SS = s.userSregs.CS, s.userSregs.SS
	sregs.TR = s.userSregs.TR // KVM on SVM calls it busy whatever it is
	regs.RIP, regs.RSP, regs.RFLAGS = f.rip, f.rsp, guestFlags(f.rflags)
	s.vm.vcpu.SetState()
}

// Bits of a page fault's error code.
const (
	pfPresent = 1 << 0
	pfUser    = 1 << 2
	pfFetch   = 1 << 4
)

// violates says whether a page fault is one that the guest's own view of its
// memory would not have given: in ring 0 all above 1 MiB is writable and
// everything mapped is executable. Such a fault is the seal at work.
func (s *sealed) violates(f *trapFrame, addr uint64) bool {
	switch {
	case addr >= s.vm.mem.Size() || addr < uint64(gpaBootInfo):
		return false
	case addr < uint64(gpaLowEnd):
		return f.code&pfFetch != 0
	}
	return true
}

// deliver goes to the guest's own handler. A guest without one that can be
// entered ends.
func (s *sealed) deliver(f *trapFrame) error {
	if s.enter(f) {
		return nil
	}
	addr := noAddr
	if f.vector == vecPF {
		addr = s.cr2
	}
	return s.fault(f, FaultException, addr)
}

// enter calls the handler as the processor would in ring 0 (AMD64 APM volume 2,
// section 8.9.3): gate from the guest's IDT, stack from its TSS if the gate names
// one, frame on that stack.
func (s *sealed) enter(f *trapFrame) bool {
	view := s.vm.view
	offset := f.vector * 16
	gate, err := view.Readable(memory.Addr(s.idt.Base+offset), 16)
	if err != nil || s.idt.Base == 0 || offset+15 > uint64(s.idt.Limit) {
		return false
	}
	low, high := le.Uint64(gate), le.Uint64(gate[8:])
	typ := low >> 40 & 0xff
	handler := low&0xffff | low>>32&0xffff0000 | high<<32
	if typ&0x9f != 0x8e && typ&0x9f != 0x8f || low>>16&0xffff != abiCode || !canonical(handler) {
		return false
	}
	rsp := f.rsp
	if ist := low >> 32 & 7; ist != 0 {
		offset := 36 + (ist-1)*8
		b, err := view.Readable(memory.Addr(s.tss.Base+offset), 8)
		if err != nil || offset+7 > uint64(s.tss.Limit) {
			return false
		}
		rsp = le.Uint64(b)
	}
	rsp &^= 15
	frame := []uint64{f.rip, abiCode, f.rflags &^ flagsIF, f.rsp, abiData}
	if f.pushesCode() {
		frame = append([]uint64{s.codeFor(f)}, frame...)
	}
	size := uint64(len(frame)) * 8
	stack, err := view.Writable(memory.Addr(rsp-size), size)
	if err != nil {
		return false
	}
	for i, w := range frame {
		le.PutUint64(stack[i*8:], w)
	}
	f.rip, f.rsp, f.rflags = handler, rsp-size, f.rflags&^flagsTF
	return true
}

// codeFor is the error code that the guest's handler finds. A page fault's is that
// of ring 0 under tables of its own, which know no NX and nothing of the
// monitor's memory.
func (s *sealed) codeFor(f *trapFrame) uint64 {
	switch {
	case f.vector != vecPF:
		return f.code
	case s.cr2 < uint64(gpaBootInfo):
		return f.code &^ (pfPresent | pfUser | pfFetch)
	}
	return f.code &^ (pfUser | pfFetch)
}

// loadTR is LTR, as execute: it reads the descriptor, as the processor does, once.
func (s *sealed) loadTR(sel uint16) bool {
	offset := uint64(sel &^ 7)
	b, err := s.vm.view.Readable(memory.Addr(s.gdt.Base+offset), 16)
	if err != nil || offset == 0 || offset+15 > uint64(s.gdt.Limit) {
		return false
	}
	const availableTSS = 0x89
	low, high := le.Uint64(b), le.Uint64(b[8:])
	if low>>40&0x9f != availableTSS {
		return false
	}
	s.tr = sel
	s.tss = kvm.DTable{Base: low>>16&0xffffff | low>>56<<24 | high<<32, Limit: uint16(min(low&0xffff|low>>32&0xf0000, 0xffff))}
	return true
}

func canonical(a uint64) bool { return uint64(int64(a)<<16>>16) == a }

// fault is the report of a guest that ends.
func (s *sealed) fault(f *trapFrame, kind FaultKind, addr uint64) *GuestError {
	exit := kvm.ExitShutdown // in ring 0 the guest would have ended by a triple fault
	if kind == FaultHLT {
		exit = kvm.ExitHLT
	}
	e := &GuestError{
		Kind: kind, RIP: f.rip, Addr: addr, Exit: uint32(exit),
		Vector: uint8(f.vector), Code: f.code, Key: s.vm.keyOf(f, addr), Insn: s.vm.bytesAt(f.rip), Regs: *f.regs,
	}
	e.Regs.RIP, e.Regs.RSP, e.Regs.RFLAGS = f.rip, f.rsp, f.rflags
	return e
}

// sealedState is what is saved of a sealed guest, little-endian and without padding.
// Registers and memory are saved with the vCPU.
type sealedState struct {
	GDT, IDT, TSS                uint64
	GDTLimit, IDTLimit, TSSLimit uint16
	TR                           uint16
	CR2, Traps                   uint64
}

// SaveState returns what the guest believes of its processor.
func (s *sealed) SaveState() ([]byte, error) {
	return binary.Append(nil, le, sealedState{s.gdt.Base, s.idt.Base, s.tss.Base, s.gdt.Limit, s.idt.Limit, s.tss.Limit, s.tr, s.cr2, s.traps})
}

// LoadState takes a saved state back. The addresses in it are as little trusted
// as when the guest gave them.
func (s *sealed) LoadState(b []byte) error {
	var v sealedState
	if n := binary.Size(v); len(b) != n {
		return fmt.Errorf("sealed guest: saved state has %d bytes, need %d", len(b), n)
	}
	binary.Decode(b, le, &v) // fails for another length only
	s.gdt, s.idt = kvm.DTable{Base: v.GDT, Limit: v.GDTLimit}, kvm.DTable{Base: v.IDT, Limit: v.IDTLimit}
	s.tss, s.tr, s.cr2, s.traps = kvm.DTable{Base: v.TSS, Limit: v.TSSLimit}, v.TR, v.CR2, v.Traps
	return nil
}
