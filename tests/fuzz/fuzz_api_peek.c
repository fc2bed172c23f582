/* tests/fuzz/fuzz_api_peek.c — bodies of anybody: where a parser finds a model's name, peeking finds the same or nothing.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined.  With -DFUZZ_REPLAY it is a program that replays files. */
#include "api/peek.h"
#include "yyjson.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

static bool is_plain(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)s[i] < 0x20 || (unsigned char)s[i] > 0x7e || s[i] == '\\' || s[i] == '"') return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char out[64];
    glia_peeked what = glia_json_peek((const char *)data, n, "model", out, sizeof out);
    if (what != GLIA_PEEK_NONE) CHECK(memchr(out, 0, sizeof out));
    yyjson_doc *doc = yyjson_read((const char *)data, n, 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *v = yyjson_obj_get(root, "model");
    bool escaped_key = doc && memchr(data, '\\', n); /* "mod\u0065l" is the parser's alone */
    if (doc && yyjson_is_obj(root) && !escaped_key) {
        if (!v) CHECK(what == GLIA_PEEK_NONE);
        else if (!yyjson_is_str(v)) CHECK(what == GLIA_PEEK_OTHER);
        else if (yyjson_get_len(v) < sizeof out && is_plain(yyjson_get_str(v), yyjson_get_len(v)))
            CHECK(what == GLIA_PEEK_STRING && !strcmp(out, yyjson_get_str(v)));
    }
    if (doc && !yyjson_is_obj(root)) CHECK(what == GLIA_PEEK_NONE);
    yyjson_doc_free(doc);
    return 0;
}
