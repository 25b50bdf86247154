// SPDX-License-Identifier: Apache-2.0
//
// args: shows how the command line arrived, and with `--exit N` ends with any status, negative and above 255 too: what
// becomes of it is the monitor's business.
#include "uvm.h"

UVM_MANIFEST();

int main(int argc, char **argv)
{
	printf("argc=%d\n", argc);
	for (int i = 0; i < argc; i++)
		printf("argv[%d]=\"%s\"\n", i, argv[i]);

	if (argc != 2 || strcmp(argv[0], "--exit") != 0)
		return 0;
	const char *number = argv[1];
	bool negative = *number == '-';
	uint64_t n;
	if (!parse_u64(number + negative, &n) || n > (uint64_t)INT32_MAX + negative) {
		printf("args: not a 32-bit number: %s\n", number);
		return 2;
	}
	return (int)(negative ? 0 - n : n);
}
