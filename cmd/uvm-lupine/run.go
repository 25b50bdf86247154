package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/uvm-monitor/uvm/internal/appscan"
	"github.com/uvm-monitor/uvm/internal/datadir"
	"github.com/uvm-monitor/uvm/internal/rootfs"
)

// interrupt is what a terminal sends for Ctrl-C. uvm-init takes it for that while it watches.
const interrupt = "\x03"

// patience is how long the application may take to end after Ctrl-C, and uvm after a signal.
var patience = 10 * time.Second

// host is what a run takes of this machine.
type host struct {
	kernel, uvm string
	init        []byte
}

func (o *options) findHost() (*host, error) {
	kernel, err := datadir.Kernel(o.kernel)
	if err != nil {
		return nil, err
	}
	uvm, err := findUVM()
	if err != nil {
		return nil, &rootfs.HostError{Err: err}
	}
	file := datadir.Find("uvm-init")
	if file == "" {
		return nil, &rootfs.HostError{Err: fmt.Errorf("uvm-init is not there: build it with make guests (looked in %s)", strings.Join(datadir.Guests(), ", "))}
	}
	init, err := os.ReadFile(file)
	return &host{kernel, uvm, init}, err
}

// watch runs the source in a VM, and returns what its init saw, and in a line how it went. What the
// guest prints goes to stderr. The end of ctx is Ctrl-C for the application.
func (o *options) watch(ctx context.Context, host *host, image bool, stderr io.Writer) (*appscan.Report, string, error) {
	root, disk, err := o.disks(ctx, host, image)
	if err != nil {
		return nil, "", err
	}
	defer root.Close()
	defer disk.Close()

	words := []string{"run", host.kernel, "--disk", "/proc/self/fd/3", "--disk", "/proc/self/fd/4", "--cmdline", "quiet init=/.uvm/init"}
	if o.memory != "" {
		words = append(words, "--memory", o.memory)
	}
	if o.net != "" {
		words = append(words, "--net", o.net)
	}
	cmd := exec.Command(host.uvm, append(words, "--", "trace")...)
	cmd.ExtraFiles = []*os.File{root, disk}
	cmd.Stdout, cmd.Stderr = printable{stderr}, printable{stderr}
	cmd.WaitDelay = patience
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	// Ctrl-C at the terminal is for this process, and uvm does not outlive it. (The signal comes when the
	// thread ends that has started uvm.)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	fmt.Fprintf(stderr, "uvm lupine: the guest starts%s; Ctrl-C ends the application\n", address(o.net))
	if err := cmd.Start(); err != nil {
		return nil, "", &rootfs.HostError{Err: err}
	}
	began := time.Now()
	ended := o.wait(ctx, cmd, stdin)
	how := fmt.Sprintf("The run: %s, %.0f s, %s.", o.kernel, time.Since(began).Seconds(), ended)
	report, err := readReport(disk)
	switch {
	case errors.Is(err, appscan.ErrNoReport):
		err = fmt.Errorf("the run came to nothing: uvm ended with status %d before the application had started; what it said stands above", cmd.ProcessState.ExitCode())
		if cmd.ProcessState.ExitCode() == exitHost {
			err = &rootfs.HostError{Err: err}
		}
	case err == nil && !report.Started():
		err = fmt.Errorf("the run came to nothing: the guest could not start the application (status %d); what it said stands above", report.Status)
	case err == nil && report.Ended:
		how = strings.TrimSuffix(how, ".") + fmt.Sprintf("; the application's status was %d.", report.Status)
	}
	return report, how, err
}

// disks makes the root file system and the report's disk. They have no names any more, and
// so are gone with the last process that has them open.
func (o *options) disks(ctx context.Context, host *host, image bool) (root, disk *os.File, err error) {
	opts := o.source
	opts.Init = host.init
	if image {
		opts.Start.Cmd = o.words
	} else { // look has seen that there are some
		opts.Start.Entrypoint, opts.Start.Cmd = o.words[:1], o.words[1:]
	}
	dir, err := os.MkdirTemp("", "uvm-run-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	opts.Output = filepath.Join(dir, "root.ext4")
	if err := rootfs.Build(ctx, opts); err != nil {
		return nil, nil, err
	}
	if root, err = os.OpenFile(opts.Output, os.O_RDWR, 0); err != nil {
		return nil, nil, err
	}
	if disk, err = os.OpenFile(filepath.Join(dir, "report"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		err = disk.Truncate(appscan.ReportSize)
	}
	return root, disk, err
}

// wait waits for uvm's end, and sees to it when the time or ctx is over.
func (o *options) wait(ctx context.Context, cmd *exec.Cmd, stdin io.Writer) string {
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // ProcessState says it
		close(done)
	}()
	var over <-chan time.Time
	if o.limit > 0 {
		over = time.After(o.limit)
	}
	ended := "until the application ended"
	select {
	case <-done:
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			ended = fmt.Sprintf("until uvm was ended by signal %d", s.Signal())
		}
		return ended
	case <-ctx.Done():
		ended = "until Ctrl-C"
	case <-over:
		ended = "until --for was over"
	}
	_, _ = io.WriteString(stdin, interrupt)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-done:
			return ended
		case <-time.After(patience):
			_ = cmd.Process.Signal(end)
		}
	}
	<-done
	return ended
}

func readReport(disk *os.File) (*appscan.Report, error) {
	b := make([]byte, appscan.ReportSize)
	if _, err := disk.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("the guest's report: %w", err)
	}
	return appscan.ParseReport(b)
}

// findUVM looks beside this program, then on PATH.
func findUVM() (string, error) {
	if exe, err := os.Executable(); err == nil {
		file := filepath.Join(filepath.Dir(exe), "uvm")
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	file, err := exec.LookPath("uvm")
	if err != nil {
		return "", errors.New("uvm is neither beside uvm-lupine nor on PATH: make builds it")
	}
	return file, nil
}

// address says where the guest is, if --net does.
func address(net string) string {
	for word := range strings.SplitSeq(net, ",") {
		if v, ok := strings.CutPrefix(word, "ip="); ok {
			if p, err := netip.ParsePrefix(v); err == nil {
				return " at " + p.Addr().String()
			}
		}
	}
	return ""
}

// printable passes on what is harmless at a terminal.
type printable struct{ w io.Writer }

func (p printable) Write(b []byte) (int, error) {
	clean := bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\uFFFD' {
			return '?'
		}
		return r
	}, bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))
	if _, err := p.w.Write(clean); err != nil {
		return 0, err
	}
	return len(b), nil
}
