package lab

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
)

// TestRings counts what a turn of the same loop takes in either ring, where real
// hardware virtualisation executes both: ring 3 is not slower. A turn is the
// difference of two lengths of the loop, so that no start is in it; time follows
// instructions, so that nothing else of this machine is. What a timer tick adds
// is in all of them, and the least of three counts.
func TestRings(t *testing.T) {
	t.Parallel()
	const short, long = 10_000, 510_000
	elapsed := regexp.MustCompile(`elapsed_ns=(\d+)`)
	type run struct {
		ring  string
		turns int
	}
	least := make(map[run]int64)
	var jobs []Job
	for range 3 {
		for _, r := range []run{{"0", short}, {"sealed", short}, {"0", long}, {"sealed", long}} {
			jobs = append(jobs, Job{
				Name: fmt.Sprintf("ring %s, %d turns", r.ring, r.turns), Dir: srcDir + "/bin/guests",
				Argv: []string{"uvm", "run", "--ring", r.ring, "-m", "4M", "compute.hvt", "--", "int", strconv.Itoa(r.turns)},
				Check: func(t *testing.T, res *Result) {
					m := elapsed.FindStringSubmatch(res.Stdout)
					if res.Status != 0 || m == nil {
						t.Fatalf("status %d, stdout %q, stderr %q; want a measurement", res.Status, res.Stdout, res.Stderr)
					}
					ns, err := strconv.ParseInt(m[1], 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					if old, ok := least[r]; !ok || ns < old {
						least[r] = ns
					}
					t.Logf("%d ns in the guest, %v for all of it", ns, res.Elapsed)
				},
			})
		}
	}
	Run(t, Options{ICount: true}, jobs...)
	turn := func(ring string) float64 {
		return float64(least[run{ring, long}]-least[run{ring, short}]) / (long - short)
	}
	zero, sealed := turn("0"), turn("sealed")
	t.Logf("a turn takes %.3f ns in ring 0, %.3f ns sealed", zero, sealed)
	if zero <= 0 || sealed > 1.02*zero {
		t.Errorf("a turn takes %.3f ns sealed; want at most 1.02 times the %.3f ns of ring 0", sealed, zero)
	}
}
