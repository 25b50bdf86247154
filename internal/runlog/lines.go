package runlog

import (
	"bytes"
	"log/slog"
	"sync"
	"time"
)

// mostLine is the longest line in bytes that becomes one record: a longer one becomes several.
const mostLine = 1 << 10

// Lines makes log records of what a guest prints, one for each line, at a bounded rate. Write may be called from
// any goroutine, and does not wait if the log's own writer does not.
type Lines struct {
	log  *slog.Logger
	rate int         // bytes of lines in a second
	full func() bool // the log's writer would lose a record

	mu         sync.Mutex // guards what follows
	part       []byte     // of a line
	window     time.Time  // when the present second began
	used       int        // bytes in it
	suppressed uint64     // lines, not told yet
	tell       *time.Timer
}

// NewLines logs at most rate bytes of lines in a second, and none while full says so; full may be nil.
func NewLines(log *slog.Logger, rate int, full func() bool) *Lines {
	if full == nil {
		full = func() bool { return false }
	}
	return &Lines{log: log, rate: rate, full: full}
}

// Write takes what the guest prints. It always succeeds.
func (l *Lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := len(b)
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		if room := mostLine - len(l.part); len(line) > room {
			line, rest, ended = b[:room], b[room:], true
		}
		l.part, b = append(l.part, line...), rest
		if ended {
			l.emit()
		}
	}
	return total, nil
}

// emit logs l.part, if it may. mu is held.
func (l *Lines) emit() {
	line := bytes.TrimSuffix(l.part, []byte("\r"))
	l.part = l.part[:0]
	if now := time.Now(); now.Sub(l.window) >= time.Second {
		l.window, l.used = now, 0
		l.confess()
	}
	// A line costs the log more than its bytes, and an empty one not nothing.
	l.used += len(line) + 64
	if l.used > l.rate || l.full() {
		if l.suppressed++; l.tell == nil {
			l.tell = time.AfterFunc(time.Second, func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.confess()
			})
		}
		return
	}
	l.log.Info("console", "line", string(line))
}

// confess logs how many lines were suppressed. mu is held.
func (l *Lines) confess() {
	if l.tell != nil {
		l.tell.Stop()
		l.tell = nil
	}
	if l.suppressed > 0 {
		l.log.Warn("console: suppressed lines", "count", l.suppressed)
		l.suppressed = 0
	}
}

// Close logs what is left of a line.
func (l *Lines) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.emit()
	}
	l.confess()
}
