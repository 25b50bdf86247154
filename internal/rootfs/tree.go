// Package rootfs makes root file systems for Linux guests out of directories,
// tar files and container images. What a source says is kept as a Tree in memory,
// with the contents of files in a spool of numbered files: no name from a source
// ever becomes a name on the host, so that no link in it can lead anywhere.
// docs/rootfs.md explains the whole.
package rootfs

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits bound what a source may unpack to.
type Limits struct {
	Bytes   int64 // of all files, those included that later layers hide; holes count
	Entries int64 // of names
}

// DefaultLimits hold where the command line says nothing else.
var DefaultLimits = Limits{Bytes: 16 << 30, Entries: 1 << 20}

// complete puts the defaults in place of zeros.
func (l *Limits) complete() {
	if l.Bytes == 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Entries == 0 {
		l.Entries = DefaultLimits.Entries
	}
}

const (
	maxName = 255  // bytes of a name in ext4
	maxPath = 4095 // PATH_MAX without its NUL
	maxLink = 40   // symlinks that one name may lead through, as in Linux
	// Longer paths than maxPath come about by symlinks on the way.
	maxDepth = 1024
	maxWords = 1 << 30
)

// Node is an inode.
type Node struct {
	Mode         uint32 // type (unix.S_IFMT) and permissions
	UID, GID     uint32
	MTime        int64 // seconds since 1970
	Target       string
	Major, Minor uint32            // of a device
	XAttrs       map[string]string // security.capability and user.*
	Data         *Data             // of a regular file
	links        int               // names that it has
	children     map[string]*entry // of a directory
}

// entry is a name in a directory, and the layer that wrote it or something below it.
type entry struct {
	node  *Node
	layer int
}

func (n *Node) is(kind uint32) bool { return n.Mode&unix.S_IFMT == kind }

// Tree is a file system in memory. It is for one goroutine.
type Tree struct {
	Root   *Node
	spool  *Spool
	limits Limits
	layer  int                    // the one that is being applied, from 1
	count  int64                  // of entries so far
	words  int64                  // bytes of symlinks' targets and of attributes
	keep   func(head []byte) bool // see Spool.add; of archives' files
}

// NewTree returns an empty tree, whose files lie in spool.
func NewTree(spool *Spool, limits Limits) *Tree {
	return &Tree{Root: newDir(0o755, 0), spool: spool, limits: limits}
}

func newDir(perm uint32, mtime int64) *Node {
	return &Node{Mode: unix.S_IFDIR | perm, MTime: mtime, links: 1, children: map[string]*entry{}}
}

// clean splits a path of a source into its names. It counts from the tree's root, whether
// it begins with / or not.
func clean(path string) ([]string, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("a name of %d bytes is longer than %d", len(path), maxPath)
	}
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			return nil, fmt.Errorf("%q has .. in its name", path)
		case len(name) > maxName:
			return nil, fmt.Errorf("%q: a part of the name is longer than %d bytes", path, maxName)
		case strings.ContainsAny(name, "\n\r\x00"):
			return nil, fmt.Errorf("%q has a line break or a NUL in its name, which cannot be written", path)
		}
		names = append(names, name)
	}
	return names, nil
}

// addition is a directory to add a name to, and the way to it.
type addition struct {
	dir  *Node
	way  []*entry // to dir, without the root
	name string
}

var errNotThere = errors.New("not in the image")

// parent finds the directory that names's last name belongs into. Symlinks on the way are
// followed inside the tree, and /.. is / there. With make, missing directories are made.
func (t *Tree) parent(names []string, make bool, mtime int64) (addition, error) {
	last := len(names) - 1
	way, err := t.walk(names[:last], make, mtime)
	if err != nil {
		return addition{}, err
	}
	return addition{top(t.Root, way), way, names[last]}, nil
}

func top(root *Node, way []*entry) *Node {
	if len(way) == 0 {
		return root
	}
	return way[len(way)-1].node
}

// walk follows names to a directory.
func (t *Tree) walk(names []string, make bool, mtime int64) ([]*entry, error) {
	var way []*entry
	follow := 0
	todo := slices.Clone(names)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			way = way[:max(len(way)-1, 0)]
			continue
		}
		dir := top(t.Root, way)
		e := dir.children[name]
		if e == nil {
			if !make {
				return nil, fmt.Errorf("%q is %w", name, errNotThere)
			}
			// A symlink's target may be anything; a name of ours may not.
			if _, err := clean(name); err != nil {
				return nil, err
			}
			if err := t.grow(); err != nil {
				return nil, err
			}
			e = &entry{newDir(0o755, mtime), t.layer}
			dir.children[name] = e
		}
		switch {
		case e.node.is(unix.S_IFDIR) && len(way) == maxDepth:
			return nil, fmt.Errorf("%q is deeper than %d directories", name, maxDepth)
		case e.node.is(unix.S_IFDIR):
			way = append(way, e)
		case e.node.is(unix.S_IFLNK):
			if follow++; follow > maxLink {
				return nil, fmt.Errorf("%q: more than %d symlinks on the way", name, maxLink)
			}
			if strings.HasPrefix(e.node.Target, "/") {
				way = nil
			}
			todo = append(strings.Split(e.node.Target, "/"), todo...)
		default:
			return nil, fmt.Errorf("%q on the way is not a directory", name)
		}
	}
	return way, nil
}

// grow counts one more entry.
func (t *Tree) grow() error {
	if t.count++; t.count > t.limits.Entries {
		return fmt.Errorf("more than %d files (--max-files)", t.limits.Entries)
	}
	return nil
}

// put sets a name. A directory over a directory keeps what is in it.
func (t *Tree) put(a addition, n *Node) {
	for _, e := range a.way {
		e.layer = t.layer
	}
	if old := a.dir.children[a.name]; old != nil {
		if old.node == n {
			old.layer = t.layer
			return
		}
		if old.node.is(unix.S_IFDIR) && n.is(unix.S_IFDIR) {
			n.children = old.node.children
		} else {
			t.drop(old.node)
		}
	}
	a.dir.children[a.name] = &entry{n, t.layer}
}

// drop forgets one name of a node, and the contents of what has no name left.
func (t *Tree) drop(n *Node) {
	todo := []*Node{n}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n.links--; n.links > 0 {
			continue
		}
		if n.Data != nil {
			t.spool.remove(n.Data)
		}
		for _, e := range n.children {
			todo = append(todo, e.node)
		}
	}
}

// hide takes away from a name what earlier layers put there.
func (t *Tree) hide(dir *Node, name string) {
	e := dir.children[name]
	switch {
	case e == nil:
	case e.layer != t.layer:
		t.drop(e.node)
		delete(dir.children, name)
	case e.node.is(unix.S_IFDIR):
		t.hideBelow(e.node)
	}
}

// hideBelow takes away from a directory what earlier layers put there. Entries of this layer
// lead to each place that it wrote to. Depth is bounded by maxDepth.
func (t *Tree) hideBelow(dir *Node) {
	for _, name := range slices.Collect(maps.Keys(dir.children)) {
		t.hide(dir, name)
	}
}

// Lookup follows a path of the guest's, symlinks included; nil if nothing is there.
func (t *Tree) Lookup(path string) *Node {
	names := strings.Split(path, "/")
	for range maxLink {
		for len(names) > 0 && (names[len(names)-1] == "" || names[len(names)-1] == ".") {
			names = names[:len(names)-1]
		}
		if len(names) == 0 {
			return t.Root
		}
		a, err := t.parent(names, false, 0)
		if err != nil {
			return nil
		}
		if a.name == ".." {
			return top(t.Root, a.way[:max(len(a.way)-1, 0)])
		}
		e := a.dir.children[a.name]
		if e == nil {
			return nil
		}
		if !e.node.is(unix.S_IFLNK) {
			return e.node
		}
		if strings.HasPrefix(e.node.Target, "/") {
			names = nil
		} else {
			names = names[:len(names)-1]
		}
		names = append(slices.Clone(names), strings.Split(e.node.Target, "/")...)
		if len(names) > maxPath {
			return nil
		}
	}
	return nil
}

// Walk calls visit for each name below the root, a directory before what is in it and
// otherwise in the order of the names' bytes; leave, if it is not nil, after a directory.
func (t *Tree) Walk(visit func(path, name string, n *Node) error, leave func(name string, n *Node) error) error {
	return walkDir("", t.Root, visit, leave)
}

func walkDir(path string, dir *Node, visit func(path, name string, n *Node) error, leave func(string, *Node) error) error {
	names := slices.SortedFunc(maps.Keys(dir.children), cmp.Compare[string])
	for _, name := range names {
		n := dir.children[name].node
		full := path + "/" + name
		if err := visit(full, name, n); err != nil {
			return err
		}
		if !n.is(unix.S_IFDIR) {
			continue
		}
		if err := walkDir(full, n, visit, leave); err != nil {
			return err
		}
		if leave != nil {
			if err := leave(name, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// seconds brings a time into what 32 bits of ext4 hold.
func seconds(s int64) int64 { return min(max(s, 0), math.MaxInt32) }
