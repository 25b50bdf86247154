package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// Names with which a layer says what it hides (OCI image specification, "Image Layer
// Filesystem Changeset").
const (
	whiteout       = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// AddTar adds the entries of a tar file in their order; of two with one name the later
// counts. With layer, whiteouts hide what earlier calls added. It reads r to its end.
// The tree is of no use after an error.
func (t *Tree) AddTar(r io.Reader, layer bool) error {
	t.layer++
	end := &endMark{r: r, max: 2*t.limits.Bytes + 1<<30}
	tr := tar.NewReader(end)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("the tar file is damaged: %w", readable(err))
		}
		if err := t.addEntry(h, tr, layer); err != nil {
			return fmt.Errorf("tar entry %q: %w", h.Name, readable(err))
		}
	}
	if _, err := io.Copy(io.Discard, end); err != nil {
		return fmt.Errorf("the tar file is damaged: %w", readable(err))
	}
	if end.total-end.filled < 512 {
		return errors.New("the tar file is cut short: the blocks that mark its end are missing")
	}
	return nil
}

// readable says it in words where the reader ran into the end.
func readable(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is cut short")
	}
	return err
}

// endMark remembers how many zeros the bytes that were read end with.
type endMark struct {
	r             io.Reader
	total, filled int64 // bytes; up to the last one that is not zero
	max           int64 // more than any tar file within the limits has
}

func (e *endMark) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	for i := n; i > 0; i-- {
		if p[i-1] != 0 {
			e.filled = e.total + int64(i)
			break
		}
	}
	if e.total += int64(n); e.total > e.max {
		return n, fmt.Errorf("it is longer than %d MiB (--max-size)", e.max>>20)
	}
	return n, err
}

func (t *Tree) addEntry(h *tar.Header, r io.Reader, layer bool) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	names, err := clean(h.Name)
	if err != nil {
		return err
	}
	if err := t.grow(); err != nil {
		return err
	}
	if layer && len(names) > 0 && strings.HasPrefix(names[len(names)-1], whiteout) {
		return t.whiteout(names)
	}
	n, err := newNode(h)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if !n.is(unix.S_IFDIR) || h.Typeflag == tar.TypeLink {
			return errors.New("the root can only be a directory")
		}
		n.children = t.Root.children
		t.Root = n
		return nil
	}
	if t.words += int64(len(n.Target)) + n.xattrSize(); t.words > maxWords {
		return errors.New("more than 1 GiB of symlinks and attributes")
	}
	a, err := t.parent(names, true, n.MTime)
	if err != nil {
		return err
	}
	switch {
	case h.Typeflag == tar.TypeLink:
		if n, err = t.linkTarget(h.Linkname); err != nil {
			return err
		}
		if old := a.dir.children[a.name]; old == nil || old.node != n {
			n.links++
		}
	case n.is(unix.S_IFREG):
		if n.Data, err = t.spool.add(r, h.Size, t.keep); err != nil {
			return err
		}
	}
	t.put(a, n)
	return nil
}

// linkTarget finds what a hard link is to be another name of.
func (t *Tree) linkTarget(name string) (*Node, error) {
	names, err := clean(name)
	if err != nil {
		return nil, fmt.Errorf("hard link: %w", err)
	}
	if len(names) == 0 {
		return nil, errors.New("hard link to a directory")
	}
	a, err := t.parent(names, false, 0)
	if err != nil {
		return nil, fmt.Errorf("hard link to %q: %w", name, err)
	}
	e := a.dir.children[a.name]
	switch {
	case e == nil:
		return nil, fmt.Errorf("hard link to %q, which is %w", name, errNotThere)
	case e.node.is(unix.S_IFDIR):
		return nil, errors.New("hard link to a directory")
	}
	return e.node, nil
}

func (t *Tree) whiteout(names []string) error {
	a, err := t.parent(names, false, 0)
	if errors.Is(err, errNotThere) {
		return nil // nothing to hide
	} else if err != nil {
		return err
	}
	switch hidden := strings.TrimPrefix(a.name, whiteout); {
	case a.name == whiteoutOpaque:
		t.hideBelow(a.dir)
	case strings.HasPrefix(a.name, whiteoutMeta):
		// AUFS keeps books of its own under such names.
	case hidden == "" || hidden == "." || hidden == "..":
		return errors.New("a whiteout without a name")
	default:
		t.hide(a.dir, hidden)
	}
	return nil
}

// newNode makes the inode that a header describes, without its contents. Of a hard link it
// has only the time right.
func newNode(h *tar.Header) (*Node, error) {
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return nil, fmt.Errorf("owner %d:%d is not in 0 to 2^32-2", h.Uid, h.Gid)
	}
	n := &Node{
		Mode: uint32(h.Mode & 0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid), MTime: seconds(h.ModTime.Unix()), links: 1,
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && wantXAttr(name) {
			if err := n.setXAttr(name, value); err != nil {
				return nil, err
			}
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeLink:
		n.Mode |= unix.S_IFREG
	case tar.TypeDir:
		n.Mode |= unix.S_IFDIR
		n.children = map[string]*entry{}
	case tar.TypeSymlink:
		n.Mode, n.Target = unix.S_IFLNK|0o777, h.Linkname
		return n, checkTarget(n.Target)
	case tar.TypeFifo:
		n.Mode |= unix.S_IFIFO
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= unix.S_IFCHR
		if h.Typeflag == tar.TypeBlock {
			n.Mode ^= unix.S_IFCHR ^ unix.S_IFBLK
		}
		return n, n.setDevice(uint64(h.Devmajor), uint64(h.Devminor))
	default:
		return nil, fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
	return n, nil
}

// setDevice refuses what debugfs cannot write; Linux has 12 and 20 bits.
func (n *Node) setDevice(major, minor uint64) error {
	if major > 4095 || minor > 65535 {
		return fmt.Errorf("device %d:%d; only up to 4095:65535 are supported", major, minor)
	}
	n.Major, n.Minor = uint32(major), uint32(minor)
	return nil
}

// checkTarget refuses what ext4 or debugfs cannot hold. Where a target leads is the guest's affair.
func checkTarget(target string) error {
	switch {
	case target == "":
		return errors.New("a symlink without a target")
	case len(target) >= blockSize-1:
		return fmt.Errorf("a symlink's target of %d bytes", len(target))
	case strings.ContainsAny(target, "\n\r\x00"):
		return errors.New("a symlink's target has a line break or a NUL in it, which cannot be written")
	}
	return nil
}

// wantXAttr chooses the attributes that mean something in the guest. ACLs are stored in
// another form, labels of security modules are the host's.
func wantXAttr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.")
}

// setXAttr sets an attribute. All of an inode's have to fit into one block.
func (n *Node) setXAttr(name, value string) error {
	if n.xattrSize()+int64(len(name)+len(value)) > 2048 || len(name) > maxName || strings.ContainsAny(name, "\n\r\x00") {
		return fmt.Errorf("extended attribute %.40q: more than 2 KiB, or not writable", name)
	}
	if n.XAttrs == nil {
		n.XAttrs = map[string]string{}
	}
	n.XAttrs[name] = value
	return nil
}

func (n *Node) xattrSize() (size int64) {
	for k, v := range n.XAttrs {
		size += int64(len(k) + len(v) + 24)
	}
	return size
}
