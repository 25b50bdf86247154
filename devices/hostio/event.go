package hostio

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Event is an eventfd that one goroutine signals to wake another out of a
// poll. Signal may be called from any goroutine until Close.
type Event struct{ fd int }

// NewEvent returns an event that is not signalled.
func NewEvent() (*Event, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &Event{fd}, nil
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// Signal makes PollFD readable until Clear. It never blocks: a counter that is
// full is signalled already.
func (e *Event) Signal() { unix.Write(e.fd, one) }

// Clear takes the signal back.
func (e *Event) Clear() {
	var b [8]byte
	unix.Read(e.fd, b[:])
}

// PollFD is readable while the event is signalled.
func (e *Event) PollFD() int { return e.fd }

// Close releases the descriptor.
func (e *Event) Close() error { return unix.Close(e.fd) }
