// SPDX-License-Identifier: Apache-2.0
//
// pages.h: what the small pages say.
#ifndef HTTPD_PAGES_H
#define HTTPD_PAGES_H

#include <stdint.h>

#include "http.h"

// To be called when the guest listens. The clocks, in ns, were taken at the start of main.
void page_start(uint64_t monotonic_ns, uint64_t wall_ns);

// Puts the content of a page, which is neither HTTP_BYTES nor HTTP_NONE, and returns its media type.
const char *page_put(struct http_text *t, enum http_page page);

// Now, as http_date has it. Once per second it is made anew; it takes no hypercall.
const char *page_date(void);

#endif
