// SPDX-License-Identifier: Apache-2.0
//
// What a process in ring 0 has to do as well as one in ring 3. Half of its system calls are glibc's, by SYSCALL, and half jump to
// where AT_SYSINFO says, if there is one. `kml RING [again]` wants to find itself in ring RING; it prints a line for each check, and
// ends with status 1 after the first that fails.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static void *entry;

static long jump(long n, long a, long b, long c)
{
	long result;
	if (!entry) {
		__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory", "cc");
		return result;
	}
	__asm__ volatile("lea 1f(%%rip), %%rcx\n\tjmp *%5\n1:"
		: "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "m"(entry) : "rcx", "r11", "memory", "cc");
	return result;
}

static void check(const char *name, int good)
{
	printf("%s %s\n", good ? "ok" : "FAILED", name);
	fflush(stdout);
	if (!good)
		_exit(1);
}

static volatile sig_atomic_t alarms, faults;

static void on_alarm(int n)
{
	(void)n;
	alarms++;
}

// The instruction that fails has 3 bytes: mov %eax, (%rbx) with a REX prefix, or idiv.
static void on_fault(int n, siginfo_t *info, void *context)
{
	ucontext_t *c = context;
	if (n == SIGSEGV && info->si_addr != (void *)8)
		_exit(2);
	faults++;
	c->uc_mcontext.gregs[REG_RIP] += 3;
}

static void every(int us)
{
	struct itimerval t = {{0, us}, {0, us}};
	if (setitimer(ITIMER_REAL, &t, 0))
		_exit(3);
}

static int fill(volatile char *p, size_t n)
{
	for (size_t i = 0; i < n; i += 512)
		p[i] = i >> 9;
	for (size_t i = 0; i < n; i += 512)
		if (p[i] != (char)(i >> 9))
			return 0;
	return 1;
}

static __attribute__((noinline)) int deep(void)
{
	volatile char room[4 << 20];
	return fill(room, sizeof room);
}

// Interrupts must leave all registers, the flags and the 128 bytes below the stack pointer as they are.
static int registers(void)
{
	long bad = 0;
	for (int i = 0; i < 200 && !bad; i++)
		__asm__ volatile(
			"sub $256, %%rsp\n\tmov $0x1111, %%r8\n\tmov $0x2222, %%r9\n\tmov $0x3333, %%r10\n\tmov $0x4444, %%r11\n\tmov $0x5555, %%rcx\n\t"
			"mov $0x6666, %%rax\n\tmovq %%rax, %%xmm7\n\tmov %%r8, -8(%%rsp)\n\tmov %%r9, -128(%%rsp)\n\t"
			"mov $100000, %%edx\n\txor %%edi, %%edi\n\tstc\n"
			"1:\tjnc 2f\n\tdec %%edx\n\tjnz 1b\n\tjmp 3f\n"
			"2:\tinc %%edi\n"
			"3:\tmov %%edi, %%edi\n\tcmp $0x1111, %%r8\n\tjne 4f\n\tcmp $0x2222, %%r9\n\tjne 4f\n\tcmp $0x3333, %%r10\n\tjne 4f\n\t"
			"cmp $0x4444, %%r11\n\tjne 4f\n\tcmp $0x5555, %%rcx\n\tjne 4f\n\tcmp $0x6666, %%rax\n\tjne 4f\n\t"
			"movq %%xmm7, %%rdx\n\tcmp %%rax, %%rdx\n\tjne 4f\n\tcmp %%r8, -8(%%rsp)\n\tjne 4f\n\tcmp %%r9, -128(%%rsp)\n\tje 5f\n"
			"4:\tinc %%edi\n"
			"5:\tadd %%rdi, %0\n\tadd $256, %%rsp\n"
			: "+S"(bad) : : "rax", "rcx", "rdx", "rdi", "r8", "r9", "r10", "r11", "xmm7", "memory", "cc");
	return !bad;
}

int main(int argc, char **argv)
{
	unsigned short cs;
	__asm__("mov %%cs, %0" : "=r"(cs));
	entry = (void *)getauxval(32); // AT_SYSINFO
	check("ring", argc > 1 && (cs & 3) == atoi(argv[1]) && !entry == !!(cs & 3));
	check("getpid", jump(SYS_getpid, 0, 0, 0) == getpid() && jump(SYS_getppid, 0, 0, 0) == getppid());
	check("no such call", jump(100000, 0, 0, 0) == -ENOSYS);
	check("bad address", jump(SYS_pipe, 16, 0, 0) == -EFAULT);
	if (argc > 2)
		return 0;

	// Memory: first touch, copy on write, a growing stack.
	size_t n = 16 << 20;
	char *p = (char *)jump(SYS_brk, 0, 0, 0);
	check("brk", jump(SYS_brk, (long)p + 65536, 0, 0) == (long)p + 65536 && fill(p, 65536));
	p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check("first touch", p != MAP_FAILED && fill(p, n));
	check("stack", deep());
	int status;
	pid_t child = jump(SYS_fork, 0, 0, 0);
	if (!child) {
		memset(p, 7, n);
		_exit(p[n - 1] == 7 && jump(SYS_getppid, 0, 0, 0) > 0 ? 42 : 1);
	}
	check("fork", child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42);
	check("copy on write", p[512] == 1 && p[n - 512] == (char)((n - 512) >> 9));

	// Faults become signals; a process without a handler dies alone.
	struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &a, 0);
	sigaction(SIGFPE, &a, 0);
	__asm__ volatile("mov $8, %%ebx\n\t.byte 0x48, 0x89, 0x03" : : : "rbx", "memory");
	check("SIGSEGV", faults == 1);
	__asm__ volatile("xor %%ecx, %%ecx\n\tmov $1, %%eax\n\tcqo\n\t.byte 0x48, 0xf7, 0xf9" : : : "rax", "rcx", "rdx", "cc");
	check("SIGFPE", faults == 2);
	signal(SIGTRAP, on_alarm);
	__asm__ volatile("int3");
	check("SIGTRAP", alarms == 1);
	if (!(child = fork())) {
		signal(SIGSEGV, SIG_DFL);
		__asm__ volatile("movl $1, 8");
		_exit(0);
	}
	check("killed by SIGSEGV", waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	if (!(child = fork())) {
		signal(SIGSEGV, SIG_DFL);
		__asm__ volatile("xor %esp, %esp\n\tpush %rax\n\tud2");
	}
	check("killed without a stack", waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	if (!(child = fork())) {
		signal(SIGSEGV, SIG_DFL);
		signal(SIGUSR1, (void (*)(int))0x1000000000000); // not canonical: IRET fails
		raise(SIGUSR1);
		_exit(0);
	}
	check("killed at a bad address", waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);

	// Interrupts and signals at any instruction; system calls that start again.
	struct sigaction b = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	sigaction(SIGALRM, &b, 0);
	every(2000);
	check("registers", registers() && alarms > 1);
	int before = alarms, wrong = 0, pid = getpid();
	for (int i = 0; i < 200000; i++)
		wrong += jump(SYS_getpid, 0, 0, 0) != pid || syscall(SYS_getpid) != pid;
	check("calls under signals", !wrong && alarms > before);
	int fd[2];
	char c = 0;
	before = alarms;
	if (pipe(fd) || (child = fork()) < 0)
		_exit(4);
	if (!child) {
		usleep(100000);
		for (struct timespec t = {0, 100000000}; nanosleep(&t, &t);)
			;
		_exit(write(fd[1], "xy", 2) != 2);
	}
	check("read starts again", jump(SYS_read, fd[0], (long)&c, 1) == 1 && c == 'x' && alarms > before);
	check("and by SYSCALL", read(fd[0], &c, 1) == 1 && c == 'y');
	b.sa_flags = 0;
	sigaction(SIGALRM, &b, 0);
	check("EINTR", jump(SYS_read, fd[0], (long)&c, 1) == -EINTR);
	every(0);
	check("child", waitpid(child, &status, 0) == child && !status);

	// From one ring to the other, by both ways.
	static const char *const other[][2] = {{"/kml/kml", "0"}, {"/bin/kml", "3"}};
	for (int i = entry ? 0 : 2; i < 4; i++) {
		if (!(child = fork())) {
			const char *const args[] = {other[i / 2][0], other[i / 2][1], "again", 0};
			if (i % 2)
				jump(SYS_execve, (long)args[0], (long)args, (long)environ);
			execve(args[0], (char **)args, environ);
			_exit(5);
		}
		check("execve", waitpid(child, &status, 0) == child && !status);
	}
	puts("all good");
	return 0;
}
