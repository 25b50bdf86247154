package main

import "testing"

// TestLupineMissing runs a uvm without the program beside it; what that does has
// tests of its own.
func TestLupineMissing(t *testing.T) {
	wantLine(t, uvm(t, "lupine", "suggest", "/"), exitHost, "uvm-lupine is neither beside uvm")
	wantLine(t, uvm(t, "lupine", "--what"), exitUsage, "unknown flag: --what")
}
