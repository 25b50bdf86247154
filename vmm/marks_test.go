package vmm

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uvm-monitor/uvm/devices"
)

// mark emits a boot-time mark.
//
//	b0 imm8      mov al, value
//	66 ba f0 03  mov dx, 0x3f0
//	ee           out dx, al
func (g *guest) mark(value byte) uint64 {
	g.emit(0xb0, value)
	g.port(devices.MarkPort)
	return g.emit(0xee)
}

// TestTimeline checks the monitor's marks, the guest's among them, and the
// clocks of both.
func TestTimeline(t *testing.T) { bothRings(t, testTimeline) }

func testTimeline(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	for _, c := range []byte("boot\x00\xff") {
		g.mark(c)
	}
	g.halt(0)
	cfg := g.config()
	cfg.ExecTime = time.Now()
	vm := newVM(t, cfg)
	names := func() string {
		var s []string
		marks, dropped := vm.Timeline()
		if dropped != 0 {
			t.Errorf("Timeline() dropped %d; want 0", dropped)
		}
		for i := range marks {
			if marks[i].Guest() {
				s = append(s, string(rune(marks[i].Value)))
			} else {
				s = append(s, marks[i].Name)
			}
		}
		return strings.Join(s, " ")
	}
	built := strings.Join([]string{MarkExec, MarkKVM, MarkKernel, MarkDevices, MarkVM, MarkMemory, MarkLoad}, " ")
	if got := names(); got != built {
		t.Errorf("Timeline() after New = %q; want %q", got, built)
	}
	if _, err := runVM(t, vm); err != nil {
		t.Fatalf("Run() = %v; want nil", err)
	}
	if got, want := names(), built+" "+MarkEntry+" b o o t \x00 \u00ff "+MarkExit; got != want {
		t.Errorf("Timeline() after Run = %q; want %q", got, want)
	}
	marks, _ := vm.Timeline()
	for i := 1; i < len(marks); i++ {
		a, b := &marks[i-1], &marks[i]
		if b.At.Before(a.At) || b.CPU < a.CPU {
			t.Errorf("mark %d is at %v, %v of CPU, before mark %d at %v, %v", i, b.At, b.CPU, i-1, a.At, a.CPU)
		}
	}
	// Every mark of the guest is an exit of its own.
	for i := 1; i < len(marks); i++ {
		if marks[i].Guest() && !marks[i].At.After(marks[i-1].At) {
			t.Errorf("mark %d is at %v, not after the one before", i, marks[i].At)
		}
	}
	// A copy is handed out: the caller may do with it what it likes.
	clear(marks)
	if again, _ := vm.Timeline(); again[0].Name != MarkExec {
		t.Errorf("Timeline() changed with the caller's copy")
	}
}

// TestTimelineWithoutExecTime leaves the first mark out.
func TestTimelineWithoutExecTime(t *testing.T) {
	var g guest
	g.halt(0)
	marks, _ := newVM(t, g.config()).Timeline()
	if marks[0].Name != MarkKVM {
		t.Errorf("first mark = %q; want %q", marks[0].Name, MarkKVM)
	}
}

// TestMarksAreBounded lets a guest make more marks than are remembered.
func TestMarksAreBounded(t *testing.T) { bothRings(t, testMarksAreBounded) }

func testMarksAreBounded(t *testing.T, ring Ring) {
	const most, made = 256, 300
	g := guest{ring: ring}
	g.stringIO(devices.MarkPort, g.store(slices.Repeat([]byte("m"), made)), made)
	g.emit(0xf3, 0x6e) // rep outsb
	g.halt(0)
	vm := newVM(t, g.config())
	own, _ := vm.Timeline()
	if _, err := runVM(t, vm); err != nil {
		t.Fatalf("Run() = %v; want nil", err)
	}
	marks, dropped := vm.Timeline()
	// The monitor's first-entry and exit are there whatever the guest does.
	if all := len(own) + 2 + most; len(marks) != all || len(guestMarks(vm)) != most || dropped != made-most || marks[all-1].Name != MarkExit {
		t.Errorf("Timeline() = %d marks, %d of the guest, %d dropped; want %d, the last %q, %d, %d",
			len(marks), len(guestMarks(vm)), dropped, all, MarkExit, most, made-most)
	}
}

// TestNoMarks takes the port away.
func TestNoMarks(t *testing.T) { bothRings(t, testNoMarks) }

func testNoMarks(t *testing.T, ring Ring) {
	g := guest{ring: ring}
	insn := g.mark('x')
	g.halt(0)
	e := faultOf(t, &g, func(c *Config) { c.NoMarks = true })
	var p *devices.PortError
	want := devices.PortError{Port: devices.MarkPort, Size: 1, Count: 1, Out: true}
	if e.Kind != FaultPort || !errors.As(e, &p) || *p != want {
		t.Errorf("Run() = %v; want kind %q, %v", e, FaultPort, &want)
	}
	wantAt(t, e, insn, 1)
}
