// Command shell gives a shell in the lab: see `make lab-shell`.
package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/uvm-monitor/uvm/internal/lab"
)

func main() {
	// ^C is the shell's inside.
	signal.Ignore(os.Interrupt)
	fmt.Fprintln(os.Stderr, "lab: booting, a few seconds; Ctrl-A X ends it")
	if err := lab.Shell(lab.Options{Tools: []string{"bash", "ip"}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
