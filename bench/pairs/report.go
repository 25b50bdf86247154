package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

const (
	resamples  = 2000
	confidence = 0.95
)

// result is one command's line of the report. Times are in microseconds.
type result struct {
	Label     string    `json:"label"`
	Argv      []string  `json:"argv"`
	WallMin   float64   `json:"wall_us_min"`
	WallMed   float64   `json:"wall_us_median"`
	WallP95   float64   `json:"wall_us_p95"`
	CPUMed    float64   `json:"cpu_us_median"`
	FaultsMed float64   `json:"minor_faults_median"`
	Wall      *ratio    `json:"wall_ratio,omitempty"` // to the first command; absent for that one
	CPU       *ratio    `json:"cpu_ratio,omitempty"`
	Walls     []float64 `json:"wall_us"` // every run, in order of the rounds
	CPUs      []float64 `json:"cpu_us"`
}

// ratio is the median over the rounds, and where it lies with 95 % confidence.
type ratio struct {
	Median float64  `json:"median"`
	CI     interval `json:"ci95"`
}

func newRatio(a, b []float64, seed uint64) *ratio {
	r := ratios(a, b)
	return &ratio{median(r), bootstrapMedian(r, resamples, confidence, seed)}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// summarize makes the report's lines; samples[i][round] belongs to cmds[i].
func summarize(cmds []command, samples [][]sample, seed uint64) []result {
	res := make([]result, len(cmds))
	for i, c := range cmds {
		r := &res[i]
		r.Label, r.Argv = c.label, c.argv
		var faults []float64
		for _, s := range samples[i] {
			r.Walls = append(r.Walls, micros(s.wall))
			r.CPUs = append(r.CPUs, micros(s.cpu))
			faults = append(faults, float64(s.faults))
		}
		r.WallMin, r.WallMed, r.WallP95 = quantile(r.Walls, 0), median(r.Walls), quantile(r.Walls, 0.95)
		r.CPUMed, r.FaultsMed = median(r.CPUs), median(faults)
		if i > 0 {
			r.Wall = newRatio(r.Walls, res[0].Walls, seed)
			r.CPU = newRatio(r.CPUs, res[0].CPUs, seed)
		}
	}
	return res
}

func printText(w io.Writer, res []result, rounds int) error {
	fmt.Fprintf(w, "%d rounds; times in µs; ratios to %s: median of the rounds' ratios [95 %% interval]\n", rounds, res[0].Label)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "command\twall min\tmedian\tp95\tcpu\tfaults\twall ratio\tcpu ratio")
	for _, r := range res {
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%v\t%v\n",
			r.Label, r.WallMin, r.WallMed, r.WallP95, r.CPUMed, r.FaultsMed, r.Wall, r.CPU)
	}
	return t.Flush()
}

func (r *ratio) String() string {
	if r == nil {
		return "1"
	}
	return fmt.Sprintf("%.3f [%.3f, %.3f]", r.Median, r.CI.Low, r.CI.High)
}

func printJSON(w io.Writer, res []result, rounds int, seed uint64) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Rounds   int      `json:"rounds"`
		Seed     uint64   `json:"seed"`
		Commands []result `json:"commands"`
	}{rounds, seed, res})
}
