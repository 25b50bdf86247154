package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
)

// column is one of the table's.
type column struct {
	name    string // for --sort
	key     string // sorts by it; "" = cannot
	head    string
	width   int
	left    bool // aligned
	cell    func(r *row) string
	compare func(a, b *row) int // the greater one comes first
}

func rate(i int) func(a, b *row) int {
	return func(a, b *row) int { return cmp.Compare(a.rates[i], b.rates[i]) }
}

// numbers shows a rate, or nothing of a VM that has been seen once.
func numbers(i int, format func(float64) string) func(*row) string {
	return func(r *row) string {
		if r.fresh {
			return "-"
		}
		return format(r.rates[i])
	}
}

func count(v float64) string { return scaled(v, 1000, "kMGT") }
func size(v float64) string  { return scaled(v, 1024, "KMGT") }

// scaled is v in at most five characters.
func scaled(v, base float64, units string) string {
	if v < base-0.5 {
		return fmt.Sprintf("%.0f", v)
	}
	for i, u := range units {
		if v /= base; v < base-0.5 || i == len(units)-1 {
			if v < 9.95 {
				return fmt.Sprintf("%.1f%c", v, u)
			}
			return fmt.Sprintf("%.0f%c", min(v, 9999), u)
		}
	}
	return ""
}

var columns = []column{
	{"id", "i", "ID", 12, true, func(r *row) string { return r.ID }, func(a, b *row) int { return strings.Compare(b.ID, a.ID) }},
	{"name", "n", "NAME", 16, true, func(r *row) string { return r.Name }, func(a, b *row) int { return strings.Compare(b.Name, a.Name) }},
	{"kernel", "k", "KERNEL", 20, true, func(r *row) string { return filepath.Base(r.Kernel) }, func(a, b *row) int { return strings.Compare(b.Kernel, a.Kernel) }},
	{"state", "s", "STATE", 8, true, func(r *row) string { return r.State }, func(a, b *row) int { return strings.Compare(b.State, a.State) }},
	{"uptime", "u", "UPTIME", 8, false, func(r *row) string { return uptime(r.Uptime) }, func(a, b *row) int { return cmp.Compare(a.Uptime, b.Uptime) }},
	{"cpu", "c", "CPU%", 6, false, numbers(0, func(v float64) string { return fmt.Sprintf("%.1f", min(v*100, 99999)) }), rate(0)},
	{"memory", "m", "RSS", 5, false, func(r *row) string { return size(float64(r.resident)) }, func(a, b *row) int { return cmp.Compare(a.resident, b.resident) }},
	{"exits", "e", "EXIT/s", 6, false, numbers(1, count), rate(1)},
	{"calls", "h", "CALL/s", 6, false, numbers(2, count), rate(2)},
	{"rx", "", "RX/s", 5, false, numbers(3, size), rate(3)},
	{"tx", "t", "TX/s", 5, false, numbers(4, size), rate(4)},
	{"read", "", "READ/s", 6, false, numbers(5, size), rate(5)},
	{"write", "w", "WRIT/s", 6, false, numbers(6, size), rate(6)},
}

const keysHelp = `Keys: c m e h t w u n i k s sort by CPU, memory, exits, hypercalls, sent bytes, written bytes, uptime, name, ID, kernel, state;
r reverses the order; arrows and page keys scroll; q ends.`

func columnNames() string {
	var names []string
	for _, c := range columns {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

func findColumn(name string) int {
	return slices.IndexFunc(columns, func(c column) bool { return c.name == name })
}

// uptime is a duration in at most eight characters.
func uptime(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 100*time.Hour:
		return fmt.Sprintf("%d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// cell is a text of exactly width characters that no terminal takes for a command.
func cell(s string, width int, left bool) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' && (!unicode.IsLetter(r) || !unicode.Is(unicode.Latin, r)) {
			return '?'
		}
		return r
	}, s))
	if len(runes) > width {
		runes = append(runes[:width-1], '~')
	}
	if left {
		return fmt.Sprintf("%-*s", width, string(runes))
	}
	return fmt.Sprintf("%*s", width, string(runes))
}

// table is the head and lines from offset on, at most most of them; 0 = all.
func (m model) table(offset, most int) string {
	rows := slices.Clone(m.rows)
	slices.SortStableFunc(rows, func(a, b row) int {
		order := columns[m.column].compare(&b, &a)
		if m.reverse {
			order = -order
		}
		return cmp.Or(order, strings.Compare(a.ID, b.ID))
	})
	var b strings.Builder
	var cells []string
	for _, c := range columns {
		cells = append(cells, cell(c.head, c.width, c.left))
	}
	b.WriteString(strings.TrimRight(strings.Join(cells, " "), " ") + "\n")
	for i := range rows {
		if i < offset || most > 0 && i >= offset+most {
			continue
		}
		cells = cells[:0]
		for _, c := range columns {
			cells = append(cells, cell(c.cell(&rows[i]), c.width, c.left))
		}
		b.WriteString(strings.TrimRight(strings.Join(cells, " "), " ") + "\n")
	}
	return b.String()
}
