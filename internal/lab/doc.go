// Package lab runs tests and commands in a small Linux machine that has true
// hardware virtualisation: QEMU emulates a processor with AMD's SVM (no KVM
// of the host's is needed), Debian's kernel in it loads kvm-amd, and what uvm
// does with the lab's /dev/kvm is what it would do on hardware.
//
//	lab.Run(t, lab.Options{},
//		lab.Job{Package: "kvm"},
//		lab.Job{Argv: []string{"uvm", "run", "/src/bin/guests/hello.hvt"}})
//
// boots once, and reports the tests of package kvm and the command as subtests
// of t. docs/testing.md tells what runs here and why. Only tests and
// `make lab-shell` import it.
package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// EnvNoLab, set to 1, skips what needs the lab: on machines where QEMU or the
// kernel's package cannot be had.
const EnvNoLab = "UVM_TEST_NO_LAB"

// EnvLab is 1 in the environment of everything that runs inside.
const EnvLab = "UVM_LAB"

// Options describe the machine. The zero value is what most tests want.
type Options struct {
	// Memory in bytes; 0 means 1 GiB.
	Memory int64
	// CPUs; 0 means 1. QEMU emulates all of them in one thread, in turns: more
	// of them make races visible, and everything slower.
	CPUs int
	// ICount makes time follow executed instructions, on one CPU: figures
	// repeat, and mean instructions rather than time. See docs/testing.md for
	// what repeats exactly.
	ICount bool
	// Disks appear as /dev/vda, /dev/vdb, …
	Disks []Disk
	// Files maps paths in the lab to files or directories outside.
	Files map[string]string
	// Tools are programs of this machine, by name or path, that are copied
	// with the shared libraries they need. busybox's are there anyway.
	Tools []string
	// Modules are kernel modules that are loaded besides those that KVM, TAP
	// and the devices need.
	Modules []string
	// BootBound is how long booting may take, in real time; 0 means 2 minutes.
	BootBound time.Duration

	omitModules []string // for the test that leaves kvm-amd out
}

// Disk is a raw image of the host's that the lab may write to, of any size.
type Disk struct {
	Path     string
	ReadOnly bool
	// Cache is QEMU's cache mode, "" for unsafe. With none, what the lab has written to
	// the disk outlives a kill of QEMU, and what lies in the lab's memory does not.
	Cache string
}

// Job is a command, or the tests of a Go package. Jobs run one after the
// other; what a job leaves running is killed.
type Job struct {
	// Name of the subtest; empty means Package or Argv[0].
	Name string

	// Package is the path of a package below the module. Its tests become
	// subtests, with what they print and whether they passed.
	Package string
	// Skips are the tests of Package that are not run here, with the reason.
	// Any other test that skips itself fails: the lab is where things run.
	Skips map[string]string

	// Argv is the command, if Package is empty. bin/uvm, bin/solo5-hvt and
	// busybox's tools are on PATH; the guests lie in /src/bin/guests.
	Argv []string
	// Check judges the command; nil means that its status has to be 0.
	Check func(t *testing.T, r *Result)
	// Results are files that Result.Files has afterwards. Large ones travel on
	// a Disk instead.
	Results []string

	Env []string // added to the lab's own
	Dir string   // working directory of a command; empty means /
	// Bound is when a job is killed; 0 means 4 minutes for a Package, one for
	// a command. Real time, or with ICount whichever of real time and the
	// lab's comes first.
	Bound time.Duration
	// Again runs a command once more where its Bound ended it, and logs what the
	// first attempt said. For guests that the lab's emulation may stop; see
	// docs/testing.md. Argv has to work a second time.
	Again bool
}

func (j *Job) name() string {
	switch {
	case j.Name != "":
		return j.Name
	case j.Package != "":
		return j.Package
	}
	return j.Argv[0]
}

func (j *Job) bound() time.Duration {
	switch {
	case j.Bound != 0:
		return j.Bound
	case j.Package != "":
		return 4 * time.Minute
	}
	return time.Minute
}

// Result is how a command ended.
type Result struct {
	// Status is the exit status, 128+n after signal n.
	Status         int
	Stdout, Stderr string
	Files          map[string][]byte // of Job.Results
	Elapsed        time.Duration     // in the lab's time
}

// Require skips the test if UVM_TEST_NO_LAB=1.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(EnvNoLab) == "1" {
		t.Skip("skipped by " + EnvNoLab + "=1; unset it on a Debian machine with qemu-system-x86 and busybox-static")
	}
}

// moduleRoot is the directory of go.mod above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory; run this inside the repository")
		}
		dir = up
	}
}
