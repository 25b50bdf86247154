package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/lab/wire"
)

const (
	defaultBootBound = 2 * time.Minute
	// slack is what a job gets beyond its bound before the lab is killed: the
	// agent inside kills the job at the bound, and tells what it did.
	slack = 30 * time.Second
)

// Run boots the lab once, does the jobs in it one after the other, and reports
// each as a subtest. A job without a verdict has failed. What a failed run
// leaves is kept: the console, the initramfs, and a script that repeats it.
//
// With go test -run, only the jobs that it selects go into the lab.
func Run(t *testing.T, o Options, jobs ...Job) {
	t.Helper()
	Require(t)
	pattern := runPattern()
	selected := jobs[:0:0]
	for _, j := range jobs {
		if pattern.selects(t.Name() + "/" + j.name()) {
			selected = append(selected, j)
		}
	}
	if len(selected) == 0 {
		t.Skip("-run selects no job of this lab run")
	}
	s, err := boot(t, o, selected, pattern)
	if err != nil {
		t.Fatal(err)
	}
	defer s.end(t)
	for i := range selected {
		t.Run(selected[i].name(), func(t *testing.T) {
			s.do(t, i)
			s.did[i] = true
		})
		// A subtest that go test left out was done inside anyway.
		if !s.did[i] && s.lost == nil {
			s.lost = s.drain(i)
		}
	}
	if s.lost == nil {
		if err := s.m.finish(); err != nil {
			t.Error(s.m.describe(err))
		}
	}
}

// session is one boot.
type session struct {
	dir  string
	m    *machine
	jobs []Job
	did  []bool
	// lost is why there is no lab any more, set by the first job that saw it.
	lost error
}

// boot builds the initramfs and starts the machine, and returns when its agent
// is up.
func boot(t *testing.T, o Options, jobs []Job, pattern runFilter) (*session, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	noteInputs(root)
	dir, err := os.MkdirTemp("", "uvm-lab-")
	if err != nil {
		return nil, err
	}
	s := &session{dir: dir, jobs: jobs, did: make([]bool, len(jobs))}
	fail := func(err error) (*session, error) {
		if _, e := os.Stat(filepath.Join(dir, consoleName)); e != nil {
			os.RemoveAll(dir) // it never started
			return nil, err
		}
		return nil, fmt.Errorf("%w\n%s", err, s.remedy())
	}
	begin := time.Now()
	parts, err := FindParts()
	if err != nil {
		return fail(err)
	}
	defer parts.Close()
	plan := wire.Plan{Serial: o.ICount, Env: environment}
	var pkgs []string
	for i := range jobs {
		plan.Jobs = append(plan.Jobs, jobs[i].wire(pattern, t.Name()))
		if p := jobs[i].Package; p != "" {
			pkgs = append(pkgs, p)
		}
	}
	err = writeImage(filepath.Join(dir, initramfsName), parts, &o, &plan, func(a *archive) error {
		return addPackages(a, root, pkgs)
	})
	if err != nil {
		return fail(err)
	}
	if err := writeScript(dir, parts, &o); err != nil {
		return fail(err)
	}
	built := time.Since(begin)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if s.m, err = start(ctx, dir, arguments(parts, &o, false)); err != nil {
		return fail(err)
	}
	bound := o.BootBound
	if bound == 0 {
		bound = defaultBootBound
	}
	up, err := s.m.next(time.Now().Add(bound), bound)
	switch {
	case err != nil:
		return fail(s.m.describe(fmt.Errorf("lab: booting: %w", err)))
	case up.Event != wire.Up:
		return fail(s.m.describe(fmt.Errorf("lab: booting: the first event is %q; want %q", up.Event, wire.Up)))
	case up.Error != "":
		return fail(s.m.describe(fmt.Errorf("lab: %s", up.Error)))
	}
	t.Logf("lab: Debian's kernel %s; prepared in %.1f s, up after %.1f s", parts.Version, built.Seconds(), (time.Since(begin) - built).Seconds())
	return s, nil
}

// wire is the job as the agent sees it.
func (j *Job) wire(pattern runFilter, test string) wire.Job {
	w := wire.Job{Name: j.name(), Argv: j.Argv, Env: j.Env, Dir: j.Dir, Bound: j.bound(), Results: j.Results, Again: j.Again}
	if j.Package != "" {
		dir, file := testBinary(j.Package)
		w.Argv = append([]string{file}, j.testFlags(pattern.inner(test+"/"+j.name()))...)
		w.Dir, w.Merge = dir, true
	}
	return w
}

// end ends the machine, and keeps or removes what it leaves.
func (s *session) end(t *testing.T) {
	s.m.kill()
	if t.Failed() {
		t.Log(s.remedy())
		return
	}
	if err := os.RemoveAll(s.dir); err != nil {
		t.Log(err)
	}
}

// remedy tells what is left of a failed run.
func (s *session) remedy() string {
	return fmt.Sprintf("the lab's console: %s\nrepeat it by hand: %s\nlook around in it: %[2]s shell",
		filepath.Join(s.dir, consoleName), filepath.Join(s.dir, scriptName))
}

// do reports job i, which is the next one of the lab's.
func (s *session) do(t *testing.T, i int) {
	if s.lost != nil {
		t.Fatalf("did not run: the lab was lost before (%v)", firstLine(s.lost))
	}
	job := &s.jobs[i]
	r := &Result{Files: map[string][]byte{}}
	var err error
	if job.Package != "" {
		err = s.reportPackage(t, i, r)
	} else {
		var stdout, stderr strings.Builder
		err = s.collect(i, r, func(stream int, b []byte) {
			switch stream {
			case 0:
				t.Logf("HUNG ONCE, and runs again\nstdout: %s\nstderr: %s", &stdout, &stderr)
				stdout.Reset()
				stderr.Reset()
			case 1:
				stdout.Write(b)
			default:
				stderr.Write(b)
			}
		})
		r.Stdout, r.Stderr = stdout.String(), stderr.String()
	}
	var verdict *verdictError
	switch {
	case errors.As(err, &verdict):
		t.Errorf("%s: %v", job.name(), err)
	case err != nil:
		s.lost = s.m.describe(fmt.Errorf("%s: %w", job.name(), err))
		t.Error(s.lost)
	}
	if job.Package != "" {
		return
	}
	if err != nil || job.Check == nil && r.Status != 0 {
		t.Errorf("%q: status %d; want 0\nstdout: %s\nstderr: %s", job.Argv, r.Status, r.Stdout, r.Stderr)
	}
	if err == nil && job.Check != nil {
		job.Check(t, r)
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// verdictError is a job that went wrong in a lab that lives on.
type verdictError struct{ text string }

func (e *verdictError) Error() string { return e.text }

// collect reads the events of job i into r and output, to its verdict; stream 0
// is the end of an attempt that did not count. Its error is a *verdictError, or the
// lab is of no more use.
func (s *session) collect(i int, r *Result, output func(stream int, b []byte)) error {
	bound := s.jobs[i].bound()
	limit := bound + slack
	deadline := time.Now().Add(limit)
	for started := false; ; {
		e, err := s.m.next(deadline, limit)
		if err != nil {
			return err
		}
		if e.Job != i {
			return fmt.Errorf("the lab sent %q of job %d", e.Event, e.Job)
		}
		switch e.Event {
		case wire.Start:
			if started {
				output(0, nil)
				deadline = time.Now().Add(limit)
			}
			started = true
		case wire.Output:
			output(e.Stream, e.Bytes())
		case wire.File:
			r.Files[e.Path] = append(r.Files[e.Path], e.Bytes()...)
		case wire.Exit:
			r.Status, r.Elapsed = e.Status, e.Elapsed
			switch {
			case e.TimedOut:
				return &verdictError{fmt.Sprintf("killed after its bound of %v", bound)}
			case e.Error != "":
				return &verdictError{e.Error}
			}
			return nil
		default:
			return fmt.Errorf("the lab sent the event %q", e.Event)
		}
	}
}

// drain reads over job i.
func (s *session) drain(i int) error {
	err := s.collect(i, &Result{Files: map[string][]byte{}}, func(int, []byte) {})
	var verdict *verdictError
	if err == nil || errors.As(err, &verdict) {
		return nil
	}
	return s.m.describe(err)
}
