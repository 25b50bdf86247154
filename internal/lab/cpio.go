package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// archive writes a cpio archive in the "newc" format (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst), which is what
// an initramfs is. The same content gives the same bytes.
type archive struct {
	w     *bufio.Writer
	n     int64           // bytes written
	inode int             // of the last entry
	has   map[string]bool // the names written
	err   error           // the first one; nothing is written after it
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<16), has: map[string]bool{".": true}}
}

// File modes, with their types (inode(7)).
const (
	modeDir    = 0o040755
	modeFile   = 0o100644
	modeExec   = 0o100755
	modeLink   = 0o120777
	modeDevice = 0o020600
)

// entry writes a header and its name; the caller writes size bytes after it.
// Names are absolute paths. Parents are made first; a name that is there
// already is an error.
func (a *archive) entry(name string, mode, size, major, minor int64) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	a.parents(name)
	if a.has[name] && a.err == nil {
		a.err = fmt.Errorf("two files for /%s in the lab", name)
	}
	a.has[name] = true
	a.header(name, mode, size, major, minor)
}

func (a *archive) parents(name string) {
	if dir := path.Dir(name); !a.has[dir] {
		a.parents(dir)
		a.has[dir] = true
		a.header(dir, modeDir, 0, 0, 0)
	}
}

func (a *archive) header(name string, mode, size, major, minor int64) {
	a.inode++
	links := int64(1)
	if mode == modeDir {
		links = 2
	}
	h := "070701" // c_magic; then 13 numbers of 8 hexadecimal digits
	for _, v := range []int64{int64(a.inode), mode, 0, 0, links, 0, size, 0, 0, major, minor, int64(len(name)) + 1, 0} {
		h += fmt.Sprintf("%08X", v)
	}
	a.write([]byte(h + name + "\x00"))
	a.pad()
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		var n int
		n, a.err = a.w.Write(b)
		a.n += int64(n)
	}
}

func (a *archive) pad() { a.write(make([]byte, -a.n&3)) }

// bytes adds a file with the content b.
func (a *archive) bytes(name string, mode int64, b []byte) {
	a.entry(name, mode, int64(len(b)), 0, 0)
	a.write(b)
	a.pad()
}

// link adds a symbolic link.
func (a *archive) link(name, target string) { a.bytes(name, modeLink, []byte(target)) }

// device adds a character device.
func (a *archive) device(name string, major, minor int64) {
	a.entry(name, modeDevice, 0, major, minor)
}

// file adds a copy of the host's file, executable if that is, or of the
// directory with everything below it.
func (a *archive) file(name, from string) {
	if a.err != nil {
		return
	}
	info, err := os.Stat(from) // follows links
	if err != nil {
		a.err = err
		return
	}
	switch {
	case info.IsDir():
		entries, err := os.ReadDir(from)
		if err != nil {
			a.err = err
			return
		}
		if clean := strings.TrimPrefix(path.Clean("/"+name), "/"); !a.has[clean] {
			a.entry(name, modeDir, 0, 0, 0)
		}
		for _, e := range entries {
			a.file(path.Join(name, e.Name()), filepath.Join(from, e.Name()))
		}
	case info.Mode().IsRegular():
		a.copy(name, from, info)
	default:
		a.err = fmt.Errorf("%s is neither a file nor a directory", from)
	}
}

func (a *archive) copy(name, from string, info os.FileInfo) {
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	mode := int64(modeFile)
	if info.Mode()&0o111 != 0 {
		mode = modeExec
	}
	// c_filesize has 32 bits.
	if info.Size() > 1<<31 {
		a.err = fmt.Errorf("%s is %d MiB: put it on a Disk", from, info.Size()>>20)
		return
	}
	a.entry(name, mode, info.Size(), 0, 0)
	if a.err != nil {
		return
	}
	n, err := io.CopyN(a.w, f, info.Size())
	a.n += n
	if err != nil {
		a.err = fmt.Errorf("copy %s: %w", from, err)
	}
	a.pad()
}

// close writes the end and returns the first error.
func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0, 0, 0)
	if a.err == nil {
		a.err = a.w.Flush()
	}
	return a.err
}
