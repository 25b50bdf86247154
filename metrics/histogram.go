package metrics

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The boundaries of the classic form of a latency histogram: every fourth power of two from 1 µs to 17 s, in
// nanoseconds. All of the source's would be three times as many time series.
const (
	firstBound = 10 // 2^10 ns
	boundStep  = 2
	lastBound  = 34 // 2^34 ns
)

// log2 is a histogram as devices.OpStats.Latency: bucket i has what took less than 2^i ns and not less than half of that.
// It is written in both forms, and a Prometheus takes the native one if it is told to. There a boundary is a power of two
// of a second, the nearest to 2^i ns, which is 7 % below: 2^-30 s = 0.93 ns.
//
// The sum is not known, which NaN says.
type log2 struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	counts []uint64
}

func (h *log2) Desc() *prometheus.Desc { return h.desc }

const nsExponent = 30 // 2^30 ns are about a second

func (h *log2) Write(out *dto.Metric) error {
	var (
		total   uint64
		classic []*dto.Bucket
		spans   []*dto.BucketSpan
		deltas  []int64
		next    int   // the native bucket behind the last span
		before  int64 // what the bucket before has
	)
	bound := firstBound
	for i, n := range h.counts {
		for ; bound <= lastBound && i > bound; bound += boundStep {
			classic = append(classic, bucket(bound, total))
		}
		total += n
		if i == 0 || n == 0 {
			continue
		}
		if index := i - nsExponent; len(spans) == 0 || index != next {
			spans = append(spans, &dto.BucketSpan{Offset: new(int32(index - next)), Length: new(uint32(0))})
			next = index
		}
		*spans[len(spans)-1].Length++
		deltas = append(deltas, int64(n)-before)
		before = int64(n)
		next++
	}
	for ; bound <= lastBound; bound += boundStep {
		classic = append(classic, bucket(bound, total))
	}
	var zero uint64
	if len(h.counts) > 0 {
		zero = h.counts[0]
	}
	out.Label = h.labels
	out.Histogram = &dto.Histogram{
		SampleCount: &total, SampleSum: new(math.NaN()), Bucket: classic,
		Schema: new(int32(0)), ZeroThreshold: new(math.Ldexp(1, -nsExponent)), ZeroCount: &zero,
		PositiveSpan: spans, PositiveDelta: deltas,
	}
	return nil
}

func bucket(bound int, below uint64) *dto.Bucket {
	return &dto.Bucket{UpperBound: new(math.Ldexp(1, bound) / 1e9), CumulativeCount: &below}
}
