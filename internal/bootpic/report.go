// Package bootpic makes a picture of boot timelines: what `uvm run --boot-report` writes (docs/boot-report.md).
// Reports are files that anybody may have written.
package bootpic

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

const (
	// MostReports is how many reports one picture shows: as many as there are colours that can be told apart.
	MostReports = 6

	version   = 1
	mostBytes = 4 << 20 // of a report: 256 marks of the guest and a dozen of the monitor's take 64 KiB
	mostMarks = 1000
	mostTime  = 365 * 24 * time.Hour
)

// file is the schema of a report, as far as it matters here.
type file struct {
	Version int    `json:"version"`
	Kernel  string `json:"kernel"`
	Outcome struct {
		Kind   string `json:"kind"`
		Status int    `json:"status"`
	} `json:"outcome"`
	Marks []struct {
		Source string `json:"source"`
		Label  string `json:"label"`
		At     int64  `json:"since_exec_ns"`
	} `json:"marks"`
	Dropped uint64 `json:"dropped_marks"`
}

// Report is a boot timeline. Times are in nanoseconds since the start of the process.
type Report struct {
	Name    string  `json:"report"` // the file's
	Kernel  string  `json:"kernel"`
	Outcome string  `json:"outcome"`
	Phases  []Phase `json:"phases"`
	Marks   []Mark  `json:"guest_marks"`
	Dropped uint64  `json:"dropped_marks"`
}

// Phase is the time between two marks of the monitor's.
type Phase struct {
	Name     string `json:"name"` // the mark at its end; guest from first-entry on
	Start    int64  `json:"start_ns"`
	Duration int64  `json:"duration_ns"`
}

// Mark is one of the guest's.
type Mark struct {
	Label string `json:"label"`
	At    int64  `json:"at_ns"`
}

// guestPhase is the phase in which the guest runs.
const guestPhase = "guest"

// Open reads a report; - is standard input.
func Open(path string) (*Report, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	data, err := io.ReadAll(io.LimitReader(f, mostBytes+1))
	if err == nil && len(data) > mostBytes {
		err = fmt.Errorf("more than %d bytes", mostBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: no boot report: %w", path, err)
	}
	r.Name = path
	return r, nil
}

func parse(data []byte) (*Report, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	switch {
	case f.Version != version:
		return nil, fmt.Errorf("its version is %d; want %d", f.Version, version)
	case len(f.Marks) > mostMarks:
		return nil, fmt.Errorf("%d marks; at most %d are possible", len(f.Marks), mostMarks)
	}
	r := &Report{Kernel: f.Kernel, Outcome: f.Outcome.Kind, Phases: []Phase{}, Marks: []Mark{}, Dropped: f.Dropped}
	if f.Outcome.Status != 0 {
		r.Outcome = fmt.Sprintf("%s, status %d", f.Outcome.Kind, f.Outcome.Status)
	}
	last, name, seen, entered := int64(0), "", map[string]bool{}, false
	var latest int64
	for i, m := range f.Marks {
		switch {
		case m.At < 0 || m.At > int64(mostTime):
			return nil, fmt.Errorf("mark %d (%.20q) is at %d ns; want 0 to %d", i, m.Label, m.At, int64(mostTime))
		case m.At < latest:
			return nil, fmt.Errorf("mark %d (%.20q) is at %d ns, before the one in front of it", i, m.Label, m.At)
		}
		latest = m.At
		switch m.Source {
		case "guest":
			r.Marks = append(r.Marks, Mark{m.Label, m.At})
		case "monitor":
			if seen[m.Label] {
				return nil, fmt.Errorf("mark %d (%.20q) is there twice", i, m.Label)
			}
			seen[m.Label] = true
			if len(seen) > 1 {
				if name = m.Label; entered {
					name = guestPhase
				}
				r.Phases = append(r.Phases, Phase{name, last, m.At - last})
			}
			last = m.At
			entered = entered || m.Label == "first-entry"
		default:
			return nil, fmt.Errorf("mark %d has the source %.20q; want monitor or guest", i, m.Source)
		}
	}
	if len(r.Phases) == 0 {
		return nil, fmt.Errorf("%d marks of the monitor; want at least 2", len(seen))
	}
	return r, nil
}

// end is when the last thing happened.
func (r *Report) end() int64 {
	p := r.Phases[len(r.Phases)-1]
	return p.Start + p.Duration
}

// booted is when the last thing happened that belongs to a boot: the last mark of the guest's, or its start.
func (r *Report) booted() int64 {
	for i := range r.Phases {
		if p := &r.Phases[i]; p.Name == guestPhase {
			at := p.Start
			if n := len(r.Marks); n > 0 {
				at = max(at, r.Marks[n-1].At)
			}
			return at
		}
	}
	return r.end()
}

// phases are the names of all phases, in the order in which they come.
func phases(all []*Report) []string {
	var names []string
	for _, r := range all {
		at := 0
		for _, p := range r.Phases {
			if i := slices.Index(names, p.Name); i >= 0 {
				at = i + 1
			} else {
				names = slices.Insert(names, min(at, len(names)), p.Name)
				at++
			}
		}
	}
	return names
}
