package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

// pcStats is what a PC says.
const pcStats = `{
	"state": "running", "memory_bytes": 268435456, "resident_bytes": 33554432, "process_cpu_ns": 1, "unanswered": 3,
	"vcpus": [{"cpu_ns": 1, "exits": {"MMIO": 5, "HLT": 1}}, {"cpu_ns": 1, "exits": {"MMIO": 5}}],
	"virtio": [{"name": "net \"eth0\"", "interrupts": 7, "rx_dropped": 2}], "boot_marks": []
}`

// guests has the sample unikernels.
const guests = "../../bin/guests/"

// live is a uvm that runs.
type live struct {
	cmd   *exec.Cmd
	lines chan string // of its output
}

// startVM runs uvm with a guest until the test ends.
func startVM(t *testing.T, dir, kernel string, args ...string) *live {
	t.Helper()
	if _, err := os.Stat(guests + kernel); err != nil {
		t.Fatalf("%v; run make guests", err)
	}
	cmd := exec.CommandContext(t.Context(), uvmProgram(t), append([]string{"run", guests + kernel, "--run-dir", dir, "--timing"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &live{cmd, make(chan string, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(l.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			select {
			case l.lines <- s.Text():
			default:
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Signal(syscall.SIGTERM)
		testutil.Wait(t, done, "the end of "+kernel)
		cmd.Wait()
	})
	return l
}

// echoes sends datagrams to a netecho until ctx is done, n a second.
func echoes(ctx context.Context, t *testing.T, addr string, n int) {
	c, err := net.Dial("udp", addr+":7")
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	b := make([]byte, 100)
	for ctx.Err() == nil {
		c.Write(b)
		c.SetReadDeadline(time.Now().Add(time.Second))
		c.Read(b)
		time.Sleep(time.Second / time.Duration(n))
	}
}

func is(want float64) func([]point) bool {
	return func(p []point) bool { return len(p) == 1 && p[0].value == want }
}

// TestPrometheus has a Prometheus scrape real VMs: what it then knows is right, all queries of the dashboard have data, and
// so has the alert about a VM that does not answer.
func TestPrometheus(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.RequireRoot(t)
	dir := runDir(t)
	e := startExporter(t, "--run-dir", dir, "--timeout", "500ms")
	target := strings.TrimPrefix(e.url, "http://")
	p, native := startPrometheus(t, target), startPrometheus(t, target, "--enable-feature=native-histograms")
	p.until(t, "up", is(1))
	native.until(t, "uvm_scrape_vms", is(0))

	// The guests: one that ends before anybody sees it, one that computes, one that waits, one that reads, one that answers.
	hello := startVM(t, dir, "hello.hvt")
	for range hello.lines {
	}
	compute := startVM(t, dir, "compute.hvt", "--name", "compute", "-m", "8M", "--", "int", "1000000000000")
	startVM(t, dir, "clock.hvt", "--name", "idle", "-m", "16M", "--", "sleep", "600000")
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, bytes.Repeat([]byte("uvm "), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	reader := startVM(t, dir, "blkspeed.hvt", "--name", "reader", "--disk", disk, "--", "1", "1000000")
	netecho := startVM(t, dir, "netecho.hvt", "--name", "netecho", "--net", "auto")
	addr := ""
	for line := range netecho.lines {
		if a, ok := strings.CutPrefix(line, "guest: "); ok {
			addr = a
		}
		if strings.Contains(line, " up, ") {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var sent = make(chan struct{})
	go func() { defer close(sent); echoes(ctx, t, addr, 50) }()
	defer func() { cancel(); <-sent }()
	// Of a PC, and of a guest that takes traps, only the statistics: not every test host can run them.
	fakeVM(t, dir, "pc", func() string { return pcStats })
	fakeVM(t, dir, "traps", func() string { return goodStats })

	p.until(t, "sum(uvm_vm_up)", is(6))
	p.until(t, `uvm_vm_memory_bytes{name="compute",kernel="compute.hvt"}`, is(8<<20))
	p.until(t, `uvm_vm_memory_bytes{name="idle"} >= uvm_vm_memory_resident_bytes > 0`, is(16<<20))
	p.until(t, `uvm_hypercalls_total{name="idle",call="POLL"}`, is(1))
	p.until(t, `count(uvm_hypercalls_total{name="compute"}) or vector(0)`, func(p []point) bool { return len(p) == 1 })
	p.until(t, `count by (state) (uvm_vm_state)`, func(p []point) bool {
		return len(p) == 1 && p[0].labels["state"] == "running" && p[0].value == 6
	})
	p.until(t, `uvm_boot_phase_duration_seconds_count{phase="total"}`, is(5)) // the PC has no marks
	p.until(t, `0 < histogram_quantile(0.5, uvm_boot_phase_duration_seconds_bucket{phase="total"}) < 2`, func(p []point) bool { return len(p) == 1 })
	// A vCPU that only computes has nearly a processor; here others need them as well.
	p.until(t, `rate(uvm_vcpu_cpu_seconds_total{name="compute"}[5s])`, func(p []point) bool { return len(p) == 1 && p[0].value > 0.05 && p[0].value < 1.2 })
	p.until(t, `rate(uvm_device_operations_total{name="netecho",op="tx"}[5s])`, func(p []point) bool { return len(p) == 1 && p[0].value > 1 && p[0].value < 70 })
	// An echo of 100 bytes is a frame of 142.
	p.until(t, `round(delta(uvm_device_bytes_total{name="netecho",op="tx"}[5s]) / delta(uvm_device_operations_total{name="netecho",op="tx"}[5s]))`, is(142))
	p.until(t, `rate(uvm_hypercalls_total{name="reader",call="BLOCK_READ"}[5s]) > 10`, func(p []point) bool { return len(p) == 1 })
	p.until(t, `sum by (name) (uvm_exits_total{name="reader",reason="IO"}) >= on (name) sum by (name) (uvm_hypercalls_total)`, func(p []point) bool { return len(p) == 1 })

	checkMonotonic(t, p, dir)
	checkTool(t, e)
	checkDashboard(t, p, native)
	checkAlerts(t, p, compute)

	// One that is killed is no VM any more.
	if err := reader.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.until(t, "count(uvm_vm_up)", is(5))
}

// checkMonotonic compares a counter that Prometheus has with what the VM itself says before and afterwards.
func checkMonotonic(t *testing.T, p *server, dir string) {
	t.Helper()
	ask := func() float64 {
		d, err := control.OpenDir(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		entry, err := d.Find("reader")
		if err != nil {
			t.Fatal(err)
		}
		c, err := entry.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var s struct {
			Devices []struct {
				Name string
				Ops  map[string]struct{ Bytes float64 }
			}
		}
		if err := c.Call("stats", nil, &s); err != nil {
			t.Fatal(err)
		}
		for _, d := range s.Devices {
			if d.Name == "storage" {
				return d.Ops["read"].Bytes
			}
		}
		t.Fatalf("the VM has no device storage: %+v", s)
		return 0
	}
	before := ask()
	const expr = `uvm_device_bytes_total{name="reader",device="storage",kind="disk",op="read"}`
	got := p.until(t, expr, func(p []point) bool { return len(p) == 1 && p[0].value > before })[0].value
	if after := ask(); got > after {
		t.Errorf("%s = %v; the VM has read %v", expr, got, after)
	}
}

// checkTool runs promtool on what the exporter says, and on the alerts.
func checkTool(t *testing.T, e *running) {
	t.Helper()
	_, text := get(e.url + "/metrics")
	for stdin, args := range map[string][]string{string(text): {"check", "metrics"}, "": {"check", "rules", "--lint-fatal", alertsFile}} {
		cmd := exec.Command(tool(t, "promtool"), args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil || args[1] == "metrics" && len(out) > 0 {
			t.Errorf("promtool %v = %v\n%s", args, err, out)
		}
	}
}

// checkDashboard runs every query, also on a Prometheus that has the histograms in their native form only.
func checkDashboard(t *testing.T, p, native *server) {
	t.Helper()
	d := readDashboard(t)
	for _, q := range d.queries() {
		for _, s := range []*server{p, native} {
			s.until(t, q, func(p []point) bool {
				return len(p) > 0 && slices.ContainsFunc(p, func(p point) bool { return p.value >= 0 }) // NaN is not
			})
		}
	}
	for i, n := range []float64{3, 0} { // classic buckets only here, native ones only there
		s := []*server{p, native}[i]
		if got := len(s.query(t, `count(uvm_device_operation_duration_seconds_bucket)`)); (got > 0) != (n > 0) {
			t.Errorf("server %d has %d classic histograms", i, got)
		}
	}
}
