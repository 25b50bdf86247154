package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/runlog"
	"github.com/uvm-monitor/uvm/vmm"
)

// Bounds of what a guest's words may become (--log-rate, --log-size).
const (
	defaultLogRate = 64 << 10 // bytes a second
	defaultLogSize = 16 << 20 // bytes of a file, of which there are two
	leastLogSize   = 64 << 10
	logCloseTime   = time.Second // for what is queued, at the end
)

// logs is where the words of a run go: the monitor's log, and the guest's where they are asked for.
type logs struct {
	*slog.Logger
	ring  *runlog.Ring // for uvm logs; nil where nobody can ask
	file  *runlog.File // nil: stderr
	path  string       // of a file that was made
	async *runlog.Async
	lines *runlog.Lines // --console log
}

// consoleLog as --console has the guest's lines logged.
const consoleLog = "log"

// openLogs opens the log; label is the VM's name in it.
func (s *settings) openLogs(label string, ring *runlog.Ring) (*logs, error) {
	l := &logs{ring: ring}
	var opts slog.HandlerOptions
	switch s.LogLevel {
	case "debug":
		opts.Level = slog.LevelDebug
	case "", "info":
	case "warn":
		opts.Level = slog.LevelWarn
	case "error":
		opts.Level = slog.LevelError
	default:
		return nil, &vmm.ConfigError{Msg: fmt.Sprintf("--log-level %q: want debug, info, warn or error", s.LogLevel)}
	}
	switch {
	case s.LogFormat != "" && s.LogFormat != "text" && s.LogFormat != "json":
		return nil, &vmm.ConfigError{Msg: fmt.Sprintf("--log-format %q: want text or json", s.LogFormat)}
	case s.LogSize != 0 && (s.LogFile == "" || s.LogSize < leastLogSize):
		return nil, &vmm.ConfigError{Msg: fmt.Sprintf("--log-size %v: want at least %v, for --log-file", s.LogSize, memSize(leastLogSize))}
	case s.LogRate != 0 && s.Console != consoleLog:
		return nil, &vmm.ConfigError{Msg: fmt.Sprintf("--log-rate %v: it is for --console log", s.LogRate)}
	}
	var w io.Writer = os.Stderr
	if s.LogFile != "" {
		file, made, err := runlog.OpenFile(s.LogFile, int64(cmp.Or(s.LogSize, defaultLogSize)))
		if err != nil {
			return nil, &vmm.HostError{What: "--log-file", Err: err}
		}
		if made {
			l.path = s.LogFile
		}
		l.file, w = file, file
	}
	if s.Console == consoleLog {
		// The log may be a pipe that nobody reads, and the guest's lines would fill it.
		l.async = runlog.NewAsync(w)
		w = l.async
	}
	if ring != nil {
		w = io.MultiWriter(w, ring.Writer(runlog.Monitor))
	}
	if s.LogFormat == "json" {
		l.Logger = slog.New(slog.NewJSONHandler(w, &opts))
	} else {
		l.Logger = slog.New(slog.NewTextHandler(w, &opts))
	}
	if s.Console == consoleLog {
		l.Logger = l.With("vm", label)
		l.lines = runlog.NewLines(l.Logger, int(cmp.Or(s.LogRate, defaultLogRate)), l.async.Full)
	}
	return l, nil
}

// undo takes back what openLogs changed on the host, for a start that fails.
func (l *logs) undo() {
	l.close()
	if l.path != "" {
		os.Remove(l.path)
	}
}

// console takes a copy of what the guest prints; nil if nobody wants one.
func (l *logs) console() io.Writer {
	switch {
	case l.ring == nil && l.lines == nil:
		return nil
	case l.ring == nil:
		return l.lines
	case l.lines == nil:
		return l.ring.Writer(runlog.Console)
	}
	return io.MultiWriter(l.ring.Writer(runlog.Console), l.lines)
}

// say prints words of the monitor's that are no log on stderr, where uvm logs finds them too.
func (l *logs) say(text string) {
	if text == "" {
		return
	}
	if l.async != nil && l.file == nil {
		l.async.Write([]byte(text)) // behind the log's lines, and as patient
	} else {
		os.Stderr.WriteString(text)
	}
	if l.ring != nil {
		l.ring.Write(runlog.Monitor, []byte(text))
	}
}

// end is the last record of a log that others read, and closes it.
func (l *logs) end(end outcome) {
	if l.file != nil || l.lines != nil {
		args := []any{"outcome", end.Kind, "status", end.Status}
		if end.message != "" {
			args = append(args, "error", end.message)
		}
		if l.lines != nil {
			l.lines.Close()
		}
		l.Info("the VM has ended", args...)
	}
	l.close()
}

// close writes what is left, and says what was lost.
func (l *logs) close() {
	if l.lines != nil {
		l.lines.Close()
	}
	if l.async != nil {
		// A stderr that has taken nothing for so long would not take that either.
		if n, done := l.async.Close(logCloseTime); n > 0 && (done || l.file != nil) {
			fail(exitHost, "log: %d records were lost: it is not read as fast as it is written", n)
		}
	}
	if l.file != nil {
		if n, err := l.file.Close(); n > 0 {
			fail(exitHost, "--log-file: %d records were lost: %v", n, err)
		}
	}
}

// logArgs are the arguments of the operation logs.
type logArgs struct {
	Follow bool `json:"follow"`
}

// logRecord is one of its results.
type logRecord struct {
	Source runlog.Source `json:"source,omitempty"`
	Data   []byte        `json:"data,omitempty"` // base64 in JSON
	Lost   uint64        `json:"lost,omitempty"` // bytes that were overwritten before they could be sent
}

// logs sends what the ring has, and with follow what comes until the end.
func (c *controller) logs(call *control.Call) (any, error) {
	var args logArgs
	if err := call.Args(&args); err != nil {
		return nil, err
	}
	for pos, first := uint64(0), true; ; first = false {
		ended := false
		select {
		case <-c.ended:
			ended = true // and so the ring has all
		default:
		}
		source, data, lost, next, more := c.ring.Next(pos)
		pos = next
		if first {
			lost = 0 // what is older than the ring is no surprise
		}
		switch {
		case data != nil || lost > 0:
			if err := call.Send(logRecord{source, data, lost}); err != nil {
				return nil, err
			}
		case ended || !args.Follow:
			return nil, nil
		default:
			select {
			case <-more:
			case <-c.ended:
			case <-call.Context.Done():
				return nil, call.Context.Err()
			}
		}
	}
}
