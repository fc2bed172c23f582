/* store/sha256.c — see sha256.h. */
#include "store/sha256.h"
#include "base/mem.h"
#include "glia.h"
#include <openssl/evp.h>
#include <stdio.h>

struct glia_sha256 {
    EVP_MD_CTX *ctx;
};

glia_sha256 *glia_sha256_new(void) {
    glia_sha256 *h = glia_calloc(1, sizeof *h);
    if (h && (h->ctx = EVP_MD_CTX_new()) && EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL)) return h;
    glia_sha256_free(h);
    return NULL;
}

bool glia_sha256_add(glia_sha256 *h, const void *p, size_t n) { return EVP_DigestUpdate(h->ctx, p, n) == 1; }

bool glia_sha256_hex(const glia_sha256 *h, char out[GLIA_SHA256_HEX]) {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_MD_CTX *copy = EVP_MD_CTX_new();
    bool ok = copy && EVP_MD_CTX_copy_ex(copy, h->ctx) && EVP_DigestFinal_ex(copy, bytes, &n) && n == 32;
    EVP_MD_CTX_free(copy);
    for (unsigned i = 0; ok && i < n; i++) (void)snprintf(out + (size_t)2 * i, 3, "%02x", bytes[i]);
    return ok;
}

void glia_sha256_free(glia_sha256 *h) {
    if (!h) return;
    EVP_MD_CTX_free(h->ctx);
    glia_free(h);
}
