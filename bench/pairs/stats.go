package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// quantile returns the q-quantile of x, 0 <= q <= 1, with linear
// interpolation between neighbours (Hyndman and Fan, type 7), or NaN for no
// values. x may be in any order and is not changed.
func quantile(x []float64, q float64) float64 {
	s := slices.Clone(x)
	slices.Sort(s)
	return sortedQuantile(s, q)
}

// sortedQuantile is quantile for values in ascending order.
func sortedQuantile(s []float64, q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (s[i+1]-s[i])*(at-float64(i))
}

func median(x []float64) float64 { return quantile(x, 0.5) }

// interval is a confidence interval.
type interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// bootstrapMedian estimates where the median of x lies with the given
// confidence, by the quantiles of the medians of resamples samples that are
// drawn from x with replacement. The same seed gives the same answer.
func bootstrapMedian(x []float64, resamples int, confidence float64, seed uint64) interval {
	rng := rand.New(rand.NewPCG(seed, 0))
	medians := make([]float64, resamples)
	sample := make([]float64, len(x))
	for i := range medians {
		for j := range sample {
			sample[j] = x[rng.IntN(len(x))]
		}
		slices.Sort(sample)
		medians[i] = sortedQuantile(sample, 0.5)
	}
	tail := (1 - confidence) / 2
	return interval{quantile(medians, tail), quantile(medians, 1-tail)}
}

// ratios returns a[i] / b[i] for every i.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range r {
		r[i] = a[i] / b[i]
	}
	return r
}
