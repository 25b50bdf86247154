// SPDX-License-Identifier: Apache-2.0
//
// port.h: what stands between lwIP and the guest's library, beyond what lwIP itself asks for (arch/cc.h).
#ifndef HTTPD_PORT_H
#define HTTPD_PORT_H

#include <stddef.h>
#include <stdint.h>

// Makes the key of initial sequence numbers from the clocks, the wall clock in ns, and the MAC address; before the
// first connection.
void port_seed(const uint8_t mac[6], uint64_t wall_ns);

// Blocks of the heap for the headers of segments, and as many for responses; and how many of each there are at least left.
enum { PORT_BLOCKS = 6144 };
size_t port_blocks(void);

#endif
