package symbols

import (
	"encoding/binary"
	"fmt"
)

// Frame is one line of a stack trace.
type Frame struct {
	PC uint64
	// Guess is an address that merely lies on the stack and follows a call: it may be left from a call that is over.
	Guess bool
}

const (
	maxFrames = 32
	maxStack  = 16 << 10 // bytes that are looked through
)

// Trace goes up the stack of a vCPU. read copies memory at a virtual address of the guest's and says whether all of it could be
// read. Functions with frame pointers make a chain from rbp on; what else on the stack looks like a return
// address is a guess, in between where it lies, as in the Linux kernel's traces.
func (t *Table) Trace(rip, rsp, rbp uint64, read func(addr uint64, b []byte) bool) []Frame {
	frames := []Frame{{PC: rip}}
	link := rbp // where the next saved frame pointer lies, while the chain holds
	word := func(addr uint64) (uint64, bool) {
		var b [8]byte
		ok := read(addr, b[:])
		return binary.LittleEndian.Uint64(b[:]), ok
	}
	if !t.IsText(rip) { // a jump to nowhere: whoever called left its address on top
		link = 0
	}
	chained := link != 0 && link%8 == 0 && link >= rsp && link-rsp < maxStack
	sp := rsp &^ 7
	for end := sp + maxStack; sp < end && sp >= rsp&^7 && len(frames) < maxFrames; sp += 8 {
		v, ok := word(sp)
		if !ok {
			break
		}
		if chained && sp == link {
			ret, ok := word(sp + 8)
			if ok && t.isReturn(ret, read) {
				frames = append(frames, Frame{PC: ret})
				chained, link = v > link && v%8 == 0 && v-link < maxStack, v
				sp += 8 // the return address is dealt with
				continue
			}
			chained = false
		}
		if t.isReturn(v, read) {
			frames = append(frames, Frame{PC: v, Guess: true})
		}
	}
	return frames
}

// isReturn says that addr is in the text and that a call comes before it (Intel SDM volume 2, CALL).
func (t *Table) isReturn(addr uint64, read func(uint64, []byte) bool) bool {
	var b [7]byte
	if !t.IsText(addr) || !t.IsText(addr-1) {
		return false
	}
	from := uint64(7)
	for from > 1 && !read(addr-from, b[7-from:]) {
		from--
	}
	if b[2] == 0xe8 && from >= 5 { // rel32
		return true
	}
	for n := uint64(2); n <= from; n++ { // FF /2: a register, or memory with SIB and displacement
		if op := b[7-n:]; op[0] == 0xff && op[1]>>3&7 == 2 && callLength(op) == n {
			return true
		}
	}
	return false
}

// callLength is the length of an indirect call, by its ModRM and SIB.
func callLength(op []byte) uint64 {
	mod, rm := op[1]>>6, op[1]&7
	n := uint64(2)
	if mod != 3 && rm == 4 {
		if n++; len(op) > 2 && mod == 0 && op[2]&7 == 5 {
			n += 4
		}
	}
	switch {
	case mod == 1:
		n++
	case mod == 2, mod == 0 && rm == 5:
		n += 4
	}
	return n
}

// Text is the trace as lines, with guesses marked by a question mark.
func (t *Table) Text(frames []Frame) (lines []string) {
	for i, f := range frames {
		mark := "  "
		if f.Guess {
			mark = "? "
		}
		lines = append(lines, fmt.Sprintf("#%-2d %s%s", i, mark, t.Describe(f.PC, i > 0)))
	}
	return lines
}
