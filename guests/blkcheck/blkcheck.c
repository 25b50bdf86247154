// SPDX-License-Identifier: Apache-2.0
//
// blkcheck: checks the block device "storage". OVERWRITES blocks of it.
//
//   blkcheck          write and read back the first, a middle, the last block and a run of blocks, then try the edges
//   blkcheck verify   only read, and compare with what an earlier blkcheck left
//   blkcheck ro       only read, and expect that a write is refused
#include "uvm.h"

UVM_MANIFEST(UVM_BLOCK("storage"));

enum { BUFFER = 65536, RUN_MAX = 4 };
static uint8_t out[BUFFER], in[BUFFER];

static uint64_t disk, capacity, block, blocks, run;
static bool failed;

static const char *result_name(int result)
{
	switch (result) {
	case UVM_OK: return "OK";
	case UVM_AGAIN: return "AGAIN";
	case UVM_EINVAL: return "EINVAL";
	case UVM_EUNSPEC: return "EUNSPEC";
	default: return "unknown";
	}
}

static void fail(const char *what, int result)
{
	printf("FAILED: %s: %s\n", what, result_name(result));
	failed = true;
}

static void expect(const char *what, int want, int got)
{
	if (got != want)
		fail(what, got);
}

// The pattern of a block depends on nothing but its number, so that overlapping checks agree and a later run can verify.
// The block number is in every word; the odd constant spreads it over all bytes.
static void fill(uint8_t *buf, uint64_t first, uint64_t count)
{
	uint64_t *word = (uint64_t *)buf;
	for (uint64_t b = first; b < first + count; b++)
		for (uint64_t i = 0; i < block / 8; i++)
			*word++ = (b * 4096 + i + 1) * 0x9e3779b97f4a7c15ull;
}

static bool same(const uint8_t *a, const uint8_t *b, uint64_t len)
{
	const uint64_t *x = (const uint64_t *)a, *y = (const uint64_t *)b;
	for (uint64_t i = 0; i < len / 8; i++)
		if (x[i] != y[i])
			return false;
	return true;
}

static void write_blocks(const char *what, uint64_t first, uint64_t count)
{
	fill(out, first, count);
	expect(what, UVM_OK, uvm_block_write(disk, first * block, out, count * block));
}

static void read_blocks(const char *what, uint64_t first, uint64_t count)
{
	fill(out, first, count);
	memset(in, 0xee, count * block);
	int result = uvm_block_read(disk, first * block, in, count * block);
	if (result != UVM_OK)
		fail(what, result);
	else if (!same(in, out, count * block))
		printf("FAILED: %s: block %lu differs\n", what, first), failed = true;
}

static void read_all(void)
{
	read_blocks("read run", blocks - run, run);
	read_blocks("read first block", 0, 1);
	read_blocks("read middle block", blocks / 2, 1);
	read_blocks("read last block", blocks - 1, 1);
}

// Both directions must refuse.
static void refuse(const char *what, uint64_t handle, uint64_t offset, uint64_t len)
{
	int r = uvm_block_read(handle, offset, in, len), w = uvm_block_write(handle, offset, out, len);
	printf("%s: read %s, write %s\n", what, result_name(r), result_name(w));
	expect(what, UVM_EINVAL, r);
	expect(what, UVM_EINVAL, w);
}

// Requests of one block each, as many as two hypercalls take and one more: the last blocks of the device, written and read
// back by batches. One that fails in the middle ends them.
static void batches(void)
{
	enum { REQUESTS = 2 * UVM_BATCH_MAX + 1 };
	static struct uvm_request request[REQUESTS];
	uint64_t last = blocks < run ? blocks : run;
	for (int op = UVM_BLOCK_WRITE; op <= UVM_BLOCK_READ; op++) {
		fill(out, blocks - last, last);
		memset(in, 0xee, last * block);
		uint8_t *buf = op == UVM_BLOCK_READ ? in : out;
		for (uint64_t i = 0; i < REQUESTS; i++)
			request[i] = uvm_block_request(op, disk, (blocks - last + i % last) * block, buf + i % last * block, block);
		size_t done = 0;
		expect("batch", UVM_OK, uvm_batch(request, REQUESTS, &done));
		if (done != REQUESTS || (op == UVM_BLOCK_READ && !same(in, out, last * block)))
			printf("FAILED: batch: %lu requests done\n", done), failed = true;
		request[70].block.offset = capacity;
		expect("batch past the end", UVM_EINVAL, uvm_batch(request, REQUESTS, &done));
		request[70].block.offset = 0, request[70].call = 0;
		expect("batch with a call that is none", UVM_EINVAL, uvm_batch(request, REQUESTS, &done));
		if (done != 70)
			printf("FAILED: batch with a bad request: %lu requests done\n", done), failed = true;
	}
	expect("empty batch", UVM_OK, uvm_batch(request, 0, NULL));
	printf("batches: %s\n", uvm_boot->host_features & UVM_FEATURE_BATCH ? "one hypercall" : "single calls");
}

// Solo5's tender takes offsets and lengths that are not whole blocks, other monitors may not. So both answers are right:
// EINVAL, or doing exactly what was asked, which an aligned read then proves.
static void misaligned(const char *what, uint64_t offset, uint64_t len)
{
	if (offset + len > capacity) {
		printf("%s: skipped, the device is too small\n", what);
		return;
	}
	memset(in, 0, len);
	int r = uvm_block_read(disk, offset, in, len);
	fill(out, 0, run);
	if (r == UVM_OK && memcmp(in, out + offset, len) != 0)
		fail(what, r);

	memset(in, 0x5a, len);
	int w = uvm_block_write(disk, offset, in, len);
	if (w == UVM_OK) {
		memcpy(out + offset, in, len);
		int back = uvm_block_read(disk, 0, in, run * block);
		if (back != UVM_OK || !same(in, out, run * block))
			fail(what, back);
	}
	printf("%s: read %s, write %s\n", what, result_name(r), result_name(w));
	if ((r != UVM_OK && r != UVM_EINVAL) || (w != UVM_OK && w != UVM_EINVAL))
		fail(what, r == UVM_OK ? w : r);
	write_blocks("restore", 0, run);
}

static void edges(void)
{
	refuse("offset = capacity", disk, capacity, block);
	refuse("one block past the end", disk, capacity - block, 2 * block);
	refuse("offset near 2^64", disk, 0 - block, block);
	refuse("offset near 2^64, wrapping", disk, 0 - block, 2 * block);
	refuse("offset near 2^63, wrapping", disk, (1ull << 63) - block, 2 * block);
	refuse("length near 2^64", disk, block, 0 - block);
	refuse("handle 0", 0, 0, block);
	refuse("handle 2", 2, 0, block);
	refuse("handle 64", 64, 0, block);
	refuse("handle near 2^64", UINT64_MAX, 0, block);

	// Solo5's tender looks at the low 32 bits of a handle only, so this one may name the device.
	printf("handle 2^32 + %lu: read %s\n", disk, result_name(uvm_block_read(disk | 1ull << 32, 0, in, block)));

	// Nothing is past the end here, so there is nothing to refuse.
	expect("length 0, read", UVM_OK, uvm_block_read(disk, 0, in, 0));
	expect("length 0, write", UVM_OK, uvm_block_write(disk, 0, out, 0));
	refuse("length 0, offset = capacity", disk, capacity, 0);

	write_blocks("write run at 0", 0, run);
	misaligned("misaligned offset", 8, block);
	misaligned("misaligned length", 0, block - 8);
}

int main(int argc, char **argv)
{
	const struct uvm_device *d = uvm_find_device("storage", UVM_BLOCK_DEVICE);
	disk = uvm_handle(d);
	capacity = d->block.capacity;
	block = d->block.block_size;
	blocks = block ? capacity / block : 0;
	printf("blkcheck: capacity %lu, block size %lu\n", capacity, block);
	if (block < 512 || block > BUFFER / 2 || blocks == 0 || capacity % block) {
		puts("FAILED: no usable geometry");
		return 1;
	}
	run = RUN_MAX;
	if (run > BUFFER / block)
		run = BUFFER / block;
	if (run > blocks)
		run = blocks;

	const char *mode = argc ? argv[0] : "";
	if (strcmp(mode, "verify") == 0) {
		read_all();
	} else if (strcmp(mode, "ro") == 0) {
		expect("read", UVM_OK, uvm_block_read(disk, 0, in, block));
		int w = uvm_block_write(disk, 0, in, block);
		printf("write: %s\n", result_name(w));
		if (w == UVM_OK)
			fail("write to a read-only device", w);
	} else if (argc == 0) {
		puts("overwriting blocks of the device");
		write_blocks("write first block", 0, 1);
		write_blocks("write middle block", blocks / 2, 1);
		write_blocks("write last block", blocks - 1, 1);
		write_blocks("write run", blocks - run, run);
		read_all();
		batches();
		edges();
		read_all();
	} else {
		puts("usage: blkcheck [verify | ro]");
		return 2;
	}
	if (!failed)
		puts("SUCCESS");
	return failed;
}
