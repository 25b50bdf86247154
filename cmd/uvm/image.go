package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// imageProgram makes root file systems. It is a program of its own: what it links would cost
// every start of uvm (docs/rootfs.md).
const imageProgram = "uvm-image"

// rootfsMain becomes that program.
func rootfsMain(args []string) int {
	file, err := findImageProgram()
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	// entry_amd64.s has raised the timer slack, which exec would hand on; 0 is the default again.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
	err = unix.Exec(file, append([]string{imageProgram, "rootfs"}, args...), os.Environ())
	return fail(exitHost, "%s: %v", file, err)
}

// findImageProgram looks beside uvm's own executable, then on PATH.
func findImageProgram() (string, error) {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe))
	}
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		file := filepath.Join(dir, imageProgram)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is neither beside uvm (%s) nor on PATH: install it there, or run make", imageProgram, strings.Join(dirs, ""))
}
