// SPDX-License-Identifier: Apache-2.0
//
// uvm-init: process 1 of a guest whose root file system `uvm rootfs` made of a container image (docs/rootfs.md). It mounts
// what programs expect, does what /.uvm/start says, makes boot mark 1, runs the program, reaps what is orphaned, and ends the
// VM with the program's exit status (128+N after signal N) by a write to I/O port 0x501. A failure of its own is a line on
// the console and the status 126, or 127 if there is no such program.
//
// As process 1 it gets the word `tty` if a terminal is on uvm's side of the console; else the console passes bytes unchanged.
// With the word `trace` it watches what the program does (trace.h); then the byte 3 (Ctrl-C) on the console interrupts it.
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <asm/unistd.h>
#include <linux/reboot.h>
#include <stddef.h>

enum {
	MARK_PORT = 0x3f0, EXIT_PORT = 0x501, BOOTED = 1,
	CANNOT = 126, NO_PROGRAM = 127,
	ENOENT = 2, EINTR = 4, EACCES = 13, ENOTDIR = 20, ENOSYS = 38,
	SIGKILL = 9, SIGTERM = 15,
	O_RDWR = 2,
	MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_REMOUNT = 32,
	AF_INET = 2, SOCK_DGRAM = 2, SIOCSIFFLAGS = 0x8914, IFF_UP = 1,
	WNOHANG = 1,
};

static long syscall5(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return result;
}

#define call3(name, a, b, c) syscall5(__NR_##name, (long)(a), (long)(b), (long)(c), 0, 0)
#define call2(name, a, b)    call3(name, a, b, 0)
#define call1(name, a)       call3(name, a, 0, 0)

static size_t length(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

static void say(const char *s) { call3(write, 2, s, length(s)); }

static int port(unsigned short number, unsigned char value)
{
	if (syscall5(__NR_ioperm, number, 1, 1, 0, 0) != 0)
		return -1;
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(number));
	return 0;
}

#include "trace.h"

// end stops everything else, brings the disk into order and ends the VM.
static _Noreturn void end(int status)
{
	// Programs have two seconds to end.
	struct { long seconds, nanoseconds; } pause = { 0, 20 * 1000 * 1000 };
	call2(kill, -1, SIGTERM);
	for (long until = milliseconds() + 2000; milliseconds() < until;) {
		long n = wait_any(0, WNOHANG);
		if (n < 0 && n != -EINTR)
			break; // nobody is left
		if (n == 0)
			call2(nanosleep, &pause, 0);
	}
	call2(kill, -1, SIGKILL);
	for (long n = 0; n >= 0 || n == -EINTR;)
		n = wait_any(0, 0);
	if (tracing) {
		add_number('e', (unsigned long)status);
		report_flush();
	}
	call3(ioctl, 1, TCSBRK, 1); // what is written is out
	call1(sync, 0);
	syscall5(__NR_mount, 0, (long)"/", 0, MS_REMOUNT | MS_RDONLY, 0);
	if (port(EXIT_PORT, (unsigned char)status) != 0)
		say("uvm-init: no access to I/O port 0x501: the kernel needs CONFIG_X86_IOPL_IOPERM; the exit status is lost\n");
	call3(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART);
	for (;;)
		call1(pause, 0);
}

static _Noreturn void die(int status, const char *what, const char *why)
{
	say("uvm-init: ");
	say(what);
	say(why);
	say("\n");
	if (call1(getpid, 0) == 1)
		end(status);
	for (;;)
		call1(exit_group, status);
}

// What /.uvm/start may have: internal/rootfs/start.go has the same bounds.
enum { MAX_START = 1 << 17, MAX_WORDS = 2048, MAX_GROUPS = 64 };

static char text[MAX_START + 1];
static const char *argv[MAX_WORDS + 1], *envp[MAX_WORDS + 1];
static unsigned groups[MAX_GROUPS];
static int ngroups;
static unsigned uid, gid;
static const char *directory = "/", *hostname;

static unsigned number(const char *s)
{
	unsigned n = 0;
	for (; *s >= '0' && *s <= '9'; s++)
		n = n * 10 + (unsigned)(*s - '0');
	return n;
}

static int same(const char *a, const char *b)
{
	for (; *a && *a == *b; a++, b++)
		;
	return *a == *b;
}

static void read_start(void)
{
	long fd = call3(open, "/.uvm/start", 0, 0), size = 0, n;
	if (fd < 0)
		die(CANNOT, "there is no ", "/.uvm/start; this root file system is not for uvm-init");
	while ((n = call3(read, fd, text + size, MAX_START - size)) > 0)
		size += n;
	call1(close, fd);
	int nargs = 0, nenv = 0;
	const char *s = text;
	if (!same(s, "uvm-start 1"))
		die(CANNOT, "/.uvm/start: ", "not of the version that this uvm-init knows");
	for (s += length(s) + 1; s < text + size; s += length(s) + 1) {
		const char *value = s + 1;
		switch (*s) {
		case 'u': uid = number(value); break;
		case 'g': gid = number(value); break;
		case 'G': if (ngroups < MAX_GROUPS) groups[ngroups++] = number(value); break;
		case 'w': directory = value; break;
		case 'h': hostname = value; break;
		case 'e': if (nenv < MAX_WORDS) envp[nenv++] = value; break;
		case '-': break; // uvm's own
		case 'a': if (nargs < MAX_WORDS) argv[nargs++] = value; break;
		}
	}
	if (!nargs)
		die(CANNOT, "/.uvm/start: ", "no program");
}

// A kernel may lack any of these, and a read-only root the folder.
static void mount_all(void)
{
	static const struct { const char *type, *dir, *data; int mode; long flags; } all[] = {
		{ "devtmpfs", "/dev", "mode=755", 0755, MS_NOSUID }, // the kernel may have done it
		{ "proc", "/proc", 0, 0555, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "sysfs", "/sys", 0, 0555, MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "devpts", "/dev/pts", "mode=620,ptmxmode=666", 0755, MS_NOSUID | MS_NOEXEC },
		{ "tmpfs", "/dev/shm", "mode=1777", 01777, MS_NOSUID | MS_NODEV },
		{ "tmpfs", "/tmp", "mode=1777", 01777, MS_NOSUID | MS_NODEV },
	};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		call2(mkdir, all[i].dir, all[i].mode);
		syscall5(__NR_mount, (long)all[i].type, (long)all[i].dir, (long)all[i].type, all[i].flags, (long)all[i].data);
	}
	call2(symlink, "/proc/self/fd", "/dev/fd");
	call2(symlink, "/proc/self/fd/0", "/dev/stdin");
	call2(symlink, "/proc/self/fd/1", "/dev/stdout");
	call2(symlink, "/proc/self/fd/2", "/dev/stderr");
}

static void loopback_up(void)
{
	struct { char name[16]; short flags; char rest[22]; } lo = { .name = "lo", .flags = IFF_UP };
	long fd = call3(socket, AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		return; // no network in this kernel
	call3(ioctl, fd, SIOCSIFFLAGS, &lo);
	call1(close, fd);
}

// bytes_unchanged turns the console from a terminal into a line of bytes: no echo, no \r before \n.
static void bytes_unchanged(int interrupt)
{
	struct termios t;
	if (call3(ioctl, 0, TCGETS, &t) != 0)
		return;
	t.c_iflag = 0;
	t.c_oflag = 0;
	t.c_lflag = interrupt ? ISIG : 0;
	t.c_cc[VINTR] = 3;
	t.c_cc[VQUIT] = t.c_cc[VSUSP] = 0; // none
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	call3(ioctl, 0, TCSETS, &t);
}

// execute_on_path tries each folder of PATH, as execvp(3) does.
static long execute_on_path(void)
{
	static char file[8192];
	const char *path = "";
	for (int i = 0; envp[i]; i++)
		if (envp[i][0] == 'P' && envp[i][1] == 'A' && envp[i][2] == 'T' && envp[i][3] == 'H' && envp[i][4] == '=')
			path = envp[i] + 5;
	long error = -ENOENT;
	size_t name = length(argv[0]);
	for (;;) {
		size_t n = 0, dir;
		while (path[n] && path[n] != ':')
			n++;
		dir = n;
		if (n + name + 2 < sizeof file) {
			for (size_t i = 0; i < n; i++)
				file[i] = path[i];
			if (n)
				file[n++] = '/';
			for (size_t i = 0; i <= name; i++)
				file[n + i] = argv[0][i];
			long e = call3(execve, file, argv, envp);
			if (e == -EACCES || (e != -ENOENT && e != -ENOTDIR && error == -ENOENT))
				error = e;
		}
		if (!path[dir])
			return error;
		path += dir + 1;
	}
}

static _Noreturn void run(void)
{
	call1(setsid, 0);
	call3(ioctl, 0, TIOCSCTTY, 0);
	long error = 0;
	if (uid || gid || ngroups) {
		error = call2(setgroups, ngroups, groups);
		if (!error)
			error = call1(setgid, gid);
		if (!error)
			error = call1(setuid, uid);
	}
	if (error == -ENOSYS)
		die(CANNOT, "cannot change the user: ", "the kernel needs CONFIG_MULTIUSER");
	if (error)
		die(CANNOT, "cannot change the user", "");
	if (call1(chdir, directory) != 0)
		die(CANNOT, "cannot enter the working directory ", directory);
	int slash = 0;
	for (const char *s = argv[0]; *s; s++)
		slash |= *s == '/';
	error = slash ? call3(execve, argv[0], argv, envp) : execute_on_path();
	if (error == -ENOENT || error == -ENOTDIR)
		die(NO_PROGRAM, argv[0], ": there is no such program, or its interpreter is missing");
	die(CANNOT, argv[0], error == -EACCES ? ": not executable for this user" : ": it cannot be executed by this kernel");
}

// The stack at the start of a process: argc, then the pointers of argv (System V ABI, AMD64 supplement, section 3.4.1).
__attribute__((used)) static _Noreturn void start(const long *stack)
{
	const char *const *words = (const char *const *)(stack + 1);
	int tty = 0, watch = 0, status = 0, gate[2];
	for (int i = 1; i < stack[0]; i++) {
		tty |= same(words[i], "tty");
		watch |= same(words[i], "trace");
	}
	if (call1(getpid, 0) != 1)
		die(CANNOT, "it is meant to be process 1 of a VM", "");
	mount_all();
	if (!tty)
		bytes_unchanged(watch);
	read_start();
	if (watch)
		trace_open();
	if (hostname)
		call2(sethostname, hostname, length(hostname));
	loopback_up();
	port(MARK_PORT, BOOTED);
	if (watch && call1(pipe, gate) != 0)
		die(CANNOT, "cannot make a pipe", "");
	long child = call1(fork, 0);
	if (child == 0) {
		if (watch) { // until it is watched
			char c;
			call1(close, gate[1]);
			call3(read, gate[0], &c, 1);
			call1(close, gate[0]);
		}
		run();
	}
	if (child < 0)
		die(CANNOT, "cannot make a process", "");
	if (watch) {
		trace_start(child);
		call1(close, gate[0]);
		call1(close, gate[1]);
	}
	for (;;) {
		int s = 0;
		long n = wait_any(&s, 0);
		if (n == child) {
			status = s & 0x7f ? 128 + (s & 0x7f) : s >> 8 & 0xff;
			break;
		}
		if (n < 0 && n != -EINTR)
			break;
	}
	end(status);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
