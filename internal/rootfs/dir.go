package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// AddDir adds a directory of the host's: files, directories, symlinks, hard links, devices
// and FIFOs of the file system that dir lies on. Sockets, and what is mounted below dir, are
// left out. skip is a folder that is left out as well.
func (t *Tree) AddDir(dir string, skip os.FileInfo) error {
	t.layer++
	// Through a Root: a symlink that someone plants meanwhile leads nowhere else.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Lstat(".")
	if err != nil {
		return err
	}
	st, err := stat(info)
	if err != nil {
		return err
	}
	d := &dirReader{tree: t, root: root, dev: st.Dev, skip: skip, linked: map[uint64]*Node{}}
	if t.Root, err = d.node(".", st); err != nil {
		return err
	}
	return d.read(".", t.Root, 0)
}

type dirReader struct {
	tree   *Tree
	root   *os.Root
	dev    uint64
	skip   os.FileInfo
	linked map[uint64]*Node // by inode number, of files with several names
}

func stat(info fs.FileInfo) (*unix.Stat_t, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: no owner and mode", info.Name())
	}
	return &unix.Stat_t{Dev: st.Dev, Ino: st.Ino, Nlink: st.Nlink, Mode: st.Mode, Uid: st.Uid, Gid: st.Gid, Rdev: st.Rdev, Mtim: unix.Timespec(st.Mtim)}, nil
}

// read adds what is in a directory.
func (d *dirReader) read(dir string, n *Node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s is deeper than %d directories", dir, maxDepth)
	}
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := d.add(path.Join(dir, name), name, n, depth); err != nil {
			return err
		}
	}
	return nil
}

func (d *dirReader) add(file, name string, parent *Node, depth int) error {
	info, err := d.root.Lstat(file)
	if err != nil {
		return err
	}
	st, err := stat(info)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK || d.skip != nil && os.SameFile(info, d.skip) {
		return nil
	}
	if _, err := clean(name); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := d.tree.grow(); err != nil {
		return err
	}
	n := d.linked[st.Ino]
	if n != nil && st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		n.links++
	} else if n, err = d.node(file, st); err != nil {
		return err
	}
	parent.children[name] = &entry{n, d.tree.layer}
	if !n.is(unix.S_IFDIR) {
		if st.Nlink > 1 {
			d.linked[st.Ino] = n
		}
		return nil
	}
	if st.Dev != d.dev {
		return nil
	}
	return d.read(file, n, depth+1)
}

// node reads one inode, with the content of a file.
func (d *dirReader) node(file string, st *unix.Stat_t) (n *Node, err error) {
	n = &Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, MTime: seconds(st.Mtim.Sec), links: 1}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.children = map[string]*entry{}
		return n, nil
	case unix.S_IFLNK:
		if n.Target, err = d.root.Readlink(file); err == nil {
			err = checkTarget(n.Target)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		err = n.setDevice(uint64(unix.Major(st.Rdev)), uint64(unix.Minor(st.Rdev)))
	case unix.S_IFIFO:
	case unix.S_IFREG:
		err = d.content(file, st, n)
	default:
		err = errors.New("it is of no type that ext4 has")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, readable(err))
	}
	return n, nil
}

func (d *dirReader) content(file string, st *unix.Stat_t, n *Node) error {
	// Not blocking, should a FIFO have taken the file's place.
	f, err := d.root.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if now, err := stat(info); err != nil || now.Ino != st.Ino || now.Dev != st.Dev || !info.Mode().IsRegular() {
		return errors.New("it has changed meanwhile")
	}
	if n.Data, err = d.tree.spool.add(f, info.Size(), nil); err != nil {
		return err
	}
	return n.readXAttrs(int(f.Fd()))
}

func (n *Node) readXAttrs(fd int) error {
	list := make([]byte, 1<<16) // the most that Linux has
	size, err := unix.Flistxattr(fd, list)
	if err != nil {
		if err == unix.ENOTSUP {
			err = nil
		}
		return err
	}
	value := make([]byte, 1<<16)
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if !wantXAttr(name) {
			continue
		}
		size, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return err
		}
		if err := n.setXAttr(name, string(value[:size])); err != nil {
			return err
		}
	}
	return nil
}
