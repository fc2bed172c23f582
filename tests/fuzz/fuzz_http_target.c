/* tests/fuzz/fuzz_http_target.c — request targets, Host and key headers from untrusted bytes, against a routing table.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined.  With -DFUZZ_REPLAY it is a program that replays files. */
#include "base/err.h"
#include "base/utf8.h"
#include "http/guard.h"
#include "http/route.h"
#include "http/target.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void handle(void *ud, glia_http_request *rq) { (void)ud, (void)rq; }

static const glia_http_route routes[] = {
    {"GET", "/", handle, "", 0, 0},
    {"GET", "/v1/models", handle, "", 0, 0},
    {"GET", "/v1/models/{id}", handle, "", 0, 0},
    {"DELETE", "/v1/models/{id...}", handle, "", 0, 0},
    {"POST", "/v1/models/load", handle, "", 0, 0},
    {"GET", "/m/{id...}/hooks/{n}", handle, "", 0, 0},
    {0},
};

#define CHECK(x) do { if (!(x)) abort(); } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char *s = malloc(n + 1);
    http_target t;
    http_match m;
    glia_err err = {0};
    CHECK(s);
    if (n) memcpy(s, data, n);
    s[n] = 0;
    glia_status st = http_target_parse(&t, s, &err);
    if (st) {
        CHECK(err.message[0] && !t.path && !t.query && !t.authority);
    } else {
        size_t n_path = strlen(t.path);
        CHECK(glia_utf8_valid(t.path, n_path) && (t.path[0] == '/' || !strcmp(t.path, "*")));
        for (size_t i = 0; i < t.n_segments; i++) CHECK(t.segments[i].at + t.segments[i].n <= n_path);
        const char *q = http_target_query(&t, "q");
        CHECK(!q || glia_utf8_valid(q, strlen(q)));
        (void)http_target_query(&t, "no such name");
        http_route_match(routes, "GET", &t, &m);
        CHECK(!m.route || m.allow[0]);
        for (size_t i = 0; i < m.n_params; i++) {
            CHECK(m.params[i].n && m.params[i].at + m.params[i].n <= n_path);
        }
        CHECK(http_route_nearest(routes, "POST", &t));
        http_target_clear(&t);
    }
    const char *const names[] = {"box"}, *const keys[] = {"k1", "sk-secret"};
    (void)http_host_is_local(s, names, 1);
    (void)http_is_token_list(s);
    CHECK((http_key_given(keys, 2, NULL, s) < 2) == (!strncmp(s, "k1", 2) || !strncmp(s, "sk-secret", 9)) ||
          strpbrk(s, "\t ") || strlen(s) > 2);
    free(s);
    return 0;
}

#ifdef FUZZ_REPLAY
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        static uint8_t buf[1 << 20];
        FILE *f = fopen(argv[i], "rb");
        if (!f) return 1;
        size_t n = fread(buf, 1, sizeof buf, f);
        (void)fclose(f);
        (void)LLVMFuzzerTestOneInput(buf, n);
    }
    return 0;
}
#endif
