// blkspeed FILE MILLISECONDS [writeback]: direct I/O, or with the third word through the page cache, on a file or block device by
// io_uring, with raw system calls, and a line of JSON for each measurement. What was in the file is lost.
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64 };

static struct io_uring_params p;
static int ring, file;
static uint32_t *sq_tail, *sq_mask, *cq_head, *cq_tail, *cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static uint64_t size;
static char *memory;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *map(size_t n, off_t at)
{
	void *m = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, at);
	if (m == MAP_FAILED)
		err(1, "mmap");
	return m;
}

static void setup(void)
{
	if ((ring = syscall(SYS_io_uring_setup, MOST, &p)) < 0)
		err(1, "io_uring_setup");
	char *sq = map(p.sq_off.array + p.sq_entries * 4, IORING_OFF_SQ_RING), *cq = map(p.cq_off.cqes + p.cq_entries * sizeof(*cqes), IORING_OFF_CQ_RING);
	sqes = map(p.sq_entries * sizeof(*sqes), IORING_OFF_SQES);
	sq_tail = (void *)(sq + p.sq_off.tail), sq_mask = (void *)(sq + p.sq_off.ring_mask);
	cq_head = (void *)(cq + p.cq_off.head), cq_tail = (void *)(cq + p.cq_off.tail), cq_mask = (void *)(cq + p.cq_off.ring_mask);
	cqes = (void *)(cq + p.cq_off.cqes);
	for (uint32_t i = 0; i < p.sq_entries; i++)
		((uint32_t *)(sq + p.sq_off.array))[i] = i;
}

static void submit(int write, int slot, size_t block, uint64_t at)
{
	struct io_uring_sqe *e = &sqes[*sq_tail & *sq_mask];
	memset(e, 0, sizeof *e);
	e->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
	e->fd = file, e->off = at, e->addr = (uint64_t)(memory + slot * block), e->len = block, e->user_data = slot;
	__atomic_store_n(sq_tail, *sq_tail + 1, __ATOMIC_RELEASE);
}

static void measure(const char *what, int write, int random, size_t block, int depth, double seconds)
{
	uint64_t x = 88172645463325252, ops = 0, at = 0, blocks = size / block;
	double begin = now(), end = begin + seconds, t = begin;
	int pending = 0, flying = 0;
	for (int slot = 0; slot < depth || flying;) {
		// First all slots, then each one that is back.
		for (; slot < depth; slot++, flying++, pending++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			submit(write, slot, block, (random ? x % blocks : at++ % blocks) * block);
		}
		int n = syscall(SYS_io_uring_enter, ring, pending, 1, IORING_ENTER_GETEVENTS, NULL, 0);
		if (n < 0 && errno != EINTR)
			err(1, "io_uring_enter");
		pending -= n < 0 ? 0 : n;
		t = now();
		while (*cq_head != __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) {
			struct io_uring_cqe *c = &cqes[*cq_head & *cq_mask];
			if (c->res != (int)block)
				errx(1, "%s: %s", what, c->res < 0 ? strerror(-c->res) : "short");
			int back = c->user_data;
			__atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
			ops++, flying--;
			if (t < end) {
				x ^= x << 13, x ^= x >> 7, x ^= x << 17;
				submit(write, back, block, (random ? x % blocks : at++ % blocks) * block);
				flying++, pending++;
			}
		}
	}
	printf("{\"what\":\"%s\",\"block\":%zu,\"depth\":%d,\"ops\":%lu,\"seconds\":%.6f}\n", what, block, depth, (unsigned long)ops, t - begin);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		errx(2, "usage: blkspeed FILE MILLISECONDS [writeback]");
	double s = atof(argv[2]) / 1000;
	if ((file = open(argv[1], argc > 3 && !strcmp(argv[3], "writeback") ? O_RDWR : O_RDWR | O_DIRECT)) < 0)
		err(1, "%s", argv[1]);
	size = lseek(file, 0, SEEK_END);
	if (posix_memalign((void **)&memory, 4096, MOST * 4096 + (8 << 20)))
		errx(1, "no memory");
	memset(memory, 0x5a, MOST * 4096 + (8 << 20));
	setup();
	measure("warm", 0, 0, 1 << 20, 4, s / 4);
	measure("random read", 0, 1, 4096, 1, s);
	measure("random read", 0, 1, 4096, 32, s);
	measure("random write", 1, 1, 4096, 1, s);
	measure("random write", 1, 1, 4096, 32, s);
	measure("sequential read", 0, 0, 1 << 20, 4, s);
	measure("sequential write", 1, 0, 1 << 20, 4, s);
	return 0;
}
