package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/devices"
	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/vmm"
)

const asProgram = "UVM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		main()
	}
	os.Exit(m.Run())
}

// vm is a control socket that answers as a VM's.
type vm struct {
	*control.Server
	info  control.Info
	stats vmm.Stats
	calls atomic.Uint64 // hypercalls; grows with each answer
}

// newVM starts one in a run directory.
func newVM(t *testing.T, dir, name string, change ...func(*control.Info)) *vm {
	t.Helper()
	d, err := control.OpenDir(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	id, err := control.NewID()
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{info: control.Info{Kernel: "/x/" + name + ".hvt", State: "running", Uptime: 90 * time.Second}}
	v.stats = vmm.Stats{ResidentBytes: 3 << 20, VCPUs: []vmm.VCPUStats{{}}}
	for _, f := range change {
		f(&v.info)
	}
	if v.Server, err = control.Listen(d, id, name); err != nil {
		t.Fatal(err)
	}
	v.Handle("info", func(*control.Call) (any, error) { return v.info, nil })
	v.Handle("stats", func(*control.Call) (any, error) {
		s := v.stats
		n := v.calls.Add(1_000_000)
		s.VCPUs = []vmm.VCPUStats{{Exits: map[string]uint64{"IO": n}, Hypercalls: map[string]vmm.CallStats{"PUTS": {Count: n}}}}
		return s, nil
	})
	v.Start()
	t.Cleanup(v.Close)
	return v
}

// top is the program itself.
func top(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "TERM=xterm", control.RunDirEnv+"="+dir)
	return cmd
}

func TestOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	out, err := top(t, dir, "--once", "-d", "10ms").CombinedOutput()
	if err != nil || string(out) != header() {
		t.Fatalf("uvm top --once = %q, %v; want the head only where there are no VMs", out, err)
	}
	web := newVM(t, dir, "web")
	db := newVM(t, dir, "db", func(i *control.Info) { i.State, i.Kernel = "paused", "/a\x1b[2J\u202e/b\nc" })
	out, err = top(t, dir, "--once", "-d", "50ms", "--sort", "name").CombinedOutput()
	lines := strings.Split(string(out), "\n")
	if err != nil || len(lines) != 4 {
		t.Fatalf("uvm top --once = %q, %v; want two lines", out, err)
	}
	for i, want := range []string{db.Entry().ID + " db               b?c                  paused    0:01:30", web.Entry().ID + " web              web.hvt              running   0:01:30    0.0  3.0M"} {
		if !strings.HasPrefix(lines[i+1], want) || !strings.Contains(lines[i+1], "M") {
			t.Errorf("line %d = %q; want %q, and millions of calls", i+1, lines[i+1], want)
		}
	}
	for _, args := range [][]string{{"-d", "1ms", "--once"}, {"--sort", "x", "--once"}, {"x"}, {"--x"}, {}} {
		out, err := top(t, dir, args...).CombinedOutput()
		if e := new(exec.ExitError); err == nil || e == nil || !strings.HasPrefix(string(out), "uvm: ") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("uvm top %q = %q, %v; want one line of an error", args, out, err)
		}
	}
}

func header() string { return (model{}).table(0, 0) }

// TestRates: counters of two samples, also such that go backwards.
func TestRates(t *testing.T) {
	a := totals{cpu: 1e9, exits: 10, calls: 5, rx: 100}
	b := totals{cpu: 2e9, exits: 30, calls: 4, rx: 100, write: 8}
	if got, want := rates(&a, &b, 2*time.Second), [7]float64{0.5, 10, 0, 0, 0, 0, 4}; got != want {
		t.Errorf("rates = %v; want %v", got, want)
	}
	s := vmm.Stats{ProcessCPU: 7, VCPUs: []vmm.VCPUStats{{Exits: map[string]uint64{"IO": 1, "MMIO": 2}}, {Exits: map[string]uint64{"IO": 4}}}}
	s.Devices = []devices.DeviceStats{
		{Kind: "net", Ops: map[string]devices.OpStats{"rx": {Bytes: 1}, "tx": {Bytes: 2}}}, {Kind: "net", Ops: map[string]devices.OpStats{"rx": {Bytes: 4}}},
		{Kind: "disk", Ops: map[string]devices.OpStats{"read": {Bytes: 8}, "write": {Bytes: 16}}}, {Kind: "console", Ops: map[string]devices.OpStats{"write": {Bytes: 32}}},
	}
	if got, want := sum(&s), (totals{cpu: 7, exits: 7, rx: 5, tx: 2, read: 8, write: 16}); got != want {
		t.Errorf("sum = %+v; want %+v", got, want)
	}
}

func TestScaled(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.4: "0", 999: "999", 999.6: "1.0k", 1000: "1.0k", 9949: "9.9k", 9960: "10k", 123456: "123k", 999700: "1.0M", 5e12: "5.0T", 1e300: "9999T"} {
		if got := count(v); got != want {
			t.Errorf("count(%v) = %q; want %q", v, got, want)
		}
	}
}

// TestSort: each key sorts, r reverses, and the order of equals is that of their IDs.
func TestSort(t *testing.T) {
	rows := []row{{Info: control.Info{ID: "1", Name: "a", Kernel: "z", State: "running", Uptime: 1}, resident: 5}, {Info: control.Info{ID: "2", Name: "b", Kernel: "y", State: "paused", Uptime: 2}, resident: 4}}
	rows[0].rates = [7]float64{1, 2, 3, 4, 5, 6, 7}
	rows[1].rates = [7]float64{2, 1, 4, 3, 6, 5, 8}
	m := model{rows: rows, height: 24, at: time.Now()}
	first := map[string]string{"i": "1", "n": "1", "k": "2", "s": "2", "u": "2", "c": "2", "m": "1", "e": "1", "h": "2", "t": "2", "w": "2"}
	for key, want := range first {
		next, _ := m.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(key)})
		lines := strings.Split(next.View(), "\n")
		if !strings.HasPrefix(lines[3], want) {
			t.Errorf("after %s the first line is %q; want VM %s", key, lines[3], want)
		}
		next, _ = next.Update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("r")})
		if lines = strings.Split(next.View(), "\n"); strings.HasPrefix(lines[3], want) {
			t.Errorf("after %s and r the first line is %q; want the other VM", key, lines[3])
		}
	}
	if len(first) != strings.Count(keysHelp[:strings.Index(keysHelp, " sort")], " ") {
		t.Errorf("the help %q does not have the %d keys that sort", keysHelp, len(first))
	}
}

// TestScroll: a screen shows a part, and never scrolls away from its VMs when they go.
func TestScroll(t *testing.T) {
	var m tea.Model = model{at: time.Now(), sampler: &sampler{}}
	m, _ = m.Update(tea.WindowSizeMsg{Width: 80, Height: 8}) // five VMs
	rows := make([]row, 20)
	for i := range rows {
		rows[i].ID = fmt.Sprintf("%012d", i)
	}
	m, _ = m.Update(sampled{rows: rows, at: time.Now()})
	first := func() string { return strings.Fields(strings.Split(m.View(), "\n")[3])[0] }
	if n := strings.Count(m.View(), "\n"); n != 7 {
		t.Errorf("the screen has %d lines; want 8", n+1)
	}
	for _, tt := range []struct {
		key  tea.KeyType
		want int
	}{{tea.KeyDown, 1}, {tea.KeyPgDown, 6}, {tea.KeyPgDown, 11}, {tea.KeyPgDown, 15}, {tea.KeyDown, 15}, {tea.KeyUp, 14}, {tea.KeyPgUp, 9}, {tea.KeyHome, 0}, {tea.KeyUp, 0}, {tea.KeyPgDown, 5}} {
		m, _ = m.Update(tea.KeyMsg{Type: tt.key})
		if got := first(); got != rows[tt.want].ID {
			t.Errorf("after %v the first VM is %s; want %d", tt.key, got, tt.want)
		}
	}
	m, _ = m.Update(sampled{rows: rows[:2], at: time.Now()})
	if got := first(); got != rows[0].ID {
		t.Errorf("when most VMs have gone the first one is %s; want 0", got)
	}
}

// openPTY is a terminal of 120 columns: what the program sees, and what its user does.
func openPTY(t *testing.T) (user, terminal *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	user = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { user.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return user, terminal
}

// TestTerminal runs the program in a terminal, with VMs that come and go.
func TestTerminal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	user, terminal := openPTY(t)
	before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var screen bytes.Buffer
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := user.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			screen.Write(b[:n])
			mu.Unlock()
		}
	}()
	shown := func(what string) {
		t.Helper()
		testutil.Until(t, fmt.Sprintf("%q on the screen", what), func() bool {
			mu.Lock()
			defer mu.Unlock()
			_, after, ok := strings.Cut(screen.String(), what)
			if ok {
				screen.Reset()
				screen.WriteString(after)
			}
			return ok
		})
	}
	web := newVM(t, dir, "web")
	cmd := top(t, dir, "-d", "50ms")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer cmd.Process.Kill()
	shown("\x1b[?1049h") // the alternate screen
	shown("1 VMs, 1 running")
	shown("web.hvt")
	newVM(t, dir, "second")
	shown("2 VMs, 2 running")
	shown("second.hvt")
	web.Close()
	shown("1 VMs, 1 running")
	io.WriteString(user, "n")
	shown("by name")
	io.WriteString(user, "q")
	shown("\x1b[?1049l")
	if err := testutil.Wait(t, ended, "the program"); err != nil {
		t.Errorf("uvm top = %v; want it to end well", err)
	}
	if after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal is %+v, %v; want it as before, %+v", after, err, before)
	}
}
