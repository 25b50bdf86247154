package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/vmm"
)

// bootReport is the JSON of --boot-report. All times are in nanoseconds;
// docs/boot-report.md describes the fields.
type bootReport struct {
	Version    int        `json:"version"` // 1
	Kernel     string     `json:"kernel"`
	Outcome    outcome    `json:"outcome"`
	Marks      []bootMark `json:"marks"`
	Dropped    uint64     `json:"dropped_marks"`        // guest marks beyond the first 256
	Traps      uint64     `json:"traps"`                // exceptions that a sealed guest took to the monitor
	Unanswered uint64     `json:"unanswered,omitempty"` // accesses of a PC's guest to ports and addresses where nothing is
}

type bootMark struct {
	Source string `json:"source"` // monitor or guest
	Label  string `json:"label"`  // the monitor's name of it, or the guest's byte
	Value  *int   `json:"value,omitempty"`
	// Times before the VM was created or first entered are negative.
	SinceExec  int64 `json:"since_exec_ns"`
	SinceVM    int64 `json:"since_vm_ns"`
	SinceEntry int64 `json:"since_first_entry_ns"`
	CPU        int64 `json:"cpu_ns"`
}

// report writes what --boot-report and --boot-summary ask for and returns the
// exit status.
func (s *settings) report(vm *vmm.VM, end outcome) int {
	if s.BootReport == "" && !s.BootSummary {
		return end.Status
	}
	marks, dropped := vm.Timeline()
	r := bootReport{Version: 1, Kernel: s.Kernel, Outcome: end, Dropped: dropped, Traps: vm.Traps(), Unanswered: vm.Unanswered()}
	exec, created, entry := find(marks, vmm.MarkExec), find(marks, vmm.MarkVM), find(marks, vmm.MarkEntry)
	for i := range marks {
		m := &marks[i]
		b := bootMark{
			Source: "monitor", Label: m.Name, CPU: int64(m.CPU),
			SinceExec: int64(m.At.Sub(exec)), SinceVM: int64(m.At.Sub(created)), SinceEntry: int64(m.At.Sub(entry)),
		}
		if m.Guest() {
			v := int(m.Value)
			b.Source, b.Label, b.Value = "guest", guestLabel(m.Value), &v
		}
		r.Marks = append(r.Marks, b)
	}
	if s.BootSummary {
		fmt.Fprintln(os.Stderr, r.summary())
	}
	if s.BootReport != "" {
		if err := writeReport(s.BootReport, &r); err != nil {
			fail(exitHost, "--boot-report: %v", err)
			if end.Status == exitOK {
				return exitHost
			}
		}
	}
	return end.Status
}

func find(marks []devices.Mark, name string) time.Time {
	for i := range marks {
		if marks[i].Name == name {
			return marks[i].At
		}
	}
	return time.Time{}
}

// guestLabel is the byte as a character where it is a printable one.
func guestLabel(b byte) string {
	if b > ' ' && b < 0x7f {
		return string(rune(b))
	}
	return fmt.Sprintf("%#02x", b)
}

// summary is one line: each mark's distance from the start of uvm.
func (r *bootReport) summary() string {
	const most = 16 // guest marks; more would not be a line
	var b strings.Builder
	b.WriteString("uvm: boot (ms since exec):")
	guest := 0
	for i := range r.Marks {
		m := &r.Marks[i]
		if m.Value != nil {
			if guest++; guest > most {
				continue
			}
			fmt.Fprintf(&b, " mark %s", strconv.Quote(m.Label))
		} else {
			fmt.Fprintf(&b, " %s", m.Label)
		}
		fmt.Fprintf(&b, " %.3f", float64(m.SinceExec)/1e6)
	}
	if n := uint64(max(guest-most, 0)) + r.Dropped; n > 0 {
		fmt.Fprintf(&b, " (%d more guest marks)", n)
	}
	if n := len(r.Marks); n > 0 {
		fmt.Fprintf(&b, "; CPU %.3f", float64(r.Marks[n-1].CPU)/1e6)
	}
	return b.String()
}

func writeReport(path string, r *bootReport) error {
	data, err := encodeJSON(r)
	if err != nil {
		return err
	}
	if path == "-" {
		_, err = os.Stdout.Write(data)
		return err
	}
	return os.WriteFile(path, data, 0o666)
}

// encodeJSON is v as indented JSON with a newline at its end.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// printJSON prints v on stdout and returns the exit status.
func printJSON(v any) int {
	data, err := encodeJSON(v)
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	return exitOK
}
