/* base/utf8.h — UTF-8 checks.  Pure functions.  Source: RFC 3629 (no overlong forms, no surrogates, ≤ U+10FFFF). */
#ifndef GLIA_BASE_UTF8_H
#define GLIA_BASE_UTF8_H
#include <stdbool.h>
#include <stddef.h>

bool glia_utf8_valid(const char *s, size_t n);
/* Length of the longest prefix of s that does not end inside a character that could still be completed. */
size_t glia_utf8_whole(const char *s, size_t n);
#endif
