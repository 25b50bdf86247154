// SPDX-License-Identifier: Apache-2.0
//
// stdlib.h: named by functions of lwIP that are linked away.
#ifndef HTTPD_STDLIB_H
#define HTTPD_STDLIB_H

int atoi(const char *s);

#endif
