// SPDX-License-Identifier: Apache-2.0
//
// blkspeed: reads the block device "storage" from its start in four ways by turns, and prints what a MiB takes in each:
//
//   blkspeed [MIB [ROUNDS]]    MIB from each way in each round (1), the least of ROUNDS (5)
//
// 512 bytes in a hypercall, 32 requests of 512 bytes in a batch, 16 and 64 KiB in a hypercall. The floor is what as many bare
// exits take, each the hypercall for the wall clock.
#include "uvm.h"

UVM_MANIFEST(UVM_BLOCK("storage"));

enum { SECTOR = 512, BATCH = 32, WHOLE = SECTOR * BATCH, LONG = 64 << 10, EXITS = 10000 };
static uint8_t buf[LONG];
static struct uvm_request request[BATCH];
static uint64_t disk;

static int single(uint64_t offset)
{
	int result = UVM_OK;
	for (int i = 0; i < BATCH && result == UVM_OK; i++)
		result = uvm_block_read(disk, offset + (uint64_t)i * SECTOR, buf + i * SECTOR, SECTOR);
	return result;
}

static int batch(uint64_t offset)
{
	for (int i = 0; i < BATCH; i++)
		request[i] = uvm_block_request(UVM_BLOCK_READ, disk, offset + (uint64_t)i * SECTOR, buf + i * SECTOR, SECTOR);
	return uvm_batch(request, BATCH, NULL);
}

static int whole(uint64_t offset) { return uvm_block_read(disk, offset, buf, WHOLE); }

static int longest(uint64_t offset) { return uvm_block_read(disk, offset, buf, LONG); }

int main(int argc, char **argv)
{
	static const struct { const char *name; int (*read)(uint64_t); uint64_t step, exits; } way[] = {
		{ "512 bytes, single calls", single, WHOLE, BATCH }, { "512 bytes, batches of 32", batch, WHOLE, 1 },
		{ "16 KiB, single calls", whole, WHOLE, 1 }, { "64 KiB, single calls", longest, LONG, 1 },
	};
	enum { WAYS = sizeof(way) / sizeof(way[0]) };
	const struct uvm_device *d = uvm_find_device("storage", UVM_BLOCK_DEVICE);
	uint64_t mib = 1, rounds = 5, least[WAYS], exits = UINT64_MAX;
	disk = uvm_handle(d);
	if (argc > 2 || (argc > 0 && !parse_u64(argv[0], &mib)) || (argc > 1 && !parse_u64(argv[1], &rounds)) || !mib || !rounds) {
		puts("usage: blkspeed [MIB [ROUNDS]]");
		return 2;
	}
	if (mib > d->block.capacity >> 20) {
		printf("blkspeed: the device has %lu bytes\n", d->block.capacity);
		return 1;
	}
	if (!(uvm_boot->host_features & UVM_FEATURE_BATCH))
		puts("blkspeed: the monitor has no batches, so they are single calls");
	for (int w = 0; w < WAYS; w++)
		least[w] = UINT64_MAX;
	for (uint64_t r = 0; r < rounds; r++) {
		for (int w = 0; w < WAYS; w++) {
			uint64_t begin = uvm_monotonic_ns();
			for (uint64_t offset = 0; offset < mib << 20; offset += way[w].step) {
				int result = way[w].read(offset);
				if (result != UVM_OK) {
					printf("blkspeed: read at %lu: result %d\n", offset, result);
					return 1;
				}
			}
			uint64_t took = uvm_monotonic_ns() - begin;
			least[w] = took < least[w] ? took : least[w];
		}
		uint64_t begin = uvm_monotonic_ns();
		for (int i = 0; i < EXITS; i++)
			uvm_walltime_ns();
		uint64_t took = uvm_monotonic_ns() - begin;
		exits = took < exits ? took : exits;
	}
	const uint64_t exit = exits / EXITS;
	printf("a bare exit: %lu ns\n", exit);
	for (int w = 0; w < WAYS; w++) {
		uint64_t faster = least[0] * 10 / least[w], n = (mib << 20) / way[w].step * way[w].exits, over = least[w] * 100 / (n * exit);
		printf("%s: %lu us per MiB, %lu.%lu times as fast as the first, %lu.%02lu times the floor\n", way[w].name, least[w] / 1000 / mib,
		       faster / 10, faster % 10, over / 100, over % 100);
	}
	return 0;
}
