// Package datadir knows where uvm's files for guests lie: kernels, and the init of root file
// systems. It links nothing that would slow the start of uvm.
package datadir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Guests returns the folders to search, in their order: guests beside the executable, where make
// puts them, uvm/kernels and uvm in the user's data folder, and those of packages.
func Guests() []string {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(exe), "guests"))
	}
	data := os.Getenv("XDG_DATA_HOME")
	if home, err := os.UserHomeDir(); data == "" && err == nil {
		data = filepath.Join(home, ".local", "share")
	}
	if data != "" {
		dirs = append(dirs, filepath.Join(data, "uvm", "kernels"), filepath.Join(data, "uvm"))
	}
	return append(dirs, "/usr/local/share/uvm", "/usr/share/uvm")
}

// Find returns the first regular file of that name in these folders; "" if there is none.
func Find(name string) string {
	for _, dir := range Guests() {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file
		}
	}
	return ""
}

// Kernel resolves the name of a kernel without / to NAME.vmlinux where uvm's kernels lie, unless there is such a file.
func Kernel(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		return name, nil
	}
	if file := Find(name + ".vmlinux"); file != "" {
		return file, nil
	}
	return "", fmt.Errorf("no kernel %s: not a file, and no %s.vmlinux in %s (make -C guests/lupine %s builds it)", name, name, strings.Join(Guests(), ", "), name)
}

// Images returns the folder of cached root file systems: uvm/images in the user's cache folder.
func Images() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "uvm", "images"), err
}
