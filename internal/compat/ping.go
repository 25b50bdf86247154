package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// pinged is what came of a ping.
type pinged struct {
	addr           string
	sent, answered int
	problem        string // what ping said if it gave no count
}

// all says that every request was answered.
func (p *pinged) all() bool { return p.problem == "" && p.sent > 0 && p.sent == p.answered }

func (p *pinged) String() string {
	if p.problem != "" {
		return fmt.Sprintf("ping %s: %s", p.addr, p.problem)
	}
	return fmt.Sprintf("%d of %d pings to %s answered", p.answered, p.sent, p.addr)
}

// pingAll floods all addresses at once, a second after it is called as
// upstream does, and returns when the last ping is over.
func (b *bench) pingAll(ctx context.Context, pings []ping) []pinged {
	if len(pings) == 0 {
		return nil
	}
	sleep(ctx, time.Second)
	results := make([]pinged, len(pings))
	var wg sync.WaitGroup
	for i, p := range pings {
		wg.Go(func() { results[i] = flood(ctx, p, b.full) })
	}
	wg.Wait()
	return results
}

func flood(ctx context.Context, p ping, full bool) pinged {
	count := shortPings
	if full {
		count = p.count
	}
	args := []string{"-f", "-q", "-n", "-c", strconv.Itoa(count)}
	if p.pattern != "" {
		args = append(args, "-p", p.pattern)
	}
	var out capture
	cmd := command(ctx, "", "ping", append(args, p.addr)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run() // a status other than 0 says that a request was lost
	res, ok := parsePing(out.String())
	res.addr = p.addr
	if !ok {
		res.problem = "no summary"
		if err != nil {
			res.problem = err.Error()
		}
	}
	return res
}

var pingSummary = regexp.MustCompile(`(\d+) packets transmitted, (\d+) (?:packets )?received`)

// parsePing finds the counts in ping's last lines.
func parsePing(out string) (p pinged, ok bool) {
	m := pingSummary.FindStringSubmatch(out)
	if m == nil {
		return p, false
	}
	var err1, err2 error
	p.sent, err1 = strconv.Atoi(m[1])
	p.answered, err2 = strconv.Atoi(m[2])
	return p, err1 == nil && err2 == nil
}
