package debugger

import (
	"errors"
	"fmt"
	"strings"

	"github.com/uvm-monitor/uvm/hypercall"
	"github.com/uvm-monitor/uvm/internal/symbols"
	"github.com/uvm-monitor/uvm/internal/trace"
	"github.com/uvm-monitor/uvm/vmm"
)

// Report tells of a guest that has ended badly, in lines: registers, a stack trace, and the last hypercalls. It
// does what it can: what cannot be found out is left out.
func (c *Crash) Report(vm *vmm.VM) (lines []string) {
	s, err := c.snapshot(vm)
	if err != nil {
		return nil
	}
	defer s.mem.file.Close()
	one := &s.cpus[0]
	r := &one.regs
	var fault *vmm.GuestError
	if t := c.Result.Trap; t != nil {
		lines = append(lines, fmt.Sprintf("the guest reports a trap: rip=%#x, error code %#x, cr2=%#x, rsp=%#x, rflags=%#x", t.RIP, t.ErrorCode, t.CR2, t.RSP, t.RFLAGS))
	} else if errors.As(c.Err, &fault) && !strings.Contains(fault.Error(), "rax=") {
		lines = append(lines, registerLines(r)...)
	}
	if table, err := symbols.Open(c.Kernel); err == nil {
		t, err := s.mem.tables(&s.m, s.m.VCPUs[0], 0)
		if err == nil {
			rbp := r.RBP
			if c.Result.Trap != nil {
				rbp = 0 // that of its handler
			}
			frames := table.Trace(r.RIP, r.RSP, rbp, func(addr uint64, b []byte) bool {
				n, err := s.mem.readVirtual(&s.m, t, addr, b)
				return err == nil && n == len(b)
			})
			lines = append(lines, table.Text(frames)...)
		}
	}
	if calls := vm.LastCalls(); len(calls) > 0 {
		lines = append(lines, "hypercalls, the latest one first:")
		for _, call := range calls {
			lines = append(lines, "  "+callText(&call))
		}
	}
	return lines
}

func registerLines(r *vmm.Regs) []string {
	names := strings.Fields("rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")
	values := []uint64{r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RBP, r.RSP, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.RIP, r.RFLAGS}
	var lines []string
	for i := 0; i < len(names); i += 4 {
		var b strings.Builder
		for j := i; j < min(i+4, len(names)); j++ {
			fmt.Fprintf(&b, "%-6s %016x  ", names[j], values[j])
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

// resultAt is where a call's structure has its result.
var resultAt = map[hypercall.Call]int{
	hypercall.Poll: 16, hypercall.BlockRead: 32, hypercall.BlockWrite: 32, hypercall.NetRead: 24, hypercall.NetWrite: 24, hypercall.Batch: 16,
}

func callText(c *hypercall.Record) string {
	r := trace.Record{Kind: trace.Hypercall, Call: c.Call, Addr: uint64(c.Addr), Arg: c.Arg, Ret: c.Arg}
	at, has := resultAt[c.Call]
	if has && c.Done {
		le.PutUint32(r.Ret[at:], uint32(c.Result))
	}
	l := r.Line()
	s := fmt.Sprintf("%s(%v)", l.Name, l.Args)
	if c.Call == hypercall.Puts { // what lay there then may be gone
		s = fmt.Sprintf("PUTS(ptr=%#x, len=%d)", le.Uint64(c.Arg[:]), le.Uint64(c.Arg[8:]))
	}
	switch {
	case !c.Done:
		s += ", the end"
	case has && l.Result != "":
		s += " = " + l.Result
	}
	return s
}
