// SPDX-License-Identifier: Apache-2.0
//
// kernel_sse.c: SSE2, two doubles at a time. hvt sets OSFXSR in CR4 before entry (hvt ABI 3), so nothing needs setting up.
// Compile it with -msse2 and without -march=native: a fused multiply-add would round differently.
#include "kernel.h"

typedef double pair __attribute__((vector_size(16)));
typedef uint64_t bits __attribute__((vector_size(16)));

// The logistic map x -> 3.9 x (1 - x), chaotic inside ]0, 1[: no turn can be skipped, and no value becomes denormal.
__attribute__((noinline)) uint64_t compute_sse(uint64_t n)
{
	const pair one = { 1.0, 1.0 }, rate = { 3.9, 3.9 };
	pair x = { 0.25, 0.375 };
	for (uint64_t i = 0; i < n; i++)
		x = rate * x * (one - x);
	bits b = (bits)x;
	return b[0] ^ b[1];
}
