package control

import (
	"errors"
	"sync"
	"time"
)

// Info is the result of the operation info, which every VM has.
type Info struct {
	ID      string        `json:"id"`
	Name    string        `json:"name,omitempty"`
	PID     int           `json:"pid"`
	Version string        `json:"version"`      // of uvm
	Kernel  string        `json:"kernel"`       // the path as given
	State   string        `json:"state"`        // created, running, paused, stopped
	Memory  uint64        `json:"memory_bytes"` // the guest's
	CPUs    int           `json:"cpus"`         // the guest's
	Started string        `json:"started"`      // RFC 3339
	Uptime  time.Duration `json:"uptime_ns"`
	Streams int           `json:"streams"` // clients that wait, follow or trace
}

// StateSilent is the state of a VM that does not answer: its process is stopped (SIGSTOP), or many ask.
const StateSilent = "silent"

// Ask asks the VM for what it is, and then asks more, if that is not nil, on the same connection. One that does
// not answer well is there nevertheless: its Info has StateSilent. The error is ErrGone if it is not.
func (e Entry) Ask(more func(*Client) error) (Info, error) {
	silent := Info{ID: e.ID, Name: e.Name, State: StateSilent}
	c, err := e.Dial()
	if err != nil {
		return silent, gone(err)
	}
	defer c.Close()
	silent.PID = c.PID()
	var info Info
	if err := c.Call("info", nil, &info); err != nil {
		return silent, gone(err)
	}
	if more != nil {
		if err := more(c); err != nil {
			return silent, gone(err)
		}
	}
	info.ID, info.Name, info.PID = e.ID, e.Name, c.PID() // what need not be believed
	return info, nil
}

func gone(err error) error {
	if errors.Is(err, ErrGone) {
		return ErrGone
	}
	return nil
}

// mostAsked is how many VMs Each asks at a time: a connection that has to wait takes a thread.
const mostAsked = 64

// Each asks all VMs of a run directory at once, and returns the results in the order of the IDs, without those
// for which the error is ErrGone. What killed monitors have left is removed.
func Each[T any](d *Dir, ask func(Entry) (T, error)) ([]T, error) {
	all, err := d.List()
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	results, errs, slots := make([]T, len(all)), make([]error, len(all)), make(chan struct{}, mostAsked)
	for i, e := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i], errs[i] = ask(e)
		})
	}
	wg.Wait()
	alive := results[:0]
	for i, r := range results {
		if !errors.Is(errs[i], ErrGone) {
			alive = append(alive, r)
		}
	}
	if len(alive) < len(all) {
		return alive, d.Clean()
	}
	return alive, nil
}
