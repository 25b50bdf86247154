package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/lab/wire"
)

// Shell gives a shell in the lab on the terminal, until it ends or Ctrl-A X.
// QEMU sets the terminal to raw mode, and back.
func Shell(o Options) error {
	parts, err := FindParts()
	if err != nil {
		return err
	}
	defer parts.Close()
	dir, err := os.MkdirTemp("", "uvm-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	plan := wire.Plan{Env: environment}
	for _, t := range o.Tools {
		if t == "bash" {
			plan.Shell = []string{"/usr/bin/bash", "-l"}
		}
	}
	if size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 0 {
		plan.Env = append(plan.Env[:len(plan.Env):len(plan.Env)], fmt.Sprintf("LINES=%d", size.Row), fmt.Sprintf("COLUMNS=%d", size.Col))
	}
	if err := writeImage(filepath.Join(dir, initramfsName), parts, &o, &plan, nil); err != nil {
		return err
	}
	args := arguments(parts, &o, true)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd.Run()
}
