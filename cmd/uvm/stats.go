package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/vmm"
)

func statsMain(args []string) int {
	f, c, status := askVM("stats", args)
	if status >= 0 {
		return status
	}
	defer c.Close()
	asJSON, _ := f.GetBool("json")
	var s vmm.Stats
	if err := c.Call("stats", nil, &s); err != nil {
		return fail(exitHost, "%v", err)
	}
	if asJSON {
		return printJSON(&s)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	printStats(w, &s)
	if err := w.Flush(); err != nil {
		return fail(exitHost, "%v", err)
	}
	return exitOK
}

// printStats prints statistics for people. Names come from the VM, which may belong to another user.
func printStats(w io.Writer, s *vmm.Stats) {
	fmt.Fprintf(w, "state\t%s\n", printable(s.State))
	fmt.Fprintf(w, "memory\t%s, %s resident\n", bytesText(s.MemoryBytes), bytesText(s.ResidentBytes))
	fmt.Fprintf(w, "cpu\t%v in all\n", time.Duration(s.ProcessCPU).Round(time.Microsecond))
	for i := range s.VCPUs {
		v := &s.VCPUs[i]
		fmt.Fprintf(w, "vcpu %d\t%v", i, time.Duration(v.CPU).Round(time.Microsecond))
		if v.InKVM > 0 {
			fmt.Fprintf(w, ", %v in KVM, %v at exits", time.Duration(v.InKVM).Round(time.Microsecond), time.Duration(v.Handling).Round(time.Microsecond))
		}
		fmt.Fprintf(w, "\n  exits\t%s\n", countsText(v.Exits))
		if len(v.Hypercalls) > 0 {
			var words []string
			for _, name := range slices.Sorted(maps.Keys(v.Hypercalls)) {
				c := v.Hypercalls[name]
				word := fmt.Sprintf("%s %d", printable(name), c.Count)
				if c.Time > 0 {
					word += fmt.Sprintf(" (%v)", time.Duration(c.Time).Round(time.Microsecond))
				}
				words = append(words, word)
			}
			fmt.Fprintf(w, "  hypercalls\t%s\n", strings.Join(words, ", "))
		}
		if len(v.Traps) > 0 {
			fmt.Fprintf(w, "  traps\t%s\n", countsText(v.Traps))
		}
	}
	for _, d := range s.Devices {
		for _, name := range slices.Sorted(maps.Keys(d.Ops)) {
			op := d.Ops[name]
			fmt.Fprintf(w, "%s %q\t%s: %d, %s, %d errors%s\n", printable(d.Kind), d.Name, printable(name), op.Count, bytesText(op.Bytes), op.Errors, latencyText(&op))
		}
	}
	for _, v := range s.Virtio {
		fmt.Fprintf(w, "virtio %s\t%d interrupts", printable(v.Name), v.Interrupts)
		if v.RxDropped+v.TxDropped > 0 {
			fmt.Fprintf(w, ", frames dropped: rx %d, tx %d", v.RxDropped, v.TxDropped)
		}
		fmt.Fprintln(w)
	}
	if s.Unanswered > 0 {
		fmt.Fprintf(w, "unanswered\t%d accesses\n", s.Unanswered)
	}
	guest := 0
	for i := range s.Marks {
		if s.Marks[i].Guest() {
			guest++
		}
	}
	fmt.Fprintf(w, "boot marks\t%d of the guest's\n", uint64(guest)+s.DroppedMarks)
}

// countsText is counters with their names, in the order of these.
func countsText(m map[string]uint64) string {
	if len(m) == 0 {
		return "none"
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		words = append(words, fmt.Sprintf("%s %d", printable(name), m[name]))
	}
	return strings.Join(words, ", ")
}

// latencyText is the median and the 99th percentile, as precise as the histogram's powers of two are.
func latencyText(op *devices.OpStats) string {
	var total uint64
	for _, n := range op.Latency {
		total += n
	}
	if total == 0 {
		return ""
	}
	below := func(percent uint64) time.Duration {
		var sum uint64
		for i, n := range op.Latency {
			if sum += n; sum >= total-total/100*(100-percent) || sum == total {
				return time.Duration(1) << min(i, 62)
			}
		}
		return 0
	}
	return fmt.Sprintf(", half below %v, 99%% below %v", below(50), below(99))
}

// bytesText is n with a unit and at most one decimal.
func bytesText(n uint64) string {
	for _, u := range memUnits {
		if n >= 1<<u.shift {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(uint64(1)<<u.shift)), ".0") + u.suffix
		}
	}
	return fmt.Sprintf("%dB", n)
}
