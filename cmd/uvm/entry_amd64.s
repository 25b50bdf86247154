#include "textflag.h"

// _rt0_uvm is where the kernel starts uvm (the Makefile links with -E _rt0_uvm):
// a few system calls, then the Go runtime's own entry.
//
// The runtime has a thread, sysmon, that wakes every 20 µs for as long as main
// sits in KVM_RUN, and takes the processor or its caches from the guest. The
// timer slack of 10 ms, which every thread inherits from the one that makes it,
// lets the kernel put these wake-ups together. It can be had only here: when Go
// code runs, sysmon does too. The vCPU's own thread goes back to a slack that
// POLL can keep time with; see vmm.Run. docs/startup.md has the measurements.
//
// The process is bound to the CPU that it is on, and what it was free to use is
// kept in affinity: a start has one thing to do at a time, and a thread that wakes
// on another CPU costs more than it does. unpin in affinity.go undoes that.
//
// The stack holds argc, argv and the environment, and stays as it is. The system
// calls change registers that mean nothing at process entry.
TEXT _rt0_uvm(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$157, AX	// SYS_prctl
	MOVQ	$29, DI		// PR_SET_TIMERSLACK
	MOVQ	$10000000, SI	// ns
	SYSCALL
	MOVQ	$204, AX	// SYS_sched_getaffinity
	XORL	DI, DI		// this thread
	MOVQ	$128, SI	// bytes
	LEAQ	·affinity(SB), DX
	SYSCALL
	TESTQ	AX, AX
	JLE	go		// more than 1024 CPUs
	PUSHQ	$0
	MOVQ	$309, AX	// SYS_getcpu
	MOVQ	SP, DI
	XORL	SI, SI		// no node
	XORL	DX, DX
	SYSCALL
	POPQ	CX		// the CPU
	MOVQ	$16, AX
zero:
	PUSHQ	$0
	DECQ	AX
	JNZ	zero
	BTSQ	CX, (SP)
	MOVQ	$203, AX	// SYS_sched_setaffinity
	XORL	DI, DI
	MOVQ	$128, SI
	MOVQ	SP, DX
	SYSCALL
	ADDQ	$128, SP
go:
	JMP	_rt0_amd64_linux(SB)
