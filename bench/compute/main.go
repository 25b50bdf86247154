// Compute times the loop of `compute int` in a sealed guest, in an ordinary
// process and in ring 0, by the clock around the loop itself, so that no start
// is in it.
//
//	compute -n TURNS -rounds N UVM GUEST HOST
//
// Guest and process take turns, and the least of each counts: what else runs on
// the machine only ever adds. Ring 0 gets -n0 turns, since it may be emulated.
package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "compute:", err)
		os.Exit(1)
	}
}

func run() error {
	n := flag.Int("n", 1_000_000_000, "`turns` in ring 3 and in the process")
	n0 := flag.Int("n0", 20_000, "`turns` in ring 0")
	rounds := flag.Int("rounds", 10, "`rounds`")
	flag.Parse()
	if flag.NArg() != 3 || *n < 1 || *n0 < 1 || *rounds < 1 {
		flag.Usage()
		return errors.New("need positive numbers, and the paths of uvm, compute.hvt and the host program")
	}
	uvm, guest, host := flag.Arg(0), flag.Arg(1), flag.Arg(2)
	in := func(ring string, n int) []string {
		return []string{uvm, "run", "--ring", ring, guest, "--", "int", strconv.Itoa(n)}
	}
	contestants := []struct {
		name string
		argv []string
		n    int
		best float64 // ns per turn
	}{
		{"process", []string{host, strconv.Itoa(*n)}, *n, math.Inf(1)},
		{"sealed", in("sealed", *n), *n, math.Inf(1)},
		{"ring 0", in("0", *n0), *n0, math.Inf(1)},
	}
	sums := map[int]string{} // by turns
	for range *rounds {
		for i := range contestants {
			c := &contestants[i]
			sum, elapsed, err := measure(c.argv, c.n)
			if err != nil {
				return err
			}
			if old := sums[c.n]; old != "" && old != sum {
				return fmt.Errorf("%s: checksum of %d turns is %s, was %s", c.name, c.n, sum, old)
			}
			sums[c.n] = sum
			c.best = min(c.best, elapsed/float64(c.n))
		}
	}
	fmt.Printf("least of %d interleaved runs; %d turns, in ring 0 %d\n", *rounds, *n, *n0)
	for _, c := range contestants {
		fmt.Printf("%-8s %10.4f ns per turn  %9.4f of the process\n", c.name, c.best, c.best/contestants[0].best)
	}
	fmt.Printf("sealed is %.0f times faster than ring 0\n", contestants[2].best/contestants[1].best)
	return nil
}

var line = regexp.MustCompile(`^compute int: n=(\d+) checksum=(0x[0-9a-f]{16}) elapsed_ns=(\d+)`)

// measure runs one contestant and returns its checksum and the loop's ns.
func measure(argv []string, n int) (sum string, elapsed float64, err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", 0, fmt.Errorf("%q: %w", argv, err)
	}
	m := line.FindSubmatch(out)
	if m == nil || string(m[1]) != strconv.Itoa(n) {
		return "", 0, fmt.Errorf("%q printed %q; want the figures of %d turns", argv, out, n)
	}
	elapsed, err = strconv.ParseFloat(string(m[3]), 64)
	return string(m[2]), elapsed, err
}
