// SPDX-License-Identifier: Apache-2.0
//
// device.c: the manifest, time, and the hypercalls of block and network devices (hvt ABI 2 and 4).
#include "uvm.h"

static const struct uvm_manifest *manifest(void) { return (const struct uvm_manifest *)uvm_boot->manifest; }

const struct uvm_device *uvm_find_device(const char *name, uint32_t type)
{
	const struct uvm_manifest *m = manifest();
	for (uint32_t i = 0; i < m->entries; i++)
		if (m->device[i].type == type && strcmp(m->device[i].name, name) == 0)
			return &m->device[i];
	return NULL;
}

uint64_t uvm_handle(const struct uvm_device *device) { return (uint64_t)(device - manifest()->device); }

uint64_t uvm_walltime_ns(void)
{
	struct uvm_walltime call;
	uvm_hypercall(UVM_WALLTIME, &call);
	return call.ns;
}

uint64_t uvm_monotonic_ns(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	uint64_t cycles = (uint64_t)high << 32 | low, hz = uvm_boot->tsc_hz;
	// cycles * 10^9 needs more than 64 bits; the whole seconds and the rest, which is less than hz, do not while hz is
	// below 18 GHz.
	return cycles / hz * 1000000000 + cycles % hz * 1000000000 / hz;
}

int uvm_poll(uint64_t timeout_ns, uint64_t *ready)
{
	struct uvm_poll call = { .timeout_ns = timeout_ns };
	uvm_hypercall(UVM_POLL, &call);
	if (ready)
		*ready = call.ready_set;
	return call.ret;
}

static int block_io(int number, uint64_t handle, uint64_t offset, const void *buf, size_t len)
{
	struct uvm_block_io call = { .handle = handle, .offset = offset, .ptr = (uintptr_t)buf, .len = len };
	uvm_hypercall(number, &call);
	return call.ret;
}

int uvm_block_read(uint64_t handle, uint64_t offset, void *buf, size_t len)
{
	return block_io(UVM_BLOCK_READ, handle, offset, buf, len);
}

int uvm_block_write(uint64_t handle, uint64_t offset, const void *buf, size_t len)
{
	return block_io(UVM_BLOCK_WRITE, handle, offset, buf, len);
}

int uvm_net_read(uint64_t handle, void *buf, size_t *len)
{
	struct uvm_net_io call = { .handle = handle, .ptr = (uintptr_t)buf, .len = *len };
	uvm_hypercall(UVM_NET_READ, &call);
	*len = call.len;
	return call.ret;
}

int uvm_net_write(uint64_t handle, const void *buf, size_t len)
{
	struct uvm_net_io call = { .handle = handle, .ptr = (uintptr_t)buf, .len = len };
	uvm_hypercall(UVM_NET_WRITE, &call);
	return call.ret;
}

struct uvm_request uvm_block_request(int call, uint64_t handle, uint64_t offset, const void *buf, size_t len)
{
	return (struct uvm_request){ .block = { handle, offset, (uintptr_t)buf, len, 0 }, .call = (uint64_t)call };
}

struct uvm_request uvm_net_request(int call, uint64_t handle, const void *buf, size_t len)
{
	return (struct uvm_request){ .net = { handle, (uintptr_t)buf, len, 0 }, .call = (uint64_t)call };
}

int uvm_call(struct uvm_request *r)
{
	if (r->call < UVM_BLOCK_WRITE || r->call > UVM_NET_READ)
		return UVM_EINVAL;
	uvm_hypercall((int)r->call, r);
	return r->call >= UVM_NET_WRITE ? r->net.ret : r->block.ret;
}

int uvm_batch(struct uvm_request *requests, size_t n, size_t *done)
{
	size_t i = 0;
	int result = UVM_OK;
	while (i < n && result == UVM_OK) {
		if (uvm_boot->host_features & UVM_FEATURE_BATCH) {
			struct uvm_batch call = { .ptr = (uintptr_t)&requests[i], .count = n - i < UVM_BATCH_MAX ? n - i : UVM_BATCH_MAX };
			uvm_hypercall(UVM_BATCH, &call);
			i += call.count;  // how many it did; with UVM_OK there may be a rest
			result = call.ret;
		} else {
			result = uvm_call(&requests[i]);
			i += result == UVM_OK;
		}
	}
	if (done)
		*done = i;
	return result;
}
