package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what clients can take from a VM's process.
const (
	mostClients = 32               // connections that are served; more wait in the kernel
	mostStreams = 24               // of these; the others stay free for requests that end
	idleTime    = 10 * time.Second // for a client to send a whole request
	writeTime   = 5 * time.Second  // for a client to take a line
	closeTime   = 200 * time.Millisecond
	mostStale   = 16 // sockets of others that a start looks at
)

// Handler carries out an operation. What it returns is the result, which has to be something for package json, or
// the error for the client. It runs in a goroutine of the connection's, beside others.
type Handler func(c *Call) (result any, err error)

// Call is one request.
type Call struct {
	// Context is done when the server closes, and for streams and taken over connections when the client has gone.
	Context context.Context
	args    json.RawMessage
	conn    *conn
}

// Args decodes the arguments of the request. It is an error if they have fields that v lacks.
func (c *Call) Args(v any) error {
	if len(c.args) == 0 {
		return nil
	}
	if err := strict(c.args, v); err != nil {
		return fmt.Errorf("args: %w", err)
	}
	return nil
}

// Send gives the client of a stream one more result. It blocks for at most writeTime; after an error the handler
// should return.
func (c *Call) Send(result any) error {
	return c.conn.answer(answer{Version: Version, OK: true, More: true, Result: result})
}

// Conn is the connection of an operation that takes it over. It has no deadlines but those that the handler sets:
// a client that does not read must not hold up anything else.
func (c *Call) Conn() Conn { return Conn{c.conn.r, c.conn.f} }

// Conn is a connection without messages. The file is not embedded: its WriteTo would pass the reader by.
type Conn struct {
	r *bufio.Reader // may have read more than the request
	f *os.File
}

// Read reads what the other side sends.
func (c Conn) Read(b []byte) (int, error) { return c.r.Read(b) }

// Write sends b. It blocks while the other side does not read.
func (c Conn) Write(b []byte) (int, error) { return c.f.Write(b) }

// Close ends the connection. A handler need not call it.
func (c Conn) Close() error { return c.f.Close() }

// SetDeadline bounds Read and Write, as for an os.File; the zero time removes the bound.
func (c Conn) SetDeadline(t time.Time) error { return c.f.SetDeadline(t) }

// SetWriteDeadline bounds Write alone.
func (c Conn) SetWriteDeadline(t time.Time) error { return c.f.SetWriteDeadline(t) }

// Server is the socket of one VM.
type Server struct {
	entry    Entry
	listener *os.File
	ops      map[string]op
	ctx      context.Context
	cancel   context.CancelFunc
	slots    chan struct{} // one for each connection that is served
	work     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	conns   map[*os.File]bool // true: a stream
	streams int
	idle    chan struct{} // closed when closed is set and the last stream has ended
}

type op struct {
	run  Handler
	kind opKind
}

type opKind int

const (
	single opKind = iota // one answer
	stream               // results, and the last answer
	raw                  // an answer, and then the connection is the handler's
)

// Listen makes the socket of a VM in a run directory, whose name no other VM has, and removes some that killed
// monitors have left. Clients wait until Start.
func Listen(d *Dir, id, name string) (*Server, error) {
	if name != "" {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	unlock, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	all, err := d.List()
	if err != nil {
		return nil, err
	}
	next, _ := slices.BinarySearchFunc(all, id, func(e Entry, id string) int { return strings.Compare(e.ID, id) })
	for i, e := range slices.Concat(all[next:], all[:next]) { // others each time: an ID is random
		if same := name != "" && e.Name == name; (same || i < mostStale) && !d.removeStale(e) && same {
			return nil, fmt.Errorf("the name %q is taken by VM %s", name, e.ID)
		}
	}
	e := Entry{ID: id, Name: name, dir: d.path}
	s := &Server{
		entry: e, ops: map[string]op{}, slots: make(chan struct{}, mostClients),
		conns: map[*os.File]bool{}, idle: make(chan struct{}),
	}
	if s.listener, err = listen(d.path, e.file()); err != nil {
		return nil, fmt.Errorf("control socket in %s: %w", d.path, err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Handle registers an operation of one answer. Operations are registered before Start.
func (s *Server) Handle(name string, h Handler) { s.ops[name] = op{h, single} }

// HandleStream registers an operation that calls Send. It is the last on its connection: the client ends it by
// closing, or by sending anything.
func (s *Server) HandleStream(name string, h Handler) { s.ops[name] = op{h, stream} }

// HandleRaw registers an operation that takes over the connection: the client gets an answer without a result, and
// then the handler uses Conn.
func (s *Server) HandleRaw(name string, h Handler) { s.ops[name] = op{h, raw} }

// Entry is what the server is found by.
func (s *Server) Entry() Entry { return s.entry }

// Start serves clients until Close.
func (s *Server) Start() {
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		for s.acceptOne() {
		}
	}()
}

// acceptOne serves one more client, when there is room for it.
func (s *Server) acceptOne() bool {
	select {
	case s.slots <- struct{}{}:
	case <-s.ctx.Done():
		return false
	}
	fd, err := accept(s.listener)
	if err != nil {
		<-s.slots
		if errors.Is(err, os.ErrClosed) {
			return false
		}
		// No descriptors, no memory, or a client that has gone: others may come.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-s.ctx.Done():
		}
		return true
	}
	f := os.NewFile(uintptr(fd), "control client")
	if !s.welcome(fd) || !s.keep(f) {
		f.Close()
		<-s.slots
		return true
	}
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		s.serve(&conn{s.ctx, f, bufio.NewReaderSize(f, MaxRequest)})
		s.drop(f)
		<-s.slots
	}()
	return true
}

// welcome says that the client is this user or root, whoever may have passed the descriptor of the directory on.
func (s *Server) welcome(fd int) bool {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err == nil && mayAsk(peer.Uid, uint32(os.Geteuid()))
}

func mayAsk(client, server uint32) bool { return client == server || client == 0 }

// keep remembers a connection, for Close to end it.
func (s *Server) keep(f *os.File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[f] = false
	return true
}

func (s *Server) drop(f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[f] {
		s.streams--
		s.settle()
	}
	delete(s.conns, f)
	f.Close()
}

// settle tells Close when there is no stream left. mu is held.
func (s *Server) settle() {
	if s.closed && s.streams == 0 {
		close(s.idle)
	}
}

// beginStream takes one of the places for streams.
func (s *Server) beginStream(f *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errors.New("the VM has ended")
	case s.streams == mostStreams:
		return fmt.Errorf("%d clients follow this VM already", mostStreams)
	}
	s.streams++
	s.conns[f] = true
	return nil
}

// Streams is how many clients have a stream, or a connection that was taken over.
func (s *Server) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

// serve is the life of a connection.
func (s *Server) serve(c *conn) {
	for {
		c.f.SetReadDeadline(time.Now().Add(idleTime))
		if s.ctx.Err() != nil {
			return // Close sets its deadline after that, which ours may have replaced
		}
		line, err := c.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			c.fail(fmt.Errorf("a request has at most %d bytes", MaxRequest))
			return
		} else if err != nil {
			return // closed, silent for too long, or gone in the middle
		}
		req, err := decodeRequest(line)
		if err != nil {
			c.fail(err)
			return
		}
		if o := s.ops[req.Op]; o.run == nil {
			err = c.fail(fmt.Errorf("unknown op %q; this VM has %s", req.Op, strings.Join(s.names(), ", ")))
		} else if o.kind != single {
			s.serveStream(c, o, req.Args)
			return
		} else {
			err = c.end(o.run(&Call{s.ctx, req.Args, c}))
		}
		if err != nil {
			return
		}
	}
}

// serveStream is the last operation of a connection.
func (s *Server) serveStream(c *conn, o op, args json.RawMessage) {
	if err := s.beginStream(c.f); err != nil {
		c.fail(err)
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	c.f.SetReadDeadline(time.Time{})
	call := &Call{ctx, args, c}
	if o.kind == raw {
		if c.answer(answer{Version: Version, OK: true}) != nil {
			return
		}
		c.f.SetDeadline(time.Time{})
		defer context.AfterFunc(ctx, func() { c.f.SetDeadline(time.Now()) })()
		o.run(call)
		return
	}
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		c.r.ReadByte() // until drop closes it
		cancel()
	}()
	c.end(o.run(call))
}

func (s *Server) names() []string {
	var names []string
	for name := range s.ops {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Close removes the socket, gives streams a moment to end (their handlers have to learn by themselves that it is
// time), and closes all connections. When it returns, no handler runs any more.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.work.Wait()
		return
	}
	s.closed = true
	s.settle()
	s.mu.Unlock()
	// The file goes first: while somebody listens nobody else takes it for stale, and afterwards it is not ours.
	os.Remove(s.entry.path())
	s.listener.Close()
	t := time.NewTimer(closeTime)
	defer t.Stop()
	select {
	case <-s.idle:
	case <-t.C:
	}
	s.cancel()
	s.mu.Lock()
	for f := range s.conns {
		f.SetDeadline(time.Now()) // who waits for it closes it
	}
	s.mu.Unlock()
	s.work.Wait()
}

// conn is the server's side of a connection.
type conn struct {
	ctx context.Context // the server's
	f   *os.File
	r   *bufio.Reader
}

// end answers with what a handler returned.
func (c *conn) end(result any, err error) error {
	if err != nil {
		return c.fail(err)
	}
	return c.answer(answer{Version: Version, OK: true, Result: result})
}

func (c *conn) fail(err error) error {
	return c.answer(answer{Version: Version, Error: err.Error()})
}

// answer writes a line. One that the client does not take in time ends the connection.
func (c *conn) answer(a answer) error {
	line, err := encode(a)
	if err != nil {
		line, _ = encode(answer{Version: Version, Error: err.Error()})
	}
	c.f.SetWriteDeadline(time.Now().Add(writeTime))
	if c.ctx.Err() != nil {
		return os.ErrClosed
	}
	_, werr := c.f.Write(line)
	return werr
}
