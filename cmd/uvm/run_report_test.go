package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/vmm"
)

// readReport reads what --boot-report wrote. Keys that the report's type does
// not have are errors.
func readReport(t *testing.T, data []byte) *bootReport {
	t.Helper()
	r := new(bootReport)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		t.Fatalf("boot report %s: %v", data, err)
	}
	return r
}

// reportOf runs kernel with a report and returns both.
func reportOf(t *testing.T, kernel string, more ...string) (ended, *bootReport) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.json")
	got := uvm(t, append([]string{"run", kernel, "--boot-report", path}, more...)...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("no boot report: %v; the run was %+v", err, got)
	}
	return got, readReport(t, data)
}

// TestBootReport has every mark of the monitor's once, in order, and the
// guest's between entry and exit.
func TestBootReport(t *testing.T) {
	testutil.RequireKVM(t)
	kernel := new(guest).mark('A').mark(0).print("x").mark('Z').halt(0).file(t)
	got, r := reportOf(t, kernel)
	wantQuiet(t, got, 0, "x")
	if r.Version != 1 || r.Kernel != kernel || r.Dropped != 0 {
		t.Errorf("report = %+v; want version 1, kernel %s and no dropped marks", r, kernel)
	}
	var labels []string
	for i, m := range r.Marks {
		labels = append(labels, m.Source+" "+m.Label)
		if i > 0 && (m.SinceExec < r.Marks[i-1].SinceExec || m.CPU < r.Marks[i-1].CPU) {
			t.Errorf("mark %d = %+v; want it after %+v", i, m, r.Marks[i-1])
		}
		if m.Label != vmm.MarkExec && (m.SinceExec <= 0 || m.CPU <= 0) {
			t.Errorf("mark %d = %+v; want times since the start above 0", i, m)
		}
	}
	want := []string{
		"monitor " + vmm.MarkExec, "monitor " + vmm.MarkKVM, "monitor " + vmm.MarkKernel, "monitor " + vmm.MarkDevices,
		"monitor " + vmm.MarkVM, "monitor " + vmm.MarkMemory, "monitor " + vmm.MarkLoad, "monitor " + vmm.MarkEntry,
		"guest A", "guest 0x00", "guest Z", "monitor " + vmm.MarkExit,
	}
	if !slices.Equal(labels, want) {
		t.Fatalf("marks = %q; want %q", labels, want)
	}
	exec, created, entry := r.Marks[0], r.Marks[4], r.Marks[7]
	if exec.SinceExec != 0 || created.SinceVM != 0 || entry.SinceEntry != 0 {
		t.Errorf("marks %+v, %+v, %+v; want each 0 from itself", exec, created, entry)
	}
	for _, m := range r.Marks {
		if m.SinceVM != m.SinceExec-created.SinceExec || m.SinceEntry != m.SinceExec-entry.SinceExec {
			t.Errorf("mark %+v; want its times to differ by those of %+v and %+v", m, created, entry)
		}
		if (m.Source == "guest") != (m.Value != nil) {
			t.Errorf("mark %+v; want a value for a guest's and for no other", m)
		}
	}
}

// TestBootReportOutcome tells apart what the exit status alone does not.
func TestBootReportOutcome(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	status := func(n int) *int { return &n }
	for _, tt := range []struct {
		guest *guest
		args  []string
		want  outcome
	}{
		{new(guest).halt(0), nil, outcome{Kind: "exit", Status: 0, Guest: status(0)}},
		{new(guest).halt(255), nil, outcome{Kind: "exit", Status: 255, Guest: status(255)}},
		{new(guest).halt(-1), nil, outcome{Kind: "exit", Status: 255, Guest: status(-1)}},
		{new(guest).halt(124), nil, outcome{Kind: "exit", Status: 124, Guest: status(124)}},
		{new(guest).hlt(), nil, outcome{Kind: "fault", Status: 255}},
		{new(guest).spin(), []string{"--timeout", "50ms"}, outcome{Kind: "timeout", Status: 124}},
	} {
		got, r := reportOf(t, tt.guest.file(t), tt.args...)
		have, _ := json.Marshal(r.Outcome)
		want, _ := json.Marshal(tt.want)
		if !bytes.Equal(have, want) || got.status != tt.want.Status {
			t.Errorf("status %d, outcome = %s; want %s", got.status, have, want)
		}
	}
	// By signal, and to stdout, where the guest's output is.
	r := follow(t, program(t, "uvm", "run", new(guest).print("on\n").spin().file(t), "--boot-report", "-"))
	r.expect("on\n")
	r.kill(15)
	r.expect("{\n")
	var rest bytes.Buffer
	if _, err := rest.ReadFrom(r.out); err != nil {
		t.Fatal(err)
	}
	got := r.wait()
	if o := readReport(t, append([]byte("{"), rest.Bytes()...)).Outcome; o.Kind != "signal" || o.Status != 143 || got.status != 143 {
		t.Errorf("status %d, outcome = %+v; want 143 by signal", got.status, o)
	}
}

// TestBootReportReplaces writes over an older report that was longer.
func TestBootReportReplaces(t *testing.T) {
	testutil.RequireKVM(t)
	path := writeFile(t, "report.json", bytes.Repeat([]byte("old "), 4096))
	wantQuiet(t, uvm(t, "run", hello(t), "--boot-report", path), 0, "hello\n")
	data, err := os.ReadFile(path)
	if err != nil || !json.Valid(data) {
		t.Errorf("boot report = %s, %v; want one JSON value", data, err)
	}
}

// TestBootReportUnwritable is a failure of its own only where the guest had
// none.
func TestBootReportUnwritable(t *testing.T) {
	testutil.RequireKVM(t)
	path := filepath.Join(t.TempDir(), "missing", "report.json")
	for guestSays, want := range map[int32]int{0: exitHost, 7: 7, 256: exitHost} {
		got := uvm(t, "run", new(guest).halt(guestSays).file(t), "--boot-report", path)
		wantLine(t, got, want, "--boot-report", path, "no such file")
	}
}

// TestManyMarks has a guest make more marks than are kept.
func TestManyMarks(t *testing.T) {
	testutil.RequireKVM(t)
	g := new(guest)
	for range 300 {
		g.mark('m')
	}
	got, r := reportOf(t, g.halt(0).file(t), "--boot-summary")
	if n := uint64(len(r.Marks)) + r.Dropped; got.status != 0 || r.Dropped == 0 || n != 300+9 {
		t.Errorf("run = %+v, %d marks and %d dropped; want status 0 and %d in all", got, len(r.Marks), r.Dropped, 300+9)
	}
	if strings.Count(got.stderr, `mark "m"`) != 16 || !strings.Contains(got.stderr, "more guest marks)") {
		t.Errorf("stderr = %q; want 16 marks and the number of the others", got.stderr)
	}
}

func TestBootSummary(t *testing.T) {
	testutil.RequireKVM(t)
	const ms = ` \d+\.\d{3}`
	want := regexp.MustCompile(`^uvm: boot \(ms since exec\): exec 0\.000 kvm-open` + ms + ` kernel` + ms + ` devices` + ms +
		` vm-create` + ms + ` memory` + ms + ` load` + ms + ` first-entry` + ms + ` mark "A"` + ms + ` exit` + ms + `; CPU` + ms + "\n$")
	got := uvm(t, "run", new(guest).mark('A').halt(3).file(t), "--boot-summary")
	if got.status != 3 || got.stdout != "" || !want.MatchString(got.stderr) {
		t.Errorf("run = %+v; want status 3 and stderr to match %v", got, want)
	}
}
