// SPDX-License-Identifier: Apache-2.0
//
// lwipopts.h: how lwIP is built into httpd: IPv4, ICMP and TCP by callbacks, without threads, UDP or IPv6.
#ifndef HTTPD_LWIPOPTS_H
#define HTTPD_LWIPOPTS_H

#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0

#define LWIP_IPV4 1
#define LWIP_IPV6 0
#define LWIP_ARP 1
#define LWIP_ETHERNET 1
#define LWIP_ICMP 1
#define LWIP_TCP 1
#define LWIP_UDP 0
#define LWIP_RAW 0
#define LWIP_DHCP 0
#define LWIP_AUTOIP 0
#define LWIP_IGMP 0
#define LWIP_DNS 0

// Fragments are put together as RFC 1122 asks, a few at a time; a frame buffer is held for each.
#define IP_REASSEMBLY 1
#define IP_REASS_MAX_PBUFS 16
#define MEMP_NUM_REASSDATA 4
#define IP_FRAG 1
#define MEMP_NUM_FRAG_PBUF 48

#define ARP_TABLE_SIZE 32
#define ARP_QUEUEING 0

// Structures come from pools.c, buffers from the heap of port.c. Both touch only what they hand out.
#define MEM_ALIGNMENT 8
#define MEM_LIBC_MALLOC 1
#define MEMP_NUM_TCP_PCB_LISTEN 1
#define MEMP_NUM_TCP_PCB 512  // above the connections of serve.h: half-open and closing ones
#define MEMP_NUM_TCP_SEG 6144
#define MEMP_NUM_PBUF 6144
#define PBUF_POOL_SIZE 1      // received frames lie in buffers of nic.c
#define LWIP_SUPPORT_CUSTOM_PBUF 1
#define LWIP_NETIF_TX_SINGLE_PBUF 0
// Frames up to an MTU of 9000 are made use of.
#define TCP_MSS 8960
#define TCP_OVERSIZE 0
// The window is a connection's input buffer, see serve.c; so what a client sends always has room. Clients send small requests,
// hence nothing is kept out of order.
#define TCP_WND 18432
#define TCP_QUEUE_OOSEQ 0
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 0
#define TCP_SND_BUF (256 * 1024)
#define TCP_SND_QUEUELEN 1024
#define TCP_SNDLOWAT 1
#define TCP_SNDQUEUELOWAT 5
// The checks assume the pools above for received frames, which are not used.
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1
#define TCP_LISTEN_BACKLOG 0  // the pool is the bound, see half_open in serve.c
#define LWIP_TCP_PCB_NUM_EXT_ARGS 1
#define LWIP_TCP_KEEPALIVE 0

#define LWIP_CHKSUM port_checksum
#define LWIP_CHECKSUM_ON_COPY 0

#define LWIP_STATS 1
#define LWIP_STATS_LARGE 1
#define LINK_STATS 0
#define ETHARP_STATS 0
#define IP_STATS 0
#define IPFRAG_STATS 0
#define ICMP_STATS 0
#define TCP_STATS 0
#define MEM_STATS 0
#define SYS_STATS 0
#define MEMP_STATS 1  // serve.c shares segments by it

#endif
