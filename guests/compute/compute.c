// SPDX-License-Identifier: Apache-2.0
//
// compute: pure computation, timed by the guest itself. `compute int [N]` or `compute sse [N]`, N loop turns.
#include "kernel.h"
#include "uvm.h"

UVM_MANIFEST();

enum { DEFAULT_TURNS = 2000000 };

int main(int argc, char **argv)
{
	uint64_t (*kernel)(uint64_t) = NULL;
	if (argc > 0 && strcmp(argv[0], "int") == 0)
		kernel = compute_int;
	else if (argc > 0 && strcmp(argv[0], "sse") == 0)
		kernel = compute_sse;

	uint64_t n = DEFAULT_TURNS;
	if (!kernel || (argc > 1 && !parse_u64(argv[1], &n)) || n == 0) {
		puts("usage: compute int|sse [TURNS]");
		return 2;
	}

	uint64_t start = uvm_monotonic_ns();
	uint64_t checksum = kernel(n);
	uint64_t elapsed = uvm_monotonic_ns() - start;

	// Hundredths of a nanosecond. Dividing first loses nothing that matters once the product could overflow.
	uint64_t per_turn = elapsed < UINT64_MAX / 100 ? elapsed * 100 / n : elapsed / n * 100;
	printf("compute %s: n=%lu checksum=0x%016lx elapsed_ns=%lu ns_per_turn=%lu.%02lu\n", argv[0], n, checksum, elapsed,
	       per_turn / 100, per_turn % 100);
	return 0;
}
