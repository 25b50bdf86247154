// SPDX-License-Identifier: Apache-2.0
//
// uvm-mark N: makes the boot mark N (0 to 255) from a Linux guest, by a write to I/O port 0x3f0 (docs/boot-report.md). Any init
// or start script can call it: the program is static, needs no library, no /dev and no /proc. It needs root, and a kernel
// with CONFIG_X86_IOPL_IOPERM. Under a monitor without that port the write goes nowhere.
//
// uvm-mark --poweroff: switches the machine off without ACPI, by a write to I/O port 0x604 (docs/pc.md). File systems are
// the caller's to sync.
//
// Exit status: 0 written, 1 no access to the port, 2 wrong arguments.
#include <asm/unistd.h>
#include <stddef.h>

enum { MARK_PORT = 0x3f0, POWER_PORT = 0x604, POWER_OFF = 0x2000, EPERM = 1, ENOSYS = 38 };

static long syscall3(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

static _Noreturn void die(int status, const char *why)
{
	size_t n = 0;
	while (why[n])
		n++;
	syscall3(__NR_write, 2, (long)why, (long)n);
	for (;;)
		syscall3(__NR_exit, status, 0, 0);
}

// mark_value reads a number from 0 to 255; -1 if it is none.
static int mark_value(const char *s)
{
	int n = 0;
	if (!*s)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -1;
		n = n * 10 + (*s - '0');
		if (n > 255)
			return -1;
	}
	return n;
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

// open_ports asks the kernel for the ports, or ends.
static void open_ports(long first, long count)
{
	switch (syscall3(__NR_ioperm, first, count, 1)) {
	case 0:
		return;
	case -EPERM:
		die(1, "uvm-mark: no access to the I/O port: be root\n");
	case -ENOSYS:
		die(1, "uvm-mark: no access to the I/O port: the kernel needs CONFIG_X86_IOPL_IOPERM\n");
	default:
		die(1, "uvm-mark: no access to the I/O port: ioperm(2) failed\n");
	}
}

// The stack at the start of a process: argc, then the pointers of argv (System V ABI, AMD64 supplement, section 3.4.1).
__attribute__((used)) static _Noreturn void start(const long *stack)
{
	const char *const *argv = (const char *const *)(stack + 1);
	if (stack[0] == 2 && same(argv[1], "--poweroff")) {
		open_ports(POWER_PORT, 2);
		__asm__ volatile("outw %0, %1" : : "a"((unsigned short)POWER_OFF), "Nd"((unsigned short)POWER_PORT));
		die(0, "");
	}
	int value = stack[0] == 2 ? mark_value(argv[1]) : -1;
	if (value < 0)
		die(2, "usage: uvm-mark N    makes the boot mark N, 0 to 255\n       uvm-mark --poweroff\n");
	open_ports(MARK_PORT, 1);
	__asm__ volatile("outb %0, %1" : : "a"((unsigned char)value), "Nd"((unsigned short)MARK_PORT));
	die(0, "");
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
