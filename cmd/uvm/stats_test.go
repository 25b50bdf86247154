package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/vmm"
)

// TestStats asks a VM that spins for what it has done.
func TestStats(t *testing.T) {
	withRunDir(t)
	r := spinning(t, "--name", "web", "-m", "8M")
	defer func() { r.kill(syscall.SIGTERM); r.wait() }()
	got := uvm(t, "stats", "--json", "web")
	var s vmm.Stats
	if err := json.Unmarshal([]byte(got.stdout), &s); err != nil || got.status != 0 || got.stderr != "" {
		t.Fatalf("uvm stats --json = %+v, %v", got, err)
	}
	if s.State != "running" || s.MemoryBytes != 8<<20 || s.ResidentBytes == 0 || s.ResidentBytes > s.MemoryBytes || len(s.VCPUs) != 1 || s.VCPUs[0].Exits["IO"] != 1 || s.VCPUs[0].Hypercalls["PUTS"].Count != 1 {
		t.Errorf("uvm stats = %+v; want one PUTS of a VM that runs", s)
	}
	text := uvm(t, "stats", "web")
	want := regexp.MustCompile(`(?s)^state +running\nmemory +8M, [0-9.]+[KM] resident\ncpu +\S+ in all\nvcpu 0 +\S+\n  exits +.*IO 1.*\n  hypercalls +PUTS 1\n.*boot marks +0 of the guest's\n$`)
	if text.status != 0 || !want.MatchString(text.stdout) {
		t.Errorf("uvm stats = %+v; want %v", text, want)
	}
}

// TestPrintStats: everything that there can be, and names that would harm a terminal.
func TestPrintStats(t *testing.T) {
	s := vmm.Stats{
		State: "paused", MemoryBytes: 1 << 30, ResidentBytes: 1536 << 10, ProcessCPU: 1_500_000_000,
		VCPUs: []vmm.VCPUStats{{
			CPU: 1e9, InKVM: 2e9, Handling: 3e6, Exits: map[string]uint64{"MMIO": 2, "IO": 1},
			Hypercalls: map[string]vmm.CallStats{"POLL": {Count: 3, Time: 4000}, "PUTS": {Count: 1}}, Traps: map[string]uint64{"13": 7},
		}, {}},
		Devices:    []devices.DeviceStats{{Name: "a\x1b[2J", Kind: "disk", Ops: map[string]devices.OpStats{"read": {Count: 100, Bytes: 4096, Errors: 1, Latency: []uint64{0, 0, 98, 1, 1}}, "write": {}}}},
		Virtio:     []vmm.VirtioStats{{Name: "net", Interrupts: 5, RxDropped: 6}, {Name: "x"}},
		Unanswered: 8, Marks: []devices.Mark{{Name: "exec"}, {Value: 1}}, DroppedMarks: 2,
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	printStats(w, &s)
	w.Flush()
	want := `state            paused
memory           1G, 1.5M resident
cpu              1.5s in all
vcpu 0           1s, 2s in KVM, 3ms at exits
  exits          IO 1, MMIO 2
  hypercalls     POLL 3 (4µs), PUTS 1
  traps          13 7
vcpu 1           0s
  exits          none
disk "a\x1b[2J"  read: 100, 4K, 1 errors, half below 4ns, 99% below 8ns
disk "a\x1b[2J"  write: 0, 0B, 0 errors
virtio net       5 interrupts, frames dropped: rx 6, tx 0
virtio x         0 interrupts
unanswered       8 accesses
boot marks       3 of the guest's
`
	if got := b.String(); got != want {
		t.Errorf("printStats =\n%s\nwant\n%s", got, want)
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Error("an escape sequence got through")
	}
}
