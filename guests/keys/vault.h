// SPDX-License-Identifier: Apache-2.0
//
// vault.h: the isolated library as the rest of the guest sees it, which is by its gates alone.
#ifndef VAULT_H
#define VAULT_H

#include "uvm.h"

enum { VAULT_KEY = 1 };  // the key of the segment that guest.ld puts .vault into

// Everything of the library's that nobody else may touch.
#define VAULT __attribute__((section(".vault")))

// The gates. Each opens the vault, does its work on the vault's own stack, and closes it again.
void vault_set(uint64_t secret);
uint64_t vault_mac(uint64_t message);  // a keyed checksum: what the secret is for

// Where the secret lies, for the attempt to go around the gates.
extern uint64_t vault_secret;

#endif
