package main

import (
	"strings"
	"testing"
)

// sample is a report with a mark of every kind; times are in ns.
func sample() *bootReport {
	status, a, dot := 300, int('A'), 7
	return &bootReport{
		Version: 1, Kernel: "a<b>.hvt", Outcome: outcome{Kind: "exit", Status: 44, Guest: &status},
		Marks: []bootMark{
			{Source: "monitor", Label: "exec", SinceVM: -2500000, SinceEntry: -3000000},
			{Source: "monitor", Label: "vm-create", SinceExec: 2500000, SinceEntry: -500000, CPU: 2400000},
			{Source: "monitor", Label: "first-entry", SinceExec: 3000000, SinceVM: 500000, CPU: 2900000},
			{Source: "guest", Label: "A", Value: &a, SinceExec: 3000499, SinceVM: 500499, SinceEntry: 499, CPU: 2900400},
			{Source: "guest", Label: guestLabel(7), Value: &dot, SinceExec: 3001500, SinceVM: 501500, SinceEntry: 1500, CPU: 2901000},
		},
		Dropped: 2,
	}
}

const sampleJSON = `{
  "version": 1,
  "kernel": "a<b>.hvt",
  "outcome": {
    "kind": "exit",
    "status": 44,
    "guest_status": 300
  },
  "marks": [
    {
      "source": "monitor",
      "label": "exec",
      "since_exec_ns": 0,
      "since_vm_ns": -2500000,
      "since_first_entry_ns": -3000000,
      "cpu_ns": 0
    },
    {
      "source": "monitor",
      "label": "vm-create",
      "since_exec_ns": 2500000,
      "since_vm_ns": 0,
      "since_first_entry_ns": -500000,
      "cpu_ns": 2400000
    },
    {
      "source": "monitor",
      "label": "first-entry",
      "since_exec_ns": 3000000,
      "since_vm_ns": 500000,
      "since_first_entry_ns": 0,
      "cpu_ns": 2900000
    },
    {
      "source": "guest",
      "label": "A",
      "value": 65,
      "since_exec_ns": 3000499,
      "since_vm_ns": 500499,
      "since_first_entry_ns": 499,
      "cpu_ns": 2900400
    },
    {
      "source": "guest",
      "label": "0x07",
      "value": 7,
      "since_exec_ns": 3001500,
      "since_vm_ns": 501500,
      "since_first_entry_ns": 1500,
      "cpu_ns": 2901000
    }
  ],
  "dropped_marks": 2,
  "traps": 0
}
`

func TestReportFormat(t *testing.T) {
	got, err := encodeJSON(sample())
	if err != nil || string(got) != sampleJSON {
		t.Errorf("encodeJSON(sample()) = %s, %v; want %s", got, err, sampleJSON)
	}
}

func TestSummaryFormat(t *testing.T) {
	many := func(n int, dropped uint64) *bootReport {
		r := &bootReport{Dropped: dropped}
		v := int('x')
		for range n {
			r.Marks = append(r.Marks, bootMark{Source: "guest", Label: "x", Value: &v})
		}
		return r
	}
	x := strings.Repeat(` mark "x" 0.000`, 16)
	for _, tt := range []struct {
		name   string
		report *bootReport
		want   string
	}{
		{"sample", sample(), `uvm: boot (ms since exec): exec 0.000 vm-create 2.500 first-entry 3.000 mark "A" 3.000 mark "0x07" 3.002 (2 more guest marks); CPU 2.901`},
		{"no marks", new(bootReport), "uvm: boot (ms since exec):"},
		{"16 guest marks", many(16, 0), "uvm: boot (ms since exec):" + x + "; CPU 0.000"},
		{"17 guest marks", many(17, 0), "uvm: boot (ms since exec):" + x + " (1 more guest marks); CPU 0.000"},
		{"17 and 5 dropped", many(17, 5), "uvm: boot (ms since exec):" + x + " (6 more guest marks); CPU 0.000"},
	} {
		if got := tt.report.summary(); got != tt.want {
			t.Errorf("%s: summary() = %q; want %q", tt.name, got, tt.want)
		}
	}
}

func TestGuestLabel(t *testing.T) {
	for b, want := range map[byte]string{'A': "A", '!': "!", '~': "~", '"': `"`, ' ': "0x20", 0: "0x00", 7: "0x07", 0x7f: "0x7f", 0xff: "0xff"} {
		if got := guestLabel(b); got != want {
			t.Errorf("guestLabel(%#x) = %q; want %q", b, got, want)
		}
	}
}
