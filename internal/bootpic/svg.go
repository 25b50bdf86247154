package bootpic

import (
	"encoding/xml"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"unicode"
)

// The picture's measures, in pixels.
const (
	width     = 1000.0
	left      = 210.0 // where the axis begins
	right     = 110.0 // behind it: room for the last bar's duration
	barHigh   = 16.0
	rowSpace  = 12.0
	textSize  = 14.0
	small     = 12.0
	lineHigh  = 20.0
	labelHigh = 22.0
)

// colours can be told apart by those who do not see all of them (Okabe and Ito's, without black and yellow).
var colours = [MostReports]string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// titles say what happens in a phase.
var titles = map[string]string{
	"kvm-open":    "uvm starts, opens KVM",
	"kernel":      "reads the kernel file",
	"devices":     "opens disks and TAPs",
	"vm-create":   "creates the VM",
	"memory":      "creates vCPUs, memory",
	"load":        "loads the kernel",
	"first-entry": "waits until it may start",
	guestPhase:    "the guest runs",
}

// picture is an SVG in the making.
type picture struct {
	strings.Builder
	scale float64 // pixels for a nanosecond
	end   int64   // of the axis, ns
}

func (p *picture) x(ns int64) float64 { return left + float64(min(ns, p.end))*p.scale }

// text draws a text that anybody may have written, of at most limit characters.
func (p *picture) text(x, y, size float64, attributes, s string, limit int) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" font-size="%g"%s>`, x, y, size, attributes)
	xml.EscapeText(p, []byte(clean(s, limit)))
	p.WriteString("</text>\n")
}

// clean makes a text of one visible line, at most limit characters long.
func clean(s string, limit int) string {
	out := strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
	if runes := []rune(out); len(runes) > limit {
		return "…" + string(runes[len(runes)-limit+1:]) // the end of a path says more
	}
	return out
}

// SVG draws the reports on one scale, each in a colour: a row for each phase, and the guest's marks on its own.
func SVG(all []*Report) []byte {
	p := new(picture)
	var booted, ended int64
	for _, r := range all {
		booted, ended = max(booted, r.booted()), max(ended, r.end())
	}
	// A guest that served for an hour would leave no room for its boot.
	p.end = max(min(ended, booted+booted/2), 1)
	p.scale = (width - left - right) / float64(p.end)

	names := phases(all)
	top := 54 + float64(len(all))*lineHigh
	bottom := top
	for _, name := range names {
		bottom += rowHigh(all, name)
	}
	high := bottom + 60
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %g %g" font-family="sans-serif" fill="#222222">`+"\n", width, high, width, high)
	fmt.Fprintf(p, `<rect width="%g" height="%g" fill="#ffffff"/>`+"\n", width, high)
	p.text(20, 28, 18, ` font-weight="bold"`, "Boot timeline", 40)
	for i, r := range all {
		y := 40 + float64(i+1)*lineHigh
		fmt.Fprintf(p, `<rect x="20" y="%.1f" width="14" height="14" fill="%s"/>`+"\n", y-12, colours[i])
		line := fmt.Sprintf("%s: first entry after %s, end after %s (%s)", clean(filepath.Base(r.Kernel), 40), Duration(r.entry()), Duration(r.end()), clean(r.Outcome, 30))
		if len(all) > 1 {
			line += ", " + clean(filepath.Base(r.Name), 30)
		}
		p.text(42, y, textSize, "", line, 125)
	}
	p.axis(top, bottom)
	y := top
	for _, name := range names {
		title := titles[name]
		if title == "" {
			title = name
		}
		high := rowHigh(all, name)
		p.text(left-12, y+high/2+5, textSize, ` text-anchor="end"`, title, 26)
		at := y + rowSpace/2
		for i, r := range all {
			p.bar(r, name, at, colours[i])
			at += barsHigh(r, name)
		}
		y += high
	}
	p.WriteString("</svg>\n")
	return []byte(p.String())
}

// barsHigh is the height of a report's bar, with the labels of marks below it.
func barsHigh(r *Report, name string) float64 {
	if name == guestPhase && len(r.Marks) > 0 {
		return barHigh + labelHigh
	}
	return barHigh
}

// rowHigh is the height of a phase's row.
func rowHigh(all []*Report, name string) float64 {
	high := rowSpace
	for _, r := range all {
		high += barsHigh(r, name)
	}
	return high
}

// entry is when the guest began to run, or the end where it never did.
func (r *Report) entry() int64 {
	for i := range r.Phases {
		if r.Phases[i].Name == guestPhase {
			return r.Phases[i].Start
		}
	}
	return r.end()
}

// axis draws the grid and the times below it.
func (p *picture) axis(top, bottom float64) {
	unit, word := 1e6, "ms"
	switch {
	case p.end < 1e5:
		unit, word = 1e3, "µs"
	case p.end >= 1e10:
		unit, word = 1e9, "s"
	}
	step := niceStep(float64(p.end) / unit / 8)
	for i := 0; ; i++ {
		at := float64(i) * step * unit
		if at > float64(p.end)*1.0001 {
			break
		}
		x := left + at*p.scale
		fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#dddddd"/>`+"\n", x, top, x, bottom)
		p.text(x, bottom+18, small, ` text-anchor="middle"`, fmt.Sprintf("%g", math.Round(float64(i)*step*1e6)/1e6), 20)
	}
	p.text(left+(width-left-right)/2, bottom+40, textSize, ` text-anchor="middle"`, word+" since uvm was started", 40)
}

// niceStep is the least of 1, 2, 5, 10 … that is not below v.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if f*power >= v {
			return f * power
		}
	}
	return 10 * power
}

// bar draws a phase of a report.
func (p *picture) bar(r *Report, name string, y float64, colour string) {
	for i := range r.Phases {
		phase := &r.Phases[i]
		if phase.Name != name {
			continue
		}
		x, end := p.x(phase.Start), p.x(phase.Start+phase.Duration)
		fmt.Fprintf(p, `<rect x="%.2f" y="%.1f" width="%.2f" height="%g" fill="%s" fill-opacity="%s"/>`+"\n", x, y+1, max(end-x, 1), barHigh-2, colour, opacity(name))
		after := Duration(phase.Duration)
		if phase.Start+phase.Duration > p.end {
			fmt.Fprintf(p, `<path d="M%.1f %.1f l8 %g l-8 %g z" fill="%s"/>`+"\n", end, y+1, barHigh/2-1, barHigh/2-1, colour)
			end += 8
		}
		if name == guestPhase {
			p.marks(r, y)
		}
		p.text(end+6, y+12.5, small, "", after, 20)
	}
}

func opacity(name string) string {
	if name == guestPhase {
		return "0.45" // marks stand on it
	}
	return "1"
}

// marks draws the guest's marks on its bar, and below it the first of their labels, with the time since the guest's start.
// They move aside where they would cover each other.
func (p *picture) marks(r *Report, y float64) {
	const each, most = 84.0, 8
	labels := min(len(r.Marks), most)
	next := 0.0
	for i, m := range r.Marks {
		x := p.x(m.At)
		fmt.Fprintf(p, `<line x1="%.2f" y1="%.1f" x2="%.2f" y2="%.1f" stroke="#000000" stroke-width="1.5"/>`+"\n", x, y+1, x, y+barHigh-1)
		if i >= labels {
			continue
		}
		// So far to the left that the others have room.
		at := max(min(x-4, width-float64(labels-i)*each), next)
		next = at + each
		fmt.Fprintf(p, `<path d="M%.2f %.1f L%.2f %.1f" stroke="#888888"/>`+"\n", x, y+barHigh-1, at+4, y+barHigh+7)
		p.text(at, y+barHigh+18, small, "", clean(m.Label, 5)+" "+Duration(m.At-r.entry()), 16)
	}
	if more := uint64(len(r.Marks)-labels) + r.Dropped; more > 0 {
		p.text(left-12, y+barHigh+18, small, ` text-anchor="end"`, fmt.Sprintf("and %d more marks", more), 40)
	}
}

// Duration is a time in nanoseconds for people: three digits and a unit.
func Duration(ns int64) string {
	for _, u := range []struct {
		ns   float64
		word string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		v := float64(ns) / u.ns
		switch {
		case v >= 100:
			return fmt.Sprintf("%.0f %s", v, u.word)
		case v >= 10:
			return fmt.Sprintf("%.1f %s", v, u.word)
		case v >= 1:
			return fmt.Sprintf("%.2f %s", v, u.word)
		}
	}
	return fmt.Sprintf("%d ns", ns)
}
