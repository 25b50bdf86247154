// SPDX-License-Identifier: Apache-2.0
//
// memory.c: accesses that page tables or memory protection should stop (hvt ABI 1 and 3).
#include "faults.h"

enum { RET = 0xc3 };  // the one-byte return instruction

static const uint8_t rodata[8] = { RET };
static uint8_t data[8] = { RET };

static void null(void) { peek(8); }
static void wild_read(void) { peek(WILD); }
static void wild_write(void) { poke(WILD, 1); }
static void read_text(void) { peek((uintptr_t)read_text); }
static void write_text(void) { poke((uintptr_t)write_text, 0); }
static void write_rodata(void) { poke((uintptr_t)rodata, 0); }
static void write_bootinfo(void) { poke((uintptr_t)uvm_boot, 0); }
static void exec_data(void) { call((uintptr_t)data); }
static void exec_rodata(void) { call((uintptr_t)rodata); }
static void jump_null(void) { call(0); }
static void jump_wild(void) { call(WILD); }
static void mmio(void) { peek(0xd0000000); }

static void exec_stack(void)
{
	volatile uint8_t code[1];
	code[0] = RET;
	call((uintptr_t)code);
}

// Slots that map nothing in a guest of less than 1 GiB, so that success does no harm and is reported.
static void pagetable(void)
{
	poke(0x2ff8, 0);
	poke(0x4ff8, 0);
}

// A page per turn, so that nothing between stack and text is jumped over. Reading back after the call keeps it a call.
static __attribute__((noinline)) uint32_t descend(uint32_t depth)
{
	volatile uint32_t page[1024];
	page[0] = depth;
	if (depth == UINT32_MAX)
		return 0;
	return descend(depth + 1) + page[0];
}

static void stack_overflow(void) { descend(0); }

const struct fault memory_faults[] = {
	{ "null", "read address 8", null },
	{ "wild-read", "read at 64 GiB", wild_read },
	{ "wild-write", "write at 64 GiB", wild_write },
	{ "read-text", "read .text, which nothing stops but --seal-exec-only", read_text },
	{ "write-text", "write to .text", write_text },
	{ "write-rodata", "write to .rodata", write_rodata },
	{ "write-bootinfo", "write to the boot information", write_bootinfo },
	{ "exec-data", "execute .data", exec_data },
	{ "exec-rodata", "execute .rodata", exec_rodata },
	{ "exec-stack", "execute the stack", exec_stack },
	{ "jump-null", "jump to address 0", jump_null },
	{ "jump-wild", "jump to 64 GiB", jump_wild },
	{ "mmio", "read address 0xd0000000", mmio },
	{ "pagetable", "write to the page tables at 0x2000 and 0x4000", pagetable },
	{ "stack-overflow", "recurse without end (all of memory gets touched: use little)", stack_overflow },
	{ NULL, NULL, NULL },
};
