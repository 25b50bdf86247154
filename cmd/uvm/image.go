package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/datadir"
	"github.com/uvm-monitor/uvm/vmm"
)

// rootfsMain becomes the program that makes root file systems.
func rootfsMain(args []string) int {
	return becomeProgram(imageProgram, append([]string{"rootfs"}, args...)...)
}

// imageKernel runs a container image if nothing else is said.
const imageKernel = "lupine-general"

// useImage changes the configuration into one that runs the image: its root file system, a copy
// of this VM's own, is the first disk, and ARGS are the program's instead of the kernel's. It returns the
// ports that the image exposes, as 80/tcp. A non-negative status says that it cannot, in words that are printed already.
func (s *settings) useImage(cfg *vmm.Config) (ports []string, status int) {
	kernel, err := findKernel(s.Kernel)
	if err != nil {
		return nil, fail(exitKernel, "%v", err)
	}
	program, err := findProgram(imageProgram)
	if err != nil {
		return nil, fail(exitHost, "%v", err)
	}
	root, err := unnamedFile()
	if err != nil {
		return nil, fail(exitHost, "--image: %v", err)
	}
	answer, in, err := os.Pipe()
	if err != nil {
		return nil, fail(exitHost, "--image: %v", err)
	}
	defer answer.Close()
	words := []string{imageProgram, "fill", "--ports"}
	if s.ImageTag != "" {
		words = append(words, "--tag", s.ImageTag)
	}
	for _, e := range s.Env {
		words = append(words, "--env", e)
	}
	words = append(append(words, "--", s.Image, "--"), s.Args...)
	status = runProgram(program, words, root, in)
	in.Close()
	if status != 0 {
		return nil, status
	}
	// What fits into a pipe has been written by now.
	list, err := io.ReadAll(answer)
	if err != nil {
		return nil, fail(exitHost, "--image: %v", err)
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
	return strings.Fields(string(list)), -1
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

// findKernel resolves a name without / to NAME.vmlinux where uvm's kernels lie, unless there is such a file.
func findKernel(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		return name, nil
	}
	if file := datadir.Find(name + ".vmlinux"); file != "" {
		return file, nil
	}
	return "", fmt.Errorf("no kernel %s: not a file, and no %s.vmlinux in %s (make -C guests/lupine %s builds it)", name, name, strings.Join(datadir.Guests(), ", "), name)
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
