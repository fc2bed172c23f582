/* bench/io/encode.c — activations as text and as files, each against the plainest way to do it, in one run.
 *
 *   list      decimals of float32 against yyjson's own writer of float32 numbers
 *   base64    against memcpy of as many bytes as go out
 *   write     a file through store/newfile (write, SHA-256, block checksums, fsync, rename) against `dd conv=fsync`
 *             from a file in the page cache, and against write and fsync alone
 * Pairs in alternating order, medians of the ratios.  One thread.
 *
 * SPDX-License-Identifier: MIT */
#include "api/encode.h"
#include "base/mem.h"
#include "rounds.h"
#include "store/newfile.h"
#include "yyjson.h"
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 1 << 20, ROUNDS = 15, FILE_MIB = 256, FILES = 7 };
static float x[N];
static volatile size_t sink;

/* What is bound by the processor is measured in its time: others run beside. */
static double cpu(void) { return seconds_by(CLOCK_THREAD_CPUTIME_ID); }

/* Normal numbers of the size that residual streams have. */
static void fill(void) {
    uint64_t s = 1;
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int k = 0; k < 12; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(s >> 40) / (double)(1 << 24);
        }
        x[i] = (float)((sum - 6) * exp((i % 7) - 3.0));
    }
}

static double list_ours(char *out) {
    double t = cpu();
    char *p = out;
    for (int i = 0; i < N; i++) p += glia_float_text(x[i], p), *p++ = ',';
    sink = (size_t)(p - out);
    return cpu() - t;
}

static double list_yyjson(const yyjson_mut_doc *doc) {
    size_t n;
    double t = cpu();
    char *text = yyjson_mut_write(doc, YYJSON_WRITE_FP_TO_FLOAT, &n);
    t = cpu() - t;
    sink = n;
    free(text);
    return t;
}

static double base64_ours(glia_buf *b) {
    b->n = 0;
    double t = cpu();
    glia_base64_add(b, x, sizeof x);
    sink = b->n;
    return cpu() - t;
}

static double copy(char *to, const char *from, size_t n) {
    double t = cpu();
    memcpy(to, from, n);
    sink = (size_t)to[n / 2];
    return cpu() - t;
}

static double write_ours(const char *path, bool past_cache) {
    glia_newfile *f;
    char hex[GLIA_SHA256_HEX];
    double t = now();
    if (glia_newfile_open(&f, path, NULL)) exit(1);
    glia_newfile_keep_sums(f);
    if (past_cache) glia_newfile_past_cache(f);
    for (int i = 0; i < FILE_MIB / 4; i++) {
        if (glia_newfile_write(f, x, sizeof x, NULL)) exit(1);
    }
    if (glia_newfile_commit(f, hex, NULL)) exit(1);
    glia_newfile_free(f);
    return now() - t;
}

static double write_plain(const char *path) {
    double t = now();
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; fd >= 0 && i < FILE_MIB / 4; i++) {
        if (write(fd, x, sizeof x) != (ssize_t)sizeof x) exit(1);
    }
    if (fd < 0 || fsync(fd) || close(fd)) exit(1);
    return now() - t;
}

/* The same bytes, in writes as large. */
static double write_dd(const char *from, const char *to) {
    char command[1200];
    (void)snprintf(command, sizeof command, "exec dd if='%s' of='%s' bs=4M conv=fsync status=none", from, to);
    double t = now();
    if (system(command)) exit(1);
    return now() - t;
}

int main(int argc, char **argv) {
    double list[ROUNDS], base64[ROUNDS], file[FILES], dd[FILES], shard[FILES], best = 1e9, best64 = 1e9, plain = 1e9;
    char *text = malloc((size_t)N * GLIA_FLOAT_CHARS), path[512], sums[520], source[520];
    glia_buf b = {0};
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    fill();
    yyjson_mut_val *array = yyjson_mut_arr_with_float(doc, x, N);
    if (!text || !array) return 1;
    yyjson_mut_doc_set_root(doc, array);
    (void)base64_ours(&b);
    char *as_much = malloc(b.n);
    for (int i = 0; i < ROUNDS; i++) {
        double a, c;
        if (i % 2) a = list_ours(text), c = list_yyjson(doc);
        else c = list_yyjson(doc), a = list_ours(text);
        list[i] = a / c, best = a < best ? a : best;
        if (i % 2) a = base64_ours(&b), c = copy(as_much, b.p, b.n);
        else c = copy(as_much, b.p, b.n), a = base64_ours(&b);
        base64[i] = c / a, best64 = a < best64 ? a : best64;
    }
    printf("list: time over yyjson's %.2f (goal <= 1.3), %.0f million numbers/s\n", median(list, ROUNDS), N / best / 1e6);
    printf("base64: %.2f of a memory copy's rate, %.2f GB/s of numbers\n", median(base64, ROUNDS), sizeof x / best64 / 1e9);
    snprintf(path, sizeof path, "%s/glia-bench-file", argc > 1 ? argv[1] : "/tmp");
    snprintf(sums, sizeof sums, "%s.sums", path);
    snprintf(source, sizeof source, "%s.source", path);
    (void)write_plain(source);
    for (int i = 0; i < FILES; i++) { /* each new, in turns */
        double t[4] = {0};
        for (int k = 0; k < 4; k++) {
            int way = (i + k) % 4;
            unlink(path);
            t[way] = way == 1 ? write_dd(source, path) : way == 2 ? write_plain(path) : write_ours(path, way == 3);
        }
        dd[i] = t[1] / t[0], shard[i] = t[1] / t[3], file[i] = t[2] / t[0], plain = t[2] < plain ? t[2] : plain;
    }
    double of_dd = median(dd, FILES), of_plain = median(file, FILES);
    printf("write: %.2f of dd's rate (goal >= 0.8; %.2f..%.2f), %.2f of write and fsync alone, which does %.2f GB/s\n", of_dd,
           dd[0], dd[FILES - 1], of_plain, FILE_MIB / 1024.0 * 1.073741824 / plain);
    double as_shard = median(shard, FILES);
    printf("write past the page cache, as shards: %.2f of dd's rate (%.2f..%.2f)\n", as_shard, shard[0], shard[FILES - 1]);
    unlink(source);
    unlink(path), unlink(sums);
    return 0;
}
