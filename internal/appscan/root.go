// Package appscan finds out what an application can ask of Linux, by looking at
// its machine code: which system calls it and its libraries can make, which
// address families and file systems it mentions; and which options of the
// kernel's configuration that takes. `uvm lupine suggest` prints it.
//
// The files are somebody else's: nothing is executed, nothing outside the root
// file system is opened, and what is damaged is an error.
package appscan

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Root is the root file system of a guest.
type Root struct {
	FS   fs.ReadLinkFS
	Path []string // where a program without a slash is sought
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
		s, err := r.FS.Lstat(inside(to))
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
		target, err := r.FS.ReadLink(inside(to))
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

// inside is a resolved path as package fs writes it.
func inside(name string) string { return cmp.Or(strings.TrimPrefix(name, "/"), ".") }

// file opens a resolved path that is a regular file; anything else might block.
func (r *Root) file(name string) (fs.File, int64, error) {
	s, err := r.FS.Lstat(inside(name))
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", name, errors.Unwrap(err))
	}
	if !s.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := r.FS.Open(inside(name))
	return f, s.Size(), err
}

// Find returns the path of a program, given as a path or as a word that PATH leads to.
func (r *Root) Find(program string) (string, error) {
	if strings.Contains(program, "/") {
		return r.resolve(program)
	}
	for _, dir := range r.Path {
		if p, err := r.resolve(dir + "/" + program); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("no program %s in %s: give its path", program, strings.Join(r.Path, ", "))
}

// Executable says whether a word is the name of a program or script that may be executed.
func (r *Root) Executable(word string) bool {
	file, err := r.Find(word)
	if err != nil {
		return false
	}
	s, err := r.FS.Lstat(inside(file))
	if err != nil || s.Mode()&0o111 == 0 {
		return false
	}
	if _, script := r.interpreter(file); script {
		return true
	}
	_, err = r.open(file)
	return err == nil
}

// Programs lists all ELF programs.
func (r *Root) Programs() ([]string, error) {
	var found []string
	err := fs.WalkDir(r.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
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
