/* store/helper.h — a thread that does one kind of work on pieces of memory while the caller does something else.
 *
 * One thread at a time; a second one is started at the first large piece and ends with free.  Between begin and end the
 * piece, and what the work touches, are the helper's.  Small pieces, and all of them when no thread can be had, are worked
 * on by end itself.  Knows neither files nor hashes. */
#ifndef GLIA_STORE_HELPER_H
#define GLIA_STORE_HELPER_H
#include <stdbool.h>
#include <stddef.h>

typedef struct glia_helper glia_helper;
typedef bool (*glia_helper_work)(void *ud, const void *p, size_t n);

glia_helper *glia_helper_new(glia_helper_work work, void *ud);   /* ud is borrowed until free.  NULL: out of memory */
void glia_helper_begin(glia_helper *h, const void *p, size_t n); /* behind an end */
/* Waits.  What the work returned, with its errno; true where nothing was begun. */
bool glia_helper_end(glia_helper *h);
void glia_helper_free(glia_helper *h); /* waits for what was begun.  NULL is fine */
#endif
