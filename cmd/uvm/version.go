package main

import (
	"fmt"
	"runtime"
)

// version is raised by hand with the CHANGELOG; a build adds nothing to it, so
// that builds of one commit are the same bit for bit.
const version = "0.1.0-dev"

func versionMain(args []string) int {
	f := newFlags("version")
	if status := parse(f, "version", args); status >= 0 {
		return status
	}
	if f.NArg() > 0 {
		return fail(exitUsage, "unexpected argument %q", f.Arg(0))
	}
	fmt.Printf("uvm %s (%s, hvt ABI version 2)\n", version, runtime.Version())
	return exitOK
}
