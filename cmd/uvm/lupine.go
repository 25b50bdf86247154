package main

// lupineMain becomes uvm-lupine: what only makes kernels is no part of the program that runs VMs.
func lupineMain(args []string) int {
	f := newFlags("lupine")
	f.SetInterspersed(false) // what stands behind the first word is that program's
	if status := parse(f, "lupine", args); status >= 0 {
		return status
	}
	return becomeProgram(lupineProgram, args...)
}
