// SPDX-License-Identifier: Apache-2.0
//
// steps: something to debug, and the guest of the debugger's tests. Without an argument it counts to three and ends with the
// count; with "loop" it counts without end. Its status is 100 if it ever sees the trap flag, by which a debugger steps.
#include "uvm.h"

UVM_MANIFEST();

enum { MSR_GS_BASE = 0xc0000101, TRAP_FLAG = 1 << 8 };

uint64_t count, total, flags_seen;
uint8_t room[64];

__attribute__((noinline)) void add(uint64_t n)
{
	count++;
	total += n;
}

// PUSHF, and an instruction that the monitor carries out for a sealed guest.
__attribute__((noinline)) uint64_t privileged(void)
{
	uint64_t flags;
	__asm__ volatile("pushfq\n\tpopq %0" : "=r"(flags));
	__asm__ volatile("wrmsr" : : "c"(MSR_GS_BASE), "a"(0x1000), "d"(0));
	flags_seen |= flags;
	return flags;
}

__attribute__((noinline)) void vectors(void)
{
	static const uint64_t words[2] = { 0x1111222233334444, 0x5555666677778888 };
	__asm__ volatile("movups %0, %%xmm3" : : "m"(words));
	__asm__ volatile("fld1");
}

__attribute__((noinline)) uint8_t look(size_t i)
{
	return ((volatile uint8_t *)room)[i];
}

int main(int argc, char **argv)
{
	if (argc > 0 && strcmp(argv[0], "loop") == 0) {
		uvm_say("looping\n");
		for (;;)
			add(1);
	}
	if (argc == 0)
		vectors();
	for (uint64_t i = 1; i <= 3; i++)
		add(i);
	privileged();
	look(40);
	printf("count=%u total=%u\n", (unsigned)count, (unsigned)total);
	return flags_seen & TRAP_FLAG ? 100 : (int)count;
}
