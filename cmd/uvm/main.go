package main

import (
	"context"
	"fmt"
	"os"

	"github.com/uvm-monitor/uvm/vmm"
)

func main() {
	vm, err := vmm.New(vmm.Config{Kernel: os.Args[1], Args: os.Args[2:], Console: os.Stdout})
	if err != nil {
		fmt.Fprintln(os.Stderr, "uvm:", err)
		os.Exit(125)
	}
	res, err := vm.Run(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "uvm:", err)
		os.Exit(255)
	}
	os.Exit(res.Status & 0xff)
}
