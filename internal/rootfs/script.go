package rootfs

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// script writes commands for debugfs(8). It goes through the tree with cd, so that each
// command holds single names only and stays within a line of debugfs's.
type script struct {
	w     *bufio.Writer
	dir   string // the spool's
	lines int64
	files int // with values of attributes
	first map[*Node]string
	err   error
}

// maxLine is one less than what debugfs takes of a line.
const maxLine = 8000

// writeScript writes the commands that fill an empty file system, and returns their number.
func (t *Tree) writeScript() (int64, error) {
	f, err := os.OpenFile(filepath.Join(t.spool.dir, scriptName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	s := &script{w: bufio.NewWriter(f), dir: t.spool.dir, first: map[*Node]string{}}
	err = t.Walk(
		func(path, name string, n *Node) error {
			if err := s.enter(path, name, n); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return s.err
		},
		func(name string, n *Node) error {
			s.add("cd", "..")
			s.attributes("./"+name, n)
			return s.err
		})
	s.attributes("/", t.Root)
	if err == nil {
		err = errors.Join(s.err, s.w.Flush())
	}
	return s.lines, errors.Join(err, f.Close())
}

// add writes one command. In debugfs a quotation mark within quotation marks is written twice.
func (s *script) add(command string, words ...string) {
	line := command
	for _, w := range words {
		line += ` "` + strings.ReplaceAll(w, `"`, `""`) + `"`
	}
	if len(line) > maxLine || strings.ContainsAny(line, "\n\r\x00") {
		s.err = errors.Join(s.err, fmt.Errorf("%.60s…: a line of %d bytes, or with a line break, is not for debugfs", line, len(line)))
		return
	}
	s.lines++
	if _, err := s.w.WriteString(line + "\n"); err != nil {
		s.err = err
	}
}

// enter makes one name. A name that begins with < and ends with > would be the number of an
// inode; ./ before it makes it a path where debugfs takes paths.
func (s *script) enter(path, name string, n *Node) error {
	if first, again := s.first[n]; again {
		s.add("ln", first, "./"+name)
		return nil
	}
	if n.links > 1 {
		s.first[n] = path
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if path != "/lost+found" { // which mke2fs has made
			s.add("mkdir", "./"+name)
		}
		s.add("cd", "./"+name)
		return nil // its attributes when it is full
	case unix.S_IFREG:
		s.add("write", n.Data.name, name)
	case unix.S_IFLNK:
		s.add("symlink", "./"+name, n.Target)
	case unix.S_IFIFO:
		s.add("mknod", name, "p")
	case unix.S_IFCHR:
		s.add("mknod", name, "c", fmt.Sprint(n.Major), fmt.Sprint(n.Minor))
	case unix.S_IFBLK:
		s.add("mknod", name, "b", fmt.Sprint(n.Major), fmt.Sprint(n.Minor))
	}
	if path == "/lost+found" {
		return errors.New("only a directory may have this name in ext4")
	}
	s.attributes("./"+name, n)
	return nil
}

func (s *script) attributes(file string, n *Node) {
	for _, name := range slices.Sorted(maps.Keys(n.XAttrs)) {
		value := fmt.Sprint("value", s.files)
		s.files++
		if err := os.WriteFile(filepath.Join(s.dir, value), []byte(n.XAttrs[name]), 0o600); err != nil {
			s.err = err
		}
		s.add("ea_set", "-f", value, file, name)
	}
	set := func(field, value string) { s.add("set_inode_field", file, field, value) }
	set("mode", fmt.Sprintf("0%o", n.Mode))
	if n.UID != 0 {
		set("uid", fmt.Sprint(n.UID))
	}
	if n.GID != 0 {
		set("gid", fmt.Sprint(n.GID))
	}
	if n.links > 1 && !n.is(unix.S_IFDIR) {
		set("links_count", fmt.Sprint(n.links))
	}
	time := fmt.Sprintf("@%d", n.MTime)
	for _, field := range []string{"mtime", "atime", "ctime"} {
		set(field, time)
	}
}
