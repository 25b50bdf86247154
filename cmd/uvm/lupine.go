package main

// lupineMain becomes uvm-lupine: what only makes kernels is no part of the program that runs VMs.
func lupineMain(args []string) int {
	if status := parse(newFlags("lupine"), "lupine", args); status >= 0 {
		return status
	}
	return becomeProgram(lupineProgram, args...)
}
