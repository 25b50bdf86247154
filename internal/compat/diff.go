package main

import "strings"

// maxDiffLines bounds the tables of diff, which grow with the square.
const maxDiffLines = 2000

// diff returns the lines that only a has, with "-" before them, and those that
// only b has, with "+"; nil if the two are the same. Lines in common are left
// out.
func diff(a, b string) []string {
	if a == b {
		return nil
	}
	x, y := lines(a), lines(b)
	if len(x) > maxDiffLines || len(y) > maxDiffLines {
		return []string{"-(too long to compare)", "+(too long to compare)"}
	}
	// common[i][j] is the length of the longest common subsequence of x[i:]
	// and y[j:].
	common := make([][]int, len(x)+1)
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "-"+x[i])
			i++
		default:
			out = append(out, "+"+y[j])
			j++
		}
	}
	return out
}

// lines splits s. A last line without its newline differs from one with it.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	l := strings.Split(s, "\n")
	if n := len(l) - 1; l[n] == "" {
		return l[:n]
	} else {
		l[n] += " (no newline)"
	}
	return l
}
