/* tests/unit/test_verdict.c — the kept verdict of the proof: taken whole or not at all, and never on another map. */
#include "base/io.h"
#include "base/mem.h"
#include "engine/model.h"
#include "support.h"
#include "tap/verdict.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { L = 2, NODES = 5, PLACES = GLIA_N_POINTS * L };

typedef struct map {
    glia_atlas at;
    glia_signature sig[NODES];
    glia_place place[PLACES];
    glia_attn_rule rule[L];
    glia_attn attn[L];
} map;

static const unsigned char key[GLIA_VERDICT_KEY] = {1, 2, 3};

static map *make(void) {
    map *m = calloc(1, sizeof *m);
    assert_non_null(m);
    m->at = (glia_atlas){.n_nodes = NODES,
                         .n_layer = L,
                         .sig = m->sig,
                         .place = m->place,
                         .rule = m->rule,
                         .attn = m->attn,
                         .pos_node = 2};
    for (int i = 0; i < NODES; i++) {
        m->sig[i].op = 7 + i;
        snprintf(m->sig[i].name, sizeof m->sig[i].name, "node-%d", i);
    }
    for (int i = 0; i < PLACES; i++) {
        m->place[i] = (glia_place){.node = -1};
        if (i % 3)
            m->place[i] = (glia_place){.grade = GLIA_GRADE_STRUCTURAL, .node = i % NODES, .width = 8, .node_width = 8};
        else snprintf(m->place[i].reason, sizeof m->place[i].reason, "no such thing");
    }
    return m;
}

static void judge(map *m) {
    for (int i = 0; i < PLACES; i++) {
        if (i % 3 == 1) m->place[i].grade = GLIA_GRADE_PROVEN;
        if (i % 15 == 5) { /* refused by the dry run */
            m->place[i] = (glia_place){.node = -1, .by_proof = true};
            snprintf(m->place[i].reason, sizeof m->place[i].reason, "mask %d is not causal", i);
        }
        if (i % 15 == 2) {
            m->place[i].grade = GLIA_GRADE_AMBIGUOUS;
            snprintf(m->place[i].reason, sizeof m->place[i].reason, "sum %d does not hold", i);
        }
    }
}

static bool same(const map *a, const map *b) {
    for (int i = 0; i < PLACES; i++) {
        if (a->place[i].grade != b->place[i].grade || strcmp(a->place[i].reason, b->place[i].reason) != 0) return false;
    }
    return true;
}

static glia_buf verdict(const map *m) {
    glia_buf b = {0};
    map *fresh = make();
    glia_verdict_write(&m->at, key, glia_verdict_map(&fresh->at), &b);
    free(fresh);
    assert_false(b.failed);
    return b;
}

static void a_verdict_gives_a_fresh_map_its_grades_and_reasons(void **s) {
    (void)s;
    map *proven = make(), *fresh = make();
    judge(proven);
    glia_buf b = verdict(proven);
    assert_true(glia_verdict_apply(&fresh->at, key, b.p, b.n));
    assert_true(same(proven, fresh));
    glia_buf_clear(&b);
    free(proven), free(fresh);
}

static void whatever_is_cut_or_flipped_is_not_taken_and_changes_nothing(void **s) {
    (void)s;
    map *proven = make(), *fresh = make(), *untouched = make();
    judge(proven);
    glia_buf b = verdict(proven);
    char *bad = malloc(b.n + 1);
    assert_non_null(bad);
    for (size_t n = 0; n < b.n; n++) {
        memcpy(bad, b.p, n); /* a copy of exactly n bytes would do for a sanitizer: */
        char *exact = glia_memdup(bad, n ? n : 1);
        assert_false(glia_verdict_apply(&fresh->at, key, exact, n));
        glia_free(exact);
    }
    for (size_t i = 0; i < b.n * 8; i++) {
        memcpy(bad, b.p, b.n);
        bad[i / 8] ^= (char)(1 << i % 8);
        assert_false(glia_verdict_apply(&fresh->at, key, bad, b.n));
    }
    memcpy(bad, b.p, b.n), bad[b.n] = 0;
    assert_false(glia_verdict_apply(&fresh->at, key, bad, b.n + 1));
    assert_true(same(fresh, untouched));
    glia_buf_clear(&b);
    free(bad), free(proven), free(fresh), free(untouched);
}

/* FNV-1a-64 again, so that bytes behind a right checksum are tried, too. */
static void seal(char *p, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n - 8; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    for (int i = 0; i < 8; i++) p[n - 8 + (size_t)i] = (char)(h >> (8 * i));
}

static void sealed_nonsense_never_makes_a_place_appear_or_vanish_without_a_reason(void **s) {
    (void)s;
    map *proven = make();
    judge(proven);
    glia_buf b = verdict(proven);
    char *bad = malloc(b.n);
    int taken = 0;
    assert_non_null(bad);
    uint64_t x = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        map *fresh = make();
        memcpy(bad, b.p, b.n);
        for (int k = 0; k <= round % 3; k++) { /* behind key and map hash, where the content is */
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            bad[48 + x % (b.n - 8 - 48)] = (char)(x >> 40);
        }
        size_t n = round % 4 ? b.n : 60 + x % (b.n - 60);
        seal(bad, n);
        bool ok = glia_verdict_apply(&fresh->at, key, bad, n);
        taken += ok;
        for (int i = 0; i < PLACES; i++) {
            if (i % 3 == 0) assert_int_equal(fresh->place[i].grade, GLIA_GRADE_ABSENT);
            if (fresh->place[i].grade == GLIA_GRADE_ABSENT)
                assert_true(fresh->place[i].node == -1 && fresh->place[i].reason[0]);
            assert_true(fresh->place[i].grade <= GLIA_GRADE_PROVEN);
            assert_non_null(memchr(fresh->place[i].reason, 0, sizeof fresh->place[i].reason));
            if (!ok)
                assert_true(fresh->place[i].grade <= GLIA_GRADE_STRUCTURAL &&
                            fresh->place[i].grade != GLIA_GRADE_AMBIGUOUS);
        }
        free(fresh);
    }
    print_message("%d of 20000 sealed variants are well formed\n", taken);
    assert_true(taken < 20000);
    glia_buf_clear(&b);
    free(bad), free(proven);
}

static void another_key_or_another_map_is_not_taken(void **s) {
    (void)s;
    map *proven = make();
    judge(proven);
    glia_buf b = verdict(proven);
    for (int what = 0; what < 8; what++) {
        map *fresh = make();
        unsigned char k[GLIA_VERDICT_KEY];
        memcpy(k, key, sizeof k);
        switch (what) {
        case 0: k[31] ^= 1; break;
        case 1: fresh->sig[3].name[0] = 'X'; break;
        case 2: fresh->sig[3].op++; break;
        case 3: fresh->place[4].column++; break;
        case 4: fresh->place[5].eps = 1e-6f; break;
        case 5: fresh->rule[1].inner = 0.5f; break;
        case 6: fresh->at.n_layer = 1; break;
        case 7: fresh->attn[0].cache = 1; break;
        }
        assert_false(glia_verdict_apply(&fresh->at, k, b.p, b.n));
        free(fresh);
    }
    glia_buf_clear(&b);
    free(proven);
}

/* ------------------------------------------------------------------ files */

static char cache[512];

static glia_model *open_cached(const char *family) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&p);
    p.path = tiny_model(family), p.n_parallel = 1, p.n_ctx = 64, p.n_batch = 32, p.n_threads = test_threads();
    p.flash = GLIA_FLASH_OFF, p.kv_type = GLIA_KV_F32, p.atlas_cache = true;
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

/* The cache's only file; false: it has none. */
static bool only_file(char path[1024]) {
    char dir[600];
    int n = 0;
    snprintf(dir, sizeof dir, "%s/glia/atlas", cache);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, 1024, "%s/%s", dir, e->d_name);
        n++;
    }
    if (d) closedir(d);
    assert_true(n <= 1);
    return n == 1;
}

static glia_grade grade_of(const glia_model *m, glia_point p) {
    glia_point_info pi;
    assert_true(glia_model_point(m, p, 1, &pi));
    return pi.grade;
}

static void write_file(const char *path, const void *p, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void the_second_load_uses_the_first_ones_verdict_and_repairs_a_damaged_file(void **s) {
    (void)s;
    char path[1024];
    snprintf(cache, sizeof cache, "/tmp/glia-verdict-XXXXXX");
    assert_non_null(mkdtemp(cache));
    setenv("XDG_CACHE_HOME", cache, 1);
    glia_model *m = open_cached("qwen3");
    assert_int_equal(grade_of(m, GLIA_POINT_Z), GLIA_GRADE_PROVEN);
    assert_true(only_file(path));
    unsigned char k[GLIA_VERDICT_KEY], hash[8];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 8, SEEK_SET), 0);
    assert_int_equal(fread(k, 1, sizeof k, f), sizeof k);
    assert_int_equal(fread(hash, 1, sizeof hash, f), sizeof hash);
    fclose(f);

    /* a verdict that says less shows that it is really read */
    m->atlas->place[GLIA_POINT_Z * m->atlas->n_layer + 1].grade = GLIA_GRADE_STRUCTURAL;
    glia_buf b = {0};
    uint64_t map_of_file = 0;
    for (int i = 7; i >= 0; i--) map_of_file = map_of_file << 8 | hash[i];
    glia_verdict_write(m->atlas, k, map_of_file, &b);
    write_file(path, b.p, b.n);
    glia_model_close(m);
    m = open_cached("qwen3");
    assert_int_equal(grade_of(m, GLIA_POINT_Z), GLIA_GRADE_STRUCTURAL);
    assert_int_equal(grade_of(m, GLIA_POINT_Q), GLIA_GRADE_PROVEN);
    glia_model_close(m);

    b.p[70] ^= 1; /* damaged: proven anew and written anew */
    write_file(path, b.p, b.n);
    m = open_cached("qwen3");
    assert_int_equal(grade_of(m, GLIA_POINT_Z), GLIA_GRADE_PROVEN);
    glia_model_close(m);
    m = open_cached("qwen3");
    assert_int_equal(grade_of(m, GLIA_POINT_Z), GLIA_GRADE_PROVEN);
    assert_true(only_file(path));
    glia_model_close(m);
    glia_buf_clear(&b);

    assert_int_equal(unlink(path), 0);
    for (long n = 1, more = 1; more; n++) { /* no failing file can fail a load, or leave half a file */
        glia_fault_arm_io(n);
        m = open_cached("qwen3");
        more = glia_fault_io_fired();
        glia_fault_arm_io(0);
        assert_int_equal(grade_of(m, GLIA_POINT_Z), GLIA_GRADE_PROVEN);
        glia_model_close(m);
        if (only_file(path)) assert_int_equal(unlink(path), 0);
    }
    char part[600];
    for (int i = 0; i < 2; i++) {
        snprintf(part, sizeof part, "%s/%s", cache, i ? "glia" : "glia/atlas");
        assert_int_equal(rmdir(part), 0);
    }
    assert_int_equal(rmdir(cache), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_verdict_gives_a_fresh_map_its_grades_and_reasons),
        cmocka_unit_test(whatever_is_cut_or_flipped_is_not_taken_and_changes_nothing),
        cmocka_unit_test(sealed_nonsense_never_makes_a_place_appear_or_vanish_without_a_reason),
        cmocka_unit_test(another_key_or_another_map_is_not_taken),
        cmocka_unit_test(the_second_load_uses_the_first_ones_verdict_and_repairs_a_damaged_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
