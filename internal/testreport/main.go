// Command testreport reads `go test -json` on stdin and says what came of it:
// a line for each package, the whole output of what failed, and how many tests
// ran on a real KVM. It fails if a test failed, or if fewer KVM tests passed
// than -kvm-min says: a suite that quietly stops testing must not stay green.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// kvmAttr is the attribute that testutil.RequireKVM gives to a test.
const kvmAttr = "kvm"

// event is a line of test2json's output.
type event struct {
	Action, Package, Test, Output, Key, Value string
	Elapsed                                   float64
}

// result is what a run comes to.
type result struct {
	passed, failed, skipped int
	kvmPassed               int
}

func main() {
	kvmMin := flag.String("kvm-min", "", "`FILE` with the number of KVM tests that have to pass")
	flag.Parse()
	least := 0
	if *kvmMin != "" {
		data, err := os.ReadFile(*kvmMin)
		if err == nil {
			least, err = strconv.Atoi(strings.TrimSpace(string(data)))
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "testreport: -kvm-min: %v\n", err)
			os.Exit(2)
		}
	}
	r, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testreport: %v\n", err)
		os.Exit(2)
	}
	fmt.Printf("%d passed, %d failed, %d skipped; %d ran on KVM\n", r.passed, r.failed, r.skipped, r.kvmPassed)
	if r.kvmPassed < least {
		fmt.Printf("FAIL: %d KVM tests passed, %s wants %d\n", r.kvmPassed, *kvmMin, least)
		r.failed++
	}
	if r.failed > 0 {
		os.Exit(1)
	}
}

// summarize copies what matters to w. A failing package counts as a failure of
// its own, since it may have failed without any test: it did not build, or
// crashed.
func summarize(in io.Reader, w io.Writer) (result, error) {
	var r result
	output := map[string]*strings.Builder{} // by package and test
	onKVM := map[string]bool{}
	s := bufio.NewScanner(in)
	s.Buffer(nil, 1<<24)
	for s.Scan() {
		var e event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			// The go command prints some errors as plain text.
			fmt.Fprintln(w, s.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if output[key] == nil {
				output[key] = new(strings.Builder)
			}
			output[key].WriteString(e.Output)
		case "attr":
			onKVM[key] = onKVM[key] || e.Key == kvmAttr
		case "pass", "fail", "skip":
			r.count(&e, onKVM[key])
			if e.Test == "" {
				fmt.Fprintf(w, "%-4s %s (%.1f s)\n", e.Action, e.Package, e.Elapsed)
			}
			if b := output[key]; b != nil && (e.Action == "fail" || e.Action == "skip" && e.Test != "") {
				fmt.Fprint(w, b)
			}
			delete(output, key)
			if e.Action == "fail" && e.Test == "" {
				unfinished(w, e.Package, output)
			}
		case "build-fail":
			r.failed++
			if b := output[key]; b != nil {
				fmt.Fprint(w, b)
			}
		}
	}
	return r, s.Err()
}

// unfinished prints what the tests of a package had to say that never ended:
// the program crashed in one of them.
func unfinished(w io.Writer, pkg string, output map[string]*strings.Builder) {
	for key, b := range output {
		if strings.HasPrefix(key, pkg+" ") {
			fmt.Fprint(w, b)
			delete(output, key)
		}
	}
}

func (r *result) count(e *event, onKVM bool) {
	switch {
	case e.Action == "fail":
		r.failed++
	case e.Test == "":
	case e.Action == "skip":
		r.skipped++
	default:
		r.passed++
		if onKVM {
			r.kvmPassed++
		}
	}
}
