package debugger

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/uvm-monitor/uvm/internal/paging"
	"github.com/uvm-monitor/uvm/vmm"
)

// command is a command of gdb's "monitor".
type command struct {
	name, help string
	run        func(d *Debugger, m *vmm.Machine) string
}

var commands = []command{
	{"vcpus", "what each vCPU is doing", (*Debugger).showVCPUs},
	{"memory", "guest memory, and what is mapped where", (*Debugger).showMemory},
	{"points", "breakpoints and watchpoints, and what this machine has room for", (*Debugger).showPoints},
	{"stats", "what the VM, its vCPUs and its devices have done so far, as JSON", nil},
	{"marks", "the boot timeline", nil},
}

// Monitor carries out a command.
func (d *Debugger) Monitor(line string) string {
	switch line {
	case "stats":
		return d.showStats()
	case "marks":
		return d.showMarks()
	}
	text := ""
	for _, c := range commands {
		if c.name == line {
			if err := d.inspect(func(m *vmm.Machine) error { text = c.run(d, m); return nil }); err != nil {
				return err.Error() + "\n"
			}
			return text
		}
		text += fmt.Sprintf("  monitor %-8s %s\n", c.name, c.help)
	}
	if line == "" || line == "help" {
		return text
	}
	return fmt.Sprintf("unknown command %q\n%s", line, text)
}

// Describe says what a vCPU is doing, in the list of threads.
func (d *Debugger) Describe(thread int) (s string) {
	s = fmt.Sprintf("vCPU %d", thread)
	d.inspect(func(m *vmm.Machine) error {
		r, err := m.VCPUs[thread].Sregs()
		switch {
		case err != nil:
		case m.Sealed:
			s += ", sealed"
		default:
			s += fmt.Sprintf(", ring %d", r.CS.Selector&3)
		}
		return nil
	})
	return s
}

func (d *Debugger) showVCPUs(m *vmm.Machine) string {
	var b strings.Builder
	for i := range m.VCPUs {
		c, err := d.cpuOf(m, i)
		if err != nil {
			return err.Error() + "\n"
		}
		r, s := &c.regs, &c.sregs
		fmt.Fprintf(&b, "vCPU %d: rip %#x rsp %#x rflags %#x cs %#x cr0 %#x cr2 %#x cr3 %#x cr4 %#x efer %#x\n", i, r.RIP, r.RSP, r.RFLAGS, s.CS.Selector, s.CR0, s.CR2, s.CR3, s.CR4, s.EFER)
	}
	return b.String()
}

func (d *Debugger) showMemory(m *vmm.Machine) string {
	var b strings.Builder
	for _, r := range m.Memory.Ranges() {
		fmt.Fprintf(&b, "physical %#x-%#x, %d MiB\n", uint64(r.Start), uint64(r.End), (r.End-r.Start)>>20)
	}
	t, err := d.mem.tables(m, m.VCPUs[0], d.root(m))
	lines := 0
	if err == nil {
		err = t.Each(func(p paging.Mapping) bool {
			fmt.Fprintf(&b, "virtual  %#x-%#x at physical %#x\n", p.VA, p.VA+p.Size, p.GPA)
			lines++
			return lines < 64
		})
	}
	if err != nil {
		fmt.Fprintln(&b, err)
	} else if lines == 64 {
		b.WriteString("…\n")
	}
	return b.String()
}

func (d *Debugger) showPoints(m *vmm.Machine) string {
	var b strings.Builder
	names := [...]string{"breakpoint", "hardware breakpoint", "watchpoint (writes)", "watchpoint (reads)", "watchpoint (all accesses)"}
	for k := range d.points {
		fmt.Fprintf(&b, "%s at %#x\n", names[k.kind], k.addr)
	}
	if m.Sealed {
		return b.String() + "sealed guest: software breakpoints, watchpoints by page protection, single steps\n"
	}
	w, err := d.works()
	if err != nil {
		return b.String() + err.Error() + "\n"
	}
	fmt.Fprintf(&b, "ring 0 on this KVM: single steps %v, software breakpoints %v, hardware breakpoints %v, watchpoints %v\n", w.Step, w.Soft, w.Hard, w.Watch)
	return b.String()
}

func (d *Debugger) showStats() string {
	s := d.vm.Stats()
	s.Marks = nil // monitor marks
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err.Error() + "\n"
	}
	return string(b) + "\n"
}

func (d *Debugger) showMarks() string {
	var b strings.Builder
	marks, dropped := d.vm.Timeline()
	for i := range marks {
		mark := &marks[i]
		name := mark.Name
		if mark.Guest() {
			name = fmt.Sprintf("guest %#02x", mark.Value)
		}
		fmt.Fprintf(&b, "%12.3f ms  %s\n", float64(mark.At.Sub(marks[0].At).Nanoseconds())/1e6, name)
	}
	if dropped > 0 {
		fmt.Fprintf(&b, "%d more of the guest's\n", dropped)
	}
	return b.String()
}
