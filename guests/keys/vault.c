// SPDX-License-Identifier: Apache-2.0
//
// vault.c: the isolated library. Its data and its stack lie in a segment with protection key 1, which PKRU closes
// whenever no gate is running. The gate follows ERIM (USENIX Security 2019): WRPKRU is an instruction that anyone may
// jump to, so after each one EAX is compared with the constant that belongs there; only these two may stand in the
// text, and text cannot change.
#include "vault.h"

// PKRU: two bits for each key, here access disable for all keys but 0, and for all but 0 and the vault's.
#define CLOSED 0x55555554
#define OPEN   0x55555550
_Static_assert((CLOSED & ~(3u << 2 * VAULT_KEY)) == OPEN, "the gate opens one key");

VAULT uint64_t vault_secret = 0x5ec7e7;
VAULT uint8_t vault_stack[4096] __attribute__((aligned(16))) = { 0 };

// What the gates lead to. It runs on the vault's stack and may call nothing outside.
__attribute__((used)) static uint64_t inside(uint64_t number, uint64_t argument)
{
	if (number == 0) {
		vault_secret = argument;
		return 0;
	}
	uint64_t x = argument ^ vault_secret;
	for (int i = 0; i < 8; i++)
		x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9;
	return x;
}

// gate(number, argument) in RDI and RSI. Registers that inside may change are the caller's to save, but for RBX, which
// holds the caller's stack meanwhile. What is left in the others afterwards could carry the secret, so they are cleared.
__attribute__((naked)) static uint64_t gate(__attribute__((unused)) uint64_t number, __attribute__((unused)) uint64_t argument)
{
	__asm__("pushq %%rbx\n\t"
	        "movq %%rsp, %%rbx\n\t"
	        "xorl %%ecx, %%ecx\n\t"
	        "xorl %%edx, %%edx\n\t"
	        "movl %[open], %%eax\n\t"
	        "wrpkru\n\t"
	        "cmpl %[open], %%eax\n\t"  // someone who jumped to the WRPKRU with another EAX stops here
	        "jne 1f\n\t"
	        "leaq vault_stack+4096(%%rip), %%rsp\n\t"
	        "call inside\n\t"
	        "movq %%rax, %%rsi\n\t"
	        "movq %%rbx, %%rsp\n\t"
	        "xorl %%ecx, %%ecx\n\t"
	        "xorl %%edx, %%edx\n\t"
	        "movl %[closed], %%eax\n\t"
	        "wrpkru\n\t"
	        "cmpl %[closed], %%eax\n\t"
	        "jne 1f\n\t"
	        "movq %%rsi, %%rax\n\t"
	        "xorl %%esi, %%esi\n\t"
	        "xorl %%edi, %%edi\n\t"
	        "xorl %%r8d, %%r8d\n\t"
	        "xorl %%r9d, %%r9d\n\t"
	        "xorl %%r10d, %%r10d\n\t"
	        "xorl %%r11d, %%r11d\n\t"
	        "popq %%rbx\n\t"
	        "ret\n"
	        "1:\tud2"
	        :
	        : [open] "i"(OPEN), [closed] "i"(CLOSED));
}

void vault_set(uint64_t secret) { gate(0, secret); }
uint64_t vault_mac(uint64_t message) { return gate(1, message); }
