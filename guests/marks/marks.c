// SPDX-License-Identifier: Apache-2.0
//
// marks: writes bytes to the boot-time port of uvm, with work between them: 'A', 'B', 'C', or with `marks N` N marks
// that run through the alphabet. (The port is uvm's own; Solo5's tender ends the guest.)
#include "uvm.h"

UVM_MANIFEST();

enum { MARK_PORT = 0x3f0 };

// A few instructions that the compiler cannot remove, so that two marks differ in time.
static void work(void)
{
	for (int i = 0; i < 50; i++)
		__asm__ volatile("");
}

int main(int argc, char **argv)
{
	uint64_t n = 3;
	if (argc > 0 && !parse_u64(argv[0], &n)) {
		printf("marks: not a number: %s\n", argv[0]);
		return 2;
	}
	for (uint64_t i = 0; i < n; i++) {
		outb(MARK_PORT, (uint8_t)('A' + i % 26));
		work();
	}
	return 0;
}
