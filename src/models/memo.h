/* models/memo.h — what headers said in earlier runs: an SQLite file, table `file`.
 *
 * A cache: whatever goes wrong with it is logged once and it is done without; a damaged file, or one of another version,
 * is made anew.  Several processes may share it.  One thread at a time.  NULL is a memo that remembers nothing. */
#ifndef GLIA_MODELS_MEMO_H
#define GLIA_MODELS_MEMO_H
#include "models/header.h"

typedef struct glia_memo glia_memo;

glia_memo *glia_memo_open(const char *path); /* NULL: cannot be used */
void glia_memo_close(glia_memo *m);
/* What is put between begin and end is written together. */
void glia_memo_begin(glia_memo *m);
void glia_memo_end(glia_memo *m);
bool glia_memo_find(glia_memo *m, const char *path, uint64_t bytes, int64_t mtime_ns, glia_gguf *head, bool *bad);
void glia_memo_put(glia_memo *m, const char *path, uint64_t bytes, int64_t mtime_ns, const glia_gguf *head, bool bad);
#endif
