package devices

import (
	"cmp"
	"math"
	"sync"
	"time"
)

// Limit is what a device may move. The zero value sets no limit.
type Limit struct {
	Bytes uint64        // per second; 0 = any number
	Ops   uint64        // frames or requests per second; 0 = any number
	Burst time.Duration // an idle device saves up what it may move in this time, up to an hour; 0 = DefaultBurst
}

// DefaultBurst is longer than a thread that sleeps may be late, so that the rate is reached.
const DefaultBurst = 100 * time.Millisecond

// Valid says whether Burst is in its range, and has a rate.
func (l Limit) Valid() bool {
	return l.Burst == 0 || l.Burst > 0 && l.Burst <= time.Hour && (l.Bytes > 0 || l.Ops > 0)
}

// Limiter holds a device to a Limit by two token buckets, of bytes and of operations,
// that are full in the beginning; nil lets everything through. As in QEMU, an operation
// may start if no bucket owes anything, and then takes what it needs: one that is larger
// than a bucket gets through, and the next ones wait until that is paid. In any time t
// goes through what the rate allows in t + Burst, and one operation.
//
// Any goroutine may use it; with several, as many operations may start at once. What it
// remembers is the host's policy and no state of the guest's, so it is not saved with the
// device.
type Limiter struct {
	Limit
	mu    sync.Mutex // guards at and paid
	now   func() time.Time
	start time.Time
	at    time.Duration    // of the last Wait, since start
	paid  [2]time.Duration // since start: when the bytes and operations taken will have come in
}

// NewLimiter returns nil for a Limit without a rate. The clock now is monotonic, as
// time.Now.
func NewLimiter(l Limit, now func() time.Time) *Limiter {
	if l.Bytes == 0 && l.Ops == 0 {
		return nil
	}
	l.Burst = cmp.Or(l.Burst, DefaultBurst)
	return &Limiter{Limit: l, now: now, start: now().Add(-l.Burst)}
}

// Wait is how long the next operation has to wait: 0 or less if it may start.
func (l *Limiter) Wait() time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = l.now().Sub(l.start)
	return max(l.paid[0], l.paid[1]) - l.at
}

// Take is for what goes through at the time of the last Wait.
func (l *Limiter) Take(bytes, ops uint64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 1 << 61 // ns, 73 years
	for i, n := range [...][2]uint64{{bytes, l.Bytes}, {ops, l.Ops}} {
		if n[1] > 0 {
			cost := time.Duration(math.Ceil(min(float64(n[0])*1e9/float64(n[1]), most)))
			l.paid[i] = min(max(l.paid[i], l.at-l.Burst)+cost, most)
		}
	}
}
