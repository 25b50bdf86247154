// SPDX-License-Identifier: Apache-2.0
//
// nic.c: frames between the monitor and lwIP. Every hypercall leaves the guest, which costs more than lwIP's work on a frame,
// so the loop saves calls.
#include "nic.h"

#include "lwip/etharp.h"
#include "lwip/pbuf.h"
#include "netif/ethernet.h"

enum {
	ETHERNET_HEADER = 14,
	MTU_MAX = 9000,  // TCP_MSS in lwipopts.h fits
	// lwIP works on one frame at a time and keeps fragments only (IP_REASS_MAX_PBUFS).
	BUFFERS = 32,
	BATCH = 64,       // frames between two looks at the clock
	PROBE_EVERY = 8,  // batches
};

// A received frame, while lwIP has it.
struct buffer {
	struct pbuf_custom pbuf;  // first: lwIP hands its address back
	struct buffer *next;
	uint8_t frame[ETHERNET_HEADER + MTU_MAX];
};

struct nic_calls nic_calls;

static struct netif nic;
static uint64_t handle;
static struct buffer buffers[BUFFERS], *free_buffers;
static unsigned taken;  // of buffers, ever: the others are not on the list and not touched yet

static void give_back(struct pbuf *p)
{
	struct buffer *b = (struct buffer *)p;
	b->next = free_buffers;
	free_buffers = b;
}

// Sends a frame. Where it is in pieces, headers and content, it is put together first: the call takes one range.
static err_t transmit(struct netif *netif, struct pbuf *p)
{
	static uint8_t frame[ETHERNET_HEADER + MTU_MAX];
	(void)netif;
	const void *start = p->payload;
	if (p->len != p->tot_len) {
		if (p->tot_len > sizeof(frame))
			return ERR_BUF;
		size_t used = 0;
		for (const struct pbuf *q = p; used < p->tot_len; used += q->len, q = q->next)
			memcpy(frame + used, q->payload, q->len);
		start = frame;
	}
	nic_calls.write++;
	// A frame that the host has no room for is lost, as on a wire.
	return uvm_net_write(handle, start, p->tot_len) == UVM_OK ? ERR_OK : ERR_IF;
}

static err_t set_up(struct netif *netif)
{
	const struct uvm_device *device = netif->state;
	netif->name[0] = 'u';
	netif->name[1] = 'v';
	netif->mtu = device->net.mtu < MTU_MAX ? device->net.mtu : MTU_MAX;
	netif->hwaddr_len = sizeof(device->net.mac);
	memcpy(netif->hwaddr, device->net.mac, sizeof(device->net.mac));
	netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
	netif->output = etharp_output;
	netif->linkoutput = transmit;
	return ERR_OK;
}

static ip4_addr_t to_lwip(const uint8_t ip[4])
{
	ip4_addr_t a;
	IP4_ADDR(&a, ip[0], ip[1], ip[2], ip[3]);
	return a;
}

void nic_start(const struct uvm_device *device, const struct uvm_ipv4 *address)
{
	handle = uvm_handle(device);
	ip4_addr_t ip = to_lwip(address->address), gateway = to_lwip(address->gateway), mask;
	ip4_addr_set_u32(&mask, lwip_htonl(address->prefix ? ~(uint32_t)0 << (32 - address->prefix) : 0));
	netif_add(&nic, &ip, &mask, &gateway, (void *)device, set_up, ethernet_input);
	netif_set_default(&nic);
	netif_set_up(&nic);
}

// Takes a frame and gives it to lwIP. Without a buffer it is lost.
static int receive(void)
{
	static uint8_t dropped[ETHERNET_HEADER];
	struct buffer *b = free_buffers;
	if (!b && taken < BUFFERS) {
		b = &buffers[taken++];
		b->pbuf.custom_free_function = give_back;
		give_back(&b->pbuf.pbuf);
	}
	size_t len = b ? ETHERNET_HEADER + (size_t)nic.mtu : sizeof(dropped);
	int result = uvm_net_read(handle, b ? b->frame : dropped, &len);
	nic_calls.read += result == UVM_OK;
	nic_calls.empty += result == UVM_AGAIN;
	if (result != UVM_OK || !b)
		return result;
	free_buffers = b->next;
	struct pbuf *p = pbuf_alloced_custom(PBUF_RAW, (u16_t)len, PBUF_REF, &b->pbuf, b->frame, sizeof(b->frame));
	if (nic.input(p, &nic) != ERR_OK)
		pbuf_free(p);
	return UVM_OK;
}

// Waiting for a frame takes a POLL, taking it a NET_READ, and finding out that it was the last one a NET_READ more. The
// last is saved by a guess: as many frames wait as did before. Whether there were more shows in the POLL that follows
// anyway; every few times one more is tried, so that the guess can grow.
bool nic_turn(uint32_t timeout_ms)
{
	static unsigned guess = 1, full;
	unsigned got = 0;
	nic_calls.poll++;
	if (uvm_poll((uint64_t)timeout_ms * 1000000, NULL) <= 0)
		return true;
	unsigned limit = guess;
	if (++full % PROBE_EVERY == 0 && guess < BATCH)
		limit = guess * 2;
	for (; got < limit; got++) {
		int result = receive();
		if (result == UVM_AGAIN) {
			if (got < guess)
				guess = got ? got : 1;
			return true;
		}
		if (result != UVM_OK)
			return false;
		if (got + 1 > guess)
			guess = got + 1;
	}
	return true;
}
