package trace

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/uvm-monitor/uvm/devices/virtio"
	"github.com/uvm-monitor/uvm/hypercall"
)

// Summary counts records by what they are: a hypercall, a port and its direction, a
// register of a device, a vector. There are no more rows than such things.
type Summary struct {
	mu   sync.Mutex
	rows map[key]*Row
}

// key is what a row has in common. Accesses to addresses without a device are one row.
type key struct {
	kind   Kind
	write  bool
	n      uint16
	device string
}

// Row is one row of a Summary.
type Row struct {
	Kind   string        `json:"kind"`
	Name   string        `json:"name"`
	Count  uint64        `json:"count"`
	Errors uint64        `json:"errors"`
	Time   time.Duration `json:"time_ns"`
	Max    time.Duration `json:"max_ns"`
}

func newSummary() *Summary { return &Summary{rows: map[key]*Row{}} }

func (s *Summary) add(r *Record) {
	k := key{kind: r.Kind, device: r.Device, n: r.Port, write: r.Write}
	failed := r.Ended && (r.Kind != Hypercall || r.Call != hypercall.HaltCall)
	switch {
	case r.Kind == Hypercall:
		k.n, k.write = uint16(r.Call), false
		if int(r.Call) < len(calls) && calls[r.Call].result != nil && !r.Interrupted && !r.Ended {
			failed = callFailed(r)
		}
	case r.Kind == MMIO && r.Device != "":
		k.n = uint16(r.Addr % virtio.MMIOSize)
	case r.Kind == Exit:
		k.device = r.Reason
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.rows[k]
	if row == nil {
		row = &Row{}
		s.rows[k] = row
	}
	if !r.Interrupted { // the rest follows, and makes it one
		row.Count++
	}
	if failed {
		row.Errors++
	}
	row.Time += r.Took
	row.Max = max(row.Max, r.Took)
}

// callFailed is what calls' result says, without a string.
func callFailed(r *Record) bool {
	off := map[hypercall.Call]int{hypercall.BlockWrite: 32, hypercall.BlockRead: 32, hypercall.NetWrite: 24, hypercall.NetRead: 24, hypercall.Batch: 16}[r.Call]
	return r.Refused || off > 0 && le.Uint32(r.Ret[off:]) != 0
}

func (k key) name() string {
	verb := map[bool]string{false: "in", true: "out"}
	switch k.kind {
	case Hypercall:
		return hypercall.Call(k.n).String()
	case Port:
		s := fmt.Sprintf("%s %#x", verb[k.write], k.n)
		if n := portName(k.n); n != "" {
			s += " (" + n + ")"
		}
		return s
	case MMIO:
		verb = map[bool]string{false: "read", true: "write"}
		if k.device == "" {
			return verb[k.write] + " (nothing there)"
		}
		return fmt.Sprintf("%s %s %s", verb[k.write], k.device, registerName(uint64(k.n)))
	case Trap:
		return "trap " + vectorName(k.n)
	case IRQ:
		return "irq " + k.device
	}
	return "exit " + k.device
}

// Rows returns the rows, those that took longest first.
func (s *Summary) Rows() []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := []Row{}
	for k, row := range s.rows {
		r := *row
		r.Kind, r.Name = k.kind.String(), k.name()
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name))
	})
	return rows
}

// WriteTable writes rows as strace -c does.
func WriteTable(w io.Writer, rows []Row) error {
	var total Row
	for _, r := range rows {
		total.Count, total.Errors, total.Time = total.Count+r.Count, total.Errors+r.Errors, total.Time+r.Time
	}
	line := func(r *Row, name string) string {
		errors := ""
		if r.Errors > 0 {
			errors = fmt.Sprint(r.Errors)
		}
		return fmt.Sprintf("%6.2f %11.6f %11.1f %9d %9s %s\n", 100*float64(r.Time)/float64(max(total.Time, 1)),
			r.Time.Seconds(), float64(r.Time)/1e3/float64(max(r.Count, 1)), r.Count, errors, name)
	}
	const ruler = "------ ----------- ----------- --------- --------- --------------------\n"
	text := "% time     seconds   usecs/call     calls    errors name\n" + ruler
	for i := range rows {
		text += line(&rows[i], rows[i].Name)
	}
	text += ruler + line(&total, "total")
	_, err := io.WriteString(w, text)
	return err
}
