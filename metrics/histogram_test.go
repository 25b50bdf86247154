package metrics

import (
	"math"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func write(t testing.TB, counts []uint64) *dto.Histogram {
	t.Helper()
	var m dto.Metric
	h := &log2{desc: prometheus.NewDesc("x_seconds", "x", nil, nil), counts: counts}
	if err := h.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram()
}

// native reads the native form back: the counts by the exponent of their upper boundary in seconds.
func native(h *dto.Histogram) map[int]int64 {
	got := map[int]int64{}
	index, n, d := 0, int64(0), 0
	for _, s := range h.GetPositiveSpan() {
		index += int(s.GetOffset())
		for range s.GetLength() {
			n += h.GetPositiveDelta()[d]
			d++
			got[index] = n
			index++
		}
	}
	return got
}

func TestLog2(t *testing.T) {
	for _, tc := range []struct {
		counts  []uint64
		classic map[float64]uint64 // some of the boundaries, in ns
		native  map[int]int64
		zero    uint64
	}{
		{nil, map[float64]uint64{1 << 10: 0, 1 << 34: 0}, map[int]int64{}, 0},
		{[]uint64{5}, map[float64]uint64{1 << 10: 5, 1 << 34: 5}, map[int]int64{}, 5},
		{[]uint64{10: 1}, map[float64]uint64{1 << 10: 1, 1 << 12: 1}, map[int]int64{-20: 1}, 0},
		{[]uint64{11: 1}, map[float64]uint64{1 << 10: 0, 1 << 12: 1}, map[int]int64{-19: 1}, 0},
		{[]uint64{2, 0, 3, 4, 0, 0, 7}, map[float64]uint64{1 << 10: 16}, map[int]int64{-28: 3, -27: 4, -24: 7}, 2},
		{[]uint64{34: 2, 35: 3}, map[float64]uint64{1 << 10: 0, 1 << 32: 0, 1 << 34: 2}, map[int]int64{4: 2, 5: 3}, 0},
		{[]uint64{30: 9, 31: 1}, map[float64]uint64{1 << 30: 9, 1 << 32: 10}, map[int]int64{0: 9, 1: 1}, 0},
	} {
		h := write(t, tc.counts)
		var total uint64
		for _, n := range tc.counts {
			total += n
		}
		if h.GetSampleCount() != total || !math.IsNaN(h.GetSampleSum()) || h.GetZeroCount() != tc.zero {
			t.Errorf("log2(%v) = count %d, sum %v, zero %d; want %d, NaN, %d", tc.counts, h.GetSampleCount(), h.GetSampleSum(), h.GetZeroCount(), total, tc.zero)
		}
		if len(h.GetBucket()) != 13 {
			t.Errorf("log2(%v) has %d classic buckets; want 13", tc.counts, len(h.GetBucket()))
		}
		for _, b := range h.GetBucket() {
			if want, ok := tc.classic[math.Round(b.GetUpperBound()*1e9)]; ok && b.GetCumulativeCount() != want {
				t.Errorf("log2(%v) up to %v s = %d; want %d", tc.counts, b.GetUpperBound(), b.GetCumulativeCount(), want)
			}
		}
		got := native(h)
		for i, n := range tc.native {
			if got[i] != n {
				t.Errorf("log2(%v) native bucket %d = %d; want %d", tc.counts, i, got[i], n)
			}
		}
		if len(got) != len(tc.native) {
			t.Errorf("log2(%v) native = %v; want %v", tc.counts, got, tc.native)
		}
	}
}
