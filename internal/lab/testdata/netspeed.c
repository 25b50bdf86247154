// netspeed is both ends of TestNetSpeed: `netspeed guest` in a Linux guest, and
// `netspeed host ADDRESS MILLISECONDS` on the other side of its TAP, which asks for one
// transfer after the other and prints a line of JSON for each.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONTROL = 5001, FROM_GUEST, TO_GUEST };
enum { PAYLOAD = 22, BATCH = 64, CHUNK = 256 << 10 }; // a UDP frame of 64 bytes, without its checksum

static char chunk[CHUNK];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct sockaddr_in at(const char *addr, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	if (!inet_aton(addr, &a.sin_addr))
		errx(1, "%s: no IPv4 address", addr);
	return a;
}

static int new_socket(int type, int bind_to)
{
	int fd = socket(AF_INET, type, 0), one = 1, room = 4 << 20;
	struct sockaddr_in a = at("0.0.0.0", bind_to);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one))
		err(1, "socket");
	if (type == SOCK_DGRAM) // as root beyond the limit
		setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
	if (bind_to && bind(fd, (void *)&a, sizeof a))
		err(1, "bind");
	return fd;
}

static uint64_t drain(int fd)
{
	uint64_t n = 0;
	for (ssize_t k; (k = read(fd, chunk, CHUNK)) != 0; n += k)
		if (k < 0)
			err(1, "read");
	return n;
}

static uint64_t fill(int fd, double seconds)
{
	uint64_t n = 0;
	ssize_t k = 0;
	for (double end = now() + seconds; now() < end; n += k)
		if ((k = write(fd, chunk, CHUNK)) < 0)
			err(1, "write");
	return n;
}

// flood sends datagrams.
static void flood(struct sockaddr_in to, double seconds)
{
	static struct mmsghdr m[BATCH];
	struct iovec v = {chunk, PAYLOAD};
	int fd = new_socket(SOCK_DGRAM, 0);
	if (connect(fd, (void *)&to, sizeof to))
		err(1, "connect");
	for (int i = 0; i < BATCH; i++)
		m[i].msg_hdr = (struct msghdr){.msg_iov = &v, .msg_iovlen = 1};
	for (double end = now() + seconds; now() < end;) {
		int k = sendmmsg(fd, m, BATCH, 0);
		if (k < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
			err(1, "sendmmsg");
	}
	close(fd);
}

// count takes datagrams from fd until control is readable and no more have come for
// a while; it returns how many, and from the first to the last the seconds.
static uint64_t count(int fd, int control, double *seconds)
{
	static struct mmsghdr m[BATCH];
	static char bufs[BATCH][2048];
	struct iovec v[BATCH];
	for (int i = 0; i < BATCH; i++) {
		v[i] = (struct iovec){bufs[i], sizeof bufs[i]};
		m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
	}
	uint64_t n = 0;
	double first = 0, last = 0;
	for (int ended = 0;;) {
		struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = ended ? -1 : control, .events = POLLIN}};
		if (poll(p, 2, ended ? 100 : -1) == 0)
			break;
		ended |= p[1].revents != 0;
		int k = recvmmsg(fd, m, BATCH, MSG_DONTWAIT, NULL);
		if (k > 0) {
			last = now();
			first = n ? first : last;
			n += k;
		}
	}
	*seconds = last - first;
	return n;
}

struct request {
	char what; // s, r: TCP from and to the guest; S, R: UDP; q: the end
	double seconds;
};

static void guest(void)
{
	int l = new_socket(SOCK_STREAM, CONTROL), udp = new_socket(SOCK_DGRAM, TO_GUEST);
	if (listen(l, 1))
		err(1, "listen");
	for (;;) {
		struct sockaddr_in peer;
		socklen_t len = sizeof peer;
		struct request r;
		int fd = accept(l, (void *)&peer, &len);
		if (fd < 0 || recv(fd, &r, sizeof r, MSG_WAITALL) != sizeof r)
			err(1, "accept");
		double seconds;
		uint64_t n = 0;
		peer.sin_port = htons(FROM_GUEST);
		switch (r.what) {
		case 's': fill(fd, r.seconds); break;
		case 'r': drain(fd); break;
		case 'S': flood(peer, r.seconds); break;
		case 'R':
			n = count(udp, fd, &seconds);
			if (write(fd, &n, sizeof n) < 0)
				err(1, "write");
			break;
		case 'q': return;
		}
		close(fd);
	}
}

// stat_of is a counter of KVM's, of all its VMs.
static long long stat_of(const char *name)
{
	char path[100], b[32] = "0";
	snprintf(path, sizeof path, "/sys/kernel/debug/kvm/%s", name);
	FILE *f = fopen(path, "r");
	if (f && !fgets(b, sizeof b, f))
		b[0] = 0;
	if (f)
		fclose(f);
	return atoll(b);
}

static int dial(const char *addr, struct request r)
{
	struct sockaddr_in a = at(addr, CONTROL);
	for (double end = now() + 60;; usleep(50000)) {
		int fd = new_socket(SOCK_STREAM, 0);
		if (connect(fd, (void *)&a, sizeof a) == 0) {
			if (write(fd, &r, sizeof r) != sizeof r)
				err(1, "write");
			return fd;
		}
		close(fd);
		if (now() > end)
			err(1, "connect to %s", addr);
	}
}

static void host(const char *addr, double seconds)
{
	static const char *stats[] = {"exits", "halt_exits", "irq_injections", "signal_exits"};
	int udp = new_socket(SOCK_DGRAM, FROM_GUEST);
	close(dial(addr, (struct request){'r', 0})); // the guest is up, ARP is done
	for (const char *what = "srSR"; *what; what++) {
		long long before[4];
		for (int i = 0; i < 4; i++)
			before[i] = stat_of(stats[i]);
		double begin = now(), took = seconds;
		int fd = dial(addr, (struct request){*what, seconds});
		uint64_t n = 0;
		switch (*what) {
		case 's':
			n = drain(fd);
			took = now() - begin;
			break;
		case 'r':
			n = fill(fd, seconds);
			shutdown(fd, SHUT_WR);
			drain(fd); // until the guest has taken all and closed
			took = now() - begin;
			break;
		case 'S':
			n = count(udp, fd, &took);
			break;
		case 'R':
			flood(at(addr, TO_GUEST), seconds);
			shutdown(fd, SHUT_WR);
			if (read(fd, &n, sizeof n) != sizeof n)
				err(1, "read");
			break;
		}
		close(fd);
		printf("{\"what\": \"%c\", \"n\": %llu, \"seconds\": %.3f", *what, (unsigned long long)n, took);
		for (int i = 0; i < 4; i++)
			printf(", \"%s\": %lld", stats[i], stat_of(stats[i]) - before[i]);
		printf("}\n");
		fflush(stdout);
	}
	close(dial(addr, (struct request){'q', 0}));
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "guest"))
		guest();
	else if (argc == 4 && !strcmp(argv[1], "host"))
		host(argv[2], atof(argv[3]) / 1000);
	else
		errx(2, "usage: netspeed guest | netspeed host ADDRESS MILLISECONDS");
	return 0;
}
