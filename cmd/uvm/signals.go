package main

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalError says that a signal ended the run.
type signalError struct{ sig syscall.Signal }

func (e *signalError) Error() string { return "ended by signal: " + e.sig.String() }

// endSignals are the signals that end a run.
func endSignals() *unix.Sigset_t {
	return &unix.Sigset_t{Val: [16]uint64{1<<(unix.SIGINT-1) | 1<<(unix.SIGTERM-1)}}
}

// interruptible returns a context that SIGINT and SIGTERM end. A second signal
// ends the process at once. A guest may run when ready is closed, since its
// output tells others that they may send one.
//
// With uvm's own entry point no thread takes these signals but this one, between
// defaultSignals and here, and they wait in a descriptor. Otherwise os/signal
// starts two threads for them, which takes longer than anything else between
// main and the guest; the goroutine has them start beside the VM. Until it is
// ready a signal ends the process by itself.
func interruptible() (ctx context.Context, cancel context.CancelCauseFunc, ready <-chan struct{}) {
	ctx, cancel = context.WithCancelCause(context.Background())
	caught := make(chan struct{})
	if f := signalFile(); f != nil {
		close(caught)
		go func() {
			var info [128]byte // struct signalfd_siginfo, which begins with the number
			if _, err := io.ReadFull(f, info[:]); err != nil {
				return
			}
			defaultSignals()
			cancel(&signalError{syscall.Signal(binary.NativeEndian.Uint32(info[:]))})
			select {} // the thread has to stay
		}()
		return ctx, cancel, caught
	}
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

// blockedAtEntry says that entry_amd64.s has blocked the signals.
var blockedAtEntry bool

// defaultSignals has the signals end the process, by binding the goroutine to a
// thread that takes them, and says whether that thread did not before.
func defaultSignals() (blocked bool) {
	runtime.LockOSThread()
	var old unix.Sigset_t
	set := endSignals()
	err := unix.PthreadSigmask(unix.SIG_UNBLOCK, set, &old)
	return err == nil && old.Val[0]&set.Val[0] == set.Val[0]
}

// signalFile undoes defaultSignals and returns a file to read the signals from;
// nil if other threads may take them.
func signalFile() *os.File {
	defer runtime.UnlockOSThread()
	set := endSignals()
	if !blockedAtEntry || unix.PthreadSigmask(unix.SIG_BLOCK, set, nil) != nil {
		return nil
	}
	fd, err := unix.Signalfd(-1, set, unix.SFD_CLOEXEC)
	if err != nil {
		return nil // as with os/signal, which unblocks them
	}
	return os.NewFile(uintptr(fd), "signals")
}
