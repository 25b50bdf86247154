package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/uvm-monitor/uvm/internal/control"
	"github.com/uvm-monitor/uvm/metrics"
)

const (
	workers = 32                      // VMs that are asked at once
	vmTime  = 1500 * time.Millisecond // for one VM to answer; package control waits longer
)

// scraper asks all VMs of run directories. Its methods may be called from one goroutine at a time.
//
// VMs that are stuck must not keep others from being asked in time. So those that answered the last time come first,
// then new ones, then those that failed, in the order of the scrapes in which they were asked.
type scraper struct {
	dirs  []string
	bound time.Duration  // of a whole scrape
	turns map[string]int // by ID: answered, or firstFailed and the number of the scrape
	count int            // of scrapes
	gone  map[string]bool
}

const (
	answered = iota
	unknown
	firstFailed
)

func (s *scraper) turn(id string) int {
	if t, ok := s.turns[id]; ok {
		return t
	}
	return unknown
}

// samples is what the VMs say now. It returns after the scraper's bound, whatever they do.
func (s *scraper) samples() metrics.Samples {
	ctx, cancel := context.WithTimeout(context.Background(), s.bound)
	defer cancel()
	late := time.Now().Add(s.bound - vmTime) // from then on a VM would not have the time that it should
	all, failures := s.list()
	slices.SortStableFunc(all, func(a, b control.Entry) int { return s.turn(a.ID) - s.turn(b.ID) })
	type answer struct {
		i int
		metrics.Sample
	}
	var (
		vms     = make([]metrics.Sample, len(all))
		turns   = make(map[string]int, len(all))
		answers = make(chan answer, len(all)) // so that nobody waits for us
		next    = make(chan int)
	)
	for i, e := range all {
		vms[i] = metrics.Sample{Labels: metrics.Labels{ID: e.ID, Name: e.Name}, Failure: metrics.Silent}
		turns[e.ID] = s.turn(e.ID)
	}
	for range min(workers, len(all)) {
		go func() {
			for i := range next {
				answers <- answer{i, ask(ctx, all[i])}
			}
		}()
	}
	for asked, got := 0, 0; got < len(all) && ctx.Err() == nil; {
		feed := next
		if asked == len(all) || asked >= workers && time.Now().After(late) {
			if feed = nil; asked == got {
				break
			}
		}
		select {
		case feed <- asked:
			turns[all[asked].ID] = firstFailed + s.count
			asked++
		case a := <-answers:
			got++
			if vms[a.i] = a.Sample; a.Failure == "" {
				turns[a.ID] = answered
			}
		case <-ctx.Done():
		}
	}
	close(next)
	for _, v := range vms {
		if turns[v.ID] >= firstFailed && s.turn(v.ID) < firstFailed && v.Failure != metrics.Gone {
			fail(0, "VM %s %s: %s", v.ID, v.Name, v.Failure)
		}
	}
	s.turns = turns
	s.count++
	return metrics.Samples{VMs: s.forget(vms), Failures: failures}
}

// forget takes VMs out that were gone the last time too: sockets that killed monitors have left, which uvm ps removes.
func (s *scraper) forget(vms []metrics.Sample) []metrics.Sample {
	before := s.gone
	s.gone = map[string]bool{}
	return slices.DeleteFunc(vms, func(v metrics.Sample) bool {
		if v.Failure == metrics.Gone {
			s.gone[v.ID] = true
		}
		return s.gone[v.ID] && before[v.ID]
	})
}

// list is the sockets of all run directories. One that is not there has no VMs yet.
func (s *scraper) list() (all []control.Entry, failed []metrics.Failure) {
	for _, dir := range s.dirs {
		entries, err := listDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, metrics.RunDir)
			fail(0, "%v", err)
		}
		all = append(all, entries...)
	}
	// An ID in two directories is a copy.
	slices.SortFunc(all, func(a, b control.Entry) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(all, func(a, b control.Entry) bool { return a.ID == b.ID }), failed
}

func listDir(path string) ([]control.Entry, error) {
	d, err := control.OpenDir(path, false)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.List()
}

// ask asks one VM.
func ask(ctx context.Context, e control.Entry) metrics.Sample {
	s := metrics.Sample{Labels: metrics.Labels{ID: e.ID, Name: e.Name}}
	ctx, cancel := context.WithTimeout(ctx, vmTime)
	defer cancel()
	err := askBoth(ctx, e, &s)
	var refused *control.OpError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		s.Failure = metrics.Silent
	case errors.Is(err, control.ErrGone):
		s.Failure = metrics.Gone
	case errors.As(err, &refused):
		s.Failure = metrics.Refused
	default:
		s.Failure = metrics.Malformed
	}
	return s
}

func askBoth(ctx context.Context, e control.Entry, s *metrics.Sample) error {
	c, err := e.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var (
		info struct {
			Version string `json:"version"`
			Kernel  string `json:"kernel"`
		}
		stats json.RawMessage
	)
	if err := c.Call("info", nil, &info); err != nil {
		return err
	}
	if err := c.Call("stats", nil, &stats); err != nil {
		return err
	}
	s.Version, s.Kernel = info.Version, path.Base(info.Kernel)
	s.Stats, err = metrics.Decode(stats)
	return err
}
