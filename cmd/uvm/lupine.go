package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// lupineMain becomes uvm-lupine, which lies beside uvm: what only makes kernels
// is no part of the program that runs VMs.
func lupineMain(args []string) int {
	f := newFlags("lupine")
	f.SetInterspersed(false) // what stands behind the first word is that program's
	if status := parse(f, "lupine", args); status >= 0 {
		return status
	}
	self, err := os.Executable()
	if err != nil {
		return fail(exitHost, "cannot find my own file: %v", err)
	}
	file := filepath.Join(filepath.Dir(self), "uvm-lupine")
	err = become(file, append([]string{file}, args...))
	if errors.Is(err, fs.ErrNotExist) {
		return fail(exitHost, "%s is missing: make builds it beside uvm", file)
	}
	return fail(exitHost, "%s: %v", file, err)
}
