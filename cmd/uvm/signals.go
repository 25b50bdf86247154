package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// signalError says that a signal ended the run.
type signalError struct{ sig syscall.Signal }

func (e *signalError) Error() string { return "ended by signal: " + e.sig.String() }

// interruptible returns a context that SIGINT and SIGTERM end. A second signal
// ends the process at once. A guest may run when ready is closed, since its
// output tells others that they may send one.
//
// os/signal starts two threads, which takes longer than anything else between
// main and the guest; the goroutine has them start beside the VM. Until it is
// ready a signal ends the process by itself. (Blocking the signals in the entry
// point and reading them from a signalfd would need no thread, but the Go
// runtime unblocks them.)
func interruptible() (ctx context.Context, cancel context.CancelCauseFunc, ready <-chan struct{}) {
	ctx, cancel = context.WithCancelCause(context.Background())
	caught := make(chan struct{})
	go func() {
		sigs := make(chan os.Signal, 1)
		signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM)
		close(caught)
		s := <-sigs
		signal.Reset(syscall.SIGINT, syscall.SIGTERM)
		cancel(&signalError{s.(syscall.Signal)})
	}()
	return ctx, cancel, caught
}
