// SPDX-License-Identifier: Apache-2.0
//
// port.c: time, checksums, numbers that are hard to guess, and the heap, for lwIP (port/arch/cc.h).
#include "port/port.h"

#include "lwip/ip4_addr.h"
#include "lwip/sys.h"
#include "uvm.h"

u32_t sys_now(void) { return (u32_t)(uvm_monotonic_ns() / 1000000); }

_Noreturn void port_assert(const char *what)
{
	printf("httpd: lwIP: %s\n", what);
	uvm_halt(1);
}

// Eight bytes per turn: the sum of 16-bit words modulo 0xffff is also that of 64-bit words (RFC 1071).
uint16_t port_checksum(const void *data, int len)
{
	const uint8_t *p = data;
	uint64_t sum = 0, word;
	for (; len >= 32; p += 32, len -= 32)
		// One chain of additions with carry; the carry flag would not survive a loop in C.
		__asm__("addq %1, %0\n\tadcq %2, %0\n\tadcq %3, %0\n\tadcq %4, %0\n\tadcq $0, %0"
		        : "+&r"(sum)
		        : "m"(*(const uint64_t *)p), "m"(*(const uint64_t *)(p + 8)), "m"(*(const uint64_t *)(p + 16)),
		          "m"(*(const uint64_t *)(p + 24))
		        : "cc");
	for (; len >= 8; p += 8, len -= 8) {
		__builtin_memcpy(&word, p, 8);
		sum += word;
		sum += sum < word;  // end-around carry
	}
	word = 0;
	for (int i = 0; i < len; i++)
		word |= (uint64_t)p[i] << (8 * i);
	sum += word;
	sum += sum < word;
	sum = (sum & 0xffffffff) + (sum >> 32);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

// ---- SipHash-2-4 (Aumasson and Bernstein, 2012), of 16 bytes ---------------------------------------------------------

static uint64_t key[2];

static uint64_t rotl(uint64_t v, int n) { return v << n | v >> (64 - n); }

static void rounds(uint64_t v[4], int n)
{
	while (n--) {
		v[0] += v[1]; v[2] += v[3];
		v[1] = rotl(v[1], 13) ^ v[0]; v[3] = rotl(v[3], 16) ^ v[2];
		v[0] = rotl(v[0], 32);
		v[2] += v[1]; v[0] += v[3];
		v[1] = rotl(v[1], 17) ^ v[2]; v[3] = rotl(v[3], 21) ^ v[0];
		v[2] = rotl(v[2], 32);
	}
}

static uint64_t siphash(const uint64_t word[2])
{
	uint64_t v[4] = { key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d, key[0] ^ 0x6c7967656e657261,
		          key[1] ^ 0x7465646279746573 };
	const uint64_t in[3] = { word[0], word[1], (uint64_t)16 << 56 };
	for (int i = 0; i < 3; i++) {
		v[3] ^= in[i];
		rounds(v, 2);
		v[0] ^= in[i];
	}
	v[2] ^= 0xff;
	rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

// A guest has no source of randomness but its clocks. The MAC address may be random too.
void port_seed(const uint8_t mac[6], uint64_t wall_ns)
{
	uint64_t low = 0;
	for (int i = 0; i < 6; i++)
		low = low << 8 | mac[i];
	key[0] = wall_ns;
	key[1] = low;
	const uint64_t word[2] = { uvm_monotonic_ns(), wall_ns };
	key[0] ^= siphash(word);
	key[1] ^= siphash(key);
}

// RFC 6528: a hash of the connection, and a clock of 4 µs.
uint32_t port_isn(const struct ip4_addr *local, uint16_t local_port, const struct ip4_addr *remote, uint16_t remote_port)
{
	const uint64_t word[2] = { (uint64_t)local->addr << 32 | remote->addr, (uint64_t)local_port << 16 | remote_port };
	return (uint32_t)siphash(word) + (uint32_t)(uvm_monotonic_ns() / 4000);
}

uint32_t port_random(void)
{
	static uint64_t count;
	const uint64_t word[2] = { ++count, ~(uint64_t)0 };
	return (uint32_t)siphash(word);
}

// ---- The heap: blocks of a few sizes, each with a list of free ones, cut from an arena that is touched only as needed --

enum { SMALLEST = 64, CLASSES = 12 };  // 64 bytes to 128 KiB

union block {
	union block *next;  // while it is free
	uint64_t class;     // while it is not; what the caller gets begins behind
};

static union block *free_blocks[CLASSES];
static uint64_t arena[(4 << 20) / sizeof(uint64_t)];
static size_t arena_used;  // of its words

void *port_malloc(size_t size)
{
	uint64_t class = 0;
	size += sizeof(union block);
	while (class < CLASSES && (size_t)SMALLEST << class < size)
		class++;
	if (class == CLASSES)
		return NULL;
	union block *b = free_blocks[class];
	if (b) {
		free_blocks[class] = b->next;
	} else {
		size_t words = ((size_t)SMALLEST << class) / sizeof(uint64_t);
		if (words > sizeof(arena) / sizeof(arena[0]) - arena_used)
			return NULL;
		b = (union block *)&arena[arena_used];
		arena_used += words;
	}
	b->class = class;
	return b + 1;
}

void *port_calloc(size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes))
		return NULL;
	void *p = port_malloc(bytes);
	return p ? memset(p, 0, bytes) : NULL;
}

void port_free(void *p)
{
	if (!p)
		return;
	union block *b = (union block *)p - 1;
	uint64_t class = b->class;
	b->next = free_blocks[class];
	free_blocks[class] = b;
}
