package main

import (
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     result
		output   string // has to appear
	}{
		{"passes", `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"attr","Package":"p","Test":"B","Key":"kvm","Value":"1"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Elapsed":1.5}`, result{passed: 2, kvmPassed: 1}, "pass p (1.5 s)"},
		{"a failing test shows its output", `{"Action":"output","Package":"p","Test":"A","Output":"got 1; want 2\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, result{failed: 2}, "got 1; want 2"},
		{"a failing KVM test is not counted as run", `{"Action":"attr","Package":"p","Test":"A","Key":"kvm","Value":"1"}
{"Action":"fail","Package":"p","Test":"A"}`, result{failed: 1}, ""},
		{"a skip says why", `{"Action":"output","Package":"p","Test":"A","Output":"because\n"}
{"Action":"skip","Package":"p","Test":"A"}`, result{skipped: 1}, "because"},
		{"a crash without a test", `{"Action":"output","Package":"p","Output":"panic\n"}
{"Action":"fail","Package":"p"}`, result{failed: 1}, "panic"},
		{"a crash inside a test", `{"Action":"output","Package":"p","Test":"A","Output":"goroutine 1\n"}
{"Action":"fail","Package":"p"}`, result{failed: 1}, "goroutine 1"},
		{"a package that does not build", `{"ImportPath":"p","Action":"build-output","Output":"undefined: x\n"}
{"ImportPath":"p","Action":"build-fail"}`, result{failed: 1}, "undefined: x"},
		{"plain text passes through", "go: something", result{}, "go: something"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			got, err := summarize(strings.NewReader(c.in), &out)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("summarize() = %+v; want %+v", got, c.want)
			}
			if !strings.Contains(out.String(), c.output) {
				t.Errorf("summarize() printed %q; want %q in it", out.String(), c.output)
			}
		})
	}
}
