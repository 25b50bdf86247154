package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// newFlags returns a flag set for a command whose errors we print ourselves.
func newFlags(name string) *pflag.FlagSet {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	return f
}

// parse parses the words after a command's name. A non-negative status says
// that the command is over.
func parse(f *pflag.FlagSet, name string, args []string) (status int) {
	err := f.Parse(args)
	switch {
	case err == nil:
		return -1
	case errors.Is(err, pflag.ErrHelp):
		for _, c := range commands() {
			if c.name == name {
				fmt.Printf("Usage: uvm %s %s\n\n%s.\n", c.name, c.usage, strings.ToUpper(c.help[:1])+c.help[1:])
			}
		}
		if f.HasFlags() {
			fmt.Printf("\n%s", f.FlagUsages())
		}
		return exitOK
	}
	hint := ""
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && (f.NArg() > 0 || laterThanKernel(args)) {
		hint = " (guest arguments go after --)"
	}
	return fail(exitUsage, "%v%s", err, hint)
}

// laterThanKernel says that a word which is no flag comes before the words
// that could not be parsed; pflag does not tell.
func laterThanKernel(args []string) bool {
	return len(args) > 0 && !strings.HasPrefix(args[0], "-")
}

// oneKernel returns the single operand of a command.
func oneKernel(f *pflag.FlagSet) (string, int) {
	switch f.NArg() {
	case 0:
		return "", fail(exitUsage, "no kernel given (usage: uvm %s KERNEL)", f.Name())
	case 1:
		return f.Arg(0), -1
	}
	return "", fail(exitUsage, "unexpected argument %q after the kernel", f.Arg(1))
}

// openOutput opens a file for writing and says whether it made it, so that a
// start that fails can take it away again.
func openOutput(path string) (f *os.File, made bool, err error) {
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		return f, true, nil
	}
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	return f, false, err
}
