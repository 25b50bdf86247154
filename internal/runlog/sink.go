package runlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Async is a writer that does not wait: a goroutine does, and what it has no room for is lost.
type Async struct {
	w     io.Writer
	queue chan []byte
	done  chan struct{}

	mu     sync.Mutex
	lost   uint64
	closed bool
}

const (
	queued = 256 // records; a line of a guest's makes one of 2 KiB at most
	spare  = 32  // of these, for the monitor's own
)

// NewAsync writes to w in a goroutine, until Close.
func NewAsync(w io.Writer) *Async {
	a := &Async{w: w, queue: make(chan []byte, queued), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		for b := range a.queue {
			a.w.Write(b)
		}
	}()
	return a
}

// Write hands a record over. It always succeeds.
func (a *Async) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		select {
		case a.queue <- append([]byte(nil), b...):
			return len(b), nil
		default:
		}
	}
	a.lost++
	return len(b), nil
}

// Full says that there is no room for a guest's line.
func (a *Async) Full() bool { return len(a.queue) > queued-spare }

// Close waits for what is queued, but no longer than timeout, and returns how many records were lost, and whether the
// writer has taken the others.
func (a *Async) Close(timeout time.Duration) (lost uint64, done bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	close(a.queue)
	select {
	case <-a.done:
		return a.lost, true
	case <-time.After(timeout):
		return a.lost + uint64(len(a.queue)), false
	}
}

// File is a log file of at most size bytes, and the one before it of the same: when it is full it becomes FILE.1,
// whose predecessor goes. What cannot be written is counted.
type File struct {
	path string
	size int64

	mu   sync.Mutex
	f    *os.File
	len  int64
	lost uint64 // records
	err  error  // why the first of them was
}

// OpenFile opens or makes a log file, for the user alone, and says whether it made it.
func OpenFile(path string, size int64) (l *File, made bool, err error) {
	_, err = os.Lstat(path)
	made = errors.Is(err, os.ErrNotExist)
	l = &File{path: path, size: size}
	if err := l.open(); err != nil {
		return nil, false, err
	}
	return l, made, nil
}

// open opens the file of that name. A FIFO would keep the open, or a write, waiting for its reader.
func (l *File) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", l.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.len = f, info.Size()
	return nil
}

// Write appends a record.
func (l *File) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.write(b)
	if err != nil {
		if l.lost++; l.err == nil {
			l.err = err
		}
	}
	return n, err
}

func (l *File) write(b []byte) (int, error) {
	if l.len > 0 && l.len+int64(len(b)) > l.size {
		if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		old := l.f
		if err := l.open(); err != nil {
			return 0, err
		}
		old.Close()
	}
	n, err := l.f.Write(b)
	l.len += int64(n)
	return n, err
}

// Close closes the file and tells how many records could not be written, and why the first.
func (l *File) Close() (lost uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.f.Close()
	return l.lost, l.err
}
