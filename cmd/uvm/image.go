package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/datadir"
	"github.com/uvm-monitor/uvm/vmm"
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
	return fail(exitHost, "%s: %v", file, become(file, append([]string{imageProgram, "rootfs"}, args...)))
}

// become executes another program instead of uvm; if it returns, it has failed.
func become(file string, argv []string) error {
	// entry_amd64.s has raised the timer slack, which exec would hand on; 0 is the default again.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
	return unix.Exec(file, argv, os.Environ())
}

// findImageProgram looks beside uvm's own executable, then on PATH.
func findImageProgram() (string, error) {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe))
	}
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH"))...) {
		file := filepath.Join(dir, imageProgram)
		if !filepath.IsAbs(dir) {
			continue // whatever lies in the working directory is not ours
		}
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && unix.Access(file, unix.X_OK) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is neither beside uvm (%s) nor on PATH: install it there, or run make", imageProgram, strings.Join(dirs, ", "))
}

// imageKernel runs a container image if nothing else is said.
const imageKernel = "lupine-general"

// useImage changes the configuration into one that runs the image: its root file system, a copy
// of this VM's own, is the first disk, and ARGS are the program's instead of the kernel's. A
// non-negative status says that it cannot, in words that are printed already.
func (s *settings) useImage(cfg *vmm.Config) int {
	unpin() // the other program may take long, and would inherit it
	kernel, err := datadir.Kernel(s.Kernel)
	if err != nil {
		return fail(exitKernel, "%v", err)
	}
	program, err := findImageProgram()
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	root, err := unnamedFile()
	if err != nil {
		return fail(exitHost, "--image: %v", err)
	}
	words := []string{imageProgram, "fill"}
	if s.ImageTag != "" {
		words = append(words, "--tag", s.ImageTag)
	}
	for _, e := range s.Env {
		words = append(words, "--env", e)
	}
	words = append(append(words, "--", s.Image, "--"), s.Args...)
	if status := runProgram(program, words, root); status != 0 {
		return status
	}
	cfg.Kernel = kernel
	cfg.Disks = append([]vmm.Disk{{Path: fmt.Sprintf("/proc/self/fd/%d", root.Fd())}}, cfg.Disks...)
	for _, word := range []string{"quiet", "init=/.uvm/init"} {
		key, _, _ := strings.Cut(word, "=")
		if !hasWord(cfg.Cmdline, key) {
			cfg.Cmdline += " " + word
		}
	}
	cfg.Cmdline = strings.TrimSpace(cfg.Cmdline)
	cfg.Args = nil
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil && (s.Console == "" || s.Console == "stdio") {
		cfg.Args = []string{"tty"}
	}
	return -1
}

// hasWord says whether a kernel's command line has a key.
func hasWord(line, key string) bool {
	for _, w := range strings.Fields(line) {
		if k, _, _ := strings.Cut(w, "="); k == key {
			return true
		}
	}
	return false
}

// unnamedFile makes a file in the folder of images, where blocks can be shared with them. It is
// gone when the last descriptor of it is closed, whatever ends this process.
func unnamedFile() (*os.File, error) {
	dir, err := datadir.Images()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".root-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// runProgram runs a program with root as its descriptor 3 and returns its status. It says itself
// what went wrong.
func runProgram(file string, words []string, root *os.File) int {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	defer null.Close()
	p, err := os.StartProcess(file, words, &os.ProcAttr{Files: []*os.File{null, os.Stderr, os.Stderr, root}})
	if err != nil {
		return fail(exitHost, "%v", err)
	}
	state, err := p.Wait()
	if err != nil {
		return fail(exitHost, "%s: %v", file, err)
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return fail(exitSignal+int(ws.Signal()), "%s was ended by a signal: %v", file, ws.Signal())
	}
	return state.ExitCode()
}
