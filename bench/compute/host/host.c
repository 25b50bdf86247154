// SPDX-License-Identifier: Apache-2.0
//
// host N: the loop of `compute int N` in an ordinary process. It is linked with the very object file that the guest has.
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../../guests/compute/kernel.h"

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	char *end = NULL;
	uint64_t n = argc == 2 ? strtoull(argv[1], &end, 10) : 0;
	if (n == 0 || *end != '\0') {
		fprintf(stderr, "usage: %s TURNS\n", argv[0]);
		return 2;
	}
	uint64_t start = now();
	uint64_t checksum = compute_int(n);
	uint64_t elapsed = now() - start;
	printf("compute int: n=%" PRIu64 " checksum=0x%016" PRIx64 " elapsed_ns=%" PRIu64 "\n", n, checksum, elapsed);
	return 0;
}
