package rootfs

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// View is a source to look into. A folder is looked at where it lies; of anything
// else the tree is in memory, and the contents of programs, libraries and scripts
// are in a temporary folder that Close removes. Other files have zeros in them.
type View struct {
	FS    fs.ReadLinkFS
	Start Start // what the options and an image's configuration say
	Image bool  // it has one
	close func() error
}

// Close gives back what the View holds.
func (v *View) Close() error { return v.close() }

// Look opens a source. o.Source, Kind, Tag, Start and Limits count.
func Look(ctx context.Context, o Options) (_ *View, err error) {
	o.Limits.complete()
	src, err := openSource(o.Source, o.Kind, o.Limits.Entries)
	if err != nil {
		return nil, err
	}
	if src.kind == KindDir {
		root, err := os.OpenRoot(src.path)
		if err != nil {
			return nil, err
		}
		return &View{root.FS().(fs.ReadLinkFS), o.Start, false, root.Close}, nil
	}
	dir, err := os.MkdirTemp("", "uvm-look-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	t := NewTree(NewSpool(ctx, dir, o.Limits.Bytes, nil), o.Limits)
	t.keep = isCode
	start, err := t.load(src, &o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Source, err)
	}
	return &View{treeFS{t}, start, src.isImage(), func() error { return os.RemoveAll(dir) }}, nil
}

// isCode says whether a file begins like something that can be run or linked.
func isCode(head []byte) bool {
	return bytes.HasPrefix(head, []byte(elf.ELFMAG)) || bytes.HasPrefix(head, []byte("#!"))
}

// treeFS is a Tree for package fs; directories are read by ReadDir and not opened.
type treeFS struct{ t *Tree }

// node finds a name, without following what it links to.
func (f treeFS) node(op, name string) (*Node, error) {
	if name == "." {
		return f.t.Root, nil
	}
	err := fs.ErrInvalid
	if fs.ValidPath(name) {
		err = fs.ErrNotExist
		if a, e := f.t.parent(strings.Split(name, "/"), false, 0); e == nil && a.dir.children[a.name] != nil {
			return a.dir.children[a.name].node, nil
		}
	}
	return nil, &fs.PathError{Op: op, Path: name, Err: err}
}

func (f treeFS) Lstat(name string) (fs.FileInfo, error) {
	n, err := f.node("lstat", name)
	if err != nil {
		return nil, err
	}
	return nodeInfo{name[strings.LastIndexByte(name, '/')+1:], n}, nil
}

// Stat does not follow links either.
func (f treeFS) Stat(name string) (fs.FileInfo, error) { return f.Lstat(name) }

func (f treeFS) ReadLink(name string) (string, error) {
	n, err := f.node("readlink", name)
	if err == nil && !n.is(unix.S_IFLNK) {
		err = &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	if err != nil {
		return "", err
	}
	return n.Target, nil
}

// Open opens a regular file. It does not follow links.
func (f treeFS) Open(name string) (fs.File, error) {
	info, err := f.Lstat(name)
	if err != nil {
		return nil, err
	}
	d := info.(nodeInfo).Data
	if d == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	file, err := os.Open(filepath.Join(d.spool.dir, d.name))
	return treeFile{file, info}, err
}

func (f treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.node("readdir", name)
	if err != nil {
		return nil, err
	}
	var list []fs.DirEntry
	for name, e := range n.children {
		list = append(list, fs.FileInfoToDirEntry(nodeInfo{name, e.node}))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

type treeFile struct {
	*os.File
	info fs.FileInfo
}

func (f treeFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// nodeInfo describes a node by the name that led to it.
type nodeInfo struct {
	name string
	*Node
}

func (i nodeInfo) Name() string       { return i.name }
func (i nodeInfo) IsDir() bool        { return i.is(unix.S_IFDIR) }
func (i nodeInfo) ModTime() time.Time { return time.Unix(i.MTime, 0) }
func (i nodeInfo) Sys() any           { return nil }

func (i nodeInfo) Size() int64 {
	if i.Data == nil {
		return 0
	}
	return i.Data.Size
}

func (i nodeInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.Node.Mode & 0o777)
	switch {
	case i.IsDir():
		mode |= fs.ModeDir
	case i.is(unix.S_IFLNK):
		mode |= fs.ModeSymlink
	case !i.is(unix.S_IFREG):
		mode |= fs.ModeIrregular
	}
	return mode
}
