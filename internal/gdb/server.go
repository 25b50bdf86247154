package gdb

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// Server speaks with gdb for one machine, one client at a time.
type Server struct {
	Target Target
	Log    *slog.Logger

	// Patience is how long a client may take to read an answer; 0 = 10 s.
	Patience time.Duration

	// Child says that the machine was started for gdb, which kills it when it ends and otherwise lets it go.
	Child bool

	busy atomic.Bool
}

// Conn is a client's connection. *os.File is one.
type Conn interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// ErrBusy is a second client.
var ErrBusy = errors.New("another gdb is connected")

// ServeConn speaks with one client until its connection ends, unless there is one already.
func (s *Server) ServeConn(c Conn) error {
	if !s.busy.CompareAndSwap(false, true) {
		c.Close()
		return ErrBusy
	}
	defer s.busy.Store(false)
	return s.serve(c)
}

// session is what the server remembers of its client.
type session struct {
	*Server
	conn    Conn
	noAck   bool
	last    []byte // the last answer, framed
	naks    int
	general int   // thread that registers and memory are asked of
	next    int   // thread that c and s are meant for; -1 = all
	stop    Event // why the machine stands
	running bool
	gone    bool // the machine has ended
	noBreak bool // a software breakpoint was refused
	done    bool
}

// serve speaks with one client until its connection ends, and leaves the machine running, or ended. The client's first
// word stops the machine: one that only connects does nothing to it.
func (s *Server) serve(c Conn) error {
	t := s.Target
	ss := &session{Server: s, conn: c, next: -1, stop: Event{Signal: sigTrap}}
	// The reader waits until its input is dealt with: a client that floods waits too.
	inputs, handled, failed := make(chan input), make(chan struct{}), make(chan error, 1)
	quit := make(chan struct{})
	go func() {
		for r := newPacketReader(c); ; {
			in, err := r.next()
			if err != nil {
				failed <- err
				return
			}
			select {
			case inputs <- in:
			case <-quit:
				return
			}
			select {
			case <-handled:
			case <-quit:
				return
			}
		}
	}()
	var err error
	var events <-chan Event // nil until the machine is stopped
	for err == nil && !ss.done {
		select {
		case in := <-inputs:
			if events == nil {
				if err = t.Halt(); err != nil {
					break
				}
				events = t.Events()
				select {
				case ss.stop = <-events: // what stopped it before the client came
					ss.gone = ss.stop.Exited
				default:
				}
			}
			if err = ss.input(in); err == nil && !ss.done {
				handled <- struct{}{}
			}
		case e := <-events:
			err = ss.event(e)
		case err = <-failed:
		}
	}
	close(quit)
	c.Close()
	if events != nil {
		t.Detach()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return err
}

// input deals with one thing that the client sent. An error ends the connection.
func (ss *session) input(in input) error {
	switch in.kind {
	case inAck:
		return nil
	case inInterrupt:
		if ss.running {
			ss.Target.Interrupt()
		}
		return nil
	case inBad, inNak:
		if ss.naks++; ss.naks > maxNaks || ss.noAck {
			return fmt.Errorf("%w: a wrong checksum", errProtocol)
		}
		if in.kind == inBad {
			return ss.write([]byte{'-'})
		}
		return ss.write(ss.last)
	}
	ss.naks = 0
	if !ss.noAck {
		if err := ss.write([]byte{'+'}); err != nil {
			return err
		}
	}
	if ss.running {
		return ss.send("E16") // EBUSY
	}
	answer, wait := ss.handle(in.data)
	if ss.done && answer == "" || wait {
		return nil
	}
	return ss.send(answer)
}

// event tells the client that the machine has stopped, if it waits for that.
func (ss *session) event(e Event) error {
	ss.stop, ss.gone = e, e.Exited
	if !ss.running {
		return nil
	}
	ss.running, ss.general = false, e.Thread
	return ss.send(ss.stopReply())
}

func (ss *session) send(data string) error {
	ss.last = frame([]byte(data))
	return ss.write(ss.last)
}

func (ss *session) write(b []byte) error {
	patience := ss.Patience
	if patience == 0 {
		patience = 10 * time.Second
	}
	if err := ss.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := ss.conn.Write(b)
	return err
}

// Signals by the numbers that the protocol uses, which are Unix's for these.
const (
	sigTrap = 5
	sigKill = 9
)

// stopReply says why the machine stands ("Stop Reply Packets").
func (ss *session) stopReply() string {
	e := &ss.stop
	if e.Exited && e.Signal != 0 {
		return fmt.Sprintf("X%02x", e.Signal)
	} else if e.Exited {
		return fmt.Sprintf("W%02x", e.Status)
	}
	s := fmt.Sprintf("T%02xthread:%x;", e.Signal, e.Thread+1)
	if !e.Point {
		return s
	}
	switch e.Kind {
	case SoftwareBreak:
		return s + "swbreak:;"
	case HardwareBreak:
		return s + "hwbreak:;"
	}
	return s + fmt.Sprintf("%s:%x;", [...]string{WatchWrite: "watch", WatchRead: "rwatch", WatchAccess: "awatch"}[e.Kind], e.Addr)
}
