// SPDX-License-Identifier: Apache-2.0
//
// floor: what a VM costs at least. One C program that does with /dev/kvm exactly what uvm does for an hvt guest in ring 0,
// and nothing else: open, VM, vCPU, CPUID, memory, GDT and page tables (hvt ABI 2, "Guest state at entry"), registers, TSC
// frequency, first entry, one exit, close. The guest is a single hypercall: HALT with status 0.
//
//   floor [--mem=MiB] [--repeat=N]   one cycle, or N cycles in one process and then the time of each phase
//   floor --exec-only                nothing at all: what starting a C program costs
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, LARGE = 2 << 20 };
enum { GDT = 0x1000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000, PT0 = 0x8000, BOOT_INFO = 0x10000, BASE = 0x100000 };
enum { P = 1, RW = 2, A = 32, PS = 128 }; // page-table entry bits
enum { HALT_PORT = 0x508, HALT_ARG = 64 };  // the argument lies this far behind the code
enum { DEFAULT_MIB = 64, MAX_MIB = 4096, MAX_REPEAT = 1000000 };

static const uint8_t guest[] = {
	0x66, 0xba, HALT_PORT & 0xff, HALT_PORT >> 8, // mov $HALT_PORT, %dx
	0xb8, HALT_ARG, 0x00, 0x10, 0x00,             // mov $BASE + HALT_ARG, %eax
	0xef,                                         // out %eax, (%dx)
};
struct halt {
	uint64_t cookie;
	int32_t status;
};

enum phase { OPEN, VM, VCPU, CPUID, MEMORY, BOOT, ENTRY, CLOSE, PHASES };
static const char *const phase_name[PHASES] = {
	"open /dev/kvm", "create VM", "create vCPU", "CPUID", "memory", "boot state", "first entry to exit", "close",
};

static _Noreturn void fail(int code, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	fputs("floor: ", stderr);
	vfprintf(stderr, format, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(code);
}

static int control(int fd, unsigned long request, void *arg, const char *name)
{
	int r = ioctl(fd, request, arg);
	if (r < 0)
		fail(1, "%s: %s", name, strerror(errno));
	return r;
}
#define IOCTL(fd, request, arg) control(fd, request, (void *)(uintptr_t)(arg), #request)

static void *map(size_t size, int flags, int fd, const char *what)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p == MAP_FAILED)
		fail(1, "mmap of %s, %zu bytes: %s", what, size, strerror(errno));
	return p;
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void set_cpuid(int kvm, int vcpu)
{
	enum { ENTRIES = 256 };
	static union {
		struct kvm_cpuid2 table;
		uint8_t room[sizeof(struct kvm_cpuid2) + ENTRIES * sizeof(struct kvm_cpuid_entry2)];
	} cpuid;
	cpuid.table.nent = ENTRIES;
	IOCTL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	IOCTL(vcpu, KVM_SET_CPUID2, &cpuid);
}

static void *give_memory(int vm, size_t size)
{
	void *mem = map(size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, "guest memory");
	struct kvm_userspace_memory_region region = {.memory_size = size, .userspace_addr = (uintptr_t)mem};
	IOCTL(vm, KVM_SET_USER_MEMORY_REGION, &region);
	return mem;
}

static void write_tables(uint8_t *mem, size_t size)
{
	static const uint64_t gdt[] = {0, 0x00af99000000ffff, 0x00cf93000000ffff};
	memcpy(mem + GDT, gdt, sizeof gdt);

	uint64_t *pml4 = (uint64_t *)(mem + PML4), *pdpt = (uint64_t *)(mem + PDPT);
	uint64_t *pd = (uint64_t *)(mem + PD), *pt0 = (uint64_t *)(mem + PT0);
	pml4[0] = PDPT | P | RW | A;
	for (size_t i = 0; i * LARGE < size; i++)
		pd[i] = i * LARGE | P | RW | A | PS;
	for (size_t i = 0; i * LARGE * 512 < size; i++)
		pdpt[i] = (PD + i * PAGE) | P | RW | A;
	pd[0] = PT0 | P | RW | A;
	for (uint64_t a = BOOT_INFO; a < LARGE; a += PAGE)
		pt0[a / PAGE] = a | P | A | (a < BASE ? 0 : RW);
}

static void set_registers(int vcpu, size_t size)
{
	struct kvm_segment code = {.limit = ~0u, .selector = 0x08, .type = 9, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {.limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_sregs sregs = {
		.cs = code, .ss = data, .ds = data, .es = data, .fs = data, .gs = data,
		.tr = {.type = 11, .present = 1}, .ldt = {.unusable = 1},
		.gdt = {.base = GDT, .limit = 0x17},
		.cr0 = 0x80010021, .cr3 = PML4, .cr4 = 0x620, .efer = 0x500,
	};
	IOCTL(vcpu, KVM_SET_SREGS, &sregs);
	struct kvm_regs regs = {.rip = BASE, .rsp = size - 8, .rdi = BOOT_INFO, .rflags = 2};
	IOCTL(vcpu, KVM_SET_REGS, &regs);
}

// run enters the guest once and checks that it came out by HALT.
static void run(int vcpu, const struct kvm_run *state, const uint8_t *mem)
{
	IOCTL(vcpu, KVM_RUN, 0);
	if (state->exit_reason != KVM_EXIT_IO || state->io.port != HALT_PORT || state->io.size != 4)
		fail(1, "guest: exit reason %u, expected %u (port access) to port 0x%x", state->exit_reason, KVM_EXIT_IO, HALT_PORT);
	uint32_t gpa;
	memcpy(&gpa, (const uint8_t *)state + state->io.data_offset, sizeof gpa);
	if (gpa != BASE + HALT_ARG)
		fail(1, "guest: HALT argument at 0x%x, expected 0x%x", gpa, BASE + HALT_ARG);
	const struct halt *halt = (const struct halt *)(mem + gpa);
	if (halt->status != 0)
		fail(1, "guest: status %d, expected 0", halt->status);
}

// cycle makes a VM, has one exit and takes it all down; at[p] is when phase p ended.
static void cycle(size_t size, int64_t at[PHASES])
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		fail(1, "open /dev/kvm: %s (no KVM here, or no permission: join the group kvm)", strerror(errno));
	if (IOCTL(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		fail(1, "KVM API version is not %d", KVM_API_VERSION);
	size_t run_size = IOCTL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	at[OPEN] = now_ns();
	int vm = IOCTL(kvm, KVM_CREATE_VM, 0);
	at[VM] = now_ns();
	int vcpu = IOCTL(vm, KVM_CREATE_VCPU, 0);
	struct kvm_run *state = map(run_size, MAP_SHARED, vcpu, "kvm_run");
	at[VCPU] = now_ns();
	set_cpuid(kvm, vcpu);
	at[CPUID] = now_ns();
	uint8_t *mem = give_memory(vm, size);
	at[MEMORY] = now_ns();
	memcpy(mem + BASE, guest, sizeof guest);
	IOCTL(vcpu, KVM_GET_TSC_KHZ, 0);
	write_tables(mem, size);
	set_registers(vcpu, size);
	at[BOOT] = now_ns();
	run(vcpu, state, mem);
	at[ENTRY] = now_ns();
	munmap(state, run_size);
	close(vcpu);
	close(vm);
	close(kvm);
	munmap(mem, size);
	at[CLOSE] = now_ns();
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

static void print_line(const char *name, int64_t *ns, long n)
{
	qsort(ns, n, sizeof *ns, compare);
	printf("%-20s %8.1f %8.1f\n", name, ns[0] / 1e3, (ns[(n - 1) / 2] + ns[n / 2]) / 2e3);
}

// repeat runs n cycles and prints how long each phase took.
static void repeat(size_t size, long n)
{
	int64_t *ns[PHASES + 1]; // the last one is the whole cycle
	for (int p = 0; p <= PHASES; p++)
		if (!(ns[p] = calloc(n, sizeof *ns[p])))
			fail(1, "no memory for %ld results: use a smaller --repeat", n);
	for (long i = 0; i < n; i++) {
		int64_t start = now_ns(), before = start, at[PHASES];
		cycle(size, at);
		for (int p = 0; p < PHASES; p++) {
			ns[p][i] = at[p] - before;
			before = at[p];
		}
		ns[PHASES][i] = before - start;
	}
	printf("%ld cycles, %zu MiB     min µs   median\n", n, size >> 20);
	for (int p = 0; p < PHASES; p++)
		print_line(phase_name[p], ns[p], n);
	print_line("whole cycle", ns[PHASES], n);
}

// number reads the value of `--name=N` or `--name N` if argv[*i] is that option, and 0 if it is not.
static long number(char **argv, int *i, const char *name, long max)
{
	size_t n = strlen(name);
	const char *s = argv[*i], *value;
	if (strncmp(s, name, n) != 0 || (s[n] != '=' && s[n] != '\0'))
		return 0;
	value = s[n] == '=' ? s + n + 1 : argv[++*i];
	char *end = NULL;
	long v = value ? strtol(value, &end, 10) : 0;
	if (!value || end == value || *end || v < 1 || v > max)
		fail(2, "%s: need a number from 1 to %ld", name, max);
	return v;
}

int main(int argc, char **argv)
{
	long mib = DEFAULT_MIB, cycles = 0, v;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--exec-only") == 0)
			return 0;
		if ((v = number(argv, &i, "--mem", MAX_MIB)))
			mib = v;
		else if ((v = number(argv, &i, "--repeat", MAX_REPEAT)))
			cycles = v;
		else
			fail(2, "unknown option %s; usage: floor [--mem=MiB] [--repeat=N] | --exec-only", argv[i]);
	}
	size_t size = (size_t)mib << 20;
	if (size % LARGE)
		fail(2, "--mem=%ld: need an even number of MiB, memory is mapped in pages of 2 MiB", mib);
	if (cycles) {
		repeat(size, cycles);
		return 0;
	}
	int64_t at[PHASES];
	cycle(size, at);
	return 0;
}
