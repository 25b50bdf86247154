// SPDX-License-Identifier: Apache-2.0
//
// netecho: answers ARP, ping and UDP echo (port 7) on the network device "service".
//
//   --ipv4=10.0.0.2/24   own address; the prefix length is accepted and not needed: replies go to where the request came
//                        from. Without it the one that the monitor hands over, or else 10.0.0.2
//   --packets N          end with status 0 after N answers
//   --single             one hypercall for each frame, also where the monitor has batches
//   --ring               by the network ring, frame by frame as Solo5's own bindings have it; the monitor has to offer it
//
// A UDP datagram to port 7 that consists of "quit\n" is answered and ends the guest with status 0.
#include "packet.h"
#include "uvm.h"

UVM_MANIFEST(UVM_NET("service"));

// Frames of one batch, with room for the largest of any MTU the manifest can express.
enum { FRAMES = 16, ROOM = ETHERNET_HEADER + UINT16_MAX };
static uint8_t frame[FRAMES][ROOM];
static struct uvm_request request[2 * FRAMES];

static enum { BATCH, SINGLE, RING } way;

static int by_ring(struct uvm_request *r)
{
	if (r->call == UVM_NET_WRITE)
		return uvm_ring_write(r->net.handle, (void *)r->net.ptr, r->net.len);
	return uvm_ring_read(r->net.handle, (void *)r->net.ptr, &r->net.len);
}

// Carries out the first n requests, as uvm_batch does.
static int carry_out(size_t n, size_t *done)
{
	if (way == BATCH)
		return uvm_batch(request, n, done);
	int result = UVM_OK;
	for (*done = 0; *done < n && result == UVM_OK; *done += result == UVM_OK)
		result = way == RING ? by_ring(&request[*done]) : uvm_call(&request[*done]);
	return result;
}

int main(int argc, char **argv)
{
	const struct uvm_device *nic = uvm_find_device("service", UVM_NET_DEVICE);
	uint64_t handle = uvm_handle(nic), limit = 0, answered = 0;
	struct station me = { .ip = { 10, 0, 0, 2 } };
	memcpy(me.mac, nic->net.mac, sizeof(me.mac));
	struct uvm_ipv4 given;
	if (uvm_net_config(nic, &given))
		memcpy(me.ip, given.address, sizeof(me.ip));

	for (int i = 0; i < argc; i++) {
		bool ok = false;
		if (strlen(argv[i]) > 7 && memcmp(argv[i], "--ipv4=", 7) == 0) {
			const char *rest = parse_ipv4(argv[i] + 7, me.ip, NULL);
			ok = rest && !*rest;
		} else if (strcmp(argv[i], "--packets") == 0 && i + 1 < argc)
			ok = parse_u64(argv[++i], &limit) && limit > 0;
		else if (strcmp(argv[i], "--single") == 0)
			ok = (way = SINGLE);
		else if (strcmp(argv[i], "--ring") == 0)
			ok = (way = RING);
		if (!ok) {
			puts("usage: netecho [--ipv4=A.B.C.D/PREFIX] [--packets N] [--single | --ring]");
			return 2;
		}
	}
	if (way == RING && !uvm_has_ring()) {
		puts("netecho: the monitor offers no network ring");
		return 1;
	}
	printf("netecho: %d.%d.%d.%d up, mac %02x:%02x:%02x:%02x:%02x:%02x, mtu %d\n", me.ip[0], me.ip[1], me.ip[2], me.ip[3],
	       me.mac[0], me.mac[1], me.mac[2], me.mac[3], me.mac[4], me.mac[5], nic->net.mtu);

	// Each batch sends the answers to the last one's frames, and then takes what has come since: the buffers are free again.
	bool end = false;
	for (size_t replies = 0;;) {
		const size_t reads = end ? 0 : way == BATCH ? FRAMES : 1;
		for (size_t i = 0; i < reads; i++)
			request[replies + i] = uvm_net_request(UVM_NET_READ, handle, frame[i], ETHERNET_HEADER + (size_t)nic->net.mtu);
		size_t done;
		int result = carry_out(replies + reads, &done);
		if (done < replies) {
			printf("netecho: write failed, result %d\n", result);
			return 1;
		}
		if (end)
			return 0;
		if (result != UVM_OK && result != UVM_AGAIN) {
			printf("netecho: read failed, result %d\n", result);
			return 1;
		}
		const struct uvm_request *got = &request[replies];
		size_t frames = done - replies;
		replies = 0;
		for (size_t i = 0; i < frames && !end; i++) {
			size_t reply = answer(&me, frame[i], got[i].net.len, &end);
			if (!reply)
				continue;
			request[replies++] = uvm_net_request(UVM_NET_WRITE, handle, frame[i], reply);
			end = end || ++answered == limit;
		}
		if (frames == 0)
			uvm_poll(UVM_FOREVER, NULL);
	}
}
