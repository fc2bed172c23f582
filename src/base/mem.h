/* base/mem.h — allocation with a fault point; hints for large memory.  Any thread.  Knows nothing above base.
 * Everything sized by a request, a prompt or a capture is allocated here and its failure is an error, not an abort. */
#ifndef GLIA_BASE_MEM_H
#define GLIA_BASE_MEM_H
#include <stddef.h>

void *glia_malloc(size_t n);
void *glia_calloc(size_t n, size_t size);
void *glia_realloc(void *p, size_t n);
char *glia_strdup(const char *s);            /* NULL in, NULL out */
char *glia_strndup(const char *s, size_t n); /* copies exactly n bytes and adds NUL */
void *glia_memdup(const void *p, size_t n);  /* n = 0 or p = NULL: NULL */
/* glia_free is public (glia.h) */

/* p[0 .. n) will be filled soon: where the system can, by pages of 2 MiB, whose first touch costs a fraction.  A hint. */
void glia_mem_large(void *p, size_t n);

/* memcpy of what nobody reads soon: it goes past the processor's caches, in half of the time, and pushes nothing out of them. */
void glia_copy_away(void *to, const void *from, size_t n);

/* Fault injection: the n-th allocation from now on (1-based) of this thread fails once.  0 disarms.  For tests. */
void glia_fault_arm(size_t n);
int glia_fault_fired(void);
#endif
