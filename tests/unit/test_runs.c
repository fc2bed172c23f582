/* The store: runs are whole or absent, rows are those that were written, damage is seen, the budget holds. */
#include "base/half.h"
#include "base/io.h"
#include "base/mem.h"
#include "store/checked.h"
#include "store/newfile.h"
#include "store/runs.h"
#include "support.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64];

static void shell(const char *format, const char *name) {
    char command[400];
    snprintf(command, sizeof command, format, name);
    assert_int_equal(system(command), 0);
}

static int setup(void **s) {
    (void)s;
    strcpy(dir, "/tmp/glia-runs-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}
static int teardown(void **s) {
    (void)s;
    shell("rm -rf %s", dir);
    return 0;
}

static glia_runs *open_store(const char *name, uint64_t budget) {
    char path[300];
    glia_runs *s;
    glia_err err;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (glia_runs_open(&s, path, budget, &err)) fail_msg("%s", err.message);
    return s;
}

/* ------------------------------------------------------------------ making runs */

enum { ROWS = 700, WIDTH = 96, HEADS = 3, COLS = 5, A_ROWS = 4 };
static float value(size_t row, size_t i) { return (float)row + (float)i / 1024; }

/* A request's file: "x" [ROWS, WIDTH] F32, "h" the same in F16, "a" attention [HEADS, A_ROWS, COLS]. */
static glia_status write_request(glia_runs *s, char id[GLIA_RUN_ID], glia_err *err) {
    static float x[ROWS * WIDTH], a[HEADS * A_ROWS * COLS];
    static uint8_t half[ROWS * WIDTH * 2];
    static int32_t positions[ROWS], ids[ROWS];
    for (size_t i = 0; i < ROWS * WIDTH; i++) x[i] = value(i / WIDTH, i % WIDTH);
    for (size_t i = 0; i < HEADS * A_ROWS * COLS; i++) a[i] = (float)i;
    for (int i = 0; i < ROWS; i++) positions[i] = 10 + i, ids[i] = 1000 - i;
    glia_pack_le(half, x, ROWS * WIDTH, GLIA_F16);
    glia_st_tensor t[3] = {{.name = "x", .dtype = GLIA_ST_F32, .n_dims = 2, .shape = {ROWS, WIDTH}},
                           {.name = "h", .dtype = GLIA_ST_F16, .n_dims = 2, .shape = {ROWS, WIDTH}},
                           {.name = "a", .dtype = GLIA_ST_F32, .n_dims = 3, .shape = {HEADS, A_ROWS, COLS}}};
    glia_run_tensor rt[3] = {
        {.name = "x", .point = GLIA_POINT_RESID_POST, .layer = 3, .grade = GLIA_GRADE_PROVEN, .dtype = GLIA_ST_F32,
         .rows = ROWS, .width = WIDTH, .phase = GLIA_PHASE_PROMPT, .positions = positions, .token_ids = ids,
         .n_positions = ROWS},
        {.name = "h", .point = GLIA_POINT_Z, .layer = 0, .grade = GLIA_GRADE_STRUCTURAL, .dtype = GLIA_ST_F16,
         .rows = ROWS, .width = WIDTH, .n_heads = 4, .head_dim = 24, .phase = GLIA_PHASE_PROMPT, .positions = positions,
         .token_ids = ids, .n_positions = ROWS},
        {.name = "a", .point = GLIA_POINT_ATTN_PROBS, .layer = 1, .grade = GLIA_GRADE_PROVEN, .dtype = GLIA_ST_F32,
         .rows = A_ROWS, .width = HEADS * COLS, .n_heads = HEADS, .n_cols = COLS, .phase = GLIA_PHASE_ALL,
         .positions = positions, .token_ids = ids, .n_positions = A_ROWS}};
    glia_run_about about = {.kind = GLIA_RUN_REQUEST, .model = "m", .note = "a note", .state = GLIA_RUN_SEALED};
    glia_run_writer *w = NULL;
    glia_newfile *f = NULL;
    glia_buf head = {0};
    glia_run_file file = {.name = "run.safetensors"};
    char path[1600];
    glia_status st = glia_run_begin(&w, s, &about, err);
    snprintf(path, sizeof path, "%s/run.safetensors", about.folder);
    if (!st) st = glia_st_header(&head, t, 3, NULL, 0, NULL, err);
    if (!st) st = glia_newfile_open(&f, path, err);
    if (!st) glia_newfile_keep_sums(f);
    if (!st) st = glia_newfile_write(f, head.p, head.n, err);
    if (!st) st = glia_newfile_write(f, x, sizeof x, err);
    if (!st) st = glia_newfile_write(f, half, sizeof half, err);
    if (!st) st = glia_newfile_write(f, a, sizeof a, err);
    if (!st) file.bytes = glia_newfile_bytes(f);
    if (!st) st = glia_newfile_commit(f, file.sha256, err);
    about.rows = ROWS, about.tokens = ROWS, about.state = GLIA_RUN_SEALED;
    if (!st) st = glia_run_record(w, &about, &file, 1, rt, 3, err);
    glia_newfile_free(f);
    glia_buf_clear(&head);
    glia_run_writer_free(w);
    strcpy(id, about.id);
    return st;
}

static void must_write(glia_runs *s, char id[GLIA_RUN_ID]) {
    glia_err err;
    if (write_request(s, id, &err)) fail_msg("%s", err.message);
}

static glia_run *must_open(glia_runs *s, const char *id) {
    glia_run *r;
    glia_err err;
    if (glia_run_open(&r, s, id, &err)) fail_msg("%s", err.message);
    return r;
}

static size_t n_runs(glia_runs *s) {
    glia_run_about *list;
    size_t n;
    assert_int_equal(glia_runs_list(s, -1, NULL, 0, &list, &n, NULL), GLIA_OK);
    glia_free(list);
    return n;
}

/* Folders of runs that lie in the store. */
static int n_folders(const char *name) {
    char command[300];
    snprintf(command, sizeof command, "exit $(ls -d %s/%s/run-* 2>/dev/null | wc -l)", dir, name);
    return WEXITSTATUS(system(command));
}

/* ------------------------------------------------------------------ behaviours */

static void rows_are_those_that_were_written(void **state) {
    (void)state;
    char id[GLIA_RUN_ID];
    glia_err err;
    glia_runs *s = open_store("rows", 0);
    must_write(s, id);
    glia_run *r = must_open(s, id);
    assert_string_equal(glia_run_get_about(r)->note, "a note");
    assert_int_equal(glia_run_get_about(r)->state, GLIA_RUN_SEALED);
    assert_int_equal(glia_run_n_tensors(r), 3);
    const glia_run_tensor *x = glia_run_find_point(r, GLIA_POINT_RESID_POST, 3), *h = glia_run_find(r, "h"),
                          *a = glia_run_find(r, "a");
    assert_non_null(x);
    assert_null(glia_run_find_point(r, GLIA_POINT_RESID_POST, 2));
    assert_null(glia_run_find(r, "nothing"));
    assert_int_equal(h->n_heads, 4);
    static float out[ROWS * WIDTH];
    for (size_t row = 0; row < ROWS; row += 37) {
        size_t n = row + 200 < ROWS ? 200 : ROWS - row;
        if (glia_run_read(r, x, row, n, out, &err)) fail_msg("%s", err.message);
        for (size_t i = 0; i < n * WIDTH; i++) assert_true(out[i] == value(row + i / WIDTH, i % WIDTH));
        if (glia_run_read(r, h, row, n, out, &err)) fail_msg("%s", err.message);
        for (size_t i = 0; i < n * WIDTH; i++)
            assert_true(out[i] == glia_f16_to(glia_f16_of(value(row + i / WIDTH, i % WIDTH))));
    }
    for (size_t row = 0; row < A_ROWS; row++) { /* heads lie first in the file, rows first for the reader */
        float got[HEADS * COLS];
        if (glia_run_read(r, a, row, 1, got, &err)) fail_msg("%s", err.message);
        for (size_t i = 0; i < HEADS * COLS; i++)
            assert_true(got[i] == (float)((i / COLS * A_ROWS + row) * COLS + i % COLS));
    }
    glia_run_label label;
    assert_int_equal(glia_run_labels(r, x, 5, 1, &label, &err), GLIA_OK);
    assert_int_equal(label.position, 15);
    assert_int_equal(label.token_id, 995);
    assert_int_equal(glia_run_read(r, x, ROWS - 1, 2, out, &err), GLIA_EINVAL);
    assert_int_equal(glia_run_read(r, x, UINT64_MAX, 2, out, &err), GLIA_EINVAL);
    assert_int_equal(glia_run_verify(r, &err), GLIA_OK);
    glia_run_close(r);
    glia_runs_close(s);
}

/* Two shards, as harvest/shard.c writes them. */
static void rows_of_a_harvest_go_on_from_shard_to_shard(void **state) {
    (void)state;
    enum { N = 3, W = 4 };
    static const uint64_t rows[N] = {40, 7, 53};
    glia_runs *s = open_store("harvest", 0);
    glia_err err;
    glia_run_about about = {.kind = GLIA_RUN_HARVEST, .model = "m"};
    glia_run_writer *w;
    glia_run_file files[N] = {{.name = "shard-1"}, {.name = "shard-2"}, {.name = "shard-3"}};
    assert_int_equal(glia_run_begin(&w, s, &about, &err), GLIA_OK);
    int64_t at = 0;
    for (int f = 0; f < N; f++) {
        char path[1600];
        uint64_t n = rows[f];
        glia_st_tensor t[5] = {{.name = "document", .dtype = GLIA_ST_I64, .n_dims = 1, .shape = {n}},
                               {.name = "offset", .dtype = GLIA_ST_I32, .n_dims = 1, .shape = {n}},
                               {.name = "position", .dtype = GLIA_ST_I32, .n_dims = 1, .shape = {n}},
                               {.name = "token_id", .dtype = GLIA_ST_I32, .n_dims = 1, .shape = {n}},
                               {.name = "resid_post.0", .dtype = GLIA_ST_F32, .n_dims = 2, .shape = {n, W}}};
        int64_t documents[64];
        int32_t ints[64];
        float data[64 * W];
        glia_buf head = {0};
        glia_newfile *nf;
        snprintf(path, sizeof path, "%s/%s", about.folder, files[f].name);
        assert_int_equal(glia_st_header(&head, t, 5, NULL, 0, NULL, &err), GLIA_OK);
        assert_int_equal(glia_newfile_open(&nf, path, &err), GLIA_OK);
        if (f != 1) glia_newfile_keep_sums(nf); /* one as an earlier Glia wrote it */
        assert_int_equal(glia_newfile_write(nf, head.p, head.n, &err), GLIA_OK);
        for (size_t i = 0; i < n; i++) documents[i] = (at + (int64_t)i) / 10 * 2, ints[i] = (int32_t)((size_t)at + i);
        for (size_t i = 0; i < n * W; i++) data[i] = value((size_t)at + i / W, i % W);
        assert_int_equal(glia_newfile_write(nf, documents, n * 8, &err), GLIA_OK);
        for (int k = 0; k < 3; k++) assert_int_equal(glia_newfile_write(nf, ints, n * 4, &err), GLIA_OK);
        assert_int_equal(glia_newfile_write(nf, data, n * W * 4, &err), GLIA_OK);
        files[f].bytes = glia_newfile_bytes(nf), files[f].rows = n;
        assert_int_equal(glia_newfile_commit(nf, files[f].sha256, &err), GLIA_OK);
        glia_newfile_free(nf);
        glia_buf_clear(&head);
        at += (int64_t)n;
        glia_run_tensor rt = {.name = "resid_post.0", .point = GLIA_POINT_RESID_POST, .dtype = GLIA_ST_F32,
                              .rows = (uint64_t)at, .width = W, .grade = GLIA_GRADE_PROVEN, .phase = GLIA_PHASE_PROMPT};
        about.rows = (uint64_t)at;
        if (glia_run_record(w, &about, files, (size_t)f + 1, &rt, 1, &err)) fail_msg("%s", err.message);
    }
    bool kept;
    assert_int_equal(glia_runs_delete(s, about.id, &kept, &err), GLIA_EBUSY);
    glia_run_writer_free(w); /* not sealed: it can go on */
    glia_run *r = must_open(s, about.id);
    assert_int_equal(glia_run_get_about(r)->state, GLIA_RUN_STOPPED);
    const glia_run_tensor *t = glia_run_tensor_at(r, 0);
    for (uint64_t row = 0; row < 100; row++) {
        for (uint64_t n = 0; n <= 100 - row; n += 13) {
            float out[100 * W];
            glia_run_label labels[100];
            if (glia_run_read(r, t, row, n, out, &err)) fail_msg("%s", err.message);
            if (glia_run_labels(r, t, row, n, labels, &err)) fail_msg("%s", err.message);
            for (uint64_t i = 0; i < n; i++) {
                assert_true(out[i * W + 1] == value(row + i, 1));
                assert_int_equal(labels[i].token_id, row + i);
                assert_int_equal(labels[i].document, (row + i) / 10 * 2);
            }
        }
    }
    for (int64_t d = -1; d < 22; d++) {
        uint64_t row, n;
        assert_int_equal(glia_run_find_document(r, d, &row, &n, &err), GLIA_OK);
        assert_int_equal(n, d >= 0 && d % 2 == 0 && d < 20 ? 10 : 0);
        if (n) assert_int_equal(row, d / 2 * 10);
    }
    glia_run_close(r);
    assert_int_equal(glia_run_resume(&w, s, about.id, &about, &err), GLIA_OK);
    glia_run_writer *other;
    assert_int_equal(glia_run_resume(&other, s, about.id, &about, &err), GLIA_EBUSY);
    glia_run_writer_free(w);
    assert_int_equal(glia_runs_delete(s, about.id, &kept, &err), GLIA_OK);
    assert_false(kept);
    assert_int_equal(n_folders("harvest"), 0);
    glia_runs_close(s);
}

static void damage_is_seen_in_the_block_that_is_read_only(void **state) {
    (void)state;
    char id[GLIA_RUN_ID], path[1200];
    glia_err err;
    glia_runs *s = open_store("damage", 0);
    must_write(s, id);
    glia_run *r = must_open(s, id);
    assert_true(glia_run_file_path(r, 0, path, sizeof path));
    glia_run_close(r);
    int fd = open(path, O_RDWR);
    unsigned char byte;
    assert_int_equal(pread(fd, &byte, 1, 150000), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 150000), 1); /* in block 2: row 387 of x or so */
    r = must_open(s, id);
    const glia_run_tensor *x = glia_run_find(r, "x");
    float row[WIDTH];
    assert_int_equal(glia_run_read(r, x, 0, 1, row, &err), GLIA_OK);
    assert_int_equal(glia_run_read(r, x, ROWS - 1, 1, row, &err), GLIA_OK);
    assert_int_equal(glia_run_read(r, x, 387, 1, row, &err), GLIA_EIO);
    assert_non_null(strstr(err.message, "block 2"));
    assert_int_equal(glia_run_verify(r, &err), GLIA_EIO);
    glia_run_close(r);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 150000), 1);
    r = must_open(s, id);
    assert_int_equal(glia_run_verify(r, &err), GLIA_OK);
    glia_run_close(r);
    assert_int_equal(ftruncate(fd, 100000), 0);
    r = must_open(s, id);
    assert_int_equal(glia_run_read(r, glia_run_find(r, "x"), 0, 1, row, &err), GLIA_EIO);
    glia_run_close(r);
    close(fd);
    assert_int_equal(unlink(path), 0);
    r = must_open(s, id);
    assert_int_equal(glia_run_read(r, glia_run_find(r, "x"), 0, 1, row, &err), GLIA_EIO);
    assert_non_null(strstr(err.message, "run.safetensors"));
    glia_run_close(r);
    glia_runs_close(s);
}

static void without_sums_a_file_is_compared_as_a_whole(void **state) {
    (void)state;
    char path[300], sha[GLIA_SHA256_HEX];
    glia_err err;
    glia_checked *f;
    snprintf(path, sizeof path, "%s/plain", dir);
    assert_int_equal(glia_newfile_put(path, "0123456789", 10, sha, &err), GLIA_OK);
    assert_int_equal(glia_checked_open(&f, path, sha, &err), GLIA_OK);
    char two[2];
    assert_int_equal(glia_checked_read(f, 4, two, 2, &err), GLIA_OK);
    assert_memory_equal(two, "45", 2);
    assert_int_equal(glia_checked_read(f, 9, two, 2, &err), GLIA_EIO);
    glia_checked_close(f);
    assert_int_equal(glia_checked_open(&f, path, NULL, &err), GLIA_EIO);
    sha[0] = sha[0] == '0' ? '1' : '0';
    assert_int_equal(glia_checked_open(&f, path, sha, &err), GLIA_EIO);
}

static void a_writer_that_dies_leaves_nothing(void **state) {
    (void)state;
    char id[GLIA_RUN_ID];
    for (int how = 0; how < 3; how++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) { /* dies between begin and record, like after kill -9 */
            glia_runs *s = open_store("dies", 0);
            glia_run_about about = {.kind = how == 1 ? GLIA_RUN_HARVEST : GLIA_RUN_REQUEST, .model = "m"};
            glia_run_writer *w;
            if (glia_run_begin(&w, s, &about, NULL)) _exit(1);
            char path[1600];
            snprintf(path, sizeof path, "%s/.run.safetensors.part", about.folder);
            if (how) close(open(path, O_CREAT | O_WRONLY, 0600));
            glia_run_file file = {.name = "f"};
            if (how == 1 && glia_run_record(w, &about, &file, 1, NULL, 0, NULL)) _exit(1);
            (void)raise(SIGKILL);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        glia_runs *s = open_store("dies", 0);
        glia_run_about *list;
        size_t n;
        assert_int_equal(glia_runs_list(s, -1, NULL, 0, &list, &n, NULL), GLIA_OK);
        assert_int_equal(n, how == 1);
        if (n) { /* what a harvest recorded stays */
            assert_int_equal(list[0].state, GLIA_RUN_STOPPED);
            assert_int_equal(glia_runs_delete(s, list[0].id, NULL, NULL), GLIA_OK);
        }
        glia_free(list);
        assert_int_equal(n_folders("dies"), 0);
        must_write(s, id); /* a living writer of another process is left alone */
        glia_runs *second = open_store("dies", 0);
        assert_int_equal(n_runs(second), 1);
        glia_runs_close(second);
        assert_int_equal(glia_runs_delete(s, id, NULL, NULL), GLIA_OK);
        glia_runs_close(s);
    }
}

static void another_process_does_not_take_a_run_from_its_writer(void **state) {
    (void)state;
    glia_runs *s = open_store("living", 0);
    glia_run_about about = {.kind = GLIA_RUN_REQUEST, .model = "m"};
    glia_run_writer *w;
    assert_int_equal(glia_run_begin(&w, s, &about, NULL), GLIA_OK);
    glia_runs *second = open_store("living", 0);
    assert_int_equal(n_runs(second), 1);
    assert_int_equal(n_folders("living"), 1);
    glia_runs_close(second);
    glia_run_writer_free(w);
    assert_int_equal(n_runs(s), 0);
    assert_int_equal(n_folders("living"), 0);
    glia_runs_close(s);
}

static void the_oldest_requests_go_when_the_budget_is_full(void **state) {
    (void)state;
    char id[4][GLIA_RUN_ID];
    glia_err err;
    glia_runs_usage u;
    glia_runs *s = open_store("budget", 1000000); /* a run has 403 kB */
    for (int i = 0; i < 2; i++) must_write(s, id[i]);
    assert_int_equal(glia_runs_get_usage(s, &u, &err), GLIA_OK);
    assert_int_equal(u.n_runs, 2);
    uint64_t one = u.bytes / 2;
    assert_int_equal(glia_runs_make_room(s, 1000000 - u.bytes, &err), GLIA_OK);
    assert_int_equal(n_runs(s), 2);
    assert_int_equal(glia_runs_make_room(s, 1000001, &err), GLIA_ETOOLARGE); /* nothing goes for what cannot fit */
    assert_int_equal(n_runs(s), 2);
    assert_int_equal(glia_runs_make_room(s, one, &err), GLIA_OK);
    assert_int_equal(n_runs(s), 1);
    assert_int_equal(glia_runs_make_room(s, 1000000, &err), GLIA_OK);
    assert_int_equal(n_folders("budget"), 0);
    /* a harvest never goes by itself */
    glia_run_about about = {.kind = GLIA_RUN_HARVEST, .model = "m", .state = GLIA_RUN_SEALED};
    glia_run_writer *w;
    glia_run_file file = {.name = "f", .bytes = 900000};
    assert_int_equal(glia_run_begin(&w, s, &about, &err), GLIA_OK);
    about.state = GLIA_RUN_SEALED;
    assert_int_equal(glia_run_record(w, &about, &file, 1, NULL, 0, &err), GLIA_OK);
    glia_run_writer_free(w);
    assert_int_equal(glia_runs_make_room(s, 200000, &err), GLIA_ETOOLARGE);
    assert_non_null(strstr(err.message, "--store-limit"));
    assert_int_equal(n_runs(s), 1);
    glia_runs_close(s);
}

static void lists_go_on_behind_a_run(void **state) {
    (void)state;
    glia_runs *s = open_store("list", 0);
    glia_err err;
    glia_run_about *list, about;
    size_t n;
    for (int i = 0; i < 7; i++) {
        glia_run_writer *w;
        about = (glia_run_about){.kind = i % 2 ? GLIA_RUN_HARVEST : GLIA_RUN_REQUEST, .created = 1000 + i / 3};
        assert_int_equal(glia_run_begin(&w, s, &about, &err), GLIA_OK);
        about.state = GLIA_RUN_SEALED;
        assert_int_equal(glia_run_record(w, &about, NULL, 0, NULL, 0, &err), GLIA_OK);
        glia_run_writer_free(w);
    }
    char last[GLIA_RUN_ID] = "", seen[7][GLIA_RUN_ID];
    size_t total = 0;
    do {
        assert_int_equal(glia_runs_list(s, -1, last[0] ? last : NULL, 2, &list, &n, &err), GLIA_OK);
        assert_true(n <= 2);
        for (size_t i = 0; i < n; i++) {
            for (size_t k = 0; k < total; k++) assert_string_not_equal(seen[k], list[i].id);
            strcpy(seen[total++], list[i].id);
            strcpy(last, list[i].id);
        }
        glia_free(list);
    } while (n);
    assert_int_equal(total, 7);
    assert_int_equal(glia_runs_list(s, GLIA_RUN_HARVEST, NULL, 0, &list, &n, &err), GLIA_OK);
    assert_int_equal(n, 3);
    glia_free(list);
    assert_int_equal(glia_runs_list(s, -1, "run-none", 0, &list, &n, &err), GLIA_ENOTFOUND);
    assert_int_equal(glia_runs_find(s, "../../etc", &about, &err), GLIA_ENOTFOUND);
    glia_runs_close(s);
}

static void every_failing_call_leaves_a_whole_run_or_none(void **state) {
    (void)state;
    char id[GLIA_RUN_ID];
    glia_err err;
    int failures[2] = {0};
    glia_runs *s = open_store("faults", 0);
    for (int kind = 0; kind < 2; kind++) {
        for (long k = 1;; k++) {
            if (kind) glia_fault_arm((size_t)k);
            else glia_fault_arm_io(k);
            err = (glia_err){0};
            glia_status st = write_request(s, id, &err);
            bool fired = kind ? glia_fault_fired() : glia_fault_io_fired();
            glia_fault_arm(0);
            glia_fault_arm_io(0);
            if (!fired) {
                assert_int_equal(st, GLIA_OK);
                break;
            }
            failures[kind]++;
            assert_true(st == GLIA_OK || err.message[0]);
            assert_int_equal(n_runs(s), st == GLIA_OK);
            assert_int_equal(n_folders("faults"), st == GLIA_OK);
            if (!st) assert_int_equal(glia_runs_delete(s, id, NULL, &err), GLIA_OK);
        }
        for (long k = 1;; k++) { /* reading */
            float row[3 * WIDTH];
            glia_run *r = NULL;
            if (kind) glia_fault_arm((size_t)k);
            else glia_fault_arm_io(k);
            glia_status st = glia_run_open(&r, s, id, &err);
            if (!st) st = glia_run_read(r, glia_run_find(r, "h"), 5, 3, row, &err);
            bool fired = kind ? glia_fault_fired() : glia_fault_io_fired();
            glia_fault_arm(0);
            glia_fault_arm_io(0);
            if (!st) assert_true(row[0] == glia_f16_to(glia_f16_of(value(5, 0))));
            glia_run_close(r);
            if (!fired) {
                assert_int_equal(st, GLIA_OK);
                break;
            }
            failures[kind]++;
            assert_int_equal(st, kind ? GLIA_ENOMEM : GLIA_EIO);
        }
        assert_int_equal(glia_runs_delete(s, id, NULL, &err), GLIA_OK);
    }
    print_message("%d failing calls, %d failing allocations\n", failures[0], failures[1]);
    assert_true(failures[0] > 12 && failures[1] > 20);
    glia_runs_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_those_that_were_written),
        cmocka_unit_test(rows_of_a_harvest_go_on_from_shard_to_shard),
        cmocka_unit_test(damage_is_seen_in_the_block_that_is_read_only),
        cmocka_unit_test(without_sums_a_file_is_compared_as_a_whole),
        cmocka_unit_test(a_writer_that_dies_leaves_nothing),
        cmocka_unit_test(another_process_does_not_take_a_run_from_its_writer),
        cmocka_unit_test(the_oldest_requests_go_when_the_budget_is_full),
        cmocka_unit_test(lists_go_on_behind_a_run),
        cmocka_unit_test(every_failing_call_leaves_a_whole_run_or_none),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
