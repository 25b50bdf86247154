// SPDX-License-Identifier: Apache-2.0
//
// faults: does one forbidden thing, chosen by its argument, and says so first. Ends with status 3 and NOT CAUGHT when
// nothing stops it, with status 2 and the list when the argument is missing or unknown. Some things are forbidden
// in ring 3 only; those end as NOT CAUGHT in ring 0.
#include "faults.h"

UVM_MANIFEST();

static const struct fault *const tables[] = { memory_faults, hypercall_faults, cpu_faults };

static int usage(void)
{
	puts("usage: faults NAME, which is about to");
	for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
		for (const struct fault *f = tables[t]; f->name; f++)
			printf("  %s: %s\n", f->name, f->description);
	return 2;
}

int main(int argc, char **argv)
{
	if (argc != 1)
		return usage();
	for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
		for (const struct fault *f = tables[t]; f->name; f++) {
			if (strcmp(argv[0], f->name) != 0)
				continue;
			printf("faults: %s: about to %s\n", f->name, f->description);
			f->run();
			puts("NOT CAUGHT");
			return 3;
		}
	}
	return usage();
}
