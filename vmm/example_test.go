package vmm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/uvm-monitor/uvm/vmm"
)

// A program that runs a unikernel for at most a minute.
func Example() {
	vm, err := vmm.New(vmm.Config{
		Kernel:  "app.hvt",
		Args:    []string{"--ipv4=10.0.0.2/24"},
		Memory:  32 << 20,
		Nets:    []vmm.Net{{Name: "service", TAP: "tap0"}},
		Disks:   []vmm.Disk{{Name: "storage", Path: "data.img", ReadOnly: true}},
		Console: os.Stdout,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err) // nothing has changed on the host
		return
	}
	defer vm.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := vm.Run(ctx)
	var fault *vmm.GuestError
	switch {
	case errors.As(err, &fault):
		fmt.Fprintf(os.Stderr, "the guest broke at %#x: %v\n", fault.RIP, err)
	case err != nil:
		fmt.Fprintln(os.Stderr, "stopped:", err)
	default:
		fmt.Println("the guest halted with status", result.Status)
	}
}
