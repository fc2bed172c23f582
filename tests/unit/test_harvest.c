/* Harvests: rows and labels are those of single requests, each once, whatever interrupts the work. */
#include "harvest/harvest.h"
#include "base/io.h"
#include "base/mem.h"
#include "harvest/manifest.h"
#include "harvest/shard.h"
#include "store/newfile.h"
#include "store/safetensors.h"
#include "support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <fcntl.h>
#include <unistd.h>

static char dir[64];
static glia_model *m;
static glia_model_info info;

/* Documents of 1 … 40 bytes; the tiny models' tokens are bytes.  Document 7 is longer than a window. */
enum { N_DOCS = 25, LONG = 7, WINDOW = 48 };
static char *documents[N_DOCS];

static const char *in_dir(const char *name) {
    static char path[4][256];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
    return path[i];
}

static void clean(const char *folder) {
    char command[400];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static void put(const char *name, const char *text) {
    assert_int_equal(glia_newfile_put(in_dir(name), text, strlen(text), NULL, NULL), GLIA_OK);
}

static int setup(void **s) {
    (void)s;
    strcpy(dir, "/tmp/glia-harvest-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    m = open_model(tiny_model("llama"), 3, 64, 32);
    glia_model_get_info(m, &info);
    FILE *f = fopen(in_dir("data.txt"), "w");
    if (!f) return -1;
    for (int d = 0; d < N_DOCS; d++) {
        int n = d == LONG ? 130 : 1 + d * 7 % 40;
        documents[d] = malloc((size_t)n + 1);
        for (int i = 0; i < n; i++) documents[d][i] = (char)('a' + (d * 5 + i * 3) % 26);
        documents[d][n] = 0;
        fprintf(f, d % 4 ? "%s\n" : "%s\r\n\n", documents[d]); /* empty lines are no documents */
    }
    return fclose(f);
}

static int teardown(void **s) {
    (void)s;
    glia_model_close(m);
    for (int d = 0; d < N_DOCS; d++) free(documents[d]);
    clean(dir);
    return 0;
}

/* ------------------------------------------------------------------ what a harvest should hold */

typedef struct expected {
    size_t n;
    int64_t document[2048];
    int32_t offset[2048], position[2048], token[2048];
    float *rows[2]; /* resid_post.1, z.2 */
    int width[2];
} expected;

static const glia_hook two[2] = {{.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_PROMPT},
                                 {.point = GLIA_POINT_Z, .layer = 2, .phases = GLIA_PHASE_PROMPT}};
static const char points[] = "resid_post@1,z@2";

static expected *expect(void) {
    expected *e = calloc(1, sizeof *e);
    assert_non_null(e);
    for (int d = 0; d < N_DOCS; d++) {
        int32_t *ids;
        size_t n;
        assert_int_equal(glia_model_tokenize(m, documents[d], strlen(documents[d]), true, false, &ids, &n, NULL), 0);
        for (size_t at = 0; at < n; at += WINDOW) {
            size_t k = n - at < WINDOW ? n - at : WINDOW;
            glia_request_params p = greedy(ids + at, k, 0);
            p.hooks = two, p.n_hooks = 2, p.no_cache = true;
            result *r = run_request(m, &p);
            for (int h = 0; h < 2; h++) {
                size_t w = (size_t)r->hook[h].width;
                assert_int_equal(r->hook[h].n, k);
                e->width[h] = (int)w;
                e->rows[h] = realloc(e->rows[h], (e->n + k) * w * sizeof(float));
                memcpy(e->rows[h] + e->n * w, r->hook[h].data, k * w * sizeof(float));
            }
            for (size_t i = 0; i < k; i++) {
                e->document[e->n + i] = d, e->offset[e->n + i] = (int32_t)(at + i);
                e->position[e->n + i] = (int32_t)i, e->token[e->n + i] = ids[at + i];
            }
            e->n += k;
            result_free(r);
        }
        glia_free(ids);
    }
    return e;
}

static void expected_free(expected *e) {
    free(e->rows[0]), free(e->rows[1]);
    free(e);
}

static const void *column(const glia_st *f, const char *name, size_t bytes) {
    const glia_st_tensor *t = glia_st_find(f, name);
    if (!t) fail_msg("no tensor %s", name);
    assert_int_equal(t->end - t->begin, bytes);
    return glia_st_data(f, t);
}

/* Every sealed row is the expected one; returns how many there are.  complete: all of them must be sealed (without it
 * they may be: a run can fail at its very last call). */
static size_t check_sealed(const char *out, const expected *e, bool complete) {
    glia_manifest man;
    char path[500], hex[GLIA_SHA256_HEX];
    glia_err err;
    size_t at = 0;
    snprintf(path, sizeof path, "%s/manifest.json", out);
    glia_status st = glia_manifest_read(&man, path, &err);
    if (st == GLIA_ENOTFOUND && !complete) return 0;
    if (st) fail_msg("%s", err.message);
    if (complete) assert_true(man.complete);
    for (size_t i = 0; i < man.n_shards; i++) {
        glia_st *f;
        snprintf(path, sizeof path, "%s/%s", out, man.shards[i].file);
        if (glia_st_open(&f, path, &err)) fail_msg("%s", err.message);
        assert_int_equal(glia_file_sha256(path, hex, NULL, NULL, NULL), GLIA_OK);
        assert_string_equal(hex, man.shards[i].sha256);
        size_t n = man.shards[i].rows;
        assert_true(at + n <= e->n);
        assert_memory_equal(column(f, "document", n * 8), e->document + at, n * 8);
        assert_memory_equal(column(f, "offset", n * 4), e->offset + at, n * 4);
        assert_memory_equal(column(f, "position", n * 4), e->position + at, n * 4);
        assert_memory_equal(column(f, "token_id", n * 4), e->token + at, n * 4);
        for (int h = 0; h < 2; h++) {
            size_t w = (size_t)e->width[h];
            const float *got = column(f, h ? "z.2" : "resid_post.1", n * w * 4);
            assert_true(worst_error(got, e->rows[h] + at * w, n * w) < 2e-5);
        }
        at += n;
        glia_st_close(f);
    }
    assert_int_equal(man.rows, at);
    if (man.complete) assert_int_equal(at, e->n);
    /* statistics are those of exactly these rows */
    glia_st *f;
    snprintf(path, sizeof path, "%s/%s", out, man.statistics.file);
    if (glia_st_open(&f, path, &err)) fail_msg("%s", err.message);
    for (int h = 0; h < 2 && at; h++) {
        size_t w = (size_t)e->width[h];
        const double *mean = column(f, h ? "z.2.mean" : "resid_post.1.mean", w * 8);
        const double *m2 = column(f, h ? "z.2.m2" : "resid_post.1.m2", w * 8);
        double norms = 0;
        for (size_t r = 0; r < at; r++) {
            double ss = 0;
            for (size_t i = 0; i < w; i++) ss += pow((double)e->rows[h][r * w + i], 2);
            norms += sqrt(ss);
        }
        assert_true(fabs(man.tensors[h].norm_sum - norms) < 1e-4 * norms);
        assert_int_equal(man.tensors[h].count, at);
        for (size_t i = 0; i < w; i++) {
            double sum = 0, ss = 0;
            for (size_t r = 0; r < at; r++) sum += (double)e->rows[h][r * w + i];
            for (size_t r = 0; r < at; r++) ss += pow((double)e->rows[h][r * w + i] - sum / (double)at, 2);
            assert_true(fabs(mean[i] - sum / (double)at) < 1e-4);
            assert_true(fabs(m2[i] - ss) < 1e-4 * (1 + ss));
        }
    }
    glia_st_close(f);
    glia_manifest_clear(&man);
    return at;
}

static glia_harvest_params params(const char *out) {
    static char data[300];
    snprintf(data, sizeof data, "%s", in_dir("data.txt"));
    return (glia_harvest_params){
        .model = m, .data = data, .out = out, .points = points, .window = WINDOW, .shard_bytes = 20000};
}

static glia_status run(const glia_harvest_params *p, glia_harvest_end *end, glia_err *err) {
    glia_harvest_progress g;
    return glia_harvest_run(p, &g, end, err);
}

/* ------------------------------------------------------------------ behaviours */

static expected *all; /* made once */

static void rows_and_labels_are_those_of_single_requests(void **s) {
    (void)s;
    all = expect();
    char out[300];
    snprintf(out, sizeof out, "%s", in_dir("whole"));
    glia_harvest_params p = params(out);
    glia_harvest_end end;
    glia_harvest_progress g;
    glia_err err;
    if (glia_harvest_run(&p, &g, &end, &err)) fail_msg("%s", err.message);
    assert_int_equal(end, GLIA_HARVEST_COMPLETE);
    assert_int_equal(g.documents, N_DOCS);
    assert_int_equal(g.rows, all->n);
    assert_true(g.shards > 3);
    assert_int_equal(check_sealed(out, all, true), all->n);
    /* once more: nothing to do, nothing changed */
    if (run(&p, &end, &err)) fail_msg("%s", err.message);
    assert_int_equal(end, GLIA_HARVEST_COMPLETE);
    assert_int_equal(check_sealed(out, all, true), all->n);
}

static int calls;
static bool stop_at_third(const glia_harvest_progress *g, void *ud) {
    (void)g, (void)ud;
    return ++calls < 3;
}
static bool stop_after_tokens(const glia_harvest_progress *g, void *ud) { return g->tokens < *(uint64_t *)ud; }

static void a_stopped_harvest_goes_on_where_it_stopped(void **s) {
    (void)s;
    char out[300];
    snprintf(out, sizeof out, "%s", in_dir("stops"));
    glia_harvest_params p = params(out);
    glia_harvest_end end;
    glia_err err;
    p.on_progress = stop_at_third;
    if (run(&p, &end, &err) && err.status != GLIA_ECANCELLED) fail_msg("%s", err.message);
    size_t before = check_sealed(out, all, false);
    p.on_progress = NULL;
    int rounds = 0;
    for (p.max_tokens = 50;; p.max_tokens += 50) { /* pieces end in the middle of documents, too */
        if (run(&p, &end, &err)) fail_msg("%s", err.message);
        rounds++;
        if (end == GLIA_HARVEST_COMPLETE) break;
        assert_int_equal(end, GLIA_HARVEST_TOKENS);
        size_t now = check_sealed(out, all, false);
        assert_true(now >= before && now >= p.max_tokens);
        before = now;
    }
    assert_true(rounds > 5);
    check_sealed(out, all, true);
    uint64_t none = 0;
    p.on_progress = stop_after_tokens, p.ud = &none;
    (void)run(&p, &end, &err);
    check_sealed(out, all, true);
}

static void the_byte_quota_is_kept_and_can_be_raised(void **s) {
    (void)s;
    char out[300], path[500];
    snprintf(out, sizeof out, "%s", in_dir("quota"));
    glia_harvest_params p = params(out);
    glia_harvest_end end;
    glia_err err;
    for (p.max_bytes = 9000;; p.max_bytes += 60000) {
        if (run(&p, &end, &err)) fail_msg("%s", err.message);
        glia_manifest man;
        snprintf(path, sizeof path, "%s/manifest.json", out);
        assert_int_equal(glia_manifest_read(&man, path, &err), GLIA_OK);
        assert_true(man.bytes <= p.max_bytes);
        glia_manifest_clear(&man);
        if (end == GLIA_HARVEST_COMPLETE) break;
        assert_int_equal(end, GLIA_HARVEST_QUOTA);
        check_sealed(out, all, false);
    }
    check_sealed(out, all, true);
}

static void every_failing_io_call_keeps_what_is_sealed(void **s) {
    (void)s;
    char out[300];
    snprintf(out, sizeof out, "%s", in_dir("faults"));
    glia_harvest_params p = params(out);
    p.shard_bytes = 120000; /* few shards: each run has about forty calls that can fail */
    glia_harvest_end end;
    int failures = 0;
    for (long k = 1;; k++) {
        clean(out);
        glia_err err = {0};
        glia_fault_arm_io(k);
        glia_status st = run(&p, &end, &err);
        bool fired = glia_fault_io_fired();
        glia_fault_arm_io(0);
        if (!fired) {
            assert_int_equal(st, GLIA_OK);
            break;
        }
        failures++;
        if (st) assert_true(err.message[0]);
        else check_sealed(out, all, true); /* the call that failed did not matter */
        size_t kept = check_sealed(out, all, st == GLIA_OK);
        if (run(&p, &end, &err)) fail_msg("after failure %ld: %s", k, err.message);
        assert_true(check_sealed(out, all, true) >= kept);
    }
    print_message("%d failing calls\n", failures);
    assert_true(failures > 20);
}

static void every_failing_allocation_is_an_error(void **s) {
    (void)s;
    char out[300];
    snprintf(out, sizeof out, "%s", in_dir("memory"));
    glia_harvest_params p = params(out);
    p.max_tokens = 60;
    glia_harvest_end end;
    int failures = 0;
    for (size_t k = 1;; k++) {
        clean(out);
        glia_err err = {0};
        glia_fault_arm(k);
        glia_status st = run(&p, &end, &err);
        bool fired = glia_fault_fired();
        glia_fault_arm(0);
        if (!fired) {
            assert_int_equal(st, GLIA_OK);
            break;
        }
        failures++;
        if (st != GLIA_OK && st != GLIA_ENOMEM && st != GLIA_EINVAL) fail_msg("%zu: %s", k, err.message);
        check_sealed(out, all, false);
        if (run(&p, &end, &err)) fail_msg("after failure %zu: %s", k, err.message);
        check_sealed(out, all, false);
    }
    print_message("%d failing allocations\n", failures);
    assert_true(failures > 30);
}

static void refused(glia_harvest_params p, glia_status want, const char *words) {
    glia_harvest_end end;
    glia_err err = {0};
    glia_status st = run(&p, &end, &err);
    if (st != want || !strstr(err.message, words)) fail_msg("%d \"%s\", not \"%s\"", (int)st, err.message, words);
}

static void other_settings_in_a_folder_are_refused(void **s) {
    (void)s;
    char out[300];
    snprintf(out, sizeof out, "%s", in_dir("same"));
    glia_harvest_params p = params(out), q;
    glia_harvest_end end;
    glia_err err;
    p.max_tokens = 100;
    if (run(&p, &end, &err)) fail_msg("%s", err.message);
    q = p, q.points = "resid_post@1,z@1", refused(q, GLIA_EINVAL, "other points");
    q = p, q.points = "resid_post@1", refused(q, GLIA_EINVAL, "other points");
    q = p, q.window = 40, refused(q, GLIA_EINVAL, "another window");
    q = p, q.dtype = GLIA_F16, refused(q, GLIA_EINVAL, "another dtype");
    q = p, q.last_only = true, refused(q, GLIA_EINVAL, "other positions");
    q = p, q.statistics_only = true, refused(q, GLIA_EINVAL, "statistics only");
    put("changed.txt", "another first line\nand a second\nthird\n");
    q = p, q.data = in_dir("changed.txt"), refused(q, GLIA_EINVAL, "not the data");
    put("short.txt", documents[0]);
    q = p, q.data = in_dir("short.txt"), refused(q, GLIA_EINVAL, "not the data");
    check_sealed(out, all, false);
    /* a lock, a broken manifest, a missing shard */
    int fd = open(in_dir("same/.lock"), O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    refused(p, GLIA_EBUSY, "another harvest");
    close(fd);
    char *text, path[500];
    size_t n;
    snprintf(path, sizeof path, "%s/manifest.json", out);
    assert_int_equal(glia_file_slurp(path, 1 << 20, &text, &n, NULL), GLIA_OK);
    for (size_t cut = 0; cut < n - 2; cut += 97) {
        assert_int_equal(glia_newfile_put(path, text, cut, NULL, NULL), GLIA_OK);
        refused(p, GLIA_EINVAL, "manifest");
    }
    assert_int_equal(glia_newfile_put(path, text, n, NULL, NULL), GLIA_OK);
    glia_free(text);
    assert_int_equal(unlink(in_dir("same/shard-00001.safetensors")), 0);
    refused(p, GLIA_EIO, "shard-00001");
}

static void bad_input_names_its_place(void **s) {
    (void)s;
    static const struct {
        const char *name, *text, *words;
    } lines[] = {
        {"a.jsonl", "{\"text\":\"x\"}\n{\"text\":5}\n", "line 2: \"text\" must be a string"},
        {"b.jsonl", "{\"txt\":\"x\"}\n", "line 1: an object with one of"},
        {"c.jsonl", "{\"text\":\"x\",\"tokens\":[1]}\n", "line 1: an object with one of"},
        {"d.jsonl", "\n\nnot json\n", "line 3: not JSON"},
        {"e.jsonl", "{\"tokens\":[1,99999]}\n", "no token id"},
        {"f.jsonl", "{\"tokens\":[]}\n", "at least one token id"},
        {"g.jsonl", "{\"messages\":[{\"role\":\"user\"}]}\n", "needs a role and a content"},
        {"h.txt", "good\nbad \xff byte\n", "line 2: not UTF-8"},
    };
    char out[300];
    snprintf(out, sizeof out, "%s", in_dir("bad"));
    glia_harvest_params p = params(out);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        clean(out);
        put(lines[i].name, lines[i].text);
        p.data = in_dir(lines[i].name);
        refused(p, GLIA_EINVAL, lines[i].words);
    }
    p = params(out);
    p.data = in_dir("none.txt"), refused(p, GLIA_EIO, "none.txt");
    p.data = dir, refused(p, GLIA_EINVAL, "is a folder");
    p = params("/proc/no/such"), refused(p, GLIA_EIO, "cannot make the folder");
    p = params(out);
    p.points = "", refused(p, GLIA_EINVAL, "name at least one");
    p.points = "residpost@1", refused(p, GLIA_EINVAL, "resid_post");
    p.points = "resid_post@9", refused(p, GLIA_EINVAL, "layers from 0 to");
    p.points = "resid_post@1-", refused(p, GLIA_EINVAL, "is not a list of layers");
    p.points = "resid_post@2-1", refused(p, GLIA_EINVAL, "is not a list of layers");
    p.points = "router_logits@0", refused(p, GLIA_EHOOK, "absent");
    p.points = "router_logits@all", refused(p, GLIA_EHOOK, "absent");
    p.points = points, p.window = 65, refused(p, GLIA_EINVAL, "does not fit the context");
}

/* Text, token ids and chats; what the manifest says of the whole. */
static void all_kinds_of_lines_are_taken(void **s) {
    (void)s;
    put("kinds.jsonl", "{\"text\":\"abc\",\"meta\":1}\n{\"tokens\":[3,4,5,6]}\n"
                       "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}\n");
    char out[300], path[500];
    snprintf(out, sizeof out, "%s", in_dir("kinds"));
    glia_harvest_params p = params(out);
    glia_harvest_progress g;
    glia_harvest_end end;
    glia_err err;
    p.data = in_dir("kinds.jsonl"), p.points = "resid_post@all,final_norm", p.dtype = GLIA_BF16, p.last_only = true;
    if (glia_harvest_run(&p, &g, &end, &err)) fail_msg("%s", err.message);
    assert_int_equal(g.documents, 3);
    assert_int_equal(g.rows, 3);
    glia_manifest man;
    snprintf(path, sizeof path, "%s/manifest.json", out);
    assert_int_equal(glia_manifest_read(&man, path, &err), GLIA_OK);
    assert_int_equal(man.n_tensors, info.n_layer + 1);
    assert_string_equal(man.tensors[info.n_layer].name, "final_norm");
    assert_int_equal(man.tensors[0].grade, GLIA_GRADE_PROVEN);
    snprintf(path, sizeof path, "%s/%s", out, man.shards[0].file);
    glia_st *f;
    assert_int_equal(glia_st_open(&f, path, &err), GLIA_OK);
    const int32_t *token = column(f, "token_id", 12), *offset = column(f, "offset", 12);
    assert_int_equal(token[1], 6);
    assert_int_equal(offset[1], 3);
    assert_int_equal(glia_st_find(f, "resid_post.0")->dtype, GLIA_ST_BF16);
    glia_st_close(f);
    glia_manifest_clear(&man);
}

/* The k largest values of each channel, by sorting all of them; resumed in the middle of documents. */
static void the_largest_values_are_those_of_all_rows(void **s) {
    (void)s;
    enum { K = 7 };
    char out[300], path[500];
    snprintf(out, sizeof out, "%s", in_dir("top"));
    glia_harvest_params p = params(out);
    glia_harvest_end end;
    glia_err err;
    p.top = K, p.statistics_only = true;
    for (p.max_tokens = 90;; p.max_tokens += 90) {
        if (run(&p, &end, &err)) fail_msg("%s", err.message);
        if (end == GLIA_HARVEST_COMPLETE) break;
    }
    p.top = K + 1, refused(p, GLIA_EINVAL, "largest values");
    glia_manifest man;
    snprintf(path, sizeof path, "%s/manifest.json", out);
    assert_int_equal(glia_manifest_read(&man, path, &err), GLIA_OK);
    assert_int_equal(man.top, K);
    snprintf(path, sizeof path, "%s/%s", out, man.statistics.file);
    glia_st *f;
    assert_int_equal(glia_st_open(&f, path, &err), GLIA_OK);
    for (int h = 0; h < 2; h++) {
        size_t w = (size_t)all->width[h];
        const char *const tensor[4][2] = {{"resid_post.1.top_values", "z.2.top_values"},
                                          {"resid_post.1.top_documents", "z.2.top_documents"},
                                          {"resid_post.1.top_offsets", "z.2.top_offsets"},
                                          {"resid_post.1.top_token_ids", "z.2.top_token_ids"}};
        const float *value = column(f, tensor[0][h], w * K * 4);
        const int64_t *document = column(f, tensor[1][h], w * K * 8);
        const int32_t *offset = column(f, tensor[2][h], w * K * 4), *token = column(f, tensor[3][h], w * K * 4);
        for (size_t c = 0; c < w; c++) {
            for (size_t k = 0; k < K; k++) {
                size_t at = c * K + k, row = 0, larger = 0;
                if (k) assert_true(value[at] <= value[at - 1]);
                while (row < all->n && (all->document[row] != document[at] || all->offset[row] != offset[at])) row++;
                assert_true(row < all->n);
                assert_int_equal(all->token[row], token[at]);
                float x = all->rows[h][row * w + c];
                assert_true(fabsf(x - value[at]) < 2e-4f);
                for (size_t r = 0; r < all->n; r++) larger += all->rows[h][r * w + c] > x + 2e-4f;
                assert_true(larger <= k);
            }
        }
    }
    glia_st_close(f);
    glia_manifest_clear(&man);
}

/* Rows times the directions of the file; two runs with one seed have the same. */
static void projected_rows_are_rows_times_directions(void **s) {
    (void)s;
    enum { N = 24 };
    char out[2][300], path[500];
    glia_harvest_end end;
    glia_err err;
    glia_st *f, *d, *d2;
    glia_manifest man;
    for (int i = 0; i < 2; i++) {
        snprintf(out[i], sizeof out[i], "%s", in_dir(i ? "projected2" : "projected"));
        glia_harvest_params p = params(out[i]);
        p.projection = N, p.projection_seed = 5, p.shard_bytes = 1 << 20;
        if (i) { /* in two goes */
            p.max_tokens = 200;
            if (run(&p, &end, &err)) fail_msg("%s", err.message);
            p.max_tokens = 0;
        }
        if (run(&p, &end, &err)) fail_msg("%s", err.message);
        assert_int_equal(end, GLIA_HARVEST_COMPLETE);
        p.projection_seed = 6, refused(p, GLIA_EINVAL, "another projection");
    }
    snprintf(path, sizeof path, "%s/directions.safetensors", out[0]);
    assert_int_equal(glia_st_open(&d, path, &err), GLIA_OK);
    snprintf(path, sizeof path, "%s/directions.safetensors", out[1]);
    assert_int_equal(glia_st_open(&d2, path, &err), GLIA_OK);
    snprintf(path, sizeof path, "%s/manifest.json", out[0]);
    assert_int_equal(glia_manifest_read(&man, path, &err), GLIA_OK);
    assert_int_equal(man.projection.n, N);
    assert_int_equal(man.n_shards, 1);
    snprintf(path, sizeof path, "%s/%s", out[0], man.shards[0].file);
    assert_int_equal(glia_st_open(&f, path, &err), GLIA_OK);
    for (int h = 0; h < 2; h++) {
        const char *name = h ? "z.2" : "resid_post.1";
        size_t w = (size_t)all->width[h];
        const float *got = column(f, name, all->n * N * 4), *direction = column(d, name, N * w * 4);
        assert_memory_equal(direction, column(d2, name, N * w * 4), N * w * 4);
        double before = 0, after = 0, mean = 0, square = 0;
        for (size_t r = 0; r < all->n; r++) {
            for (size_t k = 0; k < N; k++) {
                double dot = 0;
                for (size_t i = 0; i < w; i++) dot += (double)all->rows[h][r * w + i] * (double)direction[k * w + i];
                assert_true(fabs(dot - (double)got[r * N + k]) < 2e-4);
                after += (double)got[r * N + k] * (double)got[r * N + k];
            }
            for (size_t i = 0; i < w; i++) before += pow((double)all->rows[h][r * w + i], 2);
        }
        for (size_t i = 0; i < N * w; i++) mean += (double)direction[i], square += pow((double)direction[i], 2);
        mean /= (double)(N * w), square /= (double)(N * w);
        assert_true(fabs(mean) < 0.05 && fabs(square * N - 1) < 0.15);
        assert_true(after > 0.5 * before && after < 1.6 * before); /* lengths are kept on the average */
    }
    glia_st_close(f), glia_st_close(d), glia_st_close(d2);
    glia_manifest_clear(&man);
}

/* A window as long as the context: nothing is generated behind a piece. */
static void a_piece_may_fill_the_context(void **s) {
    (void)s;
    char out[300];
    snprintf(out, sizeof out, "%s", in_dir("full"));
    glia_harvest_params p = params(out);
    glia_harvest_end end;
    glia_err err;
    p.window = 0;
    if (run(&p, &end, &err)) fail_msg("%s", err.message);
    assert_int_equal(end, GLIA_HARVEST_COMPLETE);
}

static void statistics_alone_need_no_shards(void **s) {
    (void)s;
    char out[300], path[500];
    snprintf(out, sizeof out, "%s", in_dir("numbers"));
    glia_harvest_params p = params(out);
    glia_harvest_end end;
    glia_err err;
    p.statistics_only = true;
    for (p.max_tokens = 150;; p.max_tokens += 150) {
        if (run(&p, &end, &err)) fail_msg("%s", err.message);
        if (end == GLIA_HARVEST_COMPLETE) break;
    }
    glia_manifest man;
    snprintf(path, sizeof path, "%s/manifest.json", out);
    assert_int_equal(glia_manifest_read(&man, path, &err), GLIA_OK);
    assert_int_equal(man.n_shards, 0);
    assert_int_equal(man.tensors[0].count, all->n);
    snprintf(path, sizeof path, "%s/%s", out, man.statistics.file);
    glia_st *f;
    assert_int_equal(glia_st_open(&f, path, &err), GLIA_OK);
    size_t w = (size_t)all->width[0];
    const double *mean = column(f, "resid_post.1.mean", w * 8);
    for (size_t i = 0; i < w; i++) {
        double sum = 0;
        for (size_t r = 0; r < all->n; r++) sum += (double)all->rows[0][r * w + i];
        assert_true(fabs(mean[i] - sum / (double)all->n) < 1e-4);
    }
    glia_st_close(f);
    glia_manifest_clear(&man);
    expected_free(all);
}

static void is_near(double got, long double expected) {
    if (fabsl((long double)got - expected) > 1e-12L * (fabsl(expected) + 1e-300L))
        fail_msg("%.17g, not %.17Lg", got, expected);
}

static void statistics_are_those_of_all_rows_however_they_come(void **s) {
    (void)s;
    static const int widths[] = {1, 2, 3, 4, 5, 7, 8, 13, 66};
    enum { ROWS = 29, MOST = 66 };
    static float x[ROWS * MOST];
    double scratch[2 * MOST];
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        size_t d = (size_t)widths[k];
        glia_moments all;
        long double norm_sum = 0, norm_max = 0;
        for (size_t i = 0; i < ROWS * d; i++)
            x[i] = (float)((double)(i * 2654435761u % 1000003) / 1e5 - (i % 3 ? 4 : 6));
        assert_int_equal(glia_moments_init(&all, widths[k], NULL), GLIA_OK);
        for (size_t at = 0, n = 1; at < ROWS; at += n, n = n % 5 + 1) {
            if (n > ROWS - at) n = ROWS - at;
            glia_moments_add(&all, x + at * d, n, scratch);
            glia_moments_add(&all, x + at * d, 0, scratch);
        }
        for (size_t r = 0; r < ROWS; r++) {
            long double ss = 0;
            for (size_t i = 0; i < d; i++) ss += (long double)x[r * d + i] * (long double)x[r * d + i];
            norm_sum += sqrtl(ss);
            if (sqrtl(ss) > norm_max) norm_max = sqrtl(ss);
        }
        assert_int_equal(all.count, ROWS);
        is_near(all.norm_sum, norm_sum);
        is_near(all.norm_max, norm_max);
        for (size_t i = 0; i < d; i++) {
            long double mean = 0, ss = 0;
            for (size_t r = 0; r < ROWS; r++) mean += (long double)x[r * d + i] / ROWS;
            for (size_t r = 0; r < ROWS; r++) ss += (x[r * d + i] - mean) * (x[r * d + i] - mean);
            is_near(all.mean[i], mean);
            is_near(all.m2[i], ss);
        }
        glia_moments_clear(&all);
    }
}

/* The first position of many models lies a thousand times farther out than all others, and some channels never change. */
static void statistics_survive_a_first_row_far_from_the_others(void **s) {
    (void)s;
    enum { ROWS = 200, D = 6 };
    static float x[ROWS * D];
    double scratch[2 * D];
    glia_moments all;
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)((double)(i * 2654435761u % 1000003) / 1e6);
    for (size_t i = 0; i < D; i++) x[i] = (float)(i % 2 ? -15000.25 : 9000.5);
    for (size_t r = 0; r < ROWS; r++) x[r * D + 4] = 0.1f, x[r * D + 5] = r < 4 ? 3.0f : 0.3f;
    assert_int_equal(glia_moments_init(&all, D, NULL), GLIA_OK);
    glia_moments_add(&all, x, 4, scratch);
    glia_moments_add(&all, x + 4 * D, 7, scratch);
    glia_moments_add(&all, x + 11 * D, ROWS - 11, scratch);
    for (size_t i = 0; i < D; i++) {
        long double mean = 0, ss = 0;
        for (size_t r = 0; r < ROWS; r++) mean += (long double)x[r * D + i] / ROWS;
        for (size_t r = 0; r < ROWS; r++) ss += (x[r * D + i] - mean) * (x[r * D + i] - mean);
        is_near(all.mean[i], mean);
        if (i == 4) assert_true(all.m2[i] == 0);
        else is_near(all.m2[i], ss);
    }
    glia_moments_clear(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_and_labels_are_those_of_single_requests),
        cmocka_unit_test(a_stopped_harvest_goes_on_where_it_stopped),
        cmocka_unit_test(the_byte_quota_is_kept_and_can_be_raised),
        cmocka_unit_test(every_failing_io_call_keeps_what_is_sealed),
        cmocka_unit_test(every_failing_allocation_is_an_error),
        cmocka_unit_test(other_settings_in_a_folder_are_refused),
        cmocka_unit_test(bad_input_names_its_place),
        cmocka_unit_test(all_kinds_of_lines_are_taken),
        cmocka_unit_test(the_largest_values_are_those_of_all_rows),
        cmocka_unit_test(projected_rows_are_rows_times_directions),
        cmocka_unit_test(a_piece_may_fill_the_context),
        cmocka_unit_test(statistics_alone_need_no_shards),
        cmocka_unit_test(statistics_are_those_of_all_rows_however_they_come),
        cmocka_unit_test(statistics_survive_a_first_row_far_from_the_others),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
