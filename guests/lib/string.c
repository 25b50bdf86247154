// SPDX-License-Identifier: Apache-2.0
//
// string.c: the few functions of the C library that guests call, and those that gcc itself may call (memcpy, memmove,
// memset, memcmp). Copying is one string instruction: fast on hardware, and one instruction where ring 0 is emulated.
#include "uvm.h"

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	void *d = to;
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memmove(void *to, const void *from, size_t n)
{
	// Downwards only where a copy upwards would overwrite what it has still to read.
	if ((uintptr_t)to - (uintptr_t)from >= n)
		return memcpy(to, from, n);
	for (unsigned char *d = to; n--;)
		d[n] = ((const unsigned char *)from)[n];
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	void *d = to;
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(byte) : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;
	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] < y[i] ? -1 : 1;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (unsigned char)*a - (unsigned char)*b;
}

bool parse_u64(const char *s, uint64_t *out)
{
	uint64_t v = 0;
	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		unsigned digit = (unsigned)(*s - '0');
		if (v > (UINT64_MAX - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*out = v;
	return true;
}
