package appscan

import (
	"debug/elf"
	"fmt"
	"slices"

	"golang.org/x/arch/x86/x86asm"
)

// maxStates is with how many different registers an instruction is looked at
// before what they differ in counts as unknown.
const maxStates = 4

// visit is a place to look at: via says how the application gets there.
type visit struct {
	o    *object
	addr uint64
	regs regs
	via  string
}

// Uses are what an application can do.
type Uses struct {
	Calls   map[int]string             // system calls, by number: how it gets there
	Own     map[int]map[string]bool    // those that its own code makes, not the C library's: the files
	Callers map[string]map[string]bool // functions of other files that it calls: the files that call them
	Hidden  []string                   // places where the number of a system call is not constant
	Missing []string                   // libraries that were not found

	families map[int16]map[string]bool // constant address families of socket(2) and socketpair(2)
	locks    map[string]bool           // who asks fcntl(2) for locks of files
	files    []*object
	programs map[string]bool // labels of those that are no libraries
}

// note adds a file to a set of a map.
func note[K comparable](m map[K]map[string]bool, k K, file string) {
	if m[k] == nil {
		m[k] = map[string]bool{}
	}
	m[k][file] = true
}

// scanner follows the code of a program and its libraries.
type scanner struct {
	objects []*object
	seen    map[*object]map[uint64][]regs
	tables  map[*object]map[uint64]bool
	todo    []visit
	uses    *Uses
	hidden  map[string]bool
}

func newScanner(objects []*object) *scanner {
	s := &scanner{objects: objects, seen: map[*object]map[uint64][]regs{}, tables: map[*object]map[uint64]bool{}, hidden: map[string]bool{},
		uses: &Uses{Calls: map[int]string{}, Own: map[int]map[string]bool{}, Callers: map[string]map[string]bool{},
			families: map[int16]map[string]bool{}, locks: map[string]bool{}, files: objects}}
	for _, o := range objects {
		s.seen[o], s.tables[o] = map[uint64][]regs{}, map[uint64]bool{}
	}
	return s
}

// run looks at all code that the objects can reach: of a position-independent
// program and of libraries, what their entry points, constructors, and pointers
// in their data lead to, directly or by jump tables; of another program all
// code, since its data does not tell pointers from numbers.
func (s *scanner) run() {
	for i, o := range s.objects {
		if i == 0 && (o.kind == elf.ET_EXEC || o.golang) {
			s.sweep(o)
		}
		if o.entry != 0 {
			s.add(o, o.entry, nothing, o.label)
		}
		for _, a := range o.start {
			s.add(o, a, nothing, o.label)
		}
		for at, sl := range o.slots {
			switch {
			case sl.symbol != "" && in(o.data, at) != nil && !o.libc() && i == 0:
				s.call(o, sl.symbol, nothing, o.label)
			case sl.symbol == "" && !o.libc():
				s.add(o, sl.addr, nothing, o.label)
			}
		}
	}
	for len(s.todo) > 0 {
		v := s.todo[0] // the shortest way is told
		s.todo = s.todo[1:]
		s.follow(v)
	}
	slices.Sort(s.uses.Hidden)
}

// add queues a place, if it is code and has not been looked at with those registers.
func (s *scanner) add(o *object, addr uint64, r regs, via string) {
	if s.fresh(o, addr, &r, false) {
		s.todo = append(s.todo, visit{o, addr, r, via})
	}
}

// fresh says whether addr is code that is to be looked at with r. Where there are
// too many states already, r loses what it does not share with the last of them.
// mark makes it seen.
func (s *scanner) fresh(o *object, addr uint64, r *regs, mark bool) bool {
	if in(o.text, addr) == nil {
		return false
	}
	states := s.seen[o][addr]
	if slices.Contains(states, *r) {
		return false
	}
	if n := len(states); n >= maxStates {
		last := states[n-1]
		for i := range r {
			if r[i] != last[i] {
				r[i] = unknown
			}
		}
		if slices.Contains(states, *r) {
			return false
		}
		if mark {
			states[n-1] = *r
		}
	} else if mark {
		s.seen[o][addr] = append(states, *r)
	}
	return true
}

// follow looks at instructions from a place on, up to where control does not go on.
func (s *scanner) follow(v visit) {
	o, r := v.o, v.regs
	for addr := v.addr; s.fresh(o, addr, &r, true); {
		b := in(o.text, addr)
		inst, err := x86asm.Decode(b, 64)
		if err != nil {
			return // nothing that the compiler made, or newer than the decoder
		}
		addr += uint64(inst.Len)
		if !s.step(o, &inst, addr, &r, v.via) {
			return
		}
	}
}

// sweep looks at all code of o from its beginning to its end.
func (s *scanner) sweep(o *object) {
	for _, part := range o.text {
		r := nothing
		for addr := part.addr; part.has(addr); {
			inst, err := x86asm.Decode(part.data[addr-part.addr:], 64)
			if err != nil {
				addr++
				r = nothing
				continue
			}
			s.seen[o][addr] = append(s.seen[o][addr], nothing)
			addr += uint64(inst.Len)
			if !s.step(o, &inst, addr, &r, o.label) {
				r = nothing
			}
		}
	}
}

// step interprets an instruction, after which comes next. It returns false if
// control does not go on there.
func (s *scanner) step(o *object, inst *x86asm.Inst, next uint64, r *regs, via string) bool {
	switch inst.Op {
	case x86asm.SYSCALL:
		if !o.inGoSyscall(next) {
			s.syscall(o, r[ax], next-2, via)
		}
		r.forget(1<<0 | 1<<1 | 1<<11)
		return true
	case x86asm.RET, x86asm.LRET, x86asm.HLT, x86asm.UD2, x86asm.INT:
		return inst.Op == x86asm.INT
	case x86asm.CALL, x86asm.JMP:
		s.branch(o, inst, next, *r, via)
		if o.golang {
			*r = nothing
		}
		r.forget(clobbered)
		return inst.Op == x86asm.CALL
	}
	if rel, ok := inst.Args[0].(x86asm.Rel); ok { // a conditional jump
		s.add(o, next+uint64(int64(rel)), *r, via)
		return true
	}
	s.refer(o, inst, next, via)
	r.write(inst)
	return true
}

// branch follows a call or jump.
func (s *scanner) branch(o *object, inst *x86asm.Inst, next uint64, r regs, via string) {
	switch arg := inst.Args[0].(type) {
	case x86asm.Rel:
		to := next + uint64(int64(arg))
		if f, ok := o.goFuncs[to]; ok {
			if n := r[f.number]; !o.inGoSyscall(next) {
				s.syscall(o, n, next, via)
			}
			return
		}
		if symbol, ok := s.stub(o, to); ok {
			s.call(o, symbol, r, via)
			return
		}
		if inst.Op == x86asm.CALL && !o.golang {
			r.forget(^uint16(1<<si | 1<<di)) // no arguments that matter
		}
		s.add(o, to, r, via)
	case x86asm.Mem:
		if sl, ok := o.slots[next+distance(arg)]; ok && arg.Base == x86asm.RIP {
			if sl.symbol != "" {
				s.call(o, sl.symbol, r, via)
			} else {
				s.add(o, sl.addr, r, via)
			}
		}
	}
}

// stub says which symbol a stub of the procedure linkage table jumps to.
func (s *scanner) stub(o *object, addr uint64) (string, bool) {
	b := in(o.text, addr)
	if len(b) >= 4 && string(b[:4]) == "\xf3\x0f\x1e\xfa" { // endbr64
		b, addr = b[4:], addr+4
	}
	inst, err := x86asm.Decode(b, 64)
	if err != nil || inst.Op != x86asm.JMP {
		return "", false
	}
	m, ok := inst.Args[0].(x86asm.Mem)
	if !ok || m.Base != x86asm.RIP {
		return "", false
	}
	sl := o.slots[addr+uint64(inst.Len)+distance(m)]
	return sl.symbol, sl.symbol != ""
}

// distance is that of a place from the next instruction. The decoder gives 32
// bits without their sign.
func distance(m x86asm.Mem) uint64 { return uint64(int64(int32(m.Disp))) }

// refer follows what an instruction mentions: functions whose address it takes,
// pointers that it loads, and jump tables.
func (s *scanner) refer(o *object, inst *x86asm.Inst, next uint64, via string) {
	for _, arg := range inst.Args {
		m, ok := arg.(x86asm.Mem)
		if !ok || m.Base != x86asm.RIP {
			continue
		}
		at := next + distance(m)
		if inst.Op == x86asm.LEA {
			s.add(o, at, nothing, via)
			s.table(o, at, next, via)
		}
		// A structure of pointers is used by its beginning.
		for ; ; at += 8 {
			sl, ok := o.slots[at]
			if !ok {
				break
			}
			if sl.symbol != "" {
				s.call(o, sl.symbol, nothing, via)
			} else {
				s.add(o, sl.addr, nothing, via)
			}
			if inst.Op != x86asm.LEA {
				break
			}
		}
	}
}

// table follows the jump table at at, if there is one: 32-bit distances from the
// table to code that lies near the instruction that mentions it.
func (s *scanner) table(o *object, at, near uint64, via string) {
	const reach = 1 << 18
	if s.tables[o][at] {
		return
	}
	s.tables[o][at] = true
	for b := in(o.data, at); len(b) >= 4; b = b[4:] {
		to := at + uint64(int64(int32(uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24)))
		if to-near+reach > 2*reach || in(o.text, to) == nil {
			return
		}
		s.add(o, to, nothing, via)
	}
}

// syscall records a system call with the number n.
func (s *scanner) syscall(o *object, n int16, at uint64, via string) {
	if n < 0 || n > 1024 {
		where := fmt.Sprintf("at %#x", at)
		if at == 0 {
			where = "by syscall(3)"
		}
		s.hide(fmt.Sprintf("%s makes a system call %s whose number is not constant", o.label, where))
		return
	}
	if s.uses.Calls[int(n)] == "" {
		s.uses.Calls[int(n)] = via
	}
	if !o.libc() {
		note(s.uses.Own, int(n), o.label)
	}
}

func (s *scanner) hide(what string) {
	if !s.hidden[what] {
		s.hidden[what] = true
		s.uses.Hidden = append(s.uses.Hidden, what)
	}
}

// call follows a call of symbol by o.
func (s *scanner) call(o *object, symbol string, r regs, via string) {
	if !o.libc() {
		via = o.label + " calls " + symbol
		note(s.uses.Callers, symbol, o.label)
		switch symbol {
		case "syscall":
			// The C library's syscall(3); its own code has no constant.
			if r != nothing || o != s.objects[0] {
				s.syscall(o, r[di], 0, via)
			}
			return
		case "socket", "socketpair":
			if r[di] > 0 {
				note(s.uses.families, r[di], o.label)
			}
		case "fcntl", "fcntl64":
			if lockCommands[r[si]] {
				s.uses.locks[o.label] = true
			}
		}
	}
	for _, to := range s.objects {
		for _, a := range to.exports[symbol] {
			s.add(to, a, nothing, via)
		}
		if len(to.exports[symbol]) > 0 {
			return
		}
	}
}

// lockCommands are fcntl(2)'s that lock.
var lockCommands = map[int16]bool{5: true, 6: true, 7: true, 36: true, 37: true, 38: true}
