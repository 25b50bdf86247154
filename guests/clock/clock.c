// SPDX-License-Identifier: Apache-2.0
//
// clock: shows both clocks and checks that a sleep of 50 ms moves them as it should. `clock sleep N` only sleeps, for N
// milliseconds: a guest to look at while it is idle.
#include "uvm.h"

UVM_MANIFEST();

enum { MS = 1000000, SLEEP = 50 * MS };
static const uint64_t TOO_LONG = 5000ull * MS;

static int fail(const char *what)
{
	printf("FAILED: %s\n", what);
	return 1;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[0], "sleep") == 0) {
		uint64_t ms;
		if (!parse_u64(argv[1], &ms) || ms > UINT64_MAX / MS)
			return fail("sleep wants milliseconds");
		uvm_poll(ms * MS, NULL);
		return 0;
	}

	uint64_t wall = uvm_walltime_ns(), mono = uvm_monotonic_ns();
	printf("walltime=%lu.%09lu tsc_hz=%lu monotonic=%lu ns\n", wall / 1000000000, wall % 1000000000, uvm_boot->tsc_hz, mono);

	uint64_t before = uvm_monotonic_ns();
	int ready = uvm_poll(SLEEP, NULL);
	uint64_t slept = uvm_monotonic_ns() - before;
	uint64_t wall_after = uvm_walltime_ns();
	printf("slept=%lu ns walltime+=%ld ns\n", slept, (int64_t)(wall_after - wall));

	if (ready != 0)
		return fail("POLL reported an event without any device");
	if (slept < SLEEP)
		return fail("POLL came back early");
	if (slept >= TOO_LONG)
		return fail("POLL came back late");
	for (int i = 0; i < 100; i++) {
		uint64_t now = uvm_walltime_ns();
		if (now < wall_after)
			return fail("the wall clock went backwards");
		wall_after = now;
	}
	puts("SUCCESS");
	return 0;
}
