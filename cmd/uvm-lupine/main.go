// Command uvm-lupine helps to make Linux kernels for one application; `uvm
// lupine` runs it. It is a program of its own because it decodes machine code of
// strangers, which nobody needs in the program that runs VMs.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/uvm-monitor/uvm/internal/appscan"
)

const usage = `Usage: uvm lupine suggest DIR [PROGRAM…]

Finds out which options of the kernel's configuration an application needs on
top of lupine-base, and prints a fragment for guests/lupine/build.sh, with the
reason for each option and what could not be seen.

DIR is the application's root file system, unpacked. PROGRAM is a program in it,
by its path there or by a name that PATH leads to; name all that run. Without
PROGRAM, all programs in DIR are looked at. Nothing is run.

Exit status: 0 printed, 1 a file is missing or damaged, 125 wrong usage.
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	switch {
	case len(args) > 0 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help"), len(args) > 1 && args[1] == "--help":
		fmt.Fprint(stdout, usage)
		return 0
	case len(args) < 2 || args[0] != "suggest" || strings.HasPrefix(args[1], "-"):
		fmt.Fprint(stderr, usage)
		return 125
	}
	if err := suggest(stdout, args[1], args[2:]); err != nil {
		fmt.Fprintf(stderr, "uvm lupine: %v\n", err)
		return 1
	}
	return 0
}

// suggest prints what programs below dir need.
func suggest(w io.Writer, dir string, programs []string) error {
	root, err := appscan.OpenRoot(dir)
	if err != nil {
		return err
	}
	title := "Made by: uvm lupine suggest " + strings.Join(append([]string{dir}, programs...), " ")
	if len(programs) == 0 {
		if programs, err = root.Programs(); err != nil {
			return err
		}
		if len(programs) == 0 {
			return fmt.Errorf("%s has no ELF program for x86-64", dir)
		}
	}
	uses := &appscan.Uses{}
	for _, p := range programs {
		u, err := root.Scan(p)
		if err != nil {
			return err
		}
		uses.Add(u)
	}
	return uses.Fragment(w, title)
}
