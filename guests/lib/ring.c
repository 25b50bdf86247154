// SPDX-License-Identifier: Apache-2.0
//
// ring.c: frames by the network ring (hvt ABI 5). The two ends run at the same time, each on its own processor if it has one.
#include "uvm.h"

// Writes are copied, so that the caller has its buffer back at once. Only guests that use the ring have this memory.
enum { COPIES = 256 };
static uint8_t copies[COPIES][UVM_RING_FRAME];
static uint32_t next_id;

static struct uvm_ring *ring(void) { return (struct uvm_ring *)uvm_boot->net_ring; }

bool uvm_has_ring(void) { return (uvm_boot->host_features & UVM_FEATURE_RING) && uvm_boot->net_ring; }

// Adds an entry. The monitor sees all of it when it sees the tail, and we see whether it sleeps after it can see that.
static void submit(uint32_t op, uint64_t handle, const void *buf, size_t len)
{
	struct uvm_ring *r = ring();
	uint32_t tail = r->entry_tail;
	r->entry[tail % UVM_RING_SLOTS] = (struct uvm_ring_entry){ op, (uint32_t)handle, (uintptr_t)buf, (uint32_t)len, next_id++, 0 };
	__atomic_store_n(&r->entry_tail, tail + 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->needs_kick, __ATOMIC_SEQ_CST))
		outl(UVM_RING_PORT, 0);
}

// Waits until the monitor has carried out all but n entries.
static void wait_for_room(uint32_t n)
{
	struct uvm_ring *r = ring();
	while (r->entry_tail - __atomic_load_n(&r->entry_head, __ATOMIC_ACQUIRE) > n)
		__builtin_ia32_pause();
}

int uvm_ring_write(uint64_t handle, const void *buf, size_t len)
{
	if (len > UVM_RING_FRAME)
		return uvm_net_write(handle, buf, len);
	wait_for_room(COPIES - 1);
	uint8_t *copy = copies[ring()->entry_tail % COPIES];
	memcpy(copy, buf, len);
	submit(UVM_RING_WRITE, handle, copy, len);
	return UVM_OK;
}

int uvm_ring_read(uint64_t handle, void *buf, size_t *len)
{
	struct uvm_ring *r = ring();
	wait_for_room(UVM_RING_SLOTS - 1);
	submit(UVM_RING_READ, handle, buf, *len);
	while (__atomic_load_n(&r->commit_tail, __ATOMIC_ACQUIRE) == r->commit_head)
		__builtin_ia32_pause();
	struct uvm_ring_commit c = r->commit[r->commit_head % UVM_RING_SLOTS];
	__atomic_store_n(&r->commit_head, r->commit_head + 1, __ATOMIC_RELEASE);
	if (c.ret == UVM_OK)
		*len = c.len;
	return c.ret;
}
