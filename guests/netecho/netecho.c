// SPDX-License-Identifier: Apache-2.0
//
// netecho: answers ARP, ping and UDP echo (port 7) on the network device "service".
//
//   --ipv4=10.0.0.2/24   own address; the prefix length is accepted and not needed: replies go to where the request came
//                        from. Without it the one that the monitor hands over, or else 10.0.0.2
//   --packets N          end with status 0 after N answers
//
// A UDP datagram to port 7 that consists of "quit\n" is answered and ends the guest with status 0.
#include "packet.h"
#include "uvm.h"

UVM_MANIFEST(UVM_NET("service"));

// Room for the largest frame of any MTU the manifest can express.
static uint8_t frame[ETHERNET_HEADER + UINT16_MAX];

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
		if (!ok) {
			puts("usage: netecho [--ipv4=A.B.C.D/PREFIX] [--packets N]");
			return 2;
		}
	}
	printf("netecho: %d.%d.%d.%d up, mac %02x:%02x:%02x:%02x:%02x:%02x, mtu %d\n", me.ip[0], me.ip[1], me.ip[2], me.ip[3],
	       me.mac[0], me.mac[1], me.mac[2], me.mac[3], me.mac[4], me.mac[5], nic->net.mtu);

	for (;;) {
		size_t len = ETHERNET_HEADER + (size_t)nic->net.mtu;
		int result = uvm_net_read(handle, frame, &len);
		if (result == UVM_AGAIN) {
			uvm_poll(UVM_FOREVER, NULL);
			continue;
		}
		if (result != UVM_OK) {
			printf("netecho: read failed, result %d\n", result);
			return 1;
		}
		bool quit = false;
		size_t reply = answer(&me, frame, len, &quit);
		if (!reply)
			continue;
		if (uvm_net_write(handle, frame, reply) != UVM_OK) {
			puts("netecho: write failed");
			return 1;
		}
		if (quit || ++answered == limit)
			return 0;
	}
}
