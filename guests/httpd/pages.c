// SPDX-License-Identifier: Apache-2.0
//
// pages.c: the small pages, from the clocks and counts.
#include "pages.h"

#include "nic.h"
#include "serve.h"
#include "uvm.h"

// Wall clock at the start of the monotonic one; and when the guest entered main, and when it listened, in ns of the monotonic
// one.
static uint64_t wall_offset, entered, listened;

void page_start(uint64_t monotonic_ns, uint64_t wall_ns)
{
	entered = monotonic_ns;
	wall_offset = wall_ns - monotonic_ns;
	listened = uvm_monotonic_ns();
}

const char *page_date(void)
{
	static uint64_t shown;
	static char date[HTTP_DATE_SIZE];
	uint64_t second = (wall_offset + uvm_monotonic_ns()) / 1000000000;
	if (second != shown)
		http_date(date, shown = second);
	return date;
}

static void put_duration(struct http_text *t, uint64_t us)
{
	http_put_u64(t, us / 1000);
	char fraction[5] = { '.', (char)('0' + us / 100 % 10), (char)('0' + us / 10 % 10), (char)('0' + us % 10), 0 };
	http_put(t, fraction);
	http_put(t, " ms");
}

static void put_root(struct http_text *t)
{
	char boot[HTTP_DATE_SIZE];
	uint64_t now = uvm_monotonic_ns();
	http_date(boot, (wall_offset + entered) / 1000000000);
	http_put(t, "Hello from a unikernel under uvm.\n\nIt booted on ");
	http_put(t, boot);
	http_put(t, ", listened ");
	put_duration(t, (listened - entered) / 1000);
	http_put(t, " later, and has been up for ");
	put_duration(t, (now - entered) / 1000);
	http_put(t, ".\nIt has answered ");
	http_put_u64(t, serve_counts.requests);
	http_put(t, " requests on ");
	http_put_u64(t, serve_counts.connections);
	http_put(t, " connections.\n");
}

static void put_count(struct http_text *t, const char *name, uint64_t v)
{
	http_put(t, name);
	http_put_u64(t, v);
}

static void put_stats(struct http_text *t)
{
	put_count(t, "{\"connections\":", serve_counts.connections);
	put_count(t, ",\"requests\":", serve_counts.requests);
	put_count(t, ",\"dropped\":", serve_counts.dropped);
	put_count(t, ",\"open\":", serve_open());
	put_count(t, ",\"poll\":", nic_calls.poll);
	put_count(t, ",\"read\":", nic_calls.read);
	put_count(t, ",\"read_empty\":", nic_calls.empty);
	put_count(t, ",\"write\":", nic_calls.write);
	http_put(t, "}\n");
}

const char *page_put(struct http_text *t, enum http_page page)
{
	if (page == HTTP_STATS) {
		put_stats(t);
		return "application/json";
	}
	if (page == HTTP_ROOT)
		put_root(t);
	else
		http_put(t, "ok\n");
	return "text/plain";
}
