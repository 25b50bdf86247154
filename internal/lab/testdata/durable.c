// durable writes records that can be checked, and says on stdout when each is safe:
//
//   durable write DIR SALT      for ever, from three processes
//   durable check DIR SALT OUT  with what the writer said, which is in the file OUT
//   durable raw DEVICE N        N records of 4096 bytes one after the other, each behind a flush of its own
//   durable watch DEVICE        what becomes of writes, reads and flushes, a line for each change: "state write 0 read 5 flush 0"
//
// Three kinds of records: A are appended to a file, O replace one of the slots of a file, C are files of their own, renamed
// into place. "A 7" says that all up to A 7 are behind an fsync or fdatasync that has returned.
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { APPENDED = 1000, SLOT = 4096, SLOTS = 64, FILES = 50, LAST = 20000 };

static uint64_t salt;

// record fills b with what record n of a kind is. The first 8 bytes are n.
static void record(char kind, uint64_t n, unsigned char *b, size_t size)
{
	uint64_t x = (n + 1) * 0x9e3779b97f4a7c15 ^ salt << 32 ^ (uint64_t)kind << 56;
	for (size_t i = 0; i < size; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		b[i] = x;
	}
	memcpy(b, &n, sizeof n);
}

static unsigned slot_of(uint64_t n) { return (n * 2654435761u >> 7) % SLOTS; }

static void name_of(char *name, const char *dir, const char *what, uint64_t n)
{
	if (snprintf(name, 256, "%s/%s%lu", dir, what, (unsigned long)n) >= 256)
		errx(2, "%s: too long", dir);
}

static void put(int fd, const void *b, size_t n, off_t at)
{
	ssize_t done = pwrite(fd, b, n, at);
	if (done != (ssize_t)n)
		err(1, "write: %zd of %zu", done, n);
}

static void safe(char kind, uint64_t n)
{
	char line[32];
	int len = snprintf(line, sizeof line, "%c %lu\n", kind, (unsigned long)n);
	if (write(1, line, len) != len)
		err(1, "stdout");
}

static void append(const char *dir)
{
	unsigned char b[APPENDED];
	char name[256];
	name_of(name, dir, "log", 0);
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	for (uint64_t n = 0; n < LAST; n++) {
		record('A', n, b, sizeof b);
		put(fd, b, sizeof b, n * APPENDED);
		if (n == 0)
			sync(); // the name
		if (n % 2 ? fsync(fd) : fdatasync(fd))
			err(1, "fsync");
		safe('A', n);
	}
}

static void overwrite(const char *dir)
{
	unsigned char b[SLOT];
	char name[256];
	name_of(name, dir, "slots", 0);
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	for (unsigned i = 0; i < SLOTS; i++)
		put(fd, memset(b, 0xff, SLOT), SLOT, i * SLOT);
	sync();
	for (uint64_t n = 0; n < LAST; n++) {
		record('O', n, b, sizeof b);
		put(fd, b, sizeof b, slot_of(n) * SLOT);
		if (fdatasync(fd))
			err(1, "fdatasync");
		safe('O', n);
	}
}

static void create(const char *dir)
{
	unsigned char b[SLOT];
	char name[256], tmp[256];
	int folder = open(dir, O_RDONLY);
	name_of(tmp, dir, "tmp", 0);
	for (uint64_t n = 0; n < LAST; n++) {
		int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		record('C', n, b, sizeof b);
		put(fd, b, sizeof b, 0);
		name_of(name, dir, "file", n);
		if (fsync(fd) || close(fd) || rename(tmp, name) || fsync(folder))
			err(1, "%s", name);
		safe('C', n);
		if (n >= FILES) {
			name_of(name, dir, "file", n - FILES);
			unlink(name);
		}
	}
}

static int bad;

#define LOST(...) do { if (bad++ < 20) warnx("LOST: " __VA_ARGS__); } while (0)

// holds says whether the bytes at an offset of a file are record n.
static int holds(const char *file, off_t at, char kind, uint64_t n, size_t size)
{
	unsigned char want[SLOT], got[SLOT] = {0};
	int fd = open(file, O_RDONLY);
	if (fd < 0)
		return 0;
	ssize_t k = pread(fd, got, size, at);
	close(fd);
	record(kind, n, want, size);
	return k == (ssize_t)size && !memcmp(want, got, size);
}

static int check(const char *dir, const char *out)
{
	long last[128] = {['A'] = -1, ['O'] = -1, ['C'] = -1};
	char line[256], name[256], end;
	FILE *f = fopen(out, "r");
	if (!f)
		err(2, "%s", out);
	while (fgets(line, sizeof line, f)) {
		char kind;
		long n;
		// A line that was cut off has no end.
		if (sscanf(line, "%c %ld%c", &kind, &n, &end) == 3 && (end == '\r' || end == '\n') && strchr("AOC", kind) && n > last[(int)kind])
			last[(int)kind] = n;
	}
	fclose(f);
	name_of(name, dir, "log", 0);
	for (long n = 0; n <= last['A']; n++)
		if (!holds(name, n * APPENDED, 'A', n, APPENDED))
			LOST("A %ld, of %ld", n, last['A']);
	name_of(name, dir, "slots", 0);
	long need[SLOTS];
	memset(need, 0xff, sizeof need);
	for (long n = 0; n <= last['O']; n++)
		need[slot_of(n)] = n;
	for (unsigned i = 0; i < SLOTS; i++) {
		uint64_t n = 0;
		int fd = open(name, O_RDONLY);
		if (need[i] < 0 || (fd >= 0 && pread(fd, &n, sizeof n, i * SLOT) == sizeof n && (long)n >= need[i] && slot_of(n) == i && holds(name, i * SLOT, 'O', n, SLOT)))
			;
		else
			LOST("O %ld in slot %u, which has %lu", need[i], i, (unsigned long)n);
		close(fd);
	}
	// The writer may have gone on, and removed more, than it could say.
	for (long n = last['C'] - FILES / 2; n <= last['C']; n++) {
		name_of(name, dir, "file", n);
		if (n >= 0 && !holds(name, 0, 'C', n, SLOT))
			LOST("C %ld, of %ld", n, last['C']);
	}
	printf("safe: A %ld O %ld C %ld; lost %d\n", last['A'], last['O'], last['C'], bad);
	return bad > 0;
}

static int device(const char *name)
{
	int fd = open(name, O_RDWR | O_DIRECT);
	if (fd < 0 && (fd = open(name, O_RDONLY | O_DIRECT)) < 0)
		err(1, "%s", name);
	return fd;
}

static void raw(const char *name, uint64_t n)
{
	int fd = device(name);
	unsigned char *b = aligned_alloc(SLOT, SLOT);
	for (uint64_t i = 0; i < n; i++) {
		record('R', i, b, SLOT);
		put(fd, b, SLOT, i * SLOT);
		if (fdatasync(fd))
			err(1, "fdatasync");
		safe('R', i);
	}
}

// watch writes to fresh places, as a disk that is full refuses only those.
static void watch(const char *name)
{
	enum { BLOCK = 64 << 10 };
	int fd = device(name), old[3] = {-1, -1, -1};
	uint64_t blocks = lseek(fd, 0, SEEK_END) / BLOCK, at = 0;
	unsigned char *b = aligned_alloc(SLOT, BLOCK), *got = aligned_alloc(SLOT, BLOCK);
	for (;; usleep(50000)) {
		int now[3] = {0, 0, 0};
		for (int i = 0; i < 4; i++, at = (at + 1) % blocks) {
			record('W', at, b, BLOCK);
			int wrote = pwrite(fd, b, BLOCK, at * BLOCK) == BLOCK;
			if (!wrote)
				now[0] = errno;
			memset(got, 0, BLOCK);
			if (pread(fd, got, BLOCK, at * BLOCK) != BLOCK)
				now[1] = errno;
			else if (wrote && memcmp(b, got, BLOCK))
				now[1] = 999; // not what was written
		}
		if (fdatasync(fd))
			now[2] = errno;
		if (memcmp(old, now, sizeof now)) {
			memcpy(old, now, sizeof now);
			printf("state write %d read %d flush %d\n", now[0], now[1], now[2]);
			fflush(stdout);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "watch"))
		watch(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "raw"))
		return raw(argv[2], strtoul(argv[3], NULL, 10)), 0;
	if (argc < 4 || (strcmp(argv[1], "write") && (strcmp(argv[1], "check") || argc < 5)))
		errx(2, "usage: durable write DIR SALT | durable check DIR SALT OUT | durable raw DEVICE N | durable watch DEVICE");
	salt = strtoul(argv[3], NULL, 10);
	if (!strcmp(argv[1], "check"))
		return check(argv[2], argv[4]);
	if (!fork())
		return append(argv[2]), 0;
	if (!fork())
		return overwrite(argv[2]), 0;
	create(argv[2]);
	return 0;
}
