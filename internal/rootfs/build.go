package rootfs

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/uvm-monitor/uvm/internal/datadir"
)

// Options say what to make.
type Options struct {
	Source string
	Kind   string // of the source, see the Kinds; empty to find out
	Tag    string // of an image, where the source has several
	Output string
	Force  bool    // replace a file at Output
	Size   int64   // bytes of the file system; 0 means as the content needs, with room
	Limits Limits  // zero fields have the default
	Owner  *[2]int // UID and GID of everything, instead of the source's
	Start  Start   // what is set here replaces the image's
	Init   []byte  // uvm-init, for where there is something to start
	NoInit bool    // leave it out
	// Progress is told how far a stage is; all is 0 where nobody knows. It may be nil.
	Progress func(stage string, done, all int64)
}

// Build makes an ext4 file system out of a source. Until it is whole nothing lies at Output,
// and after an error nothing is left. The end of ctx is an error.
func Build(ctx context.Context, o Options) (err error) {
	o.Limits.complete()
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if err := checkOutput(o.Output, o.Force); err != nil {
		return err
	}
	src, err := openSource(o.Source, o.Kind, o.Limits.Entries)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.Output), ".uvm-rootfs-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	spool := NewSpool(ctx, dir, o.Limits.Bytes, func(done int64) { o.Progress("reading", done, 0) })
	t := NewTree(spool, o.Limits)
	if err := t.read(src, &o); err != nil {
		return fmt.Errorf("%s: %w", o.Source, err)
	}
	if err := t.writeExt4(ctx, o.Size, func(done, all int64) { o.Progress("writing", done, all) }); err != nil {
		return err
	}
	return publish(filepath.Join(dir, imageName), o.Output, o.Force)
}

// read fills the tree.
func (t *Tree) read(src *source, o *Options) error {
	start, err := t.load(src, o)
	if err != nil {
		return err
	}
	if o.Owner != nil {
		t.own(uint32(o.Owner[0]), uint32(o.Owner[1]))
	}
	if !src.isImage() && len(start.Entrypoint) == 0 && len(start.Cmd) == 0 {
		return nil // it has an init of its own
	}
	if len(o.Init) == 0 && !o.NoInit {
		return &HostError{fmt.Errorf("uvm-init is not there: build it with make guests, or say --init none (looked in %s)", strings.Join(datadir.Guests(), ", "))}
	}
	if err := t.AddStart(&start, o.Init); err != nil {
		return err
	}
	return t.checkEntry(&start)
}

// load adds what the source has, and returns what there is to start.
func (t *Tree) load(src *source, o *Options) (start Start, err error) {
	start = o.Start
	switch src.kind {
	case KindDir:
		own, e := os.Stat(t.spool.dir)
		if e != nil {
			return start, e
		}
		err = t.AddDir(src.path, own)
	case KindTar:
		r, e := src.open()
		if e != nil {
			return start, errors.Unwrap(e)
		}
		defer r.Close()
		err = t.AddTar(r, false)
	case KindOCI, KindDocker:
		err = t.readImage(src, o.Tag, &start)
	default:
		err = fmt.Errorf("no kind of source is called %q (there are dir, tar, oci and docker)", src.kind)
	}
	if err == nil && len(t.Root.children) == 0 {
		err = errors.New("there are no files in it")
	}
	return start, err
}

func (t *Tree) readImage(src *source, tag string, start *Start) error {
	dir := src.path
	if src.kind == KindOCI && !src.isDir {
		dir = filepath.Join(t.spool.dir, "layout")
		// Packed and unpacked layers count alike.
		if err := src.unpackLayout(dir, t.spool); err != nil {
			return err
		}
	}
	var img v1.Image
	var err error
	if src.kind == KindOCI {
		img, err = openLayout(dir, tag)
	} else {
		img, err = openDocker(src.open, src.sizes, tag)
	}
	if err != nil {
		return err
	}
	cfg, err := t.addImage(img)
	if err != nil {
		return err
	}
	if len(start.Entrypoint) == 0 { // as Docker: another entry point has no use for the image's arguments
		start.Entrypoint = cfg.Entrypoint
		if len(start.Cmd) == 0 {
			start.Cmd = cfg.Cmd
		}
	}
	start.Env = append(append([]string{}, cfg.Env...), start.Env...)
	if start.WorkDir == "" {
		start.WorkDir = cfg.WorkingDir
	}
	if start.User == "" {
		start.User = cfg.User
	}
	if start.Hostname == "" {
		start.Hostname = cfg.Hostname
	}
	return nil
}

// own gives everything to one user.
func (t *Tree) own(uid, gid uint32) {
	t.Root.UID, t.Root.GID = uid, gid
	_ = t.Walk(func(_, _ string, n *Node) error { n.UID, n.GID = uid, gid; return nil }, nil)
}

// checkEntry looks for the program to start, which the guest would miss otherwise.
func (t *Tree) checkEntry(s *Start) error {
	words := append(append([]string{}, s.Entrypoint...), s.Cmd...)
	name := words[0]
	search := []string{s.WorkDir}
	if !strings.Contains(name, "/") {
		search = s.SearchPath()
	} else if strings.HasPrefix(name, "/") {
		search = []string{"/"}
	}
	for _, dir := range search {
		n := t.Lookup(path.Join("/", dir) + "/" + name)
		if n == nil || n.Data == nil || n.Mode&0o111 == 0 {
			continue
		}
		head, err := n.Data.read(20)
		if err != nil {
			return err
		}
		if len(head) < 20 || string(head[:4]) != elf.ELFMAG {
			return nil // a script
		}
		if machine := elf.Machine(uint16(head[18]) | uint16(head[19])<<8); machine != elf.EM_X86_64 || head[4] != byte(elf.ELFCLASS64) {
			return fmt.Errorf("entry point %s is a program for %v (%v); uvm runs 64-bit x86", name, machine, elf.Class(head[4]))
		}
		return nil
	}
	return fmt.Errorf("entry point %q is not an executable file in the image (searched %s)", name, strings.Join(search, ":"))
}

func checkOutput(file string, force bool) error {
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s exists and is not a regular file", file)
	case !force:
		return fmt.Errorf("%s exists (--force replaces it)", file)
	}
	return nil
}

// publish gives a finished file its name.
func publish(from, to string, force bool) error {
	if err := checkOutput(to, force); err != nil {
		return err
	}
	if force {
		return os.Rename(from, to)
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch err {
	case nil:
		return nil
	case unix.EEXIST:
		return checkOutput(to, force)
	case unix.EINVAL, unix.ENOSYS: // the file system has no such call
		return os.Rename(from, to)
	}
	return &os.PathError{Op: "rename", Path: to, Err: err}
}
