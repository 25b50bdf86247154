// SPDX-License-Identifier: Apache-2.0
//
// cc.h: what lwIP asks of compiler and C library.
#ifndef HTTPD_ARCH_CC_H
#define HTTPD_ARCH_CC_H

#include <stddef.h>
#include <stdint.h>

#define LWIP_NO_CTYPE_H 1
#define LWIP_NO_UNISTD_H 1
#define LWIP_NO_INTTYPES_H 1
#define LWIP_NO_LIMITS_H 1
#define INT_MAX __INT_MAX__
#define X8_F "02x"
#define U16_F "u"
#define S16_F "d"
#define X16_F "x"
#define U32_F "u"
#define S32_F "d"
#define X32_F "x"
#define SZT_F "lu"

#define BYTE_ORDER LITTLE_ENDIAN
#define lwip_htons(x) __builtin_bswap16(x)
#define lwip_htonl(x) __builtin_bswap32(x)
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS 1

#define PACK_STRUCT_STRUCT __attribute__((packed))

// A broken invariant of lwIP ends the guest: what it would do next is not known.
_Noreturn void port_assert(const char *what);
#define LWIP_PLATFORM_ASSERT(what) port_assert(what)
#define LWIP_PLATFORM_DIAG(what)

// Sum of len bytes as big-endian 16-bit words, folded, not inverted, in the byte order of memory.
uint16_t port_checksum(const void *data, int len);

// Random numbers of no secrecy.
uint32_t port_random(void);
#define LWIP_RAND() port_random()

struct ip4_addr;
uint32_t port_isn(const struct ip4_addr *local, uint16_t local_port, const struct ip4_addr *remote, uint16_t remote_port);
#define LWIP_HOOK_TCP_ISN port_isn

void *port_malloc(size_t size);
void *port_calloc(size_t count, size_t size);
void port_free(void *p);
#define mem_clib_malloc port_malloc
#define mem_clib_calloc port_calloc
#define mem_clib_free port_free

#endif
