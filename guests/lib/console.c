// SPDX-License-Identifier: Apache-2.0
//
// console.c: printf and puts, one hypercall per line; and halt, which must not lose the last line.
#include <stdarg.h>

#include "uvm.h"

static char line[256];
static size_t used;

static void send(const void *data, size_t len)
{
	struct uvm_puts call = { .ptr = (uintptr_t)data, .len = len };
	uvm_hypercall(UVM_PUTS, &call);
}

static void flush(void)
{
	if (!used)
		return;
	send(line, used);
	used = 0;
}

static void emit(char c)
{
	line[used++] = c;
	if (c == '\n' || used == sizeof(line))
		flush();
}

static void emit_string(const char *s)
{
	while (*s)
		emit(*s++);
}

// Digits of value in base 10 or 16, at least width characters, filled with pad; the sign counts as one and comes first
// with pad '0'.
static void emit_number(uint64_t value, unsigned base, bool negative, int width, char pad)
{
	char digits[20];  // 2^64 - 1 has 20
	int n = 0;
	do {
		// Two constant divisors instead of one variable: the compiler turns both into cheap code.
		unsigned digit = base == 10 ? value % 10 : value % 16;
		value = base == 10 ? value / 10 : value / 16;
		digits[n++] = "0123456789abcdef"[digit];
	} while (value);
	if (negative && pad == '0')
		emit('-');
	for (int i = n + negative; i < width; i++)
		emit(pad);
	if (negative && pad != '0')
		emit('-');
	while (n)
		emit(digits[--n]);
}

void printf(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	for (const char *p = format; *p; p++) {
		if (*p != '%') {
			emit(*p);
			continue;
		}
		p++;
		char pad = *p == '0' ? '0' : ' ';
		int width = 0;
		for (; *p >= '0' && *p <= '9'; p++)
			width = width * 10 + (*p - '0');
		bool is_long = *p == 'l';
		if (is_long)
			p++;
		switch (*p) {
		case 's':
			emit_string(va_arg(args, const char *));
			break;
		case 'c':
			emit((char)va_arg(args, int));
			break;
		case 'd': {
			int64_t v = is_long ? va_arg(args, int64_t) : va_arg(args, int);
			emit_number(v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10, v < 0, width, pad);
			break;
		}
		case 'u':
		case 'x': {
			uint64_t v = is_long ? va_arg(args, uint64_t) : va_arg(args, unsigned);
			emit_number(v, *p == 'x' ? 16 : 10, false, width, pad);
			break;
		}
		default:  // %%; the compiler's format check has refused all but these
			emit(*p);
		}
	}
	va_end(args);
}

void puts(const char *s)
{
	emit_string(s);
	emit('\n');
}

void uvm_write(const void *data, size_t len)
{
	flush();
	send(data, len);
}

_Noreturn void uvm_halt(int status)
{
	flush();
	struct uvm_halt call = { .cookie = 0, .status = status };
	uvm_hypercall(UVM_HALT, &call);
	for (;;)  // not reached: HALT does not return
		;
}
