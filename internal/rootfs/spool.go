package rootfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

const blockSize = 4096

// Spool keeps the contents of files, as numbered files in a folder of its own. Blocks of
// zeros are holes.
type Spool struct {
	ctx      context.Context
	dir      string
	limit    int64
	used     int64 // bytes of all files ever added, holes included
	next     int
	buf      []byte
	progress func(done int64)
}

// Data is the content of a file.
type Data struct {
	spool  *Spool
	name   string // in the spool's folder
	Size   int64
	blocks int64 // that are not holes
	sum    [sha256.Size]byte
}

// NewSpool returns an empty spool in dir, which exists. The end of ctx ends what it is doing. progress, if it is not nil, is told
// the bytes so far.
func NewSpool(ctx context.Context, dir string, limit int64, progress func(done int64)) *Spool {
	if progress == nil {
		progress = func(int64) {}
	}
	return &Spool{ctx: ctx, dir: dir, limit: limit, progress: progress}
}

var zeros [blockSize]byte

// add copies size bytes of r. It refuses before it has read any if there are too many. keep, if it
// is not nil, is shown the beginning, and says whether the content is wanted; else it is zeros.
func (s *Spool) add(r io.Reader, size int64, keep func(head []byte) bool) (d *Data, err error) {
	if size < 0 || size > s.limit-s.used {
		return nil, fmt.Errorf("unpacked, the files have more than %d MiB (--max-size)", s.limit>>20)
	}
	name := strconv.Itoa(s.next)
	s.next++
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(f.Name())
			d = nil
		}
	}()
	if s.buf == nil {
		s.buf = make([]byte, 64*blockSize)
	}
	d = &Data{spool: s, name: name, Size: size}
	sum := sha256.New()
	wanted := true
	for off := int64(0); off < size; {
		if s.ctx.Err() != nil {
			return nil, context.Cause(s.ctx)
		}
		chunk := s.buf[:min(int64(len(s.buf)), size-off)]
		if _, err := io.ReadFull(r, chunk); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if off == 0 && keep != nil {
			wanted = keep(chunk)
		}
		if !wanted {
			clear(chunk)
		}
		sum.Write(chunk)
		for at := 0; at < len(chunk); at += blockSize {
			b := chunk[at:min(at+blockSize, len(chunk))]
			if bytes.Equal(b, zeros[:len(b)]) {
				continue
			}
			d.blocks++
			if _, err := f.WriteAt(b, off+int64(at)); err != nil {
				return nil, err
			}
		}
		off += int64(len(chunk))
		s.used += int64(len(chunk))
		s.progress(s.used)
	}
	sum.Sum(d.sum[:0])
	return d, f.Truncate(size)
}

func (s *Spool) addBytes(b []byte) (*Data, error) {
	return s.add(bytes.NewReader(b), int64(len(b)), nil)
}

func (s *Spool) remove(d *Data) { os.Remove(filepath.Join(s.dir, d.name)) }

// read returns the first bytes of a file, up to n.
func (d *Data) read(n int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(d.spool.dir, d.name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, n))
}
