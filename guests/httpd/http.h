// SPDX-License-Identifier: Apache-2.0
//
// http.h: HTTP/1.1 as bytes (RFC 9110, RFC 9112), free of any connection; a host program compiles it too. Everything in a
// request is untrusted.
#ifndef HTTPD_HTTP_H
#define HTTPD_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	HTTP_HEAD_MAX = 8192,     // bytes of a request's line and fields, with what ends them; beyond: 431
	HTTP_FIELDS_MAX = 100,    // fields of a request; beyond: 431
	HTTP_RESPONSE_MAX = 512,  // no response's head is longer
};

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_OTHER };

// What a request asks for.
struct http_request {
	enum http_method method;
	bool http10;      // the client speaks HTTP/1.0
	bool keep_alive;  // the client expects further responses on the connection
	bool content;     // content follows the head
	const char *path; // into the request, without the query; begins with /
	size_t path_len;  // bytes
};

// Reads the request at the start of in, of which len bytes have arrived. Returns the length of its head (1 to HTTP_HEAD_MAX)
// and fills out; 0: the head is not complete; or the status of the error, negative (-400, -431, -505): nothing that
// follows can be told from an attack, the connection has to be closed after the response.
int http_parse(const char *in, size_t len, struct http_request *out);

enum http_page { HTTP_NONE, HTTP_ROOT, HTTP_HEALTH, HTTP_STATS, HTTP_BYTES };

// Finds the page of a path. For /bytes/N it stores N, which is at most INT64_MAX.
enum http_page http_route(const char *path, size_t len, uint64_t *bytes);

// Writes the head of a response into out and returns its length in bytes. date is what http_date wrote. Of request it needs
// only http10; keep_alive is the server's decision.
size_t http_head(char out[HTTP_RESPONSE_MAX], unsigned status, const char *type, uint64_t length, const char *date,
                 bool http10, bool keep_alive);

// "404 Not Found" and its like.
const char *http_status(unsigned status);

// The date in the form that RFC 9110, section 5.6.7 wants: Sun, 06 Nov 1994 08:49:37 GMT. seconds since 1970; beyond the year
// 9999 the digits of the year wrap.
enum { HTTP_DATE_SIZE = 30 };
void http_date(char out[HTTP_DATE_SIZE], uint64_t seconds);

// Byte i of the content of /bytes/N is http_pattern(i % HTTP_PERIOD). The period is a prime, so that segments that got lost,
// doubled or swapped show.
enum { HTTP_PERIOD = 4093 };
static inline uint8_t http_pattern(uint32_t i) { return (uint8_t)(i * 167 ^ i >> 4); }

// Text in the making: what does not fit is left out, and cut says so.
struct http_text {
	char *at, *end;
	bool cut;
};
void http_put(struct http_text *t, const char *s);
void http_put_u64(struct http_text *t, uint64_t v);

#endif
