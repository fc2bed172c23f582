/* The catalogue of model folders: which files become models, under which names; what is remembered; downloads. */
#include "base/io.h"
#include "base/mem.h"
#include "models/catalogue.h"
#include "models/download.h"
#include "support.h"
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ files */

static void put_u64(FILE *f, uint64_t v) { fwrite(&v, 8, 1, f); }
static void put_u32(FILE *f, uint32_t v) { fwrite(&v, 4, 1, f); }
static void put_text(FILE *f, const char *s) {
    put_u64(f, strlen(s));
    fwrite(s, 1, strlen(s), f);
}

/* A file of an architecture, a type of weights and so many of them. */
static void make_file(const char *name, const char *arch, uint32_t file_type, uint64_t n) {
    char command[400];
    const char *path = test_path(name);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\"", path);
    assert_int_equal(system(command), 0);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite("GGUF", 1, 4, f);
    put_u32(f, 3);
    put_u64(f, 1), put_u64(f, 3);
    put_text(f, "general.architecture"), put_u32(f, 8), put_text(f, arch);
    put_text(f, "general.file_type"), put_u32(f, 4), put_u32(f, file_type);
    put_text(f, "x.block_count"), put_u32(f, 4), put_u32(f, 2);
    put_text(f, "w"), put_u32(f, 1), put_u64(f, n), put_u32(f, 0), put_u64(f, 0);
    for (uint64_t i = 0; i < n; i++) put_u32(f, (uint32_t)i);
    fclose(f);
}

static glia_catalogue *open_catalogue(const char *db) {
    glia_catalogue *c;
    glia_err err;
    const char *dirs[] = {test_path("m"), test_path("not-there")};
    assert_int_equal(glia_catalogue_new(&c, dirs, 2, db, &err), GLIA_OK);
    return c;
}

static const glia_models *get(glia_catalogue *c) {
    const glia_models *m;
    glia_err err;
    if (glia_catalogue_get(c, 0, &m, &err)) fail_msg("%s", err.message);
    return m;
}

static const glia_model_file *find(const glia_models *m, const char *name) {
    glia_err err = {0};
    const glia_model_file *f = glia_models_find(m, name, &err);
    if (!f) fail_msg("%s", err.message);
    return f;
}

static void not_found(const glia_models *m, const char *name, glia_status st, const char *says) {
    glia_err err = {0};
    assert_null(glia_models_find(m, name, &err));
    assert_int_equal(err.status, st);
    if (!strstr(err.message, says)) fail_msg("\"%s\" does not say \"%s\"", err.message, says);
}

/* ------------------------------------------------------------------ names */

static void a_model_answers_to_all_its_names(void **s) {
    (void)s;
    make_file("m/Acme/Nice-7B-GGUF/nice-7b.Q8.gguf", "llama", 7, 10);
    make_file("m/Acme/Wise/wise-embed.gguf", "nomic-bert", 1, 10);
    make_file("m/Flat-One.gguf", "llama", 1, 11);
    make_file("m/Acme/notes.txt", "llama", 1, 1);
    make_file("m/Acme/.hidden/x.gguf", "llama", 1, 1);
    glia_catalogue *c = open_catalogue(NULL);
    const glia_models *m = get(c);
    assert_int_equal(m->n, 3);
    static const char *const names[] = {"nice-7b",
                                        "NICE-7B",
                                        "Nice-7B-GGUF",
                                        "acme/nice-7b-gguf",
                                        "nice-7b.q8",
                                        "nice-7b.Q8.gguf",
                                        "Acme/Nice-7B-GGUF/nice-7b.Q8.gguf",
                                        "acme/nice-7b-gguf/nice-7b.q8"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) assert_string_equal(find(m, names[i])->key, "nice-7b");
    const glia_model_file *f = find(m, "nice-7b");
    assert_string_equal(f->publisher, "Acme");
    assert_string_equal(f->folder, "Nice-7B-GGUF");
    assert_int_equal(f->n_params, 10);
    assert_true(f->selected && f->n_variants == 1 && f->n_parts == 1 && !f->problem && !f->mmproj);
    assert_string_equal(find(m, f->path)->key, "nice-7b");
    assert_string_equal(find(m, "wise")->key, "text-embedding-wise");
    assert_string_equal(find(m, "text-embedding-wise")->key, "text-embedding-wise");
    assert_string_equal(find(m, "flat-one")->key, "flat-one");
    not_found(m, "nice", GLIA_ENOTFOUND, "no model \"nice\"");
    not_found(m, "", GLIA_ENOTFOUND, "no model");
    glia_models_unref(m);
    glia_catalogue_free(c);
}

static void quantizations_of_one_model_are_variants(void **s) {
    (void)s;
    make_file("m/a/Big/big.Q8_0.gguf", "llama", 7, 20);
    make_file("m/a/Big/big.Q4_K_M.gguf", "llama", 15, 20);
    make_file("m/a/Mixed/one.gguf", "llama", 1, 20);
    make_file("m/a/Mixed/other.gguf", "qwen2", 1, 30);
    glia_catalogue *c = open_catalogue(NULL);
    const glia_models *m = get(c);
    const glia_model_file *f = find(m, "big");
    assert_string_equal(f->key, "big@q4_k_m"); /* the preferred one */
    assert_int_equal(f->n_variants, 2);
    assert_string_equal(find(m, "big@q8_0")->file, "big.Q8_0.gguf");
    assert_string_equal(find(m, "Big")->key, "big@q4_k_m");
    assert_string_equal(find(m, "a/big")->base, "big");
    assert_false(find(m, "big@q8_0")->selected);
    assert_string_equal(find(m, "one")->key, "one"); /* a folder of different models names none of them */
    assert_string_equal(find(m, "other")->key, "other");
    not_found(m, "mixed", GLIA_EINVAL, "\"one\", \"other\"");
    glia_models_unref(m);
    glia_catalogue_free(c);
}

static void equal_folders_are_told_apart_by_publisher(void **s) {
    (void)s;
    make_file("m/a/Same/x.gguf", "llama", 1, 5);
    make_file("m/b/Same/x.gguf", "llama", 1, 5);
    glia_catalogue *c = open_catalogue(NULL);
    const glia_models *m = get(c);
    assert_string_equal(find(m, "a/same")->publisher, "a");
    assert_string_equal(find(m, "b/same")->publisher, "b");
    not_found(m, "same", GLIA_EINVAL, "\"a/same\", \"b/same\"");
    glia_models_unref(m);
    glia_catalogue_free(c);
}

static void parts_are_one_model_and_missing_ones_are_told(void **s) {
    (void)s;
    make_file("m/a/Split/s-00001-of-00002.gguf", "llama", 1, 5);
    make_file("m/a/Split/s-00002-of-00002.gguf", "llama", 1, 7);
    make_file("m/a/Cut/s-00001-of-00003.gguf", "llama", 1, 5);
    make_file("m/a/Cut/s-00003-of-00003.gguf", "llama", 1, 5);
    make_file("m/a/Orphan/s-00002-of-00002.gguf", "llama", 1, 5);
    glia_catalogue *c = open_catalogue(NULL);
    const glia_models *m = get(c);
    assert_int_equal(m->n, 2);
    const glia_model_file *f = find(m, "split");
    assert_int_equal(f->n_parts, 2);
    assert_int_equal(f->n_params, 12);
    assert_int_equal(f->weight_bytes, 48);
    assert_null(f->problem);
    assert_string_equal(find(m, "cut")->problem, "part 2 of 3 is missing");
    glia_models_unref(m);
    glia_catalogue_free(c);
}

static void projectors_belong_to_the_models_beside_them(void **s) {
    (void)s;
    make_file("m/a/Sees/sees.gguf", "llama", 1, 5);
    make_file("m/a/Sees/mmproj-sees.gguf", "clip", 1, 5);
    make_file("m/a/Blind/blind.gguf", "llama", 1, 5);
    glia_catalogue *c = open_catalogue(NULL);
    const glia_models *m = get(c);
    assert_int_equal(m->n, 2);
    assert_non_null(strstr(find(m, "sees")->mmproj, "/a/Sees/mmproj-sees.gguf"));
    assert_null(find(m, "blind")->mmproj);
    glia_models_unref(m);
    glia_catalogue_free(c);
}

/* ------------------------------------------------------------------ looking again */

static void new_changed_and_removed_files_are_seen(void **s) {
    (void)s;
    make_file("m/a/One/one.gguf", "llama", 1, 5);
    make_file("m/a/Bad/bad.gguf", "llama", 1, 5);
    assert_int_equal(truncate(test_path("m/a/Bad/bad.gguf"), 40), 0);
    glia_catalogue *c = open_catalogue(NULL);
    const glia_models *old = get(c);
    assert_int_equal(old->n, 1);
    make_file("m/a/Two/two.gguf", "llama", 1, 5);
    make_file("m/a/One/one.gguf", "qwen2", 1, 6);
    make_file("m/a/Bad/bad.gguf", "llama", 1, 5);
    const glia_models *same, *now = get(c);
    glia_err err;
    assert_int_equal(now->n, 3);
    assert_string_equal(find(now, "one")->head.arch, "qwen2");
    assert_string_equal(find(old, "one")->head.arch, "llama"); /* a list that was handed out does not change */
    assert_int_equal(glia_catalogue_get(c, 60000, &same, &err), GLIA_OK);
    assert_ptr_equal(same, now);
    glia_models_unref(same);
    same = get(c); /* looked through again: nothing changed, it is the same list */
    assert_ptr_equal(same, now);
    assert_int_equal(unlink(test_path("m/a/One/one.gguf")), 0);
    const glia_models *last = get(c);
    assert_int_equal(last->n, 2);
    glia_models_unref(old);
    glia_models_unref(same);
    glia_models_unref(now);
    glia_models_unref(last);
    glia_catalogue_free(c);
}

static size_t rows_in(const char *db) {
    sqlite3 *d;
    sqlite3_stmt *q;
    assert_int_equal(sqlite3_open(db, &d), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(d, "SELECT count(*) FROM file", -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    size_t n = (size_t)sqlite3_column_int(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(d);
    return n;
}

/* The second catalogue does not open the file: it cannot even read it, and knows the model all the same. */
static void headers_are_remembered_over_runs(void **s) {
    (void)s;
    make_file("m/a/One/one.gguf", "llama", 7, 5);
    const char *db = test_path("db.sqlite");
    glia_catalogue *c = open_catalogue(db);
    glia_models_unref(get(c));
    glia_catalogue_free(c);
    assert_int_equal(rows_in(db), 1);
    struct stat sb;
    const char *path = test_path("m/a/One/one.gguf");
    assert_int_equal(stat(path, &sb), 0);
    FILE *f = fopen(path, "r+b"); /* same size, same time, no GGUF any more */
    assert_non_null(f);
    fwrite("XXXX", 1, 4, f);
    fclose(f);
    const struct timespec times[2] = {sb.st_atim, sb.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    c = open_catalogue(db);
    const glia_models *m = get(c);
    assert_int_equal(m->n, 1);
    assert_string_equal(glia_gguf_quant(&find(m, "one")->head), "Q8_0");
    glia_models_unref(m);
    glia_catalogue_free(c);
}

static void a_damaged_or_foreign_memory_is_made_anew(void **s) {
    (void)s;
    make_file("m/a/One/one.gguf", "llama", 7, 5);
    const char *db = test_path("db.sqlite");
    for (int i = 0; i < 3; i++) {
        if (i == 0) {
            FILE *f = fopen(db, "wb");
            for (int k = 0; k < 4000; k++) fputc(k, f);
            fclose(f);
        } else if (i == 1) { /* of another version */
            sqlite3 *d;
            assert_int_equal(sqlite3_open(db, &d), SQLITE_OK);
            assert_int_equal(
                sqlite3_exec(d, "DROP TABLE file; CREATE TABLE file (x); PRAGMA user_version = 7", 0, 0, 0), SQLITE_OK);
            sqlite3_close(d);
        } else { /* a folder: there is no memory, and it works */
            assert_int_equal(unlink(db), 0);
            assert_int_equal(mkdir(db, 0700), 0);
        }
        glia_catalogue *c = open_catalogue(db);
        const glia_models *m = get(c);
        assert_int_equal(m->n, 1);
        glia_models_unref(m);
        glia_catalogue_free(c);
        if (i < 2) assert_int_equal(rows_in(db), 1);
    }
}

static void without_memory_nothing_is_lost(void **s) {
    (void)s;
    make_file("m/a/One/one.gguf", "llama", 7, 5);
    make_file("m/a/Two/two-00001-of-00002.gguf", "llama", 7, 5);
    make_file("m/a/Two/two-00002-of-00002.gguf", "llama", 7, 5);
    for (size_t n = 1; n < 500; n++) {
        glia_err err;
        glia_catalogue *c = NULL;
        const glia_models *m = NULL;
        const char *dirs[] = {test_path("m")};
        glia_fault_arm(n);
        glia_status st = glia_catalogue_new(&c, dirs, 1, NULL, &err);
        if (!st) st = glia_catalogue_get(c, 0, &m, &err);
        bool fired = glia_fault_fired();
        glia_fault_arm(0);
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
        if (m) assert_int_equal(m->n, 2);
        glia_models_unref(m);
        if (c && fired && !glia_catalogue_get(c, 0, &m, &err)) { /* and it recovers */
            assert_int_equal(m->n, 2);
            glia_models_unref(m);
        }
        glia_catalogue_free(c);
        if (!fired) return;
    }
    fail();
}

/* ------------------------------------------------------------------ downloads */

static glia_download_info wait_for(glia_downloads *d, const char *id) {
    glia_download_info i;
    do {
        assert_true(glia_download_get(d, id, &i));
        usleep(1000);
    } while (i.state == GLIA_DOWNLOAD_RUNNING);
    return i;
}

static void same_bytes(const char *a, const char *b) {
    char command[600];
    snprintf(command, sizeof command, "cmp -s '%s' '%s'", a, b);
    assert_int_equal(system(command), 0);
}

static glia_model_file source(const char *name) {
    glia_model_file f;
    glia_err err;
    if (glia_model_file_of_path(&f, test_path(name), &err)) fail_msg("%s", err.message);
    return f;
}

static void a_download_is_whole_resumed_and_checked(void **s) {
    (void)s;
    make_file("from/big.gguf", "llama", 1, 800000); /* four chunks */
    glia_model_file f = source("from/big.gguf");
    glia_downloads *d = glia_downloads_new();
    glia_download_info i;
    glia_err err;
    bool already;
    const char *to = test_path("m/local/big/big.gguf"), *part = test_path("m/local/big/.big.gguf.part");
    assert_int_equal(glia_download_start(d, &f, test_path("m"), NULL, &i, &already, &err), GLIA_OK);
    assert_false(already);
    i = wait_for(d, i.id);
    assert_int_equal(i.state, GLIA_DOWNLOAD_COMPLETED);
    assert_int_equal(i.done, i.total);
    assert_int_equal(i.total, f.bytes);
    same_bytes(to, f.path);
    assert_int_equal(access(part, F_OK), -1);
    assert_int_equal(glia_download_start(d, &f, test_path("m"), NULL, &i, &already, &err), GLIA_OK);
    assert_true(already);

    /* half of it is there, then half of something else */
    for (int foreign = 0; foreign < 2; foreign++) {
        char command[600];
        snprintf(command, sizeof command, "rm '%s' && head -c 2000000 '%s' >'%s'", to,
                 foreign ? "/dev/urandom" : f.path, part);
        assert_int_equal(system(command), 0);
        assert_int_equal(glia_download_start(d, &f, test_path("m"), NULL, &i, &already, &err), GLIA_OK);
        i = wait_for(d, i.id);
        assert_int_equal(i.state, GLIA_DOWNLOAD_COMPLETED);
        assert_int_equal(i.done, i.total);
        same_bytes(to, f.path);
    }

    /* a wrong checksum leaves nothing; the right one in a file beside it is found */
    static const char wrong[] = "0000000000000000000000000000000000000000000000000000000000000000";
    assert_int_equal(unlink(to), 0);
    assert_int_equal(glia_download_start(d, &f, test_path("m"), wrong, &i, &already, &err), GLIA_OK);
    i = wait_for(d, i.id);
    assert_int_equal(i.state, GLIA_DOWNLOAD_FAILED);
    assert_non_null(strstr(i.err.message, "SHA-256"));
    assert_true(access(to, F_OK) && access(part, F_OK));
    char command[600];
    snprintf(command, sizeof command, "sha256sum '%s' >'%s.sha256'", f.path, f.path);
    assert_int_equal(system(command), 0);
    assert_int_equal(glia_download_start(d, &f, test_path("m"), NULL, &i, &already, &err), GLIA_OK);
    assert_int_equal(wait_for(d, i.id).state, GLIA_DOWNLOAD_COMPLETED);
    assert_false(glia_download_get(d, "job_0000000000", &i));
    glia_downloads_free(d);
    glia_model_file_clear(&f);
}

static void parts_and_projector_come_along(void **s) {
    (void)s;
    make_file("mirror/pub/Split/s-00001-of-00002.gguf", "llama", 1, 5);
    make_file("mirror/pub/Split/s-00002-of-00002.gguf", "llama", 1, 7);
    make_file("mirror/pub/Split/mmproj.gguf", "clip", 1, 7);
    glia_catalogue *c;
    glia_err err;
    bool already;
    glia_download_info i;
    const char *dirs[] = {test_path("mirror")};
    assert_int_equal(glia_catalogue_new(&c, dirs, 1, NULL, &err), GLIA_OK);
    const glia_models *m = get(c);
    glia_downloads *d = glia_downloads_new();
    assert_int_equal(glia_download_start(d, find(m, "pub/split"), test_path("m"), NULL, &i, &already, &err), GLIA_OK);
    assert_int_equal(wait_for(d, i.id).state, GLIA_DOWNLOAD_COMPLETED);
    glia_downloads_free(d);
    glia_models_unref(m);
    glia_catalogue_free(c);
    c = open_catalogue(NULL);
    m = get(c);
    const glia_model_file *f = find(m, "pub/split");
    assert_int_equal(f->n_parts, 2);
    assert_null(f->problem);
    assert_non_null(f->mmproj);
    glia_models_unref(m);
    glia_catalogue_free(c);
}

/* Each call that touches a file fails once: the job fails and says so, the file is not there, and the next job ends it. */
static void a_full_disk_fails_the_job_and_the_next_goes_on(void **s) {
    (void)s;
    make_file("from/a.gguf", "llama", 1, 300000);
    glia_model_file f = source("from/a.gguf");
    for (long n = 1; n < 40; n++) {
        glia_downloads *d = glia_downloads_new();
        glia_download_info i;
        glia_err err;
        bool already;
        (void)unlink(test_path("m/local/a/a.gguf"));
        glia_fault_arm_io(n);
        assert_int_equal(glia_download_start(d, &f, test_path("m"), NULL, &i, &already, &err), GLIA_OK);
        i = wait_for(d, i.id);
        bool fired = glia_fault_io_fired();
        glia_fault_arm_io(0);
        assert_int_equal(i.state, fired ? GLIA_DOWNLOAD_FAILED : GLIA_DOWNLOAD_COMPLETED);
        if (fired) {
            assert_int_equal(i.err.status, GLIA_EIO);
            assert_int_equal(access(test_path("m/local/a/a.gguf"), F_OK), -1);
            assert_int_equal(glia_download_start(d, &f, test_path("m"), NULL, &i, &already, &err), GLIA_OK);
            assert_int_equal(wait_for(d, i.id).state, GLIA_DOWNLOAD_COMPLETED);
            same_bytes(test_path("m/local/a/a.gguf"), f.path);
        }
        glia_downloads_free(d);
        if (!fired) {
            glia_model_file_clear(&f);
            return;
        }
    }
    fail();
}

#define T(name) cmocka_unit_test_setup_teardown(name, test_make_dir, test_remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(a_model_answers_to_all_its_names),
        T(quantizations_of_one_model_are_variants),
        T(equal_folders_are_told_apart_by_publisher),
        T(parts_are_one_model_and_missing_ones_are_told),
        T(projectors_belong_to_the_models_beside_them),
        T(new_changed_and_removed_files_are_seen),
        T(headers_are_remembered_over_runs),
        T(a_damaged_or_foreign_memory_is_made_anew),
        T(without_memory_nothing_is_lost),
        T(a_download_is_whole_resumed_and_checked),
        T(parts_and_projector_come_along),
        T(a_full_disk_fails_the_job_and_the_next_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
