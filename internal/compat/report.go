package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// report is the result of all tests.
type report struct {
	settings
	upstream, uvm string // versions
	rows          []row
	unknown       []string // binaries that no test runs
}

// row is a test under both tenders.
type row struct {
	testCase
	missing      bool // the tree does not have the binary
	theirs, ours outcome
}

// worse says that uvm fails where Solo5's tender passes, and nobody knew.
func (r *row) worse() bool {
	return !r.missing && r.known == "" && r.theirs.verdict == pass && r.ours.verdict != pass
}

func (rep *report) worse() bool {
	for i := range rep.rows {
		if rep.rows[i].worse() {
			return true
		}
	}
	return false
}

// maxDiff is the number of lines of a difference that are shown.
const maxDiff = 6

// WriteTo prints the report as Markdown.
func (rep *report) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Upstream: %s. uvm: %s. Time limit: %v for one test.\n", rep.upstream, rep.uvm, rep.limit)
	if !rep.full {
		fmt.Fprintf(&b, "Guests that wait for up to 100000 pings got %d and were then stopped with SIGTERM; they pass if all were answered.\n", shortPings)
	}
	b.WriteString("\n| test | status upstream | status uvm | stdout | stderr | verdict upstream | verdict uvm | note |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for i := range rep.rows {
		rep.rows[i].writeRow(&b)
	}
	b.WriteString("\n" + rep.summary())
	for _, u := range rep.unknown {
		fmt.Fprintf(&b, "Not run, because no test of tests.bats is known for it: %s\n", u)
	}
	b.WriteString("\nReplaced in both outputs before they were compared: ")
	for i, n := range normalisations {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (`%s`)", n.what, n.to)
	}
	b.WriteString(".\n")
	for i := range rep.rows {
		rep.rows[i].writeDiffs(&b)
	}
	return b.WriteTo(w)
}

func (rep *report) summary() string {
	var total, theirs, ours, worse, known int
	for i := range rep.rows {
		r := &rep.rows[i]
		if r.missing {
			continue
		}
		total++
		if r.theirs.verdict == pass {
			theirs++
		}
		if r.ours.verdict == pass {
			ours++
		} else if r.theirs.verdict == pass {
			worse++
			if r.known != "" {
				known++
			}
		}
	}
	return fmt.Sprintf("%d tests: upstream passes %d, uvm passes %d; uvm fails %d that upstream passes, %d of them as expected.\n",
		total, theirs, ours, worse, known)
}

func (r *row) writeRow(w io.Writer) {
	if r.missing {
		fmt.Fprintf(w, "| %s | - | - | - | - | - | - | not built |\n", cell(r.name))
		return
	}
	fmt.Fprintf(w, "| %s | %d | %d | %s | %s | %s | %s | %s |\n", cell(r.name), r.theirs.status, r.ours.status,
		sameness(r.theirs.stdout, r.ours.stdout), sameness(r.theirs.stderr, r.ours.stderr),
		r.theirs.verdict, r.ours.verdict, cell(strings.Join(r.notes(), "; ")))
}

// notes are the test's and those of the runs; what both say is said once.
func (r *row) notes() []string {
	var n []string
	for _, s := range []string{r.skip, r.known} {
		if s != "" {
			n = append(n, s)
		}
	}
	theirs, ours := strings.Join(r.theirs.notes(), ", "), strings.Join(r.ours.notes(), ", ")
	if theirs == ours {
		if theirs != "" {
			n = append(n, "both: "+theirs)
		}
		return n
	}
	if theirs != "" {
		n = append(n, "upstream: "+theirs)
	}
	if ours != "" {
		n = append(n, "uvm: "+ours)
	}
	return n
}

func sameness(a, b string) string {
	if normalise(a) == normalise(b) {
		return "same"
	}
	return "differs"
}

// cell makes s safe inside a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ").Replace(s)
}

// writeDiffs prints what the two tenders said differently: - is upstream, + is
// uvm.
func (r *row) writeDiffs(w io.Writer) {
	if r.missing {
		return
	}
	for _, s := range []struct{ what, theirs, ours string }{
		{"stdout", r.theirs.stdout, r.ours.stdout},
		{"stderr", r.theirs.stderr, r.ours.stderr},
	} {
		d := diff(normalise(s.theirs), normalise(s.ours))
		if len(d) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s, %s:\n\n```diff\n", r.name, s.what)
		for i, l := range d {
			if i == maxDiff {
				fmt.Fprintf(w, "… %d more lines\n", len(d)-i)
				break
			}
			fmt.Fprintln(w, printable(l))
		}
		fmt.Fprintln(w, "```")
	}
}

// printable replaces what would break out of a code block or a terminal.
func printable(s string) string {
	s = strings.ReplaceAll(s, "```", "'''")
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return '·'
		}
		return r
	}, s)
}
