// SPDX-License-Identifier: Apache-2.0
//
// nic.h: a net device of the guest's as a network interface of lwIP.
#ifndef HTTPD_NIC_H
#define HTTPD_NIC_H

#include <stdbool.h>
#include <stdint.h>

#include "lwip/netif.h"
#include "uvm.h"

// Adds the device to lwIP as its default interface and switches it on.
void nic_start(const struct uvm_device *device, const struct uvm_ipv4 *address);

// Hands received frames to lwIP until none waits, or a batch is done; then sleeps until the next frame, or for
// at most timeout_ms. Returns false if the device fails.
bool nic_turn(uint32_t timeout_ms);

// How often the guest left to its monitor for the device, and why.
struct nic_calls {
	uint64_t poll;   // to wait
	uint64_t read;   // for a frame, and there was one
	uint64_t empty;  // for a frame, and there was none
	uint64_t write;  // with a frame
};
extern struct nic_calls nic_calls;

#endif
