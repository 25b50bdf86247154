package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
)

// Kinds of sources.
const (
	KindDir    = "dir"
	KindTar    = "tar"
	KindOCI    = "oci"
	KindDocker = "docker"
)

// source is where a tree comes from.
type source struct {
	path  string
	kind  string
	isDir bool
	sizes map[string]int64 // of an archive's regular files, by clean name
}

// isImage says that the source has a configuration, which says what to start.
func (s *source) isImage() bool { return s.kind == KindOCI || s.kind == KindDocker }

// openSource finds out what path is. kind is one of the Kinds, or empty to choose by what
// lies in it. entries is the most that an archive may have.
func openSource(file, kind string, entries int64) (*source, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	s := &source{path: file, kind: kind, isDir: info.IsDir()}
	has := func(name string) bool {
		info, err := os.Lstat(filepath.Join(file, name))
		return err == nil && info.Mode().IsRegular()
	}
	switch {
	case s.isDir && (kind == KindTar || kind == KindDocker):
		return nil, fmt.Errorf("%s is a directory, not an archive", file)
	case s.isDir && kind == "" && has("oci-layout") && has("index.json"):
		s.kind = KindOCI
	case s.isDir && kind == "":
		s.kind = KindDir
	case s.isDir:
	case !info.Mode().IsRegular():
		// It is read more than once.
		return nil, fmt.Errorf("%s is neither a directory nor a regular file", file)
	case kind == KindDir:
		return nil, fmt.Errorf("%s is not a directory", file)
	case kind != KindTar:
		return s, s.scan(entries)
	}
	return s, nil
}

// scan reads the names in an archive.
func (s *source) scan(entries int64) error {
	r, err := s.open()
	if err != nil {
		return err
	}
	defer r.Close()
	s.sizes = map[string]int64{}
	var in io.Reader = r
	if f, ok := r.(*os.File); ok {
		in = f // in which tar seeks over the contents
	}
	tr := tar.NewReader(in)
	for n := int64(0); ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%s: the tar file is damaged: %w", s.path, readable(err))
		}
		if n >= entries {
			return fmt.Errorf("%s: more than %d files (--max-files)", s.path, entries)
		}
		// Only the names below count, and the limit is on what is kept of all others.
		if h.Typeflag == tar.TypeReg && len(h.Name) <= maxName {
			s.sizes[path.Clean(h.Name)] = h.Size
		}
	}
	_, docker := s.sizes["manifest.json"]
	_, oci := s.sizes["oci-layout"]
	_, index := s.sizes["index.json"]
	switch {
	case s.kind != "":
	case docker && len(s.sizes) > 0:
		s.kind = KindDocker
	case oci && index:
		s.kind = KindOCI
	default:
		s.kind = KindTar
	}
	return nil
}

// magics are the beginnings of compressed files that are not read.
var magics = map[string][]byte{
	"zstd": {0x28, 0xb5, 0x2f, 0xfd}, "xz": {0xfd, '7', 'z', 'X', 'Z'}, "bzip2": {'B', 'Z', 'h'},
}

// open opens an archive, and unpacks gzip. An archive that is not compressed is an *os.File.
func (s *source) open() (io.ReadCloser, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 6)
	n, err := f.ReadAt(head, 0)
	head = head[:n]
	switch {
	case err != nil && !errors.Is(err, io.EOF):
	case n == 0:
		err = errors.New("the file is empty")
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		var z *gzip.Reader
		if z, err = gzip.NewReader(bufio.NewReaderSize(f, 1<<16)); err == nil {
			return &gzipFile{z, f}, nil
		}
	default:
		err = nil
		for name, magic := range magics {
			if bytes.HasPrefix(head, magic) {
				err = fmt.Errorf("it is packed with %s: unpack it first", name)
			}
		}
		if err == nil {
			return f, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", s.path, readable(err))
}

type gzipFile struct {
	*gzip.Reader
	file *os.File
}

func (g *gzipFile) Close() error { return errors.Join(g.Reader.Close(), g.file.Close()) }

// layoutFile matches what an OCI layout consists of.
var layoutFile = regexp.MustCompile(`^(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// unpackLayout writes the files of an OCI layout in an archive below dir, and nothing else.
func (s *source) unpackLayout(dir string, spool *Spool) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return err
	}
	r, err := s.open()
	if err != nil {
		return err
	}
	defer r.Close()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("the tar file is damaged: %w", readable(err))
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !layoutFile.MatchString(name) {
			continue
		}
		d, err := spool.add(tr, h.Size, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", name, readable(err))
		}
		if err := os.Rename(filepath.Join(spool.dir, d.name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
}
