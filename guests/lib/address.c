// SPDX-License-Identifier: Apache-2.0
//
// address.c: the IPv4 addresses that the monitor hands over (docs/abi.md, "Words from the monitor").
#include "uvm.h"

// A decimal number of up to max, without a superfluous 0; returns what follows it.
static const char *number(const char *s, unsigned max, unsigned *out)
{
	unsigned v = 0, digits = 0;
	for (; *s >= '0' && *s <= '9' && digits < 4; s++, digits++)
		v = v * 10 + (unsigned)(*s - '0');
	if (!digits || v > max || (digits > 1 && s[-(int)digits] == '0'))
		return NULL;
	*out = v;
	return s;
}

const char *parse_ipv4(const char *s, uint8_t ip[4], unsigned *prefix)
{
	uint8_t bytes[4];
	unsigned v, bits = 32;
	for (int i = 0; i < 4; i++) {
		if (i > 0 && *s++ != '.')
			return NULL;
		if (!(s = number(s, 255, &v)))
			return NULL;
		bytes[i] = (uint8_t)v;
	}
	if (*s == '/' && !(s = number(s + 1, 32, &bits)))
		return NULL;
	memcpy(ip, bytes, 4);
	if (prefix)
		*prefix = bits;
	return s;
}

bool uvm_net_config(const struct uvm_device *nic, struct uvm_ipv4 *out)
{
	static const char key[] = "uvm.net=";
	size_t name = strlen(nic->name), skip = sizeof(key) - 1;
	for (int i = 0; i < uvm_words; i++) {
		const char *word = uvm_word[i];
		if (strlen(word) <= skip + name || memcmp(word, key, skip) != 0 || memcmp(word + skip, nic->name, name) != 0 ||
		    word[skip + name] != ',')
			continue;
		struct uvm_ipv4 got = { .prefix = 0 };
		const char *s = parse_ipv4(word + skip + name + 1, got.address, &got.prefix);
		if (s && *s == ',')
			s = parse_ipv4(s + 1, got.gateway, NULL);
		if (!s || *s)
			return false;
		*out = got;
		return true;
	}
	return false;
}
