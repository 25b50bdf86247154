// SPDX-License-Identifier: Apache-2.0
//
// serve.c: connections of lwIP's callback interface, and what is sent on them.
//
// A connection has an input buffer as large as its TCP window. What arrives is copied there and leaves it as requests are
// answered; only then the window opens again. So a client that sends requests and reads no responses is stopped by
// TCP, and what it can make the server keep is bounded.
#include "serve.h"

#include "http.h"
#include "lwip/stats.h"
#include "lwip/sys.h"
#include "lwip/tcp.h"
#include "nic.h"
#include "pages.h"
#include "port/port.h"
#include "uvm.h"

enum {
	PORT = 80,
	TICK = 2,               // of lwIP's 500 ms, between two looks at a connection's time
	HEAD_MS = 10 * 1000,    // for a request's head to be complete, from its first byte
	IDLE_MS = 60 * 1000,    // without a request
	STALL_MS = 20 * 1000,   // without the client taking anything of a response
	LINGER_MS = 3 * 1000,   // for the client to close, after the server has
	EVICT_MS = 1000,        // a connection has waited for its client at least so long before it is dropped for another
	FAIR = 8,               // see room
	KEPT_BACK = SERVE_CONNECTIONS * FAIR + MEMP_NUM_TCP_PCB,
	SMALL_MAX = 512,        // bytes of content other than /bytes
	BLOCK = 32 * 1024,      // of the pattern at a time
};
_Static_assert(TCP_WND > HTTP_HEAD_MAX, "a whole head has to fit");

struct conn {
	struct tcp_pcb *pcb;   // NULL: the slot is free
	uint32_t since;        // ms: when it began to wait for its client
	uint32_t used;         // bytes of in
	uint32_t offset;       // in the pattern, of what is next to send
	uint64_t left;         // bytes of the response that are still to be sent
	bool last;             // no further request is read
	bool lingers;          // everything is sent, and FIN too
	bool eof;              // the client has sent FIN
	char in[TCP_WND];
};

static struct conn conns[SERVE_CONNECTIONS];
struct serve_counts serve_counts;

// The content of /bytes/N, a block and a period: from any place in the first period on there is a block in one piece.
static uint8_t pattern[HTTP_PERIOD + BLOCK];

static void make_pattern(void)
{
	if (pattern[1])
		return;
	for (uint32_t i = 0; i < HTTP_PERIOD; i++)
		pattern[i] = http_pattern(i);
	for (size_t done = HTTP_PERIOD; done < sizeof(pattern); done += HTTP_PERIOD)
		memcpy(pattern + done, pattern, sizeof(pattern) - done < HTTP_PERIOD ? sizeof(pattern) - done : HTTP_PERIOD);
}

// ---- The end of a connection -----------------------------------------------------------------------------------------

// Takes the connection from lwIP; the slot is free.
static struct tcp_pcb *detach(struct conn *c)
{
	struct tcp_pcb *pcb = c->pcb;
	tcp_arg(pcb, NULL);
	tcp_recv(pcb, NULL);
	tcp_sent(pcb, NULL);
	tcp_err(pcb, NULL);
	tcp_poll(pcb, NULL, 0);
	c->pcb = NULL;
	return pcb;
}

// Both return what lwIP's callbacks of this connection have to return.
static err_t drop(struct conn *c)
{
	serve_counts.dropped++;
	tcp_abort(detach(c));
	return ERR_ABRT;
}

static err_t close(struct conn *c)
{
	struct tcp_pcb *pcb = detach(c);
	// From here on it serves nobody: it is the first to go when memory is short.
	tcp_setprio(pcb, TCP_PRIO_MIN);
	if (tcp_close(pcb) == ERR_OK)
		return ERR_OK;
	tcp_abort(pcb);
	return ERR_ABRT;
}

// A reset would take what the client has not read yet away from it, and that is what lwIP sends when a connection is closed
// while requests arrive. So FIN first, and what arrives then is thrown away until the client closes too (RFC 9112,
// section 9.6).
static err_t finish(struct conn *c)
{
	tcp_recved(c->pcb, (u16_t)c->used);
	c->used = 0;
	if (c->eof)
		return close(c);
	c->lingers = true;
	c->since = sys_now();
	if (tcp_shutdown(c->pcb, 0, 1) != ERR_OK)
		return drop(c);
	return ERR_OK;
}

// ---- Responses -------------------------------------------------------------------------------------------------------

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static size_t left_of(memp_t pool) { return lwip_stats.memp[pool]->avail - lwip_stats.memp[pool]->used; }

// How many bytes may be queued now. Memory is shared in pieces (pbufs, which need a segment or a block of the heap each): a
// connection may always keep FAIR pieces, and beyond that a quarter of those which are neither in use nor kept back for
// the FAIR of others. So clients that read nothing leave enough for those who do.
static uint32_t room(const struct conn *c)
{
	size_t spare = least(least(left_of(MEMP_TCP_SEG), left_of(MEMP_PBUF)), port_blocks());
	size_t limit = FAIR + (spare > KEPT_BACK ? (spare - KEPT_BACK) / 4 : 0), queued = tcp_sndqueuelen(c->pcb);
	if (queued >= limit)
		return 0;
	// A segment takes one piece for its header, and up to two of the pattern.
	return (uint32_t)least((limit - queued + 2) / 3 * tcp_mss(c->pcb), tcp_sndbuf(c->pcb));
}

// Sends of the pattern what there is room for.
static void send_bytes(struct conn *c)
{
	uint32_t n;
	while (c->left > 0 && (n = room(c)) > 0) {
		n = (uint32_t)least(least(n, BLOCK), c->left);
		// The pattern stays as it is, so it is not copied.
		if (tcp_write(c->pcb, pattern + c->offset, (u16_t)n, n < c->left ? TCP_WRITE_FLAG_MORE : 0) != ERR_OK)
			return;
		c->left -= n;
		c->offset = (c->offset + n) % HTTP_PERIOD;
	}
}

// Writes one response, content included but for /bytes. False: lwIP has no memory now, and nothing was written.
static bool respond(struct conn *c, int status, const struct http_request *request)
{
	char out[HTTP_RESPONSE_MAX + SMALL_MAX], content[SMALL_MAX];
	struct http_text t = { content, content + sizeof(content), false };
	const char *type = "text/plain";
	bool bytes = false, keep_alive = false;
	uint64_t length = 0;

	if (status == 200) {
		keep_alive = request->keep_alive && !request->content;
		enum http_page page = http_route(request->path, request->path_len, &length);
		if (request->method == HTTP_OTHER)
			status = 405;
		else if (request->content)
			status = 413;
		else if (page == HTTP_NONE)
			status = 404;
		else if (page == HTTP_BYTES)
			bytes = true, type = "application/octet-stream";
		else
			type = page_put(&t, page);
	}
	if (status != 200) {
		http_put(&t, http_status((unsigned)status));
		http_put(&t, "\n");
	}
	if (!bytes)
		length = (uint64_t)(t.at - content);
	size_t n = http_head(out, (unsigned)status, type, length, page_date(), request->http10, keep_alive);
	bool whole = request->method != HTTP_HEAD;
	if (whole && !bytes) {
		memcpy(out + n, content, length);
		n += length;
	}
	bool more = whole && bytes && length > 0;
	if (tcp_write(c->pcb, out, (u16_t)n, TCP_WRITE_FLAG_COPY | (more ? TCP_WRITE_FLAG_MORE : 0)) != ERR_OK)
		return false;
	serve_counts.requests++;
	c->last = !keep_alive;
	if (more) {
		make_pattern();
		c->offset = 0;
		c->left = length;
	}
	return true;
}

// Does what can be done: sends what is due, answers what has arrived. Whatever it waits for calls it again.
static err_t pump(struct conn *c)
{
	uint32_t taken = 0;
	for (;;) {
		send_bytes(c);
		if (c->left > 0 || room(c) < HTTP_RESPONSE_MAX + SMALL_MAX || c->last || taken == c->used)
			break;
		struct http_request request;
		int n = http_parse(c->in + taken, c->used - taken, &request);
		if (n == 0 || !respond(c, n > 0 ? 200 : -n, &request))
			break;
		taken += n > 0 ? (uint32_t)n : c->used - taken;
		c->since = sys_now();
	}
	if (taken > 0) {
		c->used -= taken;
		memmove(c->in, c->in + taken, c->used);
		tcp_recved(c->pcb, (u16_t)taken);
	}
	if (c->left > 0)
		return ERR_OK;
	// With nothing left to read: what the client did not finish, it will not finish.
	struct http_request request;
	if (c->last || (c->eof && (c->used == 0 || http_parse(c->in, c->used, &request) == 0)))
		return finish(c);
	return ERR_OK;
}

uint64_t serve_open(void)
{
	uint64_t n = 0;
	for (const struct conn *c = conns; c < conns + SERVE_CONNECTIONS; c++)
		n += c->pcb != NULL;
	return n;
}

// ---- lwIP's callbacks ------------------------------------------------------------------------------------------------

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
	struct conn *c = arg;
	(void)err;
	if (!p) {
		c->eof = true;
		if (c->lingers)
			return close(c);
		return pump(c);
	}
	u16_t n = p->tot_len;
	if (c->last || c->lingers) {
		tcp_recved(pcb, n);
		pbuf_free(p);
		return ERR_OK;
	}
	if (n > sizeof(c->in) - c->used) {  // lwIP cuts what is beyond the window
		pbuf_free(p);
		return drop(c);
	}
	if (c->used == 0 && c->left == 0)
		c->since = sys_now();
	pbuf_copy_partial(p, c->in + c->used, n, 0);
	c->used += n;
	pbuf_free(p);
	return pump(c);
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
	struct conn *c = arg;
	(void)pcb;
	(void)len;
	if (c->lingers)
		return ERR_OK;
	c->since = sys_now();
	return pump(c);
}

static err_t on_tick(void *arg, struct tcp_pcb *pcb)
{
	struct conn *c = arg;
	uint32_t limit = c->lingers ? LINGER_MS : c->left > 0 || tcp_sndqueuelen(pcb) > 0 ? STALL_MS : c->used > 0 ? HEAD_MS : IDLE_MS;
	if (sys_now() - c->since > limit)
		return c->used == 0 && c->left == 0 && !c->lingers ? close(c) : drop(c);
	return c->lingers ? ERR_OK : pump(c);
}

static void on_error(void *arg, err_t err)
{
	struct conn *c = arg;
	(void)err;
	c->pcb = NULL;  // lwIP has freed it already
}

// A free slot, or that of the connection that has waited longest for its client; NULL if none has waited long.
static struct conn *slot(void)
{
	struct conn *oldest = NULL;
	uint32_t now = sys_now(), age = EVICT_MS;
	for (struct conn *c = conns; c < conns + SERVE_CONNECTIONS; c++) {
		if (!c->pcb)
			return c;
		if (now - c->since >= age) {
			age = now - c->since;
			oldest = c;
		}
	}
	if (oldest)
		drop(oldest);
	return oldest;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
	(void)arg;
	if (err != ERR_OK || !pcb)
		return ERR_VAL;
	struct conn *c = slot();
	if (!c)
		return ERR_MEM;  // lwIP resets it
	c->pcb = pcb;
	c->since = sys_now();
	c->used = 0;
	c->left = 0;
	c->last = c->lingers = c->eof = false;
	serve_counts.connections++;
	tcp_setprio(pcb, TCP_PRIO_NORMAL);
	tcp_nagle_disable(pcb);
	tcp_arg(pcb, c);
	tcp_recv(pcb, on_recv);
	tcp_sent(pcb, on_sent);
	tcp_err(pcb, on_error);
	tcp_poll(pcb, on_tick, TICK);
	return ERR_OK;
}

// A connection whose client has not answered yet has the lowest priority: when all structures are in use, lwIP gives that of the
// oldest one to the next client. So a flood of SYNs only pushes itself out, as long as a client's answer takes less time
// than all of the others' SYNs.
static err_t half_open(u8_t id, struct tcp_pcb_listen *listener, struct tcp_pcb *pcb)
{
	(void)id;
	(void)listener;
	tcp_setprio(pcb, TCP_PRIO_MIN);
	return ERR_OK;
}

bool serve_start(uint64_t monotonic_ns, uint64_t wall_ns)
{
	static const struct tcp_ext_arg_callbacks callbacks = { .passive_open = half_open };
	struct tcp_pcb *pcb = tcp_new();
	if (!pcb || tcp_bind(pcb, IP_ADDR_ANY, PORT) != ERR_OK)
		return false;
	tcp_ext_arg_set_callbacks(pcb, tcp_ext_arg_alloc_id(), &callbacks);
	struct tcp_pcb *listener = tcp_listen(pcb);
	if (!listener)
		return false;
	tcp_accept(listener, on_accept);
	page_start(monotonic_ns, wall_ns);
	return true;
}
