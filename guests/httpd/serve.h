// SPDX-License-Identifier: Apache-2.0
//
// serve.h: HTTP on TCP connections.
#ifndef HTTPD_SERVE_H
#define HTTPD_SERVE_H

#include <stdbool.h>
#include <stdint.h>

// Connections at a time. When one more comes, that which has kept the server waiting for longest is dropped.
enum { SERVE_CONNECTIONS = 256 };

// Listens on TCP port 80. The clocks, in ns, were taken at the start of main. False: lwIP has no memory for that.
bool serve_start(uint64_t monotonic_ns, uint64_t wall_ns);

// What has been served; under /stats with what it took.
struct serve_counts {
	uint64_t connections, requests, dropped;
};
extern struct serve_counts serve_counts;

// Connections now.
uint64_t serve_open(void);

#endif
