// SPDX-License-Identifier: Apache-2.0
//
// start.c: the entry point, and the note that makes the executable an hvt unikernel.
//
// hvt enters in 64-bit mode with flat segments, paging on, the boot information in RDI, zeroed memory and a stack aligned
// as after a CALL (hvt ABI 3). That is what a C function expects, so _start is one. Nothing here or in main's path
// is privileged: the same binary runs in ring 0 and in ring 3.
#include "uvm.h"

struct abi_note {
	struct uvm_note note;
	uint32_t target, version, reserved[2];
};
_Static_assert(offsetof(struct abi_note, target) == 20, "hvt ABI 1: ABI1 data offset");

__attribute__((used, aligned(4), section(".note.solo5.abi"))) static const struct abi_note abi_note = {
	.note = UVM_NOTE(UVM_NOTE_ABI1, struct abi_note),
	.target = 1,  // hvt
	.version = 2,
};

const struct uvm_boot_info *uvm_boot;
int uvm_words;
char **uvm_word;

int main(int argc, char **argv);

// The command line is read-only, so it is copied here to be cut into strings. Only spaces: one argument more than that.
static char words[UVM_CMDLINE_MAX + 1];
static char *argv[UVM_CMDLINE_MAX + 2];

// Every single space separates two arguments; so two spaces enclose an empty one, and the empty command line, which
// could also mean one empty argument, means none.
static int split(const char *cmdline)
{
	if (!*cmdline)
		return 0;
	int argc = 0;
	argv[argc++] = words;
	for (size_t i = 0; i < UVM_CMDLINE_MAX && cmdline[i]; i++) {
		if (cmdline[i] == ' ')
			argv[argc++] = &words[i + 1];
		else
			words[i] = cmdline[i];
	}
	return argc;
}

__attribute__((section(".text.start"))) _Noreturn void _start(const struct uvm_boot_info *boot)
{
	uvm_boot = boot;
	int argc = split((const char *)boot->cmdline);
	uvm_word = argv;
	while (uvm_words < argc && memcmp(argv[uvm_words], "uvm.", 4) == 0)
		uvm_words++;
	uvm_halt(main(argc - uvm_words, argv + uvm_words));
}
