package devices

import (
	"encoding/binary"
	"math"
	"math/big"
	"testing"
	"time"
)

// fakeClock is one that tests set.
type fakeClock struct{ t time.Time }

func (c *fakeClock) now() time.Time { return c.t }

func newFakeLimiter(l Limit) (*Limiter, *fakeClock) {
	c := &fakeClock{time.Unix(1e9, 0)}
	return NewLimiter(l, c.now), c
}

// TestLimiter takes one step after the other: time passes, the limiter has the next
// operation wait, and operations go through.
func TestLimiter(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	type step struct {
		pass       time.Duration
		wait       time.Duration // 0: may start
		bytes, ops uint64
	}
	for _, c := range []struct {
		name  string
		limit Limit
		steps []step
	}{
		{"the bucket is full in the beginning", Limit{Bytes: 1000, Burst: s}, []step{
			{0, 0, 999, 1}, {0, 0, 1, 1}, {0, 0, 1, 1}, {0, ms, 0, 0}, {ms, 0, 2, 1}, {0, 2 * ms, 0, 0}}},
		{"and holds no more", Limit{Bytes: 1000, Burst: s}, []step{
			{time.Hour, 0, 1500, 1}, {0, 500 * ms, 0, 0}, {time.Hour, 0, 1000, 1}, {0, 0, 1, 1}, {0, ms, 0, 0}}},
		{"100 ms are saved up by default", Limit{Bytes: 1000}, []step{{0, 0, 100, 1}, {0, 0, 1, 1}, {0, ms, 0, 0}, {ms, 0, 0, 0}}},
		{"what is larger than the bucket gets through", Limit{Bytes: 1000, Burst: ms}, []step{
			{0, 0, 5001, 1}, {0, 5 * s, 0, 0}, {4999 * ms, ms, 0, 0}, {ms, 0, 5000, 1}, {0, 5 * s, 0, 0}}},
		{"operations", Limit{Ops: 10, Burst: s}, []step{
			{0, 0, 1 << 40, 10}, {0, 0, 1 << 40, 1}, {0, 100 * ms, 0, 0}, {99 * ms, ms, 0, 0}, {ms, 0, 0, 1}}},
		{"both: the slower one counts", Limit{Bytes: 1000, Ops: 10, Burst: s}, []step{
			{0, 0, 1001, 1}, {0, ms, 0, 0}, {ms, 0, 0, 11}, {0, 2*100*ms - ms, 0, 0}}},
		{"requests without bytes cost operations only", Limit{Bytes: 1, Ops: 1, Burst: s}, []step{{0, 0, 0, 1}, {0, 0, 0, 1}, {0, s, 0, 0}}},
		{"a nanosecond is the least", Limit{Ops: 3e9, Burst: 2}, []step{{0, 0, 0, 1}, {0, 0, 0, 1}, {0, 0, 0, 1}, {0, 1, 0, 0}}},
		{"a third of a second is rounded up", Limit{Ops: 3, Burst: 1}, []step{{0, 0, 0, 1}, {0, 333333333, 0, 0}}},
		{"no sum overflows", Limit{Bytes: 1, Ops: 1, Burst: time.Hour}, []step{
			{0, 0, math.MaxUint64, math.MaxUint64}, {0, 1<<61 - time.Hour, math.MaxUint64, math.MaxUint64}, {0, 1<<61 - time.Hour, 0, 0}}},
		{"the fastest", Limit{Bytes: math.MaxUint64, Ops: math.MaxUint64}, []step{{0, 0, 1 << 40, 1}, {0, 0, 1 << 50, 1}, {ms, 0, 1, 1}}},
	} {
		l, clock := newFakeLimiter(c.limit)
		for i, s := range c.steps {
			clock.t = clock.t.Add(s.pass)
			if got := max(0, l.Wait()); got != s.wait {
				t.Errorf("%s: Wait() of step %d = %v; want %v", c.name, i, got, s.wait)
			}
			l.Take(s.bytes, s.ops)
		}
	}
}

// TestNoLimit: without a rate there is no limiter, and that one is free.
func TestNoLimit(t *testing.T) {
	l := NewLimiter(Limit{Burst: time.Second}, nil)
	if l != nil {
		t.Fatalf("NewLimiter without a rate = %+v; want nil", l)
	}
	if n := testing.AllocsPerRun(10, func() {
		if l.Take(1<<60, 1); l.Wait() != 0 {
			t.Fatal("Wait() without a limit is not 0")
		}
	}); n != 0 {
		t.Errorf("no limit allocates %v times; want 0", n)
	}
	l = NewLimiter(Limit{Bytes: 1, Ops: 1}, time.Now)
	if n := testing.AllocsPerRun(10, func() { l.Wait(); l.Take(1, 1) }); n != 0 {
		t.Errorf("a limit allocates %v times; want 0", n)
	}
}

func TestLimitValid(t *testing.T) {
	for _, c := range []struct {
		Limit
		want bool
	}{
		{Limit{}, true}, {Limit{Bytes: 1}, true}, {Limit{Ops: 1}, true}, {Limit{Bytes: 1, Ops: 1, Burst: 1}, true},
		{Limit{Bytes: 1, Burst: time.Hour}, true}, {Limit{Ops: 1, Burst: time.Hour + 1}, false}, {Limit{Ops: 1, Burst: -1}, false},
		{Limit{Burst: 1}, false}, {Limit{Burst: math.MinInt64}, false},
	} {
		if got := c.Valid(); got != c.want {
			t.Errorf("%+v.Valid() = %v; want %v", c.Limit, got, c.want)
		}
	}
}

// FuzzLimiter has any sequence of operations go through, each when it may. It holds the
// sum of all of them before the last to rate · (t + burst), and has no operation wait
// longer than what was taken before needs: both to a nanosecond for each operation.
func FuzzLimiter(f *testing.F) {
	f.Add(uint64(1000), uint64(10), int64(1e9), []byte("\x01\x00\x00\x00\x05\x00\x00\x00\x09\x00\x10\x00\x00\x00\x20\x00"))
	f.Add(uint64(1), uint64(0), int64(1), []byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add(uint64(math.MaxUint64), uint64(math.MaxUint64), int64(time.Hour), []byte("\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, bytes, ops uint64, burst int64, script []byte) {
		limit := Limit{bytes, ops, time.Duration(burst)}
		if !limit.Valid() || bytes|ops == 0 {
			return
		}
		l, clock := newFakeLimiter(limit)
		start := clock.t
		if limit.Burst == 0 {
			limit.Burst = DefaultBurst
		}
		second := big.NewInt(int64(time.Second))
		var sum [2]big.Int // of what went through, × 1 s
		for i := 0; len(script) >= 8; i, script = i+1, script[8:] {
			clock.t = clock.t.Add(time.Duration(binary.LittleEndian.Uint32(script)) << (script[3] & 7))
			n := [2]uint64{uint64(binary.LittleEndian.Uint32(script[4:])), uint64(script[7])}
			if wait := l.Wait(); wait > 0 {
				clock.t = clock.t.Add(wait)
			}
			if wait := l.Wait(); wait > 0 {
				t.Fatalf("operation %d: has waited, and Wait() = %v", i, wait)
			}
			free := big.NewInt(int64(clock.t.Sub(start)+limit.Burst) + int64(i))
			for b, rate := range [2]uint64{bytes, ops} {
				most := new(big.Int).Mul(free, new(big.Int).SetUint64(rate))
				if rate > 0 && sum[b].Cmp(most) > 0 {
					t.Fatalf("operation %d: %v × 1 s before it of bucket %d after %v; want at most %v", i, &sum[b], b, clock.t.Sub(start), most)
				}
				sum[b].Add(&sum[b], new(big.Int).Mul(new(big.Int).SetUint64(n[b]), second))
			}
			l.Take(n[0], n[1])
			if clock.t.Sub(start) > 1<<55 || l.Wait() > 1<<50 {
				return // 13 days for one operation, or a year for all
			}
			// Never starves: everything so far, with a nanosecond for each rounding, is paid by then.
			longest := new(big.Int)
			for b, rate := range [2]uint64{bytes, ops} {
				if rate > 0 {
					if d := new(big.Int).Div(&sum[b], new(big.Int).SetUint64(rate)); d.Cmp(longest) > 0 {
						longest = d
					}
				}
			}
			longest.Add(longest, big.NewInt(2*int64(i+1)))
			if wait := big.NewInt(int64(l.Wait())); wait.Sign() > 0 && wait.Cmp(longest) > 0 {
				t.Fatalf("operation %d has the next one wait %v ns; want at most %v", i, wait, longest)
			}
		}
	})
}
