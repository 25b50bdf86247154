package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// errSilent is a monitor that does not answer: it is stopped (SIGSTOP), or too many others ask.
var errSilent = errors.New("it does not answer")

// answerTime is how long Call waits.
const answerTime = 5 * time.Second

// OpError is what the VM answered instead of a result.
type OpError struct{ Msg string }

func (e *OpError) Error() string { return e.Msg }

// Client is a connection to a VM. One goroutine may use it at a time; Close may be called from any.
type Client struct {
	entry   Entry
	f       *os.File
	r       *bufio.Reader
	pid     int
	process *os.File // a pidfd; nil before Hold
}

// path is where the socket lies.
func (e Entry) path() string { return filepath.Join(e.dir, e.file()) }

// Dial connects to the VM. The error is ErrGone if it is not there any more.
func (e Entry) Dial() (*Client, error) {
	f, peer, err := dial(e.dir, e.file(), dialTime)
	if err != nil {
		return nil, fmt.Errorf("VM %v: %w", e, err)
	}
	return &Client{entry: e, f: f, r: bufio.NewReader(f), pid: int(peer.Pid)}, nil
}

// PID is the process that made the socket.
func (c *Client) PID() int { return c.pid }

// Close ends the connection.
func (c *Client) Close() error {
	if c.process != nil {
		c.process.Close()
	}
	return c.f.Close()
}

// Call asks for an operation of one answer and stores its result; result may be nil. args may be nil. A client is of
// no more use after an error that is no *OpError.
func (c *Client) Call(op string, args, result any) error {
	if err := c.send(op, args); err != nil {
		return err
	}
	c.f.SetReadDeadline(time.Now().Add(answerTime))
	r, err := c.receive()
	if err != nil {
		return err
	}
	return c.store(r.Result, result)
}

// Stream asks for an operation of many results and hands each to take, until the last one, which it stores in result, or
// until ctx is done. An error of take's ends it.
func (c *Client) Stream(ctx context.Context, op string, args any, take func(json.RawMessage) error, result any) error {
	if err := c.send(op, args); err != nil {
		return err
	}
	c.f.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { c.f.SetReadDeadline(time.Now()) })()
	for {
		r, err := c.receive()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		} else if err != nil {
			return err
		}
		if !r.More {
			return c.store(r.Result, result)
		}
		if err := take(r.Result); err != nil {
			return err
		}
	}
}

// Raw asks for an operation that takes the connection over, and returns it. It stays the client's to close.
func (c *Client) Raw(op string, args any) (Conn, error) {
	if err := c.Call(op, args, nil); err != nil {
		return Conn{}, err
	}
	c.f.SetDeadline(time.Time{})
	return Conn{c.r, c.f}, nil
}

func (c *Client) send(op string, args any) error {
	req := request{Version: Version, Op: op}
	if args != nil {
		data, err := json.Marshal(args)
		if err != nil {
			return err
		}
		req.Args = data
	}
	line, err := encode(req)
	if err != nil {
		return err
	}
	if len(line) > MaxRequest {
		return fmt.Errorf("a request of %d bytes; at most %d are possible", len(line), MaxRequest)
	}
	c.f.SetWriteDeadline(time.Now().Add(answerTime))
	_, err = c.f.Write(line)
	return c.wrap(err)
}

// receive reads one line. The other side may be another user's process.
func (c *Client) receive() (reply, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if len(line)+len(part) > MaxAnswer {
			return reply{}, c.wrap(fmt.Errorf("an answer of more than %d bytes", MaxAnswer))
		}
		line = append(line, part...)
		if err == nil {
			break
		} else if !errors.Is(err, bufio.ErrBufferFull) {
			return reply{}, c.wrap(err)
		}
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return reply{}, c.wrap(fmt.Errorf("malformed answer: %w", err))
	}
	switch {
	case r.Version != Version:
		return reply{}, c.wrap(fmt.Errorf("its protocol has version %d; this uvm speaks version %d", r.Version, Version))
	case !r.OK:
		return reply{}, &OpError{r.Error}
	}
	return r, nil
}

func (c *Client) store(data json.RawMessage, result any) error {
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(data, result); err != nil {
		return c.wrap(fmt.Errorf("malformed result: %w", err))
	}
	return nil
}

// wrap says which VM it was.
func (c *Client) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errSilent
	case errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		err = ErrGone
	}
	return fmt.Errorf("VM %v: %w", c.entry, err)
}
