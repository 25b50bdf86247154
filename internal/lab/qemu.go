package lab

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/uvm-monitor/uvm/internal/kvmprobe"
	"github.com/uvm-monitor/uvm/internal/lab/wire"
)

// Names in a run's folder.
const (
	consoleName   = "console.log"
	initramfsName = "initramfs.cpio"
	scriptName    = "run.sh"
)

// hostTSC is the frequency of the host's time-stamp counter in kHz, which QEMU's
// emulated one has too; 0 if it is not known. The lab's kernel would find it out
// by itself, but on a busy machine it gets it wrong, and then all its time runs
// at another speed than ours: its time-outs come early, or never.
var hostTSC = sync.OnceValue(func() uint64 {
	info, err := kvmprobe.Probe("/dev/kvm")
	if err != nil {
		return 0
	}
	return info.TSCKHz
})

// arguments returns QEMU's command line, to be started in the run's folder.
// The events leave on its standard output. With shell the console is the
// terminal.
func arguments(parts *Parts, o *Options, shell bool) []string {
	memory := o.Memory
	if memory == 0 {
		memory = 1 << 30
	}
	cpus := o.CPUs
	if cpus == 0 {
		cpus = 1
	}
	// reboot=t panic=-1 with -no-reboot: a panic ends QEMU at once.
	// tsc=reliable: the emulated TSC is one clock for all CPUs, but reading it
	// is slow enough for the kernel's check to distrust it, and the HPET that
	// it would take instead costs an exit.
	kernel := "console=ttyS0 quiet reboot=t panic=-1 oops=panic mitigations=off nokaslr tsc=reliable no_timer_check"
	//
	// thread=single: with a thread for each CPU, one of QEMU 7.2's translates
	// code that another one changes, keeps the old bytes, and loops on a
	// breakpoint of the kernel's text patching (seen in 3 of 6 runs, in
	// __schedule, whose static key every first and last VM switches).
	cpu := "max"
	var clock []string
	if khz := hostTSC(); khz != 0 && !o.ICount {
		kernel += fmt.Sprintf(" tsc_early_khz=%d", khz)
	}
	if o.ICount {
		cpus = 1
		cpu = "max,-rdrand,-rdseed"
		clock = []string{"-icount", "shift=1,sleep=off", "-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"}
		kernel += " random.trust_cpu=off"
	}
	if shell {
		kernel += " lab.shell"
	}
	args := []string{
		parts.QEMU, "-M", "q35", "-accel", "tcg,thread=single", "-cpu", cpu,
		"-smp", strconv.Itoa(cpus), "-m", fmt.Sprintf("%dM", memory>>20),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", parts.Kernel, "-initrd", initramfsName, "-append", kernel,
	}
	args = append(args, clock...)
	switch {
	case shell:
		args = append(args, "-chardev", "stdio,id=con,mux=on,signal=off", "-serial", "chardev:con", "-mon", "chardev=con")
	case o.ICount:
		args = append(args, "-serial", "file:"+consoleName, "-chardev", "file,id=lab,path=/dev/stdout", "-serial", "chardev:lab")
	default:
		args = append(args, "-serial", "file:"+consoleName, "-chardev", "file,id=lab,path=/dev/stdout",
			"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=lab,name="+wire.Port)
	}
	for i, d := range o.Disks {
		path, err := filepath.Abs(d.Path)
		if err != nil {
			path = d.Path
		}
		readOnly := "off"
		if d.ReadOnly {
			readOnly = "on"
		}
		args = append(args,
			"-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=disk%d,cache=%s,read-only=%s", strings.ReplaceAll(path, ",", ",,"), i, cmp.Or(d.Cache, "unsafe"), readOnly),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	return args
}

// writeScript writes the command that repeats a run by hand.
func writeScript(dir string, parts *Parts, o *Options) error {
	text := "#!/bin/sh\n# Repeats this run of the lab: the events on the terminal, the console in " + consoleName +
		".\n# With the argument shell it gives a shell in the same machine instead; Ctrl-A X ends it.\n" +
		"cd \"$(dirname \"$0\")\" || exit\nif [ \"$1\" = shell ]; then\n\texec " + quote(arguments(parts, o, true)) +
		"\nfi\nexec " + quote(arguments(parts, o, false)) + "\n"
	return os.WriteFile(filepath.Join(dir, scriptName), []byte(text), 0o755)
}

// quote writes a command as the shell reads it.
func quote(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		q[i] = a
		if strings.Trim(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=,./:+") != "" || a == "" {
			q[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(q, " ")
}

// machine is a running lab.
type machine struct {
	dir    string
	cancel context.CancelFunc
	events chan wire.Event // closed when QEMU has ended
	// Set when events is closed.
	status error  // of QEMU
	stderr []byte // what QEMU itself had to say
	broken error  // a line that is no event
}

// start starts QEMU in dir. It ends with the context, with the program, with
// kill, or by itself.
func start(ctx context.Context, dir string, args []string) (*machine, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	m := &machine{dir: dir, cancel: cancel, events: make(chan wire.Event, 64)}
	started := make(chan error)
	go func() {
		// Pdeathsig is about the thread, which therefore has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		m.broken = m.read(out)
		m.status = cmd.Wait()
		m.stderr = stderr.Bytes()
		close(m.events)
	}()
	if err := <-started; err != nil {
		cancel()
		return nil, fmt.Errorf("lab: start QEMU: %w", err)
	}
	return m, nil
}

// read turns QEMU's output into events, to its end.
func (m *machine) read(out io.Reader) (broken error) {
	r := bufio.NewReaderSize(out, 1<<16)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			if len(bytes.TrimSpace(line)) > 0 && broken == nil {
				broken = fmt.Errorf("the lab's last line is incomplete: %.200q", line)
			}
			return broken
		}
		var e wire.Event
		if err := json.Unmarshal(line, &e); err != nil {
			if broken == nil {
				broken = fmt.Errorf("the lab sent a line that is no event: %.200q: %v", line, err)
				m.cancel()
			}
			continue
		}
		m.events <- e
	}
}

// errEnded says that the lab has ended before it should have.
var errEnded = errors.New("the lab ended without a verdict")

// next waits for an event until the deadline, and kills the lab then.
func (m *machine) next(deadline time.Time, bound time.Duration) (wire.Event, error) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case e, ok := <-m.events:
		if !ok {
			return e, errEnded
		}
		return e, nil
	case <-timer.C:
		m.kill()
		return wire.Event{}, fmt.Errorf("the lab hangs: no verdict within %v", bound)
	}
}

// finish waits until the lab, whose jobs are done, has written back what is in
// its memory and switched itself off.
func (m *machine) finish() error {
	deadline := time.Now().Add(slack)
	e, err := m.next(deadline, slack)
	if err != nil {
		return err
	}
	if e.Event != wire.Done {
		return fmt.Errorf("the lab sent %q after the last job; want %q", e.Event, wire.Done)
	}
	if _, err = m.next(deadline, slack); !errors.Is(err, errEnded) {
		return fmt.Errorf("the lab did not switch itself off: %w", err)
	}
	if m.status != nil {
		return fmt.Errorf("QEMU: %w", m.status)
	}
	return nil
}

// kill ends the lab and waits for it.
func (m *machine) kill() {
	m.cancel()
	for range m.events {
	}
}

// describe completes an error of next with what is known about the end of the
// lab.
func (m *machine) describe(err error) error {
	m.kill()
	console, readErr := os.ReadFile(filepath.Join(m.dir, consoleName))
	if readErr != nil {
		console = []byte(readErr.Error())
	}
	var b strings.Builder
	b.WriteString(err.Error())
	if line := panicLine(console); line != "" {
		b.WriteString(": " + line)
	}
	if m.broken != nil {
		fmt.Fprintf(&b, "\n%v", m.broken)
	}
	if errors.Is(err, errEnded) {
		fmt.Fprintf(&b, " (QEMU: %v)", exitText(m.status))
	}
	if s := strings.TrimSpace(string(m.stderr)); s != "" {
		fmt.Fprintf(&b, "\nQEMU says: %s", s)
	}
	fmt.Fprintf(&b, "\nthe console's end:\n%s", tail(console, 40))
	return errors.New(b.String())
}

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// panicLine finds what a kernel says when it gives up.
func panicLine(console []byte) string {
	for line := range strings.Lines(string(console)) {
		if i := strings.Index(line, "Kernel panic"); i >= 0 {
			return strings.TrimSpace(line[i:])
		}
	}
	return ""
}

// tail returns the last n lines.
func tail(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(string(text), "\r", ""), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "    " + strings.Join(lines, "\n    ")
}
