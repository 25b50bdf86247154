#include "textflag.h"

// _rt0_uvm is where the kernel starts uvm (the Makefile links with -E _rt0_uvm):
// two system calls, then the Go runtime's own entry.
//
// The runtime has a thread, sysmon, that wakes every 20 µs for as long as main
// sits in KVM_RUN, and takes the processor or its caches from the guest. The
// timer slack of 10 ms, which every thread inherits from the one that makes it,
// lets the kernel put these wake-ups together. It can be had only here: when Go
// code runs, sysmon does too. The vCPU's own thread goes back to a slack that
// POLL can keep time with; see vmm.Run. docs/startup.md has the measurements.
//
// SIGINT and SIGTERM are blocked, in all threads to come: signals.go reads them
// from a descriptor, which costs two threads less than os/signal.
//
// The stack holds argc, argv and the environment, and stays as it is. The system
// calls change registers that mean nothing at process entry.
TEXT _rt0_uvm(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$157, AX	// SYS_prctl
	MOVQ	$29, DI		// PR_SET_TIMERSLACK
	MOVQ	$10000000, SI	// ns
	SYSCALL
	PUSHQ	$0x4002		// SIGINT, SIGTERM
	MOVQ	$14, AX		// SYS_rt_sigprocmask
	XORL	DI, DI		// SIG_BLOCK
	MOVQ	SP, SI
	XORL	DX, DX
	MOVQ	$8, R10		// bytes
	SYSCALL
	POPQ	AX
	JMP	_rt0_amd64_linux(SB)
