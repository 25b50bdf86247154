// SPDX-License-Identifier: Apache-2.0
//
// spin: never ends and never leaves the guest. For time-outs, signals and pausing.
#include "uvm.h"

UVM_MANIFEST();

int main(void)
{
	for (;;)
		__asm__ volatile("");
}
