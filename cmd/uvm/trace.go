package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/internal/trace"
)

// traceOptions is what `uvm trace` is told besides the flags of `uvm run`.
type traceOptions struct {
	attach, output, events, runDir string
	summary, json                  bool
}

// traceFlags binds the flags of `uvm trace`: its own, then those of `uvm run`.
func traceFlags(o *traceOptions, s *settings) *pflag.FlagSet {
	f := newFlags("trace")
	f.StringVar(&o.attach, "attach", o.attach, "trace a `VM` that runs, until it or uvm trace ends (uvm ps shows all)")
	f.StringVarP(&o.output, "output", "o", o.output, "write to this `FILE` instead of stderr")
	f.BoolVarP(&o.summary, "summary", "c", o.summary, "count, and print a table in the end")
	f.BoolVar(&o.json, "json", o.json, "write a JSON object in each line; with -c a JSON array")
	f.StringVarP(&o.events, "events", "e", o.events, "only these `EVENTS`: hypercall, port, mmio, trap, irq, exit, or names of hypercalls as POLL,NET_READ; a ! in front means all others")
	runFlags(s).VisitAll(func(flag *pflag.Flag) {
		if flag.Shorthand == "c" { // --cpus
			flag.Shorthand = ""
		}
		f.AddFlag(flag)
	})
	return f
}

func traceMain(args []string) int {
	var o traceOptions
	f := traceFlags(&o, new(settings))
	if status := parse(f, "trace", args); status >= 0 {
		return status
	}
	filter, err := trace.ParseFilter(o.events)
	if err != nil {
		return fail(exitUsage, "--events: %v", err)
	}
	t := &tracer{opts: o, filter: filter, out: os.Stderr}
	if o.attach != "" {
		if f.NArg() > 0 {
			return fail(exitUsage, "unexpected argument %q: --attach traces a VM that runs", f.Arg(0))
		}
		t.opts.runDir, _ = f.GetString("run-dir")
		return t.attach()
	}
	s, status := readSettings(args, func(s *settings) *pflag.FlagSet { return traceFlags(&o, s) })
	if status >= 0 {
		return status
	}
	t.vcpus = s.CPUs > 1
	return s.run(t)
}

// tracer writes the trace of a run. Nil does nothing.
type tracer struct {
	opts   traceOptions
	filter *trace.Filter
	vcpus  bool // there are several

	out      *os.File
	listener *trace.Listener
	stop     chan struct{}
	done     chan struct{} // closed when all is written
	failed   atomic.Pointer[error]
}

// open makes the file, before anything else is made; undo removes it.
func (t *tracer) open() (undo func(), err error) {
	undo = func() {}
	if t == nil || t.opts.output == "" {
		return undo, nil
	}
	var made bool
	if t.out, made, err = openOutput(t.opts.output); made {
		undo = func() { os.Remove(t.opts.output) }
	}
	return undo, err
}

// start begins, when the VM is there.
func (t *tracer) start(hub *trace.Hub) {
	if t == nil {
		return
	}
	if t.opts.output != "" {
		t.out.Truncate(0) // what was there before; a pipe says no
	}
	if t.opts.summary {
		t.listener = hub.Summarize(t.filter)
		return
	}
	t.listener = hub.Listen(t.filter, trace.Buffer)
	t.stop, t.done = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(t.done)
		w := t.writer()
		forward(t.listener, t.stop, func(r *trace.Record) {
			l := r.Line()
			text := l.Text(t.vcpus)
			if t.opts.json {
				b, err := json.Marshal(l)
				t.fail(err)
				text = string(b)
			}
			w.line(text)
		}, w.flush)
	}()
}

// forward hands records to take until stop is closed and none waits, and calls flush
// whenever none does.
func forward(l *trace.Listener, stop <-chan struct{}, take func(*trace.Record), flush func()) {
	for ended := false; ; {
		select {
		case r := <-l.C:
			take(&r)
			continue
		default:
		}
		if flush(); ended {
			return
		}
		select {
		case r := <-l.C:
			take(&r)
		case <-stop:
			ended = true
			l.Close()
		}
	}
}

// flushTime is how long the end of a run waits for whoever reads the trace.
const flushTime = 5 * time.Second

// finish ends the trace of a run and returns the status of the process.
func (t *tracer) finish(status int) int {
	if t == nil {
		return status
	}
	if t.opts.summary {
		t.listener.Close()
		t.table(t.listener.Summary().Rows())
	} else {
		close(t.stop)
		select {
		case <-t.done:
		case <-time.After(flushTime): // nobody reads it
			if t.opts.output == "" {
				return status
			}
		}
	}
	t.lost(t.listener.Dropped())
	return t.end(status)
}

// lost says how much of the trace is missing.
func (t *tracer) lost(n uint64) {
	if n > 0 {
		fail(0, "trace: %d events dropped", n)
	}
}

// end is the status of the process: status, but for a trace that could not be written.
func (t *tracer) end(status int) int {
	if err := t.failed.Load(); err != nil {
		fail(exitHost, "trace: %v", *err)
		if status == exitOK {
			return exitHost
		}
	}
	return status
}

func (t *tracer) fail(err error) {
	if err != nil {
		t.failed.CompareAndSwap(nil, &err)
	}
}

// table writes a summary.
func (t *tracer) table(rows []trace.Row) {
	if t.opts.json {
		b, err := json.MarshalIndent(rows, "", "  ")
		t.fail(err)
		_, err = t.out.Write(append(b, '\n'))
		t.fail(err)
		return
	}
	t.fail(trace.WriteTable(t.out, rows))
}

// lineWriter writes lines. After an error it writes nothing.
type lineWriter struct {
	*tracer
	w *bufio.Writer
}

func (t *tracer) writer() *lineWriter { return &lineWriter{t, bufio.NewWriterSize(t.out, 64<<10)} }

func (w *lineWriter) line(text string) {
	io.WriteString(w.w, text)
	w.fail(w.w.WriteByte('\n')) // a bufio.Writer remembers its first error
}

func (w *lineWriter) flush() { w.fail(w.w.Flush()) }

// What a client and a VM say to each other in a trace by the control socket: the client
// sends traceArgs, and the VM traceParts until it ends.
type traceArgs struct {
	Events  string `json:"events,omitempty"`
	Summary bool   `json:"summary,omitempty"`
}

type tracePart struct {
	Lines   []tracedLine `json:"lines,omitempty"`
	Rows    []trace.Row  `json:"rows,omitempty"` // all so far
	Dropped uint64       `json:"dropped"`        // so far
}

// tracedLine has both forms, so that the client need not know what events there are.
type tracedLine struct {
	Text string          `json:"text"`
	Line json.RawMessage `json:"line"` // a trace.Line
}

const (
	partLines = 128 // of a part, at most
	rowsEvery = time.Second
)

// trace sends the events of the VM to a client. Who does not read loses events, and after
// a while the connection.
func (c *controller) trace(call *control.Call) (any, error) {
	var args traceArgs
	if err := call.Args(&args); err != nil {
		return nil, err
	}
	filter, err := trace.ParseFilter(args.Events)
	if err != nil {
		return nil, err
	}
	if args.Summary {
		return c.traceSummary(call, filter)
	}
	ctx, cancel := context.WithCancelCause(call.Context)
	defer cancel(nil)
	go func() {
		select {
		case <-c.ended:
			cancel(nil)
		case <-ctx.Done():
		}
	}()
	l := c.hub.Listen(filter, trace.Buffer)
	defer l.Close()
	_, cpus := c.vm.Size()
	var part tracePart
	send := func() {
		if part.Dropped = l.Dropped(); len(part.Lines) > 0 && context.Cause(ctx) != errNoReader {
			if call.Send(part) != nil {
				cancel(errNoReader)
			}
		}
		part.Lines = part.Lines[:0]
	}
	forward(l, ctx.Done(), func(r *trace.Record) {
		line := r.Line()
		object, err := json.Marshal(line)
		if err != nil { // nothing in a line can bring that about
			return
		}
		part.Lines = append(part.Lines, tracedLine{line.Text(cpus > 1), object})
		if len(part.Lines) == partLines {
			send()
		}
	}, send)
	return tracePart{Dropped: l.Dropped()}, nil
}

var errNoReader = errors.New("the client does not read")

func (c *controller) traceSummary(call *control.Call, filter *trace.Filter) (any, error) {
	l := c.hub.Summarize(filter)
	defer l.Close()
	tick := time.NewTicker(rowsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := call.Send(tracePart{Rows: l.Summary().Rows()}); err != nil {
				return nil, err
			}
		case <-c.ended:
			return tracePart{Rows: l.Summary().Rows()}, nil
		case <-call.Context.Done():
			return nil, context.Cause(call.Context)
		}
	}
}

// harmless is text of another process's as it may go to a terminal.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// attach traces a VM of another process until that or this one ends.
func (t *tracer) attach() int {
	f := vmFlags("trace")
	f.Set("run-dir", t.opts.runDir)
	f.Parse([]string{t.opts.attach})
	c, status := oneVM(f)
	if status >= 0 {
		return status
	}
	defer c.Close()
	undo, err := t.open()
	if err != nil {
		return fail(exitHost, "--output: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	w := t.writer()
	if t.opts.output != "" {
		t.out.Truncate(0)
	}
	var part tracePart
	take := func(data json.RawMessage) error {
		var p tracePart
		if err := json.Unmarshal(data, &p); err != nil {
			return fmt.Errorf("malformed trace: %w", err)
		}
		for i := range p.Lines {
			text := p.Lines[i].Text
			if t.opts.json {
				text = string(p.Lines[i].Line)
			}
			w.line(harmless(text))
		}
		w.flush()
		part = p
		if err := t.failed.Load(); err != nil {
			return *err
		}
		return nil
	}
	var last tracePart
	err = c.Stream(ctx, "trace", traceArgs{t.opts.events, t.opts.summary}, take, &last)
	var refused *control.OpError
	switch {
	case errors.As(err, &refused):
		undo()
		return fail(exitHost, "%s", printable(refused.Msg))
	case err == nil:
		part = last
	case ctx.Err() == nil && !errors.Is(err, control.ErrGone) && t.failed.Load() == nil:
		return fail(exitHost, "%v", err)
	}
	if t.opts.summary {
		t.table(part.Rows)
	}
	t.lost(part.Dropped)
	return t.end(exitOK)
}
