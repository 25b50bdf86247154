// SPDX-License-Identifier: Apache-2.0
//
// http.c: the request parser and the heads of responses.
//
// The parser is strict: it takes no line that does not end with CR LF, no blank before a colon, no folded line, no control
// character. A client that sends such a thing may mean something else than a proxy before us has understood.
#include "http.h"

static bool is_tchar(unsigned char c)  // RFC 9110, section 5.6.2
{
	if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'))
		return true;
	for (const char *s = "!#$%&'*+-.^_`|~"; *s; s++)
		if (c == (unsigned char)*s)
			return true;
	return false;
}

// A range of the request.
struct span { const char *at, *end; };

static size_t size(struct span s) { return (size_t)(s.end - s.at); }

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c | 32) : c; }

// Is s the word, which is in small letters, in any case?
static bool is(struct span s, const char *word)
{
	for (; s.at < s.end && *word; s.at++, word++)
		if (lower(*s.at) != *word)
			return false;
	return s.at == s.end && !*word;
}

static bool starts(struct span s, const char *word)
{
	for (; *word; s.at++, word++)
		if (s.at == s.end || lower(*s.at) != *word)
			return false;
	return true;
}

static struct span trim(struct span s)
{
	while (s.at < s.end && (*s.at == ' ' || *s.at == '\t'))
		s.at++;
	while (s.at < s.end && (s.end[-1] == ' ' || s.end[-1] == '\t'))
		s.end--;
	return s;
}

// Takes a number of decimal digits only; false on overflow beyond INT64_MAX.
static bool number(struct span s, uint64_t *out)
{
	uint64_t v = 0;
	if (s.at == s.end)
		return false;
	for (; s.at < s.end; s.at++) {
		if (*s.at < '0' || *s.at > '9')
			return false;
		unsigned digit = (unsigned)(*s.at - '0');
		if (v > ((uint64_t)INT64_MAX - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*out = v;
	return true;
}

// Cuts the next line off, without its CR LF. 1: done, 0: not complete, -1: it holds a bare CR, a bare LF or another
// control character than HTAB.
static int next_line(struct span *rest, struct span *line)
{
	for (const char *p = rest->at; p < rest->end; p++) {
		unsigned char c = (unsigned char)*p;
		if (c == '\r') {
			if (p + 1 == rest->end)
				return 0;
			if (p[1] != '\n')
				return -1;
			*line = (struct span){ rest->at, p };
			rest->at = p + 2;
			return 1;
		}
		if ((c < ' ' && c != '\t') || c == 0x7f)
			return -1;
	}
	return 0;
}

// method SP request-target SP HTTP-version (RFC 9112, section 3). Returns 0 or the status of the error, negative.
static int request_line(struct span line, struct http_request *out)
{
	struct span method = { line.at, line.at };
	while (method.end < line.end && is_tchar((unsigned char)*method.end))
		method.end++;
	struct span target = { method.end + 1, method.end + 1 };
	if (size(method) == 0 || method.end == line.end || *method.end != ' ')
		return -400;
	while (target.end < line.end && (unsigned char)*target.end > ' ' && (unsigned char)*target.end < 0x7f)
		target.end++;
	struct span version = { target.end + 1, line.end };
	if (size(target) == 0 || target.end == line.end || *target.end != ' ' || size(version) != 8)
		return -400;
	for (const char *v = version.at, *want = "HTTP/"; *want; v++, want++)  // this one in capitals only
		if (*v != *want)
			return -400;
	char major = version.at[5], minor = version.at[7];
	if (major < '0' || major > '9' || version.at[6] != '.' || minor < '0' || minor > '9')
		return -400;
	if (major != '1')
		return -505;
	out->http10 = minor == '0';

	bool get = size(method) == 3 && method.at[0] == 'G' && method.at[1] == 'E' && method.at[2] == 'T';
	bool head = size(method) == 4 && method.at[0] == 'H' && method.at[1] == 'E' && method.at[2] == 'A' && method.at[3] == 'D';
	out->method = get ? HTTP_GET : head ? HTTP_HEAD : HTTP_OTHER;

	if (starts(target, "http://")) {  // the absolute form, as a proxy gets it
		target.at += 7;
		const char *host = target.at;
		while (target.at < target.end && *target.at != '/' && *target.at != '?')
			target.at++;
		if (target.at == host)
			return -400;
		if (target.at == target.end || *target.at == '?') {
			out->path = "/";
			out->path_len = 1;
			return 0;
		}
	}
	if (*target.at != '/' && out->method != HTTP_OTHER)  // * and an authority are for methods that we do not have
		return -400;
	out->path = target.at;
	while (target.at < target.end && *target.at != '?')
		target.at++;
	out->path_len = (size_t)(target.at - out->path);
	return 0;
}

// What the fields seen so far say.
struct fields {
	unsigned count, hosts;
	bool has_length, coded, close, keep;
	uint64_t length;
};

static void connection_options(struct span value, struct fields *f)
{
	while (value.at < value.end) {
		struct span option = { value.at, value.at };
		while (option.end < value.end && *option.end != ',')
			option.end++;
		value.at = option.end < value.end ? option.end + 1 : value.end;
		option = trim(option);
		f->close |= is(option, "close");
		f->keep |= is(option, "keep-alive");
	}
}

// field-name ":" OWS field-value OWS (RFC 9112, section 5). Returns 0 or the status of the error, negative.
static int field(struct span line, struct fields *f)
{
	struct span name = { line.at, line.at };
	while (name.end < line.end && is_tchar((unsigned char)*name.end))
		name.end++;
	if (size(name) == 0 || name.end == line.end || *name.end != ':')
		return -400;
	if (++f->count > HTTP_FIELDS_MAX)
		return -431;
	struct span value = trim((struct span){ name.end + 1, line.end });
	if (is(name, "host")) {
		for (const char *p = value.at; p < value.end; p++)
			if (*p == ' ' || *p == '\t')
				return -400;
		f->hosts++;
	} else if (is(name, "content-length")) {
		// Two of them, even equal ones, are what smuggled requests are made of.
		if (f->has_length || !number(value, &f->length))
			return -400;
		f->has_length = true;
	} else if (is(name, "transfer-encoding")) {
		f->coded = true;
	} else if (is(name, "connection")) {
		connection_options(value, f);
	}
	return 0;
}

int http_parse(const char *in, size_t len, struct http_request *out)
{
	struct span rest = { in, in + (len < HTTP_HEAD_MAX ? len : HTTP_HEAD_MAX) }, line;
	struct fields f = { 0 };
	int got, error;
	// A line too long shows as an incomplete head with all its room used.
	int incomplete = len < HTTP_HEAD_MAX ? 0 : -431;

	*out = (struct http_request){ 0 };
	// Old clients send a line end after content; one is overlooked (RFC 9112, section 2.2).
	if ((got = next_line(&rest, &line)) > 0 && size(line) == 0)
		got = next_line(&rest, &line);
	if (got <= 0)
		return got < 0 ? -400 : incomplete;
	if ((error = request_line(line, out)) != 0)
		return error;
	for (;;) {
		if ((got = next_line(&rest, &line)) <= 0)
			return got < 0 ? -400 : incomplete;
		if (size(line) == 0)
			break;
		if ((error = field(line, &f)) != 0)
			return error;
	}
	if (f.hosts > 1 || (f.hosts == 0 && !out->http10))
		return -400;
	// RFC 9112, section 6.1: both, or a coding in HTTP/1.0, is an attack or a broken proxy.
	if (f.coded && (f.has_length || out->http10))
		return -400;
	out->content = f.coded || f.length > 0;
	out->keep_alive = !f.close && (!out->http10 || f.keep);
	return (int)(rest.at - in);
}

enum http_page http_route(const char *path, size_t len, uint64_t *bytes)
{
	struct span s = { path, path + len };
	static const char prefix[] = "/bytes/";
	const size_t skip = sizeof(prefix) - 1;
	for (size_t i = 0; i < len; i++)  // is and starts take capitals for small letters, paths do not
		if (lower(path[i]) != path[i])
			return HTTP_NONE;
	if (is(s, "/"))
		return HTTP_ROOT;
	if (is(s, "/healthz"))
		return HTTP_HEALTH;
	if (is(s, "/stats"))
		return HTTP_STATS;
	if (len > skip && starts(s, prefix) && number((struct span){ path + skip, path + len }, bytes))
		return HTTP_BYTES;
	return HTTP_NONE;
}

void http_put(struct http_text *t, const char *s)
{
	while (*s && t->at < t->end)
		*t->at++ = *s++;
	t->cut |= *s != 0;
}

void http_put_u64(struct http_text *t, uint64_t v)
{
	char digits[21];
	char *p = digits + sizeof(digits) - 1;
	*p = 0;
	do
		*--p = (char)('0' + v % 10);
	while (v /= 10);
	http_put(t, p);
}

const char *http_status(unsigned status)
{
	switch (status) {
	case 200: return "200 OK";
	case 404: return "404 Not Found";
	case 405: return "405 Method Not Allowed";
	case 413: return "413 Content Too Large";
	case 431: return "431 Request Header Fields Too Large";
	case 505: return "505 HTTP Version Not Supported";
	default: return "400 Bad Request";
	}
}

size_t http_head(char out[HTTP_RESPONSE_MAX], unsigned status, const char *type, uint64_t length, const char *date,
                 bool http10, bool keep_alive)
{
	struct http_text t = { out, out + HTTP_RESPONSE_MAX, false };
	http_put(&t, "HTTP/1.1 ");
	http_put(&t, http_status(status));
	http_put(&t, "\r\nServer: uvm-httpd\r\nDate: ");
	http_put(&t, date);
	http_put(&t, "\r\nContent-Type: ");
	http_put(&t, type);
	http_put(&t, "\r\nContent-Length: ");
	http_put_u64(&t, length);
	if (status == 405)
		http_put(&t, "\r\nAllow: GET, HEAD");
	// What the version means by itself is not said.
	if (!keep_alive && !http10)
		http_put(&t, "\r\nConnection: close");
	if (keep_alive && http10)
		http_put(&t, "\r\nConnection: keep-alive");
	http_put(&t, "\r\n\r\n");
	return (size_t)(t.at - out);
}

static void put_padded(struct http_text *t, unsigned v, unsigned width)
{
	for (unsigned unit = width == 4 ? 1000 : 10; unit > 0; unit /= 10) {
		char digit[2] = { (char)('0' + v / unit % 10), 0 };
		http_put(t, digit);
	}
}

void http_date(char out[HTTP_DATE_SIZE], uint64_t seconds)
{
	static const char days[7][6] = { "Thu, ", "Fri, ", "Sat, ", "Sun, ", "Mon, ", "Tue, ", "Wed, " };
	static const char months[12][6] = { " Jan ", " Feb ", " Mar ", " Apr ", " May ", " Jun ", " Jul ", " Aug ", " Sep ", " Oct ",
		                            " Nov ", " Dec " };
	uint64_t day = seconds / 86400;
	unsigned second = (unsigned)(seconds % 86400);
	// Days in years that begin with March, so that the leap day is the last one; 719468 days lie between 0000-03-01 and
	// 1970-01-01. An era is 400 years.
	uint64_t shifted = day + 719468;
	unsigned of_era = (unsigned)(shifted % 146097);
	unsigned year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	unsigned of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	unsigned month = (5 * of_year + 2) / 153;  // from March
	unsigned day_of_month = of_year - (153 * month + 2) / 5 + 1;
	month = (month + 2) % 12;
	uint64_t year = shifted / 146097 * 400 + year_of_era + (month < 2);

	struct http_text t = { out, out + HTTP_DATE_SIZE - 1, false };
	http_put(&t, days[day % 7]);
	put_padded(&t, day_of_month, 2);
	http_put(&t, months[month]);
	put_padded(&t, (unsigned)(year % 10000), 4);
	http_put(&t, " ");
	put_padded(&t, second / 3600, 2);
	http_put(&t, ":");
	put_padded(&t, second / 60 % 60, 2);
	http_put(&t, ":");
	put_padded(&t, second % 60, 2);
	http_put(&t, " GMT");
	*t.at = 0;
}
