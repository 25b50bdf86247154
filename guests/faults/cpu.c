// SPDX-License-Identifier: Apache-2.0
//
// cpu.c: instructions that fault, stop the CPU or are privileged, and a trap handler of the guest's own.
#include "faults.h"

enum { CODE_SELECTOR = 8, INVALID_OPCODE = 6, INTERRUPT_GATE = 0x8e00, MSR_FS_BASE = 0xc0000100 };

struct __attribute__((packed)) table_register {
	uint16_t limit;
	uint64_t base;
};

// Flat 64-bit code and flat data, the same as the monitor's (hvt ABI 3). The monitor's own is not mapped for the guest, and
// taking an exception needs one that is.
static uint64_t gdt[3] = { 0, 0x00af99000000ffff, 0x00cf93000000ffff };

struct gate {
	uint16_t offset_low, selector, flags, offset_middle;
	uint32_t offset_high, reserved;
};
static struct gate idt[INVALID_OPCODE + 1];

static void load_gdt(void)
{
	struct table_register r = { sizeof(gdt) - 1, (uintptr_t)gdt };
	__asm__ volatile("lgdt %0" : : "m"(r) : "memory");
}

static void load_idt(const void *base, uint16_t limit)
{
	struct table_register r = { limit, (uintptr_t)base };
	__asm__ volatile("lidt %0" : : "m"(r) : "memory");
}

static void hlt(void) { __asm__ volatile("hlt"); }
static void cli(void) { __asm__ volatile("cli"); }
static void ud2(void) { __asm__ volatile("ud2"); }
static void int3(void) { __asm__ volatile("int3"); }

static void divide(void)
{
	uint32_t low = 1, high = 0;
	__asm__ volatile("divl %2" : "+a"(low), "+d"(high) : "r"(0) : "cc");
}

static void empty_idt(void) { load_idt(NULL, 0); }

static void triple(void)
{
	empty_idt();
	ud2();
}

static void wrmsr(void) { __asm__ volatile("wrmsr" : : "c"(MSR_FS_BASE), "a"(0), "d"(0)); }

static void mov_cr3(void)
{
	uint64_t cr3;
	__asm__ volatile("movq %%cr3, %0\n\tmovq %0, %%cr3" : "=r"(cr3) : : "memory");
}

static void spin(void)
{
	for (;;)
		__asm__ volatile("");
}

// What HALT's cookie points to: the frame, and the rest of the 512 bytes that must be readable.
static union {
	struct uvm_trap_frame frame;
	uint8_t room[UVM_TRAP_FRAME_SIZE];
} trapped;

__attribute__((used)) static _Noreturn void report(const struct uvm_trap_frame *frame)
{
	trapped.frame = *frame;
	struct uvm_halt h = { .cookie = (uintptr_t)&trapped, .status = 255 };
	uvm_hypercall(UVM_HALT, &h);
	for (;;)  // not reached: HALT does not return
		;
}

// On #UD the CPU has pushed ss, rsp, rflags, cs and rip; an error code of 0 and cr2 complete the frame.
__attribute__((naked)) static void on_invalid_opcode(void)
{
	__asm__("pushq $0\n\t"
	        "movq %cr2, %rax\n\t"
	        "pushq %rax\n\t"
	        "movq %rsp, %rdi\n\t"
	        "call report");
}

static void trap(void)
{
	uint64_t handler = (uintptr_t)on_invalid_opcode;
	idt[INVALID_OPCODE] = (struct gate){
		.offset_low = (uint16_t)handler,
		.selector = CODE_SELECTOR,
		.flags = INTERRUPT_GATE,
		.offset_middle = (uint16_t)(handler >> 16),
		.offset_high = (uint32_t)(handler >> 32),
	};
	load_gdt();
	load_idt(idt, sizeof(idt) - 1);
	ud2();
}

const struct fault cpu_faults[] = {
	{ "hlt", "execute hlt", hlt },
	{ "cli", "execute cli", cli },
	{ "ud2", "execute an invalid instruction", ud2 },
	{ "div", "divide by zero", divide },
	{ "int3", "execute int3", int3 },
	{ "triple", "empty the IDT and execute an invalid instruction", triple },
	{ "trap", "take an exception with a handler of its own, which reports it", trap },
	{ "lgdt", "load a GDT", load_gdt },
	{ "lidt", "load an empty IDT", empty_idt },
	{ "wrmsr", "write the FS base", wrmsr },
	{ "mov-cr3", "load CR3", mov_cr3 },
	{ "spin", "loop without end", spin },
	{ NULL, NULL, NULL },
};
