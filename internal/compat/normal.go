package main

import "regexp"

// normalisation removes what must differ between any two runs.
type normalisation struct {
	what string
	re   *regexp.Regexp
	to   string
}

var normalisations = []normalisation{
	{"measured times", regexp.MustCompile(`\b[0-9]+ ns\b`), "N ns"},
	{"random MAC addresses", regexp.MustCompile(`\bMAC: [0-9a-f]{12}\b`), "MAC: X"},
	{"TSC frequency", regexp.MustCompile(`\btsc_freq=[0-9]+ tsc_mult=[0-9]+ tsc_shift=[0-9]+`), "tsc_freq=N"},
	{"process ID in a core dump's name", regexp.MustCompile(`\bcore\.solo5-hvt\.[0-9]+`), "core.solo5-hvt.PID"},
}

// normalise returns s with all of that replaced.
func normalise(s string) string {
	for _, n := range normalisations {
		s = n.re.ReplaceAllString(s, n.to)
	}
	return s
}
