// SPDX-License-Identifier: Apache-2.0
//
// hello: the smallest useful guest. Greets, then shows its arguments.
#include "uvm.h"

UVM_MANIFEST();

int main(int argc, char **argv)
{
	uvm_say("Hello from uvm\n");
	for (int i = 0; i < argc; i++)
		printf("arg[%d]=\"%s\"\n", i, argv[i]);
	return 0;
}
