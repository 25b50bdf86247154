// Package appscan finds out what an application can ask of Linux, by looking at
// its machine code: which system calls it and its libraries can make, which
// address families and file systems it mentions; and which options of the
// kernel's configuration that takes. `uvm lupine suggest` prints it.
//
// The files are somebody else's: nothing is executed, nothing outside the root
// folder is opened, and what is damaged is an error.
package appscan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Root is a folder that holds the root file system of a guest.
type Root struct{ dir string }

// OpenRoot checks that dir is a folder.
func OpenRoot(dir string) (*Root, error) {
	s, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !s.IsDir() {
		return nil, fmt.Errorf("%s is not a folder: unpack it first", dir)
	}
	return &Root{dir}, nil
}

// maxLinks is how many symbolic links a path may go through, as in Linux.
const maxLinks = 40

// resolve follows the symbolic links of a guest's path as the guest would, for
// which the root is the folder's top. It returns the guest's path without links.
func (r *Root) resolve(name string) (string, error) {
	left := strings.Split(path.Clean("/"+name), "/")
	at, links := "/", 0
	for len(left) > 0 {
		next := left[0]
		left = left[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		to := path.Join(at, next)
		s, err := os.Lstat(filepath.Join(r.dir, to))
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, errors.Unwrap(err))
		}
		if s.Mode()&fs.ModeSymlink == 0 {
			at = to
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: too many symbolic links", name)
		}
		target, err := os.Readlink(filepath.Join(r.dir, to))
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			at = "/"
		}
		left = slices.Concat(strings.Split(target, "/"), left)
	}
	return at, nil
}

// host is where a resolved path lies outside.
func (r *Root) host(name string) string { return filepath.Join(r.dir, name) }

// searchPath is where a program without a slash is sought.
var searchPath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Find returns the path of a program, given as a path or as a word that PATH leads to.
func (r *Root) Find(program string) (string, error) {
	if strings.Contains(program, "/") {
		return r.resolve(program)
	}
	for _, dir := range searchPath {
		if p, err := r.resolve(dir + "/" + program); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("no program %s in %s of %s: give its path", program, strings.Join(searchPath, ", "), r.dir)
}

// Programs lists all ELF programs below the folder.
func (r *Root) Programs() ([]string, error) {
	var found []string
	err := filepath.WalkDir(r.dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(r.dir, file)
		if err != nil {
			return err
		}
		o, err := r.open("/" + name)
		switch {
		case errors.Is(err, errNotELF):
		case err != nil:
			return err
		case o.program():
			found = append(found, o.path)
		}
		return nil
	})
	return found, err
}

// libraryPath is where the C library's loader seeks libraries on Debian, Fedora
// and Alpine without configuration. It does not read ld.so.cache.
var libraryPath = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib", "/usr/local/lib64",
}

// closure opens a program, its loader, and the libraries that they need, in the
// order in which the loader seeks symbols. missing are those that it did not find.
func (r *Root) closure(program string) (objects []*object, missing []string, err error) {
	o, err := r.open(program)
	if err != nil {
		return nil, nil, err
	}
	objects = []*object{o}
	have := map[string]bool{program: true}
	asked := map[string]bool{}
	for i := 0; i < len(objects); i++ {
		o := objects[i]
		for _, need := range o.needed {
			if asked[need] {
				continue
			}
			asked[need] = true
			file, err := r.library(o, need)
			if err != nil {
				missing = append(missing, need)
				continue
			}
			if have[file] {
				continue
			}
			have[file] = true
			l, err := r.open(file)
			if err != nil {
				return nil, nil, err
			}
			l.label = path.Base(need)
			objects = append(objects, l)
		}
		if o.interp != "" {
			objects[0].needed = append(objects[0].needed, o.interp)
			o.interp = ""
			i-- // once more, for the loader
		}
	}
	return objects, missing, nil
}

// library finds what o needs by the name need.
func (r *Root) library(o *object, need string) (string, error) {
	if strings.Contains(need, "/") {
		return r.resolve(need)
	}
	origin := strings.NewReplacer("$ORIGIN", path.Dir(o.path), "${ORIGIN}", path.Dir(o.path))
	for _, dir := range slices.Concat(o.runpath, libraryPath) {
		if p, err := r.resolve(origin.Replace(dir) + "/" + need); err == nil {
			return p, nil
		}
	}
	return "", fs.ErrNotExist
}
