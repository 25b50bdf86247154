// SPDX-License-Identifier: Apache-2.0
//
// packet.h: from a received frame to the reply, free of any device. Everything in a frame is untrusted.
#ifndef NETECHO_PACKET_H
#define NETECHO_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ETHERNET_HEADER = 14 };

// Own addresses, in network byte order.
struct station {
	uint8_t mac[6], ip[4];
};

// Turns the received frame of len bytes into its reply, in place, and returns the reply's length in bytes, which is never
// above len. 0: no reply is due and the frame may be half changed. Sets *quit for the UDP datagram "quit\n".
size_t answer(const struct station *me, uint8_t *frame, size_t len, bool *quit);

#endif
