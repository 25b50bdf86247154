package lab

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// testBinary is where the tests of a package lie in the lab, and what they are
// called.
func testBinary(pkg string) (dir, file string) {
	dir = path.Join(srcDir, pkg)
	return dir, path.Join(dir, path.Base(pkg)+".test")
}

// addPackages builds the tests of the packages and adds them, each with the
// files of its folder and testdata, at the place that go test would run it in.
func addPackages(a *archive, root string, pkgs []string) error {
	if len(pkgs) == 0 {
		return nil
	}
	a.file(srcDir+"/go.mod", filepath.Join(root, "go.mod"))
	tmp, err := os.MkdirTemp("", "uvm-lab-tests-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// One build for all. Packages of one name would overwrite each other.
	names := map[string]string{}
	args := []string{"test", "-c", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", tmp + "/"}
	for _, p := range slices.Compact(slices.Sorted(slices.Values(pkgs))) {
		if other := names[path.Base(p)]; other != "" {
			return fmt.Errorf("lab: packages %s and %s have the same name; run them in two boots", other, p)
		}
		names[path.Base(p)] = p
		args = append(args, "./"+p)
	}
	if err := goTool(root, args...); err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Values(names)) {
		dir, file := testBinary(p)
		binary := filepath.Join(tmp, path.Base(file))
		if _, err := os.Stat(binary); err != nil {
			return fmt.Errorf("lab: package %s has no tests", p)
		}
		a.file(file, binary)
		entries, err := os.ReadDir(filepath.Join(root, p))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Type().IsRegular() || e.Name() == "testdata" {
				a.file(path.Join(dir, e.Name()), filepath.Join(root, p, e.Name()))
			}
		}
	}
	return nil
}

// testFlags are the flags that go test would give, with run as -run's pattern.
func (j *Job) testFlags(run string) []string {
	flags := []string{"-test.v=test2json", "-test.paniconexit0", fmt.Sprintf("-test.timeout=%v", max(j.bound()-5*time.Second, time.Second))}
	if run != "" {
		flags = append(flags, "-test.run="+run)
	}
	if len(j.Skips) > 0 {
		var names []string
		for _, n := range slices.Sorted(maps.Keys(j.Skips)) {
			names = append(names, "^"+regexp.QuoteMeta(n)+"$")
		}
		flags = append(flags, "-test.skip="+strings.Join(names, "|"))
	}
	return flags
}

// reportPackage turns what a test binary prints into subtests, while it runs.
func (s *session) reportPackage(t *testing.T, i int, r *Result) error {
	job := &s.jobs[i]
	convert := exec.CommandContext(t.Context(), "go", "tool", "test2json", "-t")
	in, err := convert.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := convert.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	convert.Stderr = os.Stderr
	if err := convert.Start(); err != nil {
		t.Fatalf("go tool test2json: %v", err)
	}
	tree := newTree()
	parsed := make(chan error, 1)
	go func() {
		err := tree.read(out)
		_, _ = io.Copy(io.Discard, out)
		tree.close()
		parsed <- err
	}()
	verdict := make(chan error, 1)
	go func() {
		err := s.collect(i, r, func(_ int, b []byte) { _, _ = in.Write(b) })
		in.Close()
		verdict <- err
	}()
	for _, name := range slices.Sorted(maps.Keys(job.Skips)) {
		t.Run(name, func(t *testing.T) { t.Skip("not in the lab: " + job.Skips[name]) })
	}
	tests := tree.root.replay(t)
	err = <-verdict
	if e := <-parsed; e != nil {
		t.Errorf("test2json: %v", e)
	}
	if e := convert.Wait(); e != nil {
		t.Errorf("go tool test2json: %v", e)
	}
	if err != nil {
		return err
	}
	switch {
	case tests == 0:
		t.Errorf("package %s ran no test in the lab", job.Package)
	case r.Status != 0:
		t.Errorf("the tests of package %s ended with status %d in the lab", job.Package, r.Status)
	}
	return nil
}

// testEvent is a line of test2json (go doc test2json).
type testEvent struct {
	Action, Test, Output, Key, Value string
	Elapsed                          float64 // seconds
}

// read distributes the lines over the tree.
func (tr *tree) read(in io.Reader) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var e testEvent
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return fmt.Errorf("%q: %w", sc.Text(), err)
		}
		tr.add(e)
	}
	return sc.Err()
}
