// SPDX-License-Identifier: Apache-2.0
//
// kernel_int.c: general registers only; per turn one multiplication, two shifts, two exclusive-ors and an addition.
#include "kernel.h"

__attribute__((noinline)) uint64_t compute_int(uint64_t n)
{
	uint64_t x = 0x243f6a8885a308d3ull;
	for (uint64_t i = 0; i < n; i++) {
		x ^= x >> 29;
		x *= 0xbf58476d1ce4e5b9ull;
		x ^= x >> 32;
		x += i;
	}
	return x;
}
