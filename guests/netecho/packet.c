// SPDX-License-Identifier: Apache-2.0
//
// packet.c: ARP (RFC 826), ICMP echo (RFC 792) and UDP echo (RFC 768, RFC 862) over IPv4 (RFC 791).
//
// A reply is its request with the addresses swapped. The Internet checksum is a sum, so swapping leaves it as it is: only
// what really changes (ICMP type, TTL) is accounted for.
#include "packet.h"

#include "uvm.h"

enum {
	ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_ARP = 0x0806,
	ARP_SIZE = 28, ARP_REQUEST = 1, ARP_REPLY = 2,
	IP_HEADER = 20, IP_MORE_FRAGMENTS_OR_OFFSET = 0x3fff, IP_TTL = 64, IP_ICMP = 1, IP_UDP = 17,
	ICMP_HEADER = 8, ICMP_ECHO_REPLY = 0, ICMP_ECHO_REQUEST = 8,
	UDP_HEADER = 8, UDP_ECHO_PORT = 7,
};

static unsigned get16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void swap(uint8_t *a, uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t t = a[i];
		a[i] = b[i];
		b[i] = t;
	}
}

// Ones' complement sum of len bytes onto sum, in the byte order of the packet. Adds eight bytes per turn: the sum of
// 16-bit words modulo 0xffff is also that of 64-bit words (RFC 1071).
static uint64_t add_sum(uint64_t sum, const uint8_t *p, size_t len)
{
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t word;
		__builtin_memcpy(&word, p, 8);
		sum += word;
		sum += sum < word;  // end-around carry
	}
	uint64_t rest = 0;
	for (size_t i = 0; i < len; i++)
		rest |= (uint64_t)p[i] << (8 * i);
	sum += rest;
	return sum + (sum < rest);
}

// Folds to 16 bits. A packet whose checksum is right sums to 0xffff.
static unsigned fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (unsigned)sum;
}

static void put_checksum(uint8_t *field, unsigned folded)
{
	// The sum was made of little-endian loads, so it is stored the same way.
	unsigned checksum = ~folded & 0xffff;
	field[0] = (uint8_t)checksum;
	field[1] = (uint8_t)(checksum >> 8);
}

static size_t answer_arp(const struct station *me, uint8_t *arp, size_t len)
{
	// Ethernet and IPv4 addresses of 6 and 4 bytes.
	static const uint8_t request[8] = { 0, 1, 8, 0, 6, 4, 0, ARP_REQUEST };
	uint8_t *sender = arp + 8, *target = arp + 18;
	if (len < ARP_SIZE || memcmp(arp, request, sizeof(request)) != 0 || memcmp(target + 6, me->ip, 4) != 0)
		return 0;
	put16(arp + 6, ARP_REPLY);
	memcpy(target, me->mac, 6);
	swap(sender, target, 10);
	return ARP_SIZE;
}

static bool answer_icmp(uint8_t *icmp, size_t len)
{
	if (len < ICMP_HEADER || icmp[0] != ICMP_ECHO_REQUEST || icmp[1] != 0 || fold(add_sum(0, icmp, len)) != 0xffff)
		return false;
	icmp[0] = ICMP_ECHO_REPLY;
	put16(icmp + 2, 0);
	put_checksum(icmp + 2, fold(add_sum(0, icmp, len)));
	return true;
}

static bool answer_udp(const uint8_t *ip, uint8_t *udp, size_t len, bool *quit)
{
	if (len < UDP_HEADER || get16(udp + 2) != UDP_ECHO_PORT)
		return false;
	// From port 7 to port 7 would bounce for ever between two echo servers; port 0 means that no reply is wanted.
	unsigned source = get16(udp), size = get16(udp + 4);
	if (source == UDP_ECHO_PORT || source == 0 || size < UDP_HEADER || size > len)
		return false;
	if (get16(udp + 6) != 0) {  // 0: the sender made no checksum
		const uint8_t pseudo[4] = { 0, IP_UDP, udp[4], udp[5] };
		uint64_t sum = add_sum(0, ip + 12, 8);
		sum = add_sum(sum, pseudo, sizeof(pseudo));
		if (fold(add_sum(sum, udp, size)) != 0xffff)
			return false;
	}
	swap(udp, udp + 2, 2);
	*quit = size == UDP_HEADER + 5 && memcmp(udp + UDP_HEADER, "quit\n", 5) == 0;
	return true;
}

static size_t answer_ipv4(const struct station *me, uint8_t *ip, size_t len, bool *quit)
{
	if (len < IP_HEADER || ip[0] >> 4 != 4)
		return 0;
	size_t header = (size_t)(ip[0] & 15) * 4, total = get16(ip + 2);
	if (header < IP_HEADER || total < header || total > len)
		return 0;
	if (memcmp(ip + 16, me->ip, 4) != 0 || fold(add_sum(0, ip, header)) != 0xffff)
		return 0;
	// Fragments are not put together, and nobody is answered at an address that is not a single station's: 0.x, loopback,
	// multicast and broadcast, or our own.
	if ((get16(ip + 6) & IP_MORE_FRAGMENTS_OR_OFFSET) != 0 || ip[12] == 0 || ip[12] == 127 || ip[12] >= 224 ||
	    memcmp(ip + 12, me->ip, 4) == 0)
		return 0;

	uint8_t *payload = ip + header;
	bool due = false;
	if (ip[9] == IP_ICMP)
		due = answer_icmp(payload, total - header);
	else if (ip[9] == IP_UDP)
		due = answer_udp(ip, payload, total - header, quit);
	if (!due)
		return 0;

	swap(ip + 12, ip + 16, 4);
	ip[8] = IP_TTL;
	put16(ip + 10, 0);
	put_checksum(ip + 10, fold(add_sum(0, ip, header)));
	return total;
}

size_t answer(const struct station *me, uint8_t *frame, size_t len, bool *quit)
{
	static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	if (len < ETHERNET_HEADER || (frame[6] & 1))  // a group address cannot be a sender
		return 0;
	bool to_me = memcmp(frame, me->mac, 6) == 0;
	unsigned type = get16(frame + 12);
	size_t reply = 0;
	if (type == ETHERTYPE_ARP && (to_me || memcmp(frame, broadcast, 6) == 0))
		reply = answer_arp(me, frame + ETHERNET_HEADER, len - ETHERNET_HEADER);
	else if (type == ETHERTYPE_IPV4 && to_me)
		reply = answer_ipv4(me, frame + ETHERNET_HEADER, len - ETHERNET_HEADER, quit);
	if (!reply)
		return 0;
	memcpy(frame, frame + 6, 6);
	memcpy(frame + 6, me->mac, 6);
	return ETHERNET_HEADER + reply;
}
