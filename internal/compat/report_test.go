package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	ok := outcome{stdout: "SUCCESS 1 ns\n", verdict: pass}
	rep := report{
		upstream: "v1", uvm: "v2", unknown: []string{"test_z/test_z.hvt"},
		rows: []row{
			{testCase: testCase{name: "same"}, theirs: ok, ours: outcome{stdout: "SUCCESS 2 ns\n", verdict: pass}},
			{testCase: testCase{name: "a|b", known: "never"}, theirs: ok, ours: outcome{status: 1, stderr: "no\x1b```\n", verdict: fail}},
			{testCase: testCase{name: "gone"}, missing: true},
		},
	}
	var b strings.Builder
	if _, err := rep.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| same | 0 | 0 | same | same | pass | pass |  |\n",
		`| a\|b | 0 | 1 | differs | differs | pass | **fail** | never |` + "\n",
		"| gone | - | - | - | - | - | - | not built |\n",
		"2 tests: upstream passes 2, uvm passes 1; uvm fails 1 that upstream passes, 1 of them as expected.\n",
		"known for it: test_z/test_z.hvt\n",
		"a|b, stdout:\n\n```diff\n-SUCCESS N ns\n```\n",
		"a|b, stderr:\n\n```diff\n+no·'''\n```\n",
		"got 200 and were then stopped",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("report lacks %q:\n%s", want, b.String())
		}
	}
	if rep.worse() {
		t.Error("worse() = true for a known failure; want false")
	}
	rep.rows[1].known = ""
	if !rep.worse() {
		t.Error("worse() = false for a new failure; want true")
	}
	rep.rows[1].theirs.verdict = fail
	if rep.worse() {
		t.Error("worse() = true where both fail; want false")
	}
}

func TestDiffIsCut(t *testing.T) {
	r := row{testCase: testCase{name: "x"}, theirs: outcome{stdout: strings.Repeat("a\n", maxDiff+3)}}
	var b strings.Builder
	r.writeDiffs(&b)
	if !strings.Contains(b.String(), "-a\n… 3 more lines\n```\n") {
		t.Errorf("writeDiffs = %q; want it cut after %d lines", b.String(), maxDiff)
	}
}

func TestNotes(t *testing.T) {
	slow := outcome{timedOut: true}
	dead := outcome{status: 128 + 9}
	for _, tc := range []struct {
		row  row
		want string
	}{
		{row{}, ""},
		{row{theirs: slow, ours: slow}, "both: stopped by the time limit"},
		{row{theirs: slow}, "upstream: stopped by the time limit"},
		{row{ours: dead}, "uvm: killed: killed"},
		{row{testCase: testCase{skip: "s", known: "k"}}, "s; k"},
		{row{ours: outcome{pings: []pinged{{addr: "a", sent: 3, answered: 2}, {addr: "b", problem: "no summary"}}}},
			"uvm: 2 of 3 pings to a answered, ping b: no summary"},
	} {
		if got := strings.Join(tc.row.notes(), "; "); got != tc.want {
			t.Errorf("notes = %q; want %q", got, tc.want)
		}
	}
}
