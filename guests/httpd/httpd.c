// SPDX-License-Identifier: Apache-2.0
//
// httpd: serves HTTP on the network device "service", TCP port 80, with lwIP.
//
//   --ipv4=10.0.0.2/24         own address. Without it the one that the monitor hands over, or else 10.0.0.2/24
//   --ipv4-gateway=10.0.0.1    where everything outside of that network goes
//   --boot-mark                makes the boot mark L once it listens; not needed if uvm handed over the address. (Solo5's
//                              tender ends a guest that makes marks.)
//
// It runs until its monitor ends it.
#include "lwip/init.h"
#include "lwip/timeouts.h"
#include "nic.h"
#include "port/port.h"
#include "serve.h"
#include "uvm.h"

UVM_MANIFEST(UVM_NET("service"));
UVM_SERVES_HTTP;

enum { MARK_PORT = 0x3f0 };

// What follows the key in an argument; NULL: it is another argument.
static const char *value_of(const char *arg, const char *key)
{
	size_t n = strlen(key);
	return strlen(arg) >= n && memcmp(arg, key, n) == 0 ? arg + n : NULL;
}

int main(int argc, char **argv)
{
	const uint64_t entered = uvm_monotonic_ns(), wall = uvm_walltime_ns();
	const struct uvm_device *device = uvm_find_device("service", UVM_NET_DEVICE);
	struct uvm_ipv4 me = { .address = { 10, 0, 0, 2 }, .prefix = 24 };
	bool mark = uvm_net_config(device, &me);

	for (int i = 0; i < argc; i++) {
		const char *s, *rest = NULL;
		if ((s = value_of(argv[i], "--ipv4=")))
			rest = parse_ipv4(s, me.address, &me.prefix);
		else if ((s = value_of(argv[i], "--ipv4-gateway=")))
			rest = parse_ipv4(s, me.gateway, NULL);
		else if (strcmp(argv[i], "--boot-mark") == 0)
			mark = true, rest = "";
		if (!rest || *rest) {
			puts("usage: httpd [--ipv4=A.B.C.D/PREFIX] [--ipv4-gateway=A.B.C.D] [--boot-mark]");
			return 2;
		}
	}
	port_seed(device->net.mac, wall);
	lwip_init();
	nic_start(device, &me);
	if (!serve_start(entered, wall)) {
		puts("httpd: no memory to listen");
		return 1;
	}
	if (mark)
		outb(MARK_PORT, 'L');
	const uint8_t *ip = me.address, *mac = device->net.mac;
	printf("httpd: http://%d.%d.%d.%d/ is up, mac %02x:%02x:%02x:%02x:%02x:%02x, mtu %d\n", ip[0], ip[1], ip[2], ip[3], mac[0],
	       mac[1], mac[2], mac[3], mac[4], mac[5], device->net.mtu);
	do
		sys_check_timeouts();
	while (nic_turn(sys_timeouts_sleeptime()));
	puts("httpd: the network device fails");
	return 1;
}
