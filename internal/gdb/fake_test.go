package gdb

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake is a machine with two vCPUs and two pages of memory, whose instructions do nothing. A step ends at once, Run ends by Interrupt or
// by hit.
type fake struct {
	events chan Event

	mu       sync.Mutex
	mem      map[uint64]byte
	regs     [2]Registers
	points   map[string]bool
	running  bool
	killed   bool
	detached int
	log      []string
}

const fakeMem, fakeSize = 0x1000, 0x2000

func newFake() *fake {
	f := &fake{events: make(chan Event, 1), mem: map[uint64]byte{}, points: map[string]bool{}, running: true}
	for i := range uint64(fakeSize) {
		f.mem[fakeMem+i] = byte(i)
	}
	f.regs[0].RIP, f.regs[1].RIP = 0x1111, 0x2222
	return f
}

func (f *fake) note(format string, args ...any) { f.log = append(f.log, fmt.Sprintf(format, args...)) }

func (f *fake) Threads() int          { return 2 }
func (f *fake) Describe(n int) string { return fmt.Sprintf("vCPU %d", n) }
func (f *fake) Program() string       { return "/the/kernel" }
func (f *fake) Events() <-chan Event  { return f.events }
func (f *fake) Monitor(c string) string {
	if c == "long" {
		return strings.Repeat("x", 3*maxPacket)
	}
	return "you said " + c + "\n"
}

func (f *fake) Halt() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = false
	return nil
}

func (f *fake) Resume(modes []Mode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running {
		return errors.New("runs already")
	}
	f.note("resume %v", modes)
	for i, m := range modes {
		if m == Step {
			f.regs[i].RIP++
			f.events <- Event{Thread: i, Signal: sigTrap}
			return nil
		}
	}
	f.running = true
	return nil
}

func (f *fake) end(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running {
		f.running = false
		f.events <- e
	}
}

// runs says that the machine has been resumed. A client has only sent its command then, and
// an event of a machine that does not run is none.
func (f *fake) runs() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

func (f *fake) Interrupt() { f.end(Event{Signal: 2}) }

func (f *fake) Registers(n int) (Registers, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running {
		return Registers{}, errors.New("runs")
	}
	return f.regs[n], nil
}

func (f *fake) SetRegisters(n int, r *Registers) error {
	f.regs[n] = *r
	return nil
}

func (f *fake) ReadMemory(_ int, addr uint64, b []byte) (int, error) {
	for i := range b {
		v, ok := f.mem[addr+uint64(i)]
		if !ok {
			return i, nil
		}
		b[i] = v
	}
	return len(b), nil
}

func (f *fake) WriteMemory(_ int, addr uint64, b []byte) error {
	for i := range b {
		if _, ok := f.mem[addr+uint64(i)]; !ok {
			return errNoMemory
		}
	}
	for i, v := range b {
		f.mem[addr+uint64(i)] = v
	}
	return nil
}

func (f *fake) SetPoint(kind PointKind, _ int, addr, size uint64) error {
	switch {
	case kind == WatchRead:
		return ErrUnsupported
	case kind == SoftwareBreak && addr == 0x666:
		return ErrUnsupported
	case addr >= fakeMem+fakeSize:
		return errNoMemory
	}
	f.points[fmt.Sprint(kind, addr)] = true
	return nil
}

func (f *fake) ClearPoint(kind PointKind, addr, _ uint64) error {
	delete(f.points, fmt.Sprint(kind, addr))
	return nil
}

func (f *fake) Detach() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.points)
	f.detached++
	f.running = true
	select {
	case <-f.events:
	default:
	}
}

func (f *fake) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.killed = true
}

// client is the other end of a session with a fake.
type client struct {
	*testing.T
	*fake
	conn  *os.File
	r     *bufio.Reader
	ended chan error // the server's result
	noAck bool
}

func connect(t *testing.T, f *fake) *client {
	t.Helper()
	server, conn := pair(t)
	c := &client{T: t, fake: f, conn: conn, r: bufio.NewReader(conn), ended: make(chan error, 1)}
	s := &Server{Target: f, Log: slog.New(slog.DiscardHandler), Patience: 200 * time.Millisecond}
	go func() { c.ended <- s.serve(server) }()
	conn.SetDeadline(time.Now().Add(20 * time.Second)) // a test that hangs fails
	t.Cleanup(func() { conn.Close() })
	return c
}

// pair returns both ends of a connection.
func pair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "server"), os.NewFile(uintptr(fds[1]), "client")
}

func (c *client) raw(b string) {
	c.Helper()
	if _, err := c.conn.WriteString(b); err != nil {
		c.Fatalf("write %q: %v", b, err)
	}
}

// send sends a packet and takes its acknowledgement.
func (c *client) send(packet string) {
	c.Helper()
	c.raw(string(frame([]byte(packet))))
	if c.noAck {
		return
	}
	if b, err := c.r.ReadByte(); err != nil || b != '+' {
		c.Fatalf("acknowledgement of %q = %q, %v; want +", packet, b, err)
	}
}

// answer takes a packet and acknowledges it.
func (c *client) answer() string {
	c.Helper()
	b, err := c.r.ReadByte()
	if err != nil || b != '$' {
		c.Fatalf("answer begins with %q, %v; want $", b, err)
	}
	in, err := (&packetReader{r: c.r}).packet()
	if err != nil || in.kind != inPacket {
		c.Fatalf("answer = %v, %v; want a packet", in, err)
	}
	if !c.noAck {
		c.conn.WriteString("+") // the server may be gone after its last answer
	}
	return string(in.data)
}

func (c *client) ask(packet, want string) {
	c.Helper()
	c.send(packet)
	if got := c.answer(); got != want {
		c.Errorf("answer to %q = %q; want %q", packet, got, want)
	}
}

// end waits for the server to be done with the client.
func (c *client) end() error {
	c.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(20 * time.Second):
		c.Fatal("the server is still busy with this client")
		return nil
	}
}

func hexOf(s string) string { return hex.EncodeToString([]byte(s)) }
