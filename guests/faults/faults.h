// SPDX-License-Identifier: Apache-2.0
//
// faults.h: a fault is one small function; each file has a table of its own.
#ifndef FAULTS_H
#define FAULTS_H

#include "uvm.h"

struct fault {
	const char *name;         // argument that selects it; NULL ends a table
	const char *description;  // completes "about to ..."
	void (*run)(void);        // returning means that nothing stopped it
};

extern const struct fault memory_faults[], hypercall_faults[], cpu_faults[];

// An address that no guest has memory at: 64 GiB, beyond the 4 GiB that hvt allows, canonical, and not mapped.
#define WILD 0x1000000000ull

// Memory accesses by address that the compiler can neither remove nor reason about.
static inline uint64_t peek(uint64_t address)
{
	uint64_t value;
	__asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline void poke(uint64_t address, uint64_t value)
{
	__asm__ volatile("movq %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

static inline void call(uint64_t address)
{
	__asm__ volatile("call *%0"
	                 : "+r"(address)
	                 :
	                 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

#endif
