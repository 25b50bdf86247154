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
type scraper struct {
	dirs   []string
	bound  time.Duration   // of a whole scrape
	silent map[string]bool // VMs that did not answer the last time
}

// samples is what the VMs say now. It returns after the scraper's bound, whatever they do.
func (s *scraper) samples() metrics.Samples {
	ctx, cancel := context.WithTimeout(context.Background(), s.bound)
	defer cancel()
	all, failed := s.list()
	// VMs that are stuck must not keep the others from being asked in time.
	slices.SortStableFunc(all, func(a, b control.Entry) int { return compare(s.silent[a.ID], s.silent[b.ID]) })
	type answer struct {
		i      int
		sample metrics.Sample
	}
	var (
		out     = metrics.Samples{VMs: make([]metrics.Sample, len(all)), Failures: failed}
		answers = make(chan answer, len(all)) // so that nobody waits for us
		next    = make(chan int)
	)
	for i, e := range all {
		out.VMs[i] = metrics.Sample{Labels: metrics.Labels{ID: e.ID, Name: e.Name}, Failure: metrics.Silent}
	}
	for range min(workers, len(all)) {
		go func() {
			for i := range next {
				answers <- answer{i, ask(ctx, all[i])}
			}
		}()
	}
	go func() {
		defer close(next)
		for i := range all {
			select {
			case next <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
wait:
	for range all {
		select {
		case a := <-answers:
			out.VMs[a.i] = a.sample
		case <-ctx.Done():
			break wait
		}
	}
	s.note(out.VMs)
	return out
}

func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// note remembers who did not answer, and says so the first time.
func (s *scraper) note(vms []metrics.Sample) {
	silent := map[string]bool{}
	for _, v := range vms {
		if v.Failure == "" || v.Failure == metrics.Gone {
			continue
		}
		silent[v.ID] = true
		if !s.silent[v.ID] {
			fail(0, "VM %s: %s", v.ID, v.Failure)
		}
	}
	s.silent = silent
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
