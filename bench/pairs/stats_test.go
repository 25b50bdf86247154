package main

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		x    []float64
		q    float64
		want float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{4, 1, 3, 2}, 0, 1},
		{[]float64{4, 1, 3, 2}, 1, 4},
		{[]float64{10, 20, 30, 40, 50}, 0.95, 48},
		{[]float64{1, 1, 1, 100}, 0.5, 1},
	} {
		if got := quantile(c.x, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v; want %v", c.x, c.q, got, c.want)
		}
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile(nil, 0.5) = %v; want NaN", got)
	}
	x := []float64{3, 1, 2}
	if quantile(x, 0.5); x[0] != 3 || x[1] != 1 {
		t.Errorf("quantile changed its argument to %v", x)
	}
}

func TestRatios(t *testing.T) {
	got := ratios([]float64{2, 9}, []float64{1, 3})
	if got[0] != 2 || got[1] != 3 {
		t.Errorf("ratios() = %v; want [2 3]", got)
	}
}

func TestBootstrapMedian(t *testing.T) {
	if got := bootstrapMedian([]float64{5, 5, 5}, 100, 0.95, 1); got != (interval{5, 5}) {
		t.Errorf("bootstrapMedian of a constant = %v; want {5 5}", got)
	}
	x := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	a, b := bootstrapMedian(x, 500, 0.95, 7), bootstrapMedian(x, 500, 0.95, 7)
	if a != b {
		t.Errorf("bootstrapMedian with one seed = %v and %v; want the same", a, b)
	}
	if a.Low > 5 || a.High < 5 || a.Low < 1 || a.High > 9 {
		t.Errorf("bootstrapMedian(1..9) = %v; want an interval around 5 within 1..9", a)
	}
	wide := bootstrapMedian(x, 500, 0.99, 7)
	if wide.Low > a.Low || wide.High < a.High {
		t.Errorf("bootstrapMedian at 99 %% = %v; want it to hold the one at 95 %%, %v", wide, a)
	}
}

// The interval has to hold the true median about as often as it says.
func TestBootstrapCoverage(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	const trials = 300
	hits := 0
	for range trials {
		x := make([]float64, 41)
		for i := range x {
			x[i] = rng.ExpFloat64() // its median is ln 2
		}
		if ci := bootstrapMedian(x, 200, 0.95, rng.Uint64()); ci.Low <= math.Ln2 && math.Ln2 <= ci.High {
			hits++
		}
	}
	if got := float64(hits) / trials; got < 0.90 || got > 0.99 {
		t.Errorf("the 95 %% interval held the median in %.0f %% of %d trials", got*100, trials)
	}
}
