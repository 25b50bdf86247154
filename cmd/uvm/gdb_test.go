package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// debugGuests are the guests of these tests, with debug information.
var debugGuests = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "uvm-gdb-guests-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("make", "-s", "-C", "../../guests", "DEBUG=1", "OUT="+dir, dir+"/steps.hvt", dir+"/faults.hvt").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make -C guests DEBUG=1: %v\n%s", err, out)
	}
	return dir, nil
})

func debugGuest(t *testing.T, name string) string {
	t.Helper()
	testutil.RequireKVM(t)
	if _, err := exec.LookPath("gdb"); err != nil {
		t.Fatalf("%v; install it: apt-get install gdb", err)
	}
	dir, err := debugGuests()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name+".hvt")
}

// runGDB runs the real gdb on a program of this test binary's: script has its commands, one in a line. What both say is the result.
func runGDB(t *testing.T, script string, words ...string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "script")
	script = "set pagination off\nset width 0\nset confirm off\nset auto-load no\nset style enabled off\n" + script
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := program(t, append([]string{"uvm", "gdb"}, words...)...)
	cmd.Args = insertOptions(cmd.Args, "--gdb-option=-nx", "--gdb-option=-batch", "--gdb-option=-x", "--gdb-option="+file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = hangs
	err := cmd.Run()
	if err != nil {
		t.Logf("gdb: %v", err)
	}
	return out.String()
}

// insertOptions puts options before a "--".
func insertOptions(args []string, options ...string) []string {
	for i, a := range args {
		if a == "--" {
			return append(append(append([]string{}, args[:i]...), options...), args[i:]...)
		}
	}
	return append(args, options...)
}

// wantInOrder wants patterns in text, one behind the other.
func wantInOrder(t *testing.T, text string, patterns ...string) {
	t.Helper()
	rest := text
	for _, p := range patterns {
		at := regexp.MustCompile(p).FindStringIndex(rest)
		if at == nil {
			t.Errorf("gdb says no %q where it should; all of it:\n%s", p, text)
			return
		}
		rest = rest[at[1]:]
	}
}

// interrupt has gdb's own process send itself ^C while a guest runs.
const interrupt = `python
import threading, os, signal
threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
end
continue
`

// TestGDBSealed goes through what gdb can do to a sealed guest.
func TestGDBSealed(t *testing.T) {
	kernel := debugGuest(t, "steps")
	out := runGDB(t, `info threads
break add
continue
backtrace
print/x $xmm3.uint128
print $st0
set var $xmm5.v2_int64[1] = 77
set var $ymm5.v4_int64[3] = 99
set var $st1 = 2.5
set var $gs_base = 0x1234
info registers gs_base
finish
print count
print $xmm5.v2_int64[1]
print $ymm5.v4_int64[3]
print $st1
delete
print/x *(unsigned char *)add
watch total
continue
continue
delete
rwatch room[40]
continue
awatch count
delete
break 48
set var count = 42
monitor points
hbreak look
continue
`, kernel)
	wantInOrder(t, out,
		`_start \(boot=0x10000\) at .*lib/start.c`, `vCPU 0, sealed`, `Breakpoint 1, add \(n=.*1\)`, `#1  0x[0-9a-f]+ in main`,
		`= 0x55556666777788881111222233334444`, `= 1\n`, `gs_base +0x1234`, `main \(`, `= 1\n`, `= 77\n`, `= 99\n`, `= 2\.5\n`,
		`= 0x48`, // no breakpoint is left in the text
		`Hardware watchpoint 2: total\n+Old value = 1\nNew value = 3`, `Hardware watchpoint 2: total\n+Old value = 3\nNew value = 6`,
		`Hardware read watchpoint 3: room\[40\]\n+Value = 0`, `look \(`,
		`sealed guest: software breakpoints`, `Cannot insert hardware breakpoint|not support`)
}

// TestGDBSteps steps through PUSHF and a privileged instruction: the guest does not see it (its status would be 100), also
// where each step is over a protected page.
func TestGDBSteps(t *testing.T) {
	kernel := debugGuest(t, "steps")
	for _, watch := range []string{"", "rwatch room[0]\nwatch *(long *)($rsp - 8)\n"} {
		out := runGDB(t, "break privileged\ncontinue\n"+watch+strings.Repeat("stepi\n", 30)+"delete\ncontinue\n", kernel)
		wantInOrder(t, out, `Breakpoint 1, privileged`, `main \(`, `exited with code 03`)
	}
}

// TestGDBFault stops where a guest does what it must not, and ends after that.
func TestGDBFault(t *testing.T) {
	kernel := debugGuest(t, "faults")
	for _, c := range []struct{ name, signal, frame string }{
		{"write-text", "SIGSEGV", `poke \(`}, {"ud2", "SIGILL", `ud2 \(`}, {"div", "SIGFPE", `divide \(`}, {"jump-null", "SIGSEGV", `0x0000000000000000 in \?\? \(\)`},
		{"int3", "SIGTRAP", `int3 \(`}, {"port", "SIGSEGV", `port`}, {"trap", "SIGSEGV", `report \(`}, {"abort", "SIGABRT", `halt|abort`},
	} {
		out := runGDB(t, "continue\nbacktrace\nstepi\ninfo threads\n", kernel, "--", c.name)
		wantInOrder(t, out, `Program received signal `+c.signal, c.frame, `(main|\?\?) \(`, `Program terminated with signal `+c.signal+`|exited with code 0377`)
	}
}

// TestGDBRing0 has breakpoints where KVM's debug exits make them work, and errors instead where they do not.
func TestGDBRing0(t *testing.T) {
	kernel := debugGuest(t, "faults")
	out := runGDB(t, `monitor points
break main
break write_text
continue
backtrace
stepi
continue
print $_exitcode
watch uvm_boot
continue
break *main+1
break *main+2
break *main+3
break *main+4
break *main+5
continue
`, kernel, "--ring", "0", "--", "write-text")
	if !strings.Contains(out, "single steps true") {
		t.Fatalf("this KVM does not step ring 0:\n%s", out)
	}
	switch {
	case strings.Contains(out, "software breakpoints true") || strings.Contains(out, "hardware breakpoints true"):
		wantInOrder(t, out, `Breakpoint 1, main \(argc=1`, `#0  main`, `Breakpoint 2, `)
		if strings.Contains(out, "software breakpoints false, hardware breakpoints true, watchpoints false") {
			wantInOrder(t, out, `Could not insert hardware watchpoint|not support|Cannot insert`)
		}
	default:
		wantInOrder(t, out, `Cannot insert breakpoint`)
	}
}

// TestGDBAttach attaches to a VM that runs, more than once, and kills it.
func TestGDBAttach(t *testing.T) {
	kernel := debugGuest(t, "steps")
	cmd := program(t, "uvm", "run", kernel, "--name", "attach-me", "--control", "on", "--", "loop")
	r := follow(t, cmd)
	r.expect("looping\n")
	wantInOrder(t, runGDB(t, "backtrace\nbreak add\ncontinue\nprint count > 10\n", "attach-me"), `(main|add) \(`, `Breakpoint 1, add`, `= 1\n`, `detached`)
	out := runGDB(t, interrupt+"backtrace\nprint count > 10\ndetach\n", "attach-me")
	wantInOrder(t, out, `SIGINT`, `(main|add) \(`, `= 1\n`)

	dir := t.TempDir()
	core := run(t, program(t, "uvm", "dump", "attach-me", "--core", dir))
	path := strings.TrimSpace(core.stdout)
	if core.status != 0 || filepath.Dir(path) != dir {
		t.Fatalf("uvm dump = %+v; want a path in %s", core, dir)
	}
	wantCore(t, kernel, path, `(main|add) \(`)
	full := run(t, program(t, "uvm", "dump", "attach-me", "--core", filepath.Join(dir, "none")))
	if full.status != exitHost || !strings.Contains(full.stderr, "no such file") {
		t.Errorf("uvm dump into no folder = %+v; want status %d", full, exitHost)
	}
	runGDB(t, "kill\n", "attach-me")
	if end := r.wait(); end.status != exitSignal+int(syscall.SIGKILL) {
		t.Errorf("a run that gdb has killed = %+v; want status 137", end)
	}
	if got := runGDB(t, "", "attach-me"); !strings.Contains(got, "attach-me") {
		t.Errorf("uvm gdb of a VM that is gone = %q; want an error that names it", got)
	}
}

// TestGDBListen waits for gdb at a port and at a socket, and refuses what is neither.
func TestGDBListen(t *testing.T) {
	kernel := debugGuest(t, "steps")
	socket := filepath.Join(t.TempDir(), "gdb")
	for _, where := range []string{"0", "unix:" + socket} {
		cmd := program(t, "uvm", "run", kernel, "--gdb", where, "--gdb-wait")
		words, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = in
		r := running{t: t, cmd: cmd}
		cmd.Stdout = &r.stdout
		r.start()
		in.Close()
		line, _ := bufio.NewReader(words).ReadString('\n')
		target, ok := strings.CutPrefix(strings.TrimSpace(line), "gdb: ")
		if !ok {
			t.Errorf("stderr = %q; want where gdb connects to", line)
		}
		// No file is given: the server tells gdb.
		out, err := exec.Command("gdb", "-nx", "-batch", "-ex", target, "-ex", "break look", "-ex", "continue", "-ex", "print count").CombinedOutput()
		if err != nil {
			t.Errorf("gdb: %v", err)
		}
		wantInOrder(t, string(out), `Breakpoint 1, look \(`, `= 3\n`)
		if end := r.wait(); end.status != 3 || end.stdout != "count=3 total=6\n" {
			t.Errorf("the guest after gdb has gone = %+v; want it to go on to status 3", end)
		}
		words.Close()
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is still there")
	}
	for _, c := range []struct {
		status int
		words  []string
	}{{exitUsage, []string{"--gdb", "x"}}, {exitUsage, []string{"--gdb", "65536"}}, {exitUsage, []string{"--gdb", "unix:"}}, {exitUsage, []string{"--gdb-wait"}}, {exitHost, []string{"--gdb", "unix:/proc/none/x"}}} {
		wantLine(t, uvm(t, append([]string{"run", kernel}, c.words...)...), c.status, "--gdb")
	}
}

// wantCore has gdb read a core file.
func wantCore(t *testing.T, kernel, core string, patterns ...string) {
	t.Helper()
	out, err := exec.Command("gdb", "-nx", "-batch", "-ex", "set width 0", "-ex", "backtrace", "-ex", "info threads", "-ex", "print/x $mxcsr", kernel, core).CombinedOutput()
	if err != nil {
		t.Errorf("gdb on a core file: %v", err)
	}
	wantInOrder(t, string(out), append(patterns, `LWP 1`, `MXCSR|IM|= 0x1f80|= `)...)
}

// TestCore writes core files of guests that end badly, and none of others.
func TestCore(t *testing.T) {
	kernel := debugGuest(t, "faults")
	for _, c := range []struct{ name, want string }{{"write-text", `poke`}, {"ud2", `ud2`}, {"trap", `ud2`}, {"jump-wild", `jump_wild`}, {"abort", `halt|abort`}} {
		dir := t.TempDir()
		res := run(t, program(t, "uvm", "run", kernel, "--core", dir, "--", c.name))
		files, _ := os.ReadDir(dir)
		if res.status != exitGuest || len(files) != 1 || !strings.HasPrefix(files[0].Name(), "core.faults.hvt.") || !strings.Contains(res.stderr, files[0].Name()) {
			t.Errorf("run of %s = %+v, files %v; want status 255 and a core file that stderr names", c.name, res, files)
			continue
		}
		path := filepath.Join(dir, files[0].Name())
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if blocks := st.Sys().(*syscall.Stat_t).Blocks * 512; st.Size() < 64<<20 || blocks > 1<<20 {
			t.Errorf("core file of %d bytes takes %d on disk; want holes", st.Size(), blocks)
		}
		wantCore(t, kernel, path, c.want)
	}
	dir := t.TempDir()
	res := run(t, program(t, "uvm", "run", kernel, "--core", dir, "--", "edge-ok"))
	if files, _ := os.ReadDir(dir); res.status != 0 || len(files) != 0 {
		t.Errorf("run of edge-ok = %+v, files %v; want status 0, no file", res, files)
	}
	res = run(t, program(t, "uvm", "run", kernel, "--core", filepath.Join(dir, "none"), "--", "ud2"))
	if res.status != exitGuest || !strings.Contains(res.stderr, "--core: core file: ") {
		t.Errorf("core file into no folder = %+v; want status 255 and the error", res)
	}
	cmd := program(t, "solo5-hvt", "--mem=4", "--dumpcore="+dir, kernel, "ud2")
	res = run(t, cmd)
	want := fmt.Sprintf("core.solo5-hvt.%d", cmd.Process.Pid)
	if files, _ := os.ReadDir(dir); len(files) != 1 || files[0].Name() != want || !strings.Contains(res.stderr, want) {
		t.Errorf("solo5-hvt --dumpcore = %+v, files %v; want %s", res, files, want)
	}
	wantCore(t, kernel, filepath.Join(dir, want), `ud2`)
}

// TestCrashReport reads what stderr says of a guest that ended badly.
func TestCrashReport(t *testing.T) {
	kernel := debugGuest(t, "faults")
	for name, want := range map[string][]string{
		"write-text": {`uvm: guest fault: host/guest translation fault`, `#0 .* write_text\+0x[0-9a-f]+\n`, ` main\+0x[0-9a-f]+\n`, ` _start\+`, `PUTS\(ptr=0x[0-9a-f]+, len=44\)`},
		"badptr":     {`invalid guest pointer`, `rip    0000000000[0-9a-f]+`, `#0 .* badptr\+`, `PUTS\(ptr=0x4001000, len=8\), the end`},
		"jump-wild":  {`exception without a handler`, `#0    0x[0-9a-f]+\n`, `\? 0x[0-9a-f]+ jump_wild\+`},
		"trap":       {`the guest reports a trap: rip=0x`, `#0    0x[0-9a-f]+ trap\+`, `HALT\(`},
	} {
		res := run(t, program(t, "uvm", "run", kernel, "--", name))
		wantInOrder(t, res.stderr, want...)
	}
}
