// SPDX-License-Identifier: Apache-2.0
//
// hypercall.c: ports and hypercalls that break the hvt ABI, section 4, and a few that are only unusual.
#include "faults.h"

enum { DIAGNOSTIC_PORT = 0x80, MARK_PORT = 0x3f0 };

static const char text[] = "text of a call that breaks the rules\n";

static void puts_at(uint64_t ptr, uint64_t len)
{
	struct uvm_puts p = { .ptr = ptr, .len = len };
	uvm_hypercall(UVM_PUTS, &p);
}

static void port(void) { outb(DIAGNOSTIC_PORT, 1); }

static void in(void)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "d"((uint16_t)(UVM_PORT + UVM_WALLTIME)));
}

static void out_byte(void) { outb(UVM_PORT + UVM_WALLTIME, 0); }
static void out_word(void) { outw(UVM_PORT + UVM_PUTS, 0); }

// Three complete and valid calls in one instruction.
static void rep_outs(void)
{
	struct uvm_puts calls[3];
	uint32_t addresses[3];
	for (int i = 0; i < 3; i++) {
		calls[i] = (struct uvm_puts){ .ptr = (uintptr_t)text, .len = sizeof(text) - 1 };
		addresses[i] = (uint32_t)(uintptr_t)&calls[i];
	}
	const uint32_t *from = addresses;
	uint64_t count = 3;
	__asm__ volatile("rep outsl" : "+S"(from), "+c"(count) : "d"((uint16_t)(UVM_PORT + UVM_PUTS)) : "memory");
}

static void unregistered(void) { outl(UVM_PORT + 0xf, 0); }
static void number_zero(void) { outl(UVM_PORT, 0); }
static void no_device(void) { uvm_block_read(1, 0, NULL, 0); }

static void badptr(void) { puts_at(uvm_boot->mem_size + 4096, 8); }
static void badptr_wrap(void) { puts_at(0 - 4096ull, 0x101000); }  // ends at 0x100000 when the sum wraps
static void badlen(void) { puts_at((uintptr_t)text, UINT64_MAX - 4096); }

// The last 8 bytes of memory are free: the initial stack pointer is there, where a return address would be, and _start
// has none (hvt ABI 3).
static void edge_ok(void)
{
	memcpy((void *)(uvm_boot->mem_size - 8), "edge-ok\n", 8);
	puts_at(uvm_boot->mem_size - 8, 8);
	uvm_halt(0);
}

static void edge_bad(void) { puts_at(uvm_boot->mem_size - 7, 8); }
static void badstruct(void) { outl(UVM_PORT + UVM_PUTS, (uint32_t)(uvm_boot->mem_size - 4)); }

static void result_in_text(void) { outl(UVM_PORT + UVM_WALLTIME, (uint32_t)(uintptr_t)result_in_text); }
static void result_in_bootinfo(void) { outl(UVM_PORT + UVM_WALLTIME, (uint32_t)(uintptr_t)uvm_boot); }
static void puts_pagetable(void) { puts_at(0x2000, 8); }

static void halt(uint64_t cookie, int status)
{
	struct uvm_halt h = { .cookie = cookie, .status = status };
	uvm_hypercall(UVM_HALT, &h);
}

static void abort(void) { halt(0, 255); }
static void halt_badcookie(void) { halt(uvm_boot->mem_size - UVM_TRAP_FRAME_SIZE / 2, 0); }

static void flood(void)
{
	for (;;)
		uvm_say("flood flood flood flood flood flood flood flood flood flood\n");
}

static void poll_forever(void) { uvm_poll(UVM_FOREVER, NULL); }

static void many_marks(void)
{
	for (int i = 0; i < 100000; i++)
		outb(MARK_PORT, (uint8_t)i);
	uvm_halt(0);
}

const struct fault hypercall_faults[] = {
	{ "port", "write a byte to port 0x80", port },
	{ "in", "read from a hypercall port", in },
	{ "outb", "write a byte to a hypercall port", out_byte },
	{ "outw", "write 2 bytes to a hypercall port", out_word },
	{ "rep-outs", "make 3 calls with one rep outs", rep_outs },
	{ "hypercall", "make hypercall 15, which is none", unregistered },
	{ "hypercall0", "make hypercall 0, which is none", number_zero },
	{ "hypercall-block", "make a block call without a block device", no_device },
	{ "badptr", "print from beyond memory", badptr },
	{ "badptr-wrap", "print from an address whose end wraps around 2^64", badptr_wrap },
	{ "badlen", "print nearly 2^64 bytes", badlen },
	{ "edge-ok", "print the last 8 bytes of memory, which is allowed, and end with status 0", edge_ok },
	{ "edge-bad", "print 8 bytes of which the last is beyond memory", edge_bad },
	{ "badstruct", "make a call whose structure ends beyond memory", badstruct },
	{ "result-in-text", "make a call whose result overwrites .text", result_in_text },
	{ "result-in-bootinfo", "make a call whose result overwrites the boot information", result_in_bootinfo },
	{ "puts-pagetable", "print from the page tables, which the guest cannot read itself", puts_pagetable },
	{ "abort", "end with status 255 and no trap frame", abort },
	{ "halt-badcookie", "end with a trap frame that is half beyond memory", halt_badcookie },
	{ "flood", "print without end", flood },
	{ "poll-forever", "wait for the longest possible time", poll_forever },
	{ "many-marks", "write 100000 marks to port 0x3f0, which uvm allows, and end with status 0", many_marks },
	{ NULL, NULL, NULL },
};
