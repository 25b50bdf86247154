// SPDX-License-Identifier: Apache-2.0
//
// keys: a guest that isolates one library of its own by protection keys. It calls the library through its gates; with
// the argument `bypass` it then reads the library's memory directly, `bypass-write` writes it, and `bypass-hypercall` has the
// monitor read it: each ends the guest. Needs uvm, ring sealed, and a processor with keys.
#include "vault.h"

UVM_MANIFEST();

static int usage(void)
{
	puts("usage: keys [bypass | bypass-write | bypass-hypercall]");
	return 2;
}

int main(int argc, char **argv)
{
	const char *how = argc ? argv[0] : "";
	bool read = strcmp(how, "bypass") == 0, write = strcmp(how, "bypass-write") == 0;
	bool hypercall = strcmp(how, "bypass-hypercall") == 0;
	if (argc > 1 || (argc && !read && !write && !hypercall))
		return usage();

	uint64_t first = vault_mac(42);
	vault_set(0x0123456789abcdef);
	uint64_t second = vault_mac(42);
	if (first == second || second != vault_mac(42)) {
		puts("keys: the library behind the gate does not work");
		return 1;
	}
	printf("keys: mac(42)=0x%016lx through the gate, the secret stays behind it\n", second);

	if (!argc)
		return 0;
	printf("keys: about to go around the gate, to 0x%lx\n", (uint64_t)(uintptr_t)&vault_secret);
	if (read)
		printf("the secret is 0x%lx\n", *(volatile uint64_t *)&vault_secret);
	if (write)
		*(volatile uint64_t *)&vault_secret = 0;
	if (hypercall)
		uvm_write(&vault_secret, sizeof(vault_secret));
	puts("NOT CAUGHT");
	return 3;
}
