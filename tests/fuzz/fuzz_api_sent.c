/* Any bytes as activations that a client sends: what is taken is finite and within its shape, what is refused says why. */
#include "api/sent.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

static void check(bool ok) {
    if (!ok) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    yyjson_doc *doc;
    glia_sent_list l;
    glia_err err = {0};
    if (size > 1 << 16 || glia_json_parse(&doc, (const char *)data, size, &err)) return 0;
    if (!glia_sent_read(&l, yyjson_doc_get_root(doc), "activations", &err)) {
        check(l.n > 0);
        for (size_t i = 0; i < l.n; i++) {
            const glia_sent *s = &l.items[i];
            check(s->name && s->layer >= -1 && (!i || l.items[i - 1].layer <= s->layer));
            check(s->n_rows > 0 && s->width > 0);
            for (size_t k = 0; k < s->n_rows * s->width; k++) check(isfinite(s->rows[k]));
        }
        glia_sent_clear(&l);
    } else {
        check(err.status && err.message[0] && !l.items);
    }
    yyjson_doc_free(doc);
    return 0;
}
