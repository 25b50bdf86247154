// Package control is how one asks a running VM: a Unix socket for each VM in a run directory, and a protocol of
// JSON lines on it. docs/control.md describes both.
//
// A server (Listen) belongs to one VM and knows nothing of VMs: whoever makes it registers its operations. A
// client finds VMs through a Dir. Both use the runtime's poller, so that no connection needs a thread.
//
// Clients are not trusted to behave: what each may send, keep and delay is bounded, here and not in the
// operations.
package control
