// Command agent is the lab's init. As process 1 it does what only that one can:
// it reaps orphans and switches the machine off when its child, the same
// program with the argument "work", has ended.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/lab/wire"
)

func main() {
	if os.Getpid() != 1 {
		if err := work(); err != nil {
			complain(err)
			os.Exit(1)
		}
		return
	}
	if err := mountAll(); err != nil {
		complain(err)
	}
	// The kernel has opened /dev/console as 0, 1 and 2 if the initramfs has
	// one, which ours does.
	child, err := os.StartProcess("/init", []string{"/init", "work"}, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		complain(err)
	} else {
		reap(child.Pid)
	}
	unix.Sync()
	complain(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	select {} // the host's bound ends the machine
}

// reap waits for orphans until the child has ended.
func reap(child int) {
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if pid == child || err != nil && err != syscall.EINTR {
			return
		}
	}
}

// complain writes to the console, which is kept when a run fails.
func complain(err error) { fmt.Fprintf(os.Stderr, "lab: %v\n", err) }

// work does what the plan says.
func work() error {
	data, err := os.ReadFile(wire.PlanPath)
	if err != nil {
		return err
	}
	var plan wire.Plan
	if err := json.Unmarshal(data, &plan); err != nil {
		return fmt.Errorf("%s: %w", wire.PlanPath, err)
	}
	os.Clearenv()
	for _, kv := range plan.Env {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	unusable := prepare(&plan)
	cmdline, _ := os.ReadFile("/proc/cmdline")
	if plan.Shell == nil && strings.Contains(string(cmdline), "lab.shell") {
		plan.Shell = []string{"/bin/sh", "-l"}
	}
	if plan.Shell != nil {
		if unusable != nil {
			complain(unusable)
		}
		return shell(plan.Shell)
	}
	out, err := openEvents(plan.Serial)
	if err != nil {
		return err
	}
	r := &runner{out: out, hold: plan.Serial}
	up := wire.Event{Event: wire.Up, Elapsed: uptime()}
	if unusable != nil {
		up.Error = unusable.Error()
	}
	r.send(&up)
	if unusable != nil {
		return unusable
	}
	for i := range plan.Jobs {
		r.run(i, &plan.Jobs[i])
	}
	r.send(&wire.Event{Event: wire.Done})
	return out.Close()
}
