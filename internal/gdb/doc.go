// Package gdb is the server's side of the GDB remote serial protocol (the GDB manual, appendix E) for machines
// with x86-64 vCPUs, which are the debugger's threads. What is debugged is a Target; internal/debug has the one
// for this monitor's VMs.
//
// The client is not trusted: it can do to the guest what it likes, as is the purpose, and nothing to the monitor. It
// has one connection, whose packets have a bound, whose input is read no faster than it is answered, and whose end, in
// whatever state, takes all breakpoints out of the guest and lets it go on.
package gdb
