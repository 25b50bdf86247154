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

// ---- The heap --------------------------------------------------------------------------------------------------------
//
// Blocks of four sizes, each with memory of its own: what is taken for one size cannot be missing for another, whatever the
// peer does. A block is touched when it is first used.

union block {
	union block *next;   // while it is free
	struct size *size;   // while it is not; what the caller gets begins behind
};

struct size {
	size_t bytes, count;  // of a block, head included; of blocks
	union block *list;    // free ones
	size_t used, touched; // blocks
	uint8_t *memory;
};

#define SIZE(bytes_, count_) { .bytes = (bytes_), .count = (count_), .memory = (uint8_t *)(uint64_t[(bytes_) / 8 * (count_)]){ 0 } }
static struct size sizes[] = {
	SIZE(128, PORT_BLOCKS),   // headers of segments
	SIZE(512, PORT_BLOCKS),   // responses
	SIZE(2048, 64),           // frames of an MTU of 1500: echo replies, what waits for ARP
	SIZE(10240, 16),          // larger frames
};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

void *port_malloc(size_t n)
{
	struct size *s = sizes;
	while (s < sizes + SIZES && s->bytes - sizeof(union block) < n)
		s++;
	if (s == sizes + SIZES)
		return NULL;
	union block *b = s->list;
	if (b)
		s->list = b->next;
	else if (s->touched < s->count)
		b = (union block *)(s->memory + s->touched++ * s->bytes);
	else
		return NULL;
	s->used++;
	b->size = s;
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
	struct size *s = b->size;
	b->next = s->list;
	s->list = b;
	s->used--;
}

size_t port_blocks(void)
{
	size_t headers = sizes[0].count - sizes[0].used, responses = sizes[1].count - sizes[1].used;
	return headers < responses ? headers : responses;
}
