// SPDX-License-Identifier: Apache-2.0
//
// What lmbench's lat_syscall measures, without a C library: getppid, a read of one byte from /dev/zero, a write of one byte to
// /dev/null. Each is called 10,000 times, 5 times over; the least is printed, in picoseconds for one call. With -DJUMP it is for
// processes in ring 0 (docs/kml.md), which jump into the kernel.
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/time.h>

enum { CALLS = 10000, ROUNDS = 5 };

#ifdef JUMP
static void *entry;
#endif

static long call(long n, long a, long b, long c)
{
	long result;
#ifdef JUMP
	__asm__ volatile("lea 1f(%%rip), %%rcx\n\tjmp *%5\n1:"
		: "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "m"(entry) : "rcx", "r11", "memory");
#else
	__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#endif
	return result;
}

static long now(void)
{
	struct timespec t;
	call(__NR_clock_gettime, CLOCK_MONOTONIC, (long)&t, 0);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void print(const char *name, long n)
{
	char line[64], digits[20];
	int i = 0, d = 0;
	while (*name)
		line[i++] = *name++;
	do
		digits[d++] = '0' + n % 10;
	while (n /= 10);
	while (d)
		line[i++] = digits[--d];
	line[i++] = '\n';
	call(__NR_write, 1, (long)line, i);
}

static void measure(const char *name, long n, long a, long b, long c, long want)
{
	long least = 0;
	for (int r = 0; r < ROUNDS; r++) {
		long begin = now();
		for (int i = 0; i < CALLS; i++)
			if (call(n, a, b, c) != want)
				call(__NR_exit, 1, 0, 0);
		long took = (now() - begin) * 1000 / CALLS;
		if (!r || took < least)
			least = took;
	}
	print(name, least);
}

__attribute__((used)) static _Noreturn void start(long *stack)
{
#ifdef JUMP
	while (*stack++) // the number of arguments, and these
		;
	while (*stack++) // the environment
		;
	for (; *stack != 32; stack += 2) // AT_SYSINFO
		if (!*stack)
			__builtin_trap();
	entry = (void *)stack[1];
#else
	(void)stack;
#endif
	char byte = 0;
	long zero = call(__NR_open, (long)"/dev/zero", O_RDONLY, 0), null = call(__NR_open, (long)"/dev/null", O_WRONLY, 0);
	measure("null ", __NR_getppid, 0, 0, 0, call(__NR_getppid, 0, 0, 0));
	measure("read ", __NR_read, zero, (long)&byte, 1, 1);
	measure("write ", __NR_write, null, (long)&byte, 1, 1);
	for (;;)
		call(__NR_exit, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
