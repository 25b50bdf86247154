// SPDX-License-Identifier: Apache-2.0
//
// With the word `trace`, uvm-init watches what the program and all that it starts ask of the kernel, by ptrace(2), and
// writes it to the disk /dev/vdb: a set, in the order in which it came about, so that what is there already stays true
// whenever and however the VM ends. `uvm lupine suggest --run` reads it (docs/lupine.md; internal/appscan/report.go has the same
// format). The disk is a sequence of strings that end with NUL, and then zeros:
//
//   uvm-trace 1     what follows is of this version
//   cN              system call N was made
//   nN              … and did not exist (ENOSYS)
//   aN.V            system call N was made with the value V of the argument that says what it is to do (see values)
//   rN.V            … and was refused, for the kernel has nothing of that kind
//   pPATH           a file below /proc, /sys or /dev was asked for; of names that are numbers stands N
//   uPATH           a Unix socket was bound or connected; @ if it has no path
//   lPATH           a library was opened
//   xPATH           a program was started; / if its name cannot be found out
//   mTYPE           a file system was mounted
//   !               there was more than fits
//   eN              the program ended with status N
#define __FRAME_OFFSETS // the places of registers, for PTRACE_PEEKUSR
#include <asm/ptrace-abi.h>
#include <linux/audit.h>
#include <linux/ptrace.h>
#include <linux/time.h>

enum {
	MAX_REPORT = 1 << 17, BLOCK = 512, MAX_STRING = 256, SLOTS = 1 << 13,
	WALL = 0x40000000, SIGTRAP = 5, SIGSTOP = 19, SIGTTOU = 22,
	O_WRONLY = 1, O_EXCL = 0200, O_CLOEXEC = 02000000, AF_UNIX = 1,
	EIO = 5, ENODEV = 19, EINVAL = 22, EPROTONOSUPPORT = 93, EAFNOSUPPORT = 97,
};

static _Noreturn void die(int status, const char *what, const char *why);

static int tracing;
static char report[MAX_REPORT];
static size_t report_size, report_written;
static int report_full;
static long report_fd = -1, flushed_at;

static long milliseconds(void)
{
	struct __kernel_timespec t = { 0, 0 };
	call2(clock_gettime, CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void report_flush(void)
{
	// From the block on that was not full; behind the report are zeros.
	size_t from = report_written & ~(size_t)(BLOCK - 1), to = (report_size + BLOCK - 1) & ~(size_t)(BLOCK - 1);
	while (report_written < report_size && from < to) {
		long n = syscall5(__NR_pwrite64, report_fd, (long)(report + from), (long)(to - from), (long)from, 0);
		if (n <= 0)
			break;
		from += (size_t)n;
	}
	report_written = report_size;
	call1(fdatasync, report_fd);
	flushed_at = milliseconds();
}

// add writes letter and s to the report unless they are there. The set is one of hashes (FNV-1a): each is of 64 bits.
static void add(char letter, const char *s)
{
	static unsigned long slots[SLOTS];
	static int used;
	unsigned long hash = (14695981039346656037u ^ (unsigned char)letter) * 1099511628211u;
	size_t n = length(s);
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ (unsigned char)s[i]) * 1099511628211u;
	hash += !hash;
	size_t at = hash % SLOTS;
	for (; slots[at]; at = (at + 1) % SLOTS)
		if (slots[at] == hash)
			return;
	// Room stays for the last two records.
	if (letter != 'e' && letter != '!' && (used == SLOTS / 2 || n + 2 > MAX_REPORT - 64 - report_size)) {
		if (!report_full++)
			add('!', "");
		return;
	}
	slots[at] = hash;
	used++;
	report[report_size++] = letter;
	for (size_t i = 0; i < n; i++)
		report[report_size++] = s[i] >= ' ' && s[i] < 0x7f ? s[i] : '?';
	report[report_size++] = 0;
}

static char *decimal(char *to, unsigned long v)
{
	char digits[20];
	int n = 0;
	do
		digits[n++] = (char)('0' + v % 10);
	while (v /= 10);
	while (n)
		*to++ = digits[--n];
	*to = 0;
	return to;
}

static void add_value(char letter, unsigned long call, unsigned long value)
{
	char text[48], *end = decimal(text, call);
	*end++ = '.';
	decimal(end, value);
	add(letter, text);
}

static void add_number(char letter, unsigned long n)
{
	char text[24];
	decimal(text, n);
	add(letter, text);
}

static int begins(const char *s, const char *with)
{
	while (*with)
		if (*s++ != *with++)
			return 0;
	return 1;
}

// add_path adds a path that matters; real is one without links, which was opened.
static void add_path(const char *path, int real)
{
	char text[MAX_STRING];
	size_t n = 0;
	if (begins(path, "/proc/") || begins(path, "/sys/") || begins(path, "/dev/")) {
		for (const char *s = path; *s;) { // numbers of processes and the like: N
			const char *end = s + 1;
			int digits = 1;
			for (; *end && *end != '/'; end++)
				digits &= *end >= '0' && *end <= '9';
			text[n++] = '/';
			if (digits && end > s + 1)
				text[n++] = 'N';
			else
				for (const char *c = s + 1; c < end; c++)
					text[n++] = *c;
			s = end;
		}
		text[n] = 0;
		add('p', text);
		return;
	}
	// NAME.so or NAME.so.1
	for (const char *s = path; *s && real; s++)
		if (begins(s, ".so") && (!s[3] || s[3] == '.'))
			add('l', path);
}

static long trace(long request, long pid, unsigned long addr, void *data)
{
	return syscall5(__NR_ptrace, request, pid, (long)addr, (long)data, 0);
}

// peek copies a string of the program's; what is longer is cut.
static int peek(long pid, unsigned long addr, char *to)
{
	size_t n = 0;
	for (unsigned long skip = addr & 7, at = addr & ~7ul; n < MAX_STRING - 1; at += 8, skip = 0) {
		union { unsigned long word; char bytes[8]; } w;
		if (trace(PTRACE_PEEKDATA, pid, at, &w.word) != 0)
			break;
		for (unsigned long i = skip; i < 8 && n < MAX_STRING - 1; i++)
			if (!(to[n++] = w.bytes[i]))
				return 1;
	}
	to[n] = 0;
	return n > 0;
}

// follow reads where a link of /proc/PID leads.
static int follow(long pid, const char *what, long number, char *to)
{
	char link[64] = "/proc/", *end = decimal(link + 6, (unsigned long)pid);
	while (*what)
		*end++ = *what++;
	*end = 0;
	if (number >= 0)
		decimal(end, (unsigned long)number);
	long n = call3(readlink, link, to, MAX_STRING - 1);
	if (n <= 0)
		return 0;
	to[n] = 0;
	return 1;
}

// The arguments that say what a call is to do: which, from 0; and the bits that count, of which 0 says nothing.
static const struct { unsigned short call; unsigned char argument; unsigned mask; } values[] = {
	{ __NR_socket, 0, ~0u }, { __NR_socketpair, 0, ~0u }, { __NR_ioctl, 1, ~0u }, { __NR_fcntl, 1, ~0u }, { __NR_prctl, 0, ~0u },
	{ __NR_madvise, 2, ~0u }, { __NR_unshare, 0, ~0u }, { __NR_setns, 1, ~0u }, { __NR_mmap, 3, 0x40000 /* MAP_HUGETLB */ },
	{ __NR_clone, 0, 0x7e020080 /* CLONE_NEW… */ }, { __NR_shmget, 2, 04000 /* SHM_HUGETLB */ },
};

// The arguments that name a file.
static const struct { unsigned short call; unsigned char argument; } names[] = {
	{ __NR_open, 0 }, { __NR_openat, 1 }, { __NR_openat2, 1 }, { __NR_creat, 0 }, { __NR_stat, 0 }, { __NR_lstat, 0 }, { __NR_newfstatat, 1 },
	{ __NR_statx, 1 }, { __NR_access, 0 }, { __NR_faccessat, 1 }, { __NR_faccessat2, 1 }, { __NR_readlink, 0 }, { __NR_readlinkat, 1 },
	{ __NR_statfs, 0 }, { __NR_execve, 0 }, { __NR_mkdir, 0 }, { __NR_chdir, 0 }, { __NR_unlink, 0 },
};

static int opens(unsigned long call) { return call == __NR_open || call == __NR_openat || call == __NR_openat2 || call == __NR_creat; }

// entered notes a system call that begins.
static void entered(long pid, unsigned long call, const __u64 *args)
{
	char text[MAX_STRING];
	add_number('c', call);
	for (size_t i = 0; i < sizeof values / sizeof *values; i++)
		if (values[i].call == call && (values[i].mask == ~0u || args[values[i].argument] & values[i].mask))
			add_value('a', call, args[values[i].argument] & values[i].mask);
	if (call == __NR_setsockopt)
		add_value('a', call, (args[1] & 0xffff) << 16 | (args[2] & 0xffff));
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].call == call && peek(pid, args[names[i].argument], text))
			add_path(text, 0);
	unsigned long word;
	if (call == __NR_clone3 && trace(PTRACE_PEEKDATA, pid, args[0], &word) == 0 && word & 0x7e020080)
		add_value('a', __NR_clone, word & 0x7e020080);
	if (call == __NR_mount && args[2] && peek(pid, args[2], text) && *text)
		add('m', text);
	if (call == __NR_fsopen && peek(pid, args[0], text))
		add('m', text);
	if ((call == __NR_connect || call == __NR_bind) && args[2] >= 2 && trace(PTRACE_PEEKDATA, pid, args[1], &word) == 0 && (word & 0xffff) == AF_UNIX) {
		*text = 0;
		if (args[2] > 2)
			peek(pid, args[1] + 2, text);
		if (args[2] - 2 < MAX_STRING)
			text[args[2] - 2] = 0; // it need not end with NUL
		add('u', *text ? text : "@");
	}
}

// left notes how a system call ended.
static void left(long pid, long result)
{
	unsigned long call, value;
	char text[MAX_STRING];
	if (result > 1 << 20 || (result < 0 && result != -ENOSYS && result != -EINVAL && result != -EAFNOSUPPORT && result != -EPROTONOSUPPORT && result != -ENODEV))
		return;
	if (trace(PTRACE_PEEKUSR, pid, ORIG_RAX, &call) != 0)
		return;
	if (result >= 0) {
		if (opens(call) && follow(pid, "/fd/", result, text))
			add_path(text, 1);
		return;
	}
	if (result == -ENOSYS)
		add_number('n', call);
	static const unsigned short first[] = { RDI, RSI, RDX, R10 };
	for (size_t i = 0; i < sizeof values / sizeof *values; i++)
		if (values[i].call == call && trace(PTRACE_PEEKUSR, pid, first[values[i].argument], &value) == 0 && (values[i].mask == ~0u || value & values[i].mask))
			add_value('r', call, value & values[i].mask);
}

// stopped deals with a stop of a process that is watched, and lets it go on.
static void stopped(long pid, int status)
{
	int signal = status >> 8 & 0xff, event = status >> 16 & 0xff;
	char text[MAX_STRING];
	if (signal == (SIGTRAP | 0x80)) {
		struct ptrace_syscall_info info;
		long n = trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
		static int old;
		if (n == -EIO && !old++)
			die(CANNOT, "cannot watch the program: ", "this kernel is older than Linux 5.3");
		if (n > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY && info.arch == AUDIT_ARCH_X86_64 && info.entry.nr < 1024)
			entered(pid, info.entry.nr, info.entry.args);
		if (n > 0 && info.op == PTRACE_SYSCALL_INFO_EXIT)
			left(pid, info.exit.rval);
		signal = 0;
	} else if (event == PTRACE_EVENT_STOP && signal >= SIGSTOP && signal <= SIGTTOU) {
		trace(PTRACE_LISTEN, pid, 0, 0); // it is really to stop
		return;
	} else if (event) {
		if (event == PTRACE_EVENT_EXEC)
			add('x', follow(pid, "/exe", -1, text) ? text : "/");
		signal = 0;
	}
	trace(PTRACE_SYSCALL, pid, 0, (void *)(long)signal);
}

// wait_any is wait4, which deals with the stops of what is watched.
static long wait_any(int *status, int options)
{
	for (;;) {
		int s = 0;
		if (tracing && report_written < report_size && milliseconds() - flushed_at >= 100)
			report_flush();
		long n = syscall5(__NR_wait4, -1, (long)&s, tracing ? options | WALL | WNOHANG : options, 0, 0);
		if (n == 0 && tracing) { // nothing to do
			if (report_written < report_size)
				report_flush();
			if (options & WNOHANG)
				return 0;
			n = syscall5(__NR_wait4, -1, (long)&s, options | WALL, 0, 0);
		}
		if (n > 0 && (s & 0xff) == 0x7f) {
			stopped(n, s);
			if (options & WNOHANG)
				return n;
			continue;
		}
		if (status)
			*status = s;
		return n;
	}
}

static void trace_open(void)
{
	report_fd = call3(open, "/dev/vdb", O_WRONLY | O_EXCL | O_CLOEXEC, 0);
	if (report_fd < 0)
		die(CANNOT, "cannot watch the program: ", "there is no disk /dev/vdb for the report");
	add('u', "vm-trace 1"); // what begins the report
	tracing = 1;
}

// trace_start watches a child, which waits at the other end of the pipe.
static void trace_start(long child)
{
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
	if (trace(PTRACE_SEIZE, child, 0, (void *)options) != 0 || trace(PTRACE_INTERRUPT, child, 0, 0) != 0)
		die(CANNOT, "cannot watch the program: ", "this kernel has no ptrace");
}
