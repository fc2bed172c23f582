/* Any bytes as a request body: parsed, validated, hooks resolved and messages rewritten, without an engine.
 * What is accepted must be within its bounds, and what is refused must say why. */
#include "api/activations.h"
#include "api/params.h"
#include "api/prompt.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { N_LAYER = 30, N_VOCAB = 1000 };

static void check(bool ok) {
    if (!ok) abort();
}

static void fuzz_gen(yyjson_val *root, glia_api_kind kind) {
    glia_gen g;
    glia_err err = {0};
    if (!glia_gen_parse(&g, root, kind, N_VOCAB, &err)) {
        check(g.sampling.temperature >= 0 && g.sampling.temperature <= 2);
        check(g.sampling.top_p > 0 && g.sampling.top_p <= 1);
        check(g.max_tokens >= -1 && g.n_stop <= GLIA_MAX_STOP);
        for (size_t i = 0; i < g.sampling.n_bias; i++)
            check(g.sampling.bias[i].token >= 0 && g.sampling.bias[i].token < N_VOCAB);
    } else {
        check(err.status && err.message[0]);
    }
    glia_gen_clear(&g);
}

static void fuzz_hooks(yyjson_val *root) {
    glia_acts a;
    glia_err err = {0};
    yyjson_val *registered = glia_json_get(root, "registered_hooks");
    if (!yyjson_is_arr(registered)) registered = NULL;
    if (!glia_acts_parse(&a, root, registered, false, N_LAYER, "llama", &err)) {
        check(a.n <= GLIA_MAX_EXPANDED && a.n_keys <= a.n);
        for (size_t i = 0; i < a.n; i++) check(a.labels[i].source < a.n_listed + yyjson_arr_size(registered));
        for (size_t i = 0; i < a.n; i++) {
            check(a.hooks[i].layer >= -1 && a.hooks[i].layer < N_LAYER && a.hooks[i].phases);
            check(a.labels[i].group < a.n_keys && a.keys[a.labels[i].group] != NULL);
        }
    } else {
        check(err.status && err.message[0]);
    }
    glia_acts_clear(&a);
}

static void fuzz_edits(yyjson_val *root) {
    glia_acts a = {0};
    glia_err err = {0};
    if (!glia_edits_parse(&a, root, N_LAYER, "llama", &err)) {
        check(a.n_edits <= 4096 && a.n_sources <= a.n_edits);
        for (size_t i = 0; i < a.n_edits; i++) {
            check((unsigned)a.edits[i].op < GLIA_N_EDIT_OPS && a.edits[i].where.phases);
            check(a.edits[i].where.layer >= -1 && a.edits[i].where.layer < N_LAYER);
            check((a.edits[i].rows != NULL) == (a.edits[i].n_rows > 0 && a.edits[i].n_channels > 0));
        }
        for (size_t i = 0; i < a.n_sources; i++) check(a.sources[i].n && a.sources[i].first + a.sources[i].n <= a.n_edits);
    } else {
        check(err.status && err.message[0]);
    }
    glia_acts_clear(&a);
}

static void fuzz_messages(yyjson_val *root) {
    glia_buf out = {0};
    glia_err err = {0};
    if (!glia_messages_normalise(root, &out, &err)) {
        yyjson_doc *again; /* what goes to the template is JSON */
        check(glia_json_parse(&again, out.p, out.n, &err) == GLIA_OK);
        yyjson_doc_free(again);
    } else {
        check(err.status && err.message[0]);
    }
    glia_buf_clear(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_err err = {0};
    if (glia_json_parse_object(&doc, &root, (const char *)data, size, &err)) {
        check(doc == NULL && err.status && err.message[0]);
        return 0;
    }
    fuzz_gen(root, GLIA_API_CHAT);
    fuzz_gen(root, GLIA_API_COMPLETION);
    fuzz_hooks(root);
    fuzz_edits(root);
    fuzz_messages(root);
    yyjson_doc_free(doc);
    return 0;
}
