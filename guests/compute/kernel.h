// SPDX-License-Identifier: Apache-2.0
//
// kernel.h: the loops that `compute` times. Plain C without any guest header, so that a host program can compile the very
// same files and compare.
#ifndef COMPUTE_KERNEL_H
#define COMPUTE_KERNEL_H

#include <stdint.h>

// Each makes n dependent turns and returns a checksum that is the same on every machine.
uint64_t compute_int(uint64_t n);
uint64_t compute_sse(uint64_t n);

#endif
