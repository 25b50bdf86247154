package main

import (
	"path/filepath"
	"strings"
	"syscall"
)

// verdict is how tests.bats would judge a run.
type verdict string

// The verdicts.
const (
	pass    verdict = "pass"
	fail    verdict = "**fail**"
	skipped verdict = "skip" // tests.bats does not judge it here
)

// outcome is one run of a test.
type outcome struct {
	status         int // as a shell shows it: 128 + the signal that ended it
	stdout, stderr string
	pings          []pinged
	timedOut       bool
	seconds        float64
	verdict        verdict
	err            error // it could not be run
}

// judge applies upstream's criterion.
func (b *bench) judge(c testCase, o *outcome) verdict {
	if c.skip != "" {
		return skipped
	}
	core := false
	if c.want.core {
		found, err := filepath.Glob(filepath.Join(b.scratch, "core.solo5-hvt.*"))
		core = err == nil && len(found) > 0
	}
	want := c.want
	if c.short != "" && !b.full {
		want = stoppedGuest
	}
	return want.judge(o, core)
}

// stoppedGuest is our criterion for a guest that was pinged and then stopped.
var stoppedGuest = expect{status: 1, text: []string{"Exiting on signal 15"}}

// judge applies the criterion to a run; core says that there is a core dump.
func (e *expect) judge(o *outcome, core bool) verdict {
	output := o.stdout + o.stderr
	if e.flaky != "" && o.status == 1 && strings.Contains(output, e.flaky) {
		return skipped
	}
	ok := o.err == nil && !o.timedOut && o.status == e.status && (core || !e.core)
	for _, t := range e.text {
		ok = ok && strings.Contains(output, t)
	}
	if e.absent != "" {
		ok = ok && !strings.Contains(output, e.absent)
	}
	for i := range o.pings {
		ok = ok && o.pings[i].all()
	}
	if ok {
		return pass
	}
	return fail
}

// notes says in words what the table's other columns do not.
func (o *outcome) notes() (n []string) {
	switch {
	case o.err != nil:
		n = append(n, o.err.Error())
	case o.timedOut:
		n = append(n, "stopped by the time limit")
	case o.status > 128 && o.status < 160:
		n = append(n, "killed: "+syscall.Signal(o.status-128).String())
	}
	for i := range o.pings {
		n = append(n, o.pings[i].String())
	}
	return n
}
