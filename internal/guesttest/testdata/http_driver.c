// SPDX-License-Identifier: Apache-2.0
//
// http_driver: runs guests/httpd/http.c on the host. It reads calls from stdin, each a letter, a length of four bytes and so
// many bytes, and answers each with a length and text.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http.h"

static char reply[1 << 16];

static void parse(const char *in, size_t len)
{
	struct http_request r;
	int n = http_parse(in, len, &r);
	if (n <= 0)
		sprintf(reply, "%d", n);
	else
		sprintf(reply, "%d %s http1%d keep=%d content=%d %.*s", n, r.method == HTTP_GET ? "GET" : r.method == HTTP_HEAD ? "HEAD" : "other",
		        !r.http10, r.keep_alive, r.content, (int)r.path_len, r.path);
}

static void route(const char *in, size_t len)
{
	static const char *const names[] = { "none", "root", "health", "stats", "bytes" };
	uint64_t bytes = 0;
	enum http_page page = http_route(in, len, &bytes);
	sprintf(reply, page == HTTP_BYTES ? "%s %llu" : "%s", names[page], (unsigned long long)bytes);
}

static void head(const char *in)
{
	unsigned status, http10, keep;
	unsigned long long length;
	char *out = malloc(HTTP_RESPONSE_MAX);
	sscanf(in, "%u %llu %u %u", &status, &length, &http10, &keep);
	size_t n = http_head(out, status, "application/octet-stream", length, "Sun, 06 Nov 1994 08:49:37 GMT", http10, keep);
	sprintf(reply, "%.*s", (int)n, out);
	free(out);
}

int main(void)
{
	int op;
	uint32_t len;
	while ((op = getchar()) != EOF) {
		if (fread(&len, sizeof(len), 1, stdin) != 1)
			return 1;
		// Exactly as large as it has to be, so that the sanitizer sees a read beyond; head wants a string.
		char *in = malloc(len + (op == 'h' || op == 'd'));
		if (fread(in, 1, len, stdin) != len)
			return 1;
		if (op == 'h' || op == 'd')
			in[len] = 0;
		reply[0] = 0;
		if (op == 'p')
			parse(in, len);
		else if (op == 'r')
			route(in, len);
		else if (op == 'h')
			head(in);
		else if (op == 'd')
			http_date(reply, strtoull(in, NULL, 10));
		free(in);
		len = (uint32_t)strlen(reply);
		fwrite(&len, sizeof(len), 1, stdout);
		fwrite(reply, 1, len, stdout);
		fflush(stdout);
	}
	return 0;
}
