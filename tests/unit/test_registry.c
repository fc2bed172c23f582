/* The registry: loads, holds, idle times, room.  Models are made-up: opening one takes as long as the test says. */
#include "base/err.h"
#include "base/mem.h"
#include "models/registry.h"
#include "support.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

/* ------------------------------------------------------------------ made-up models */

static atomic_int n_open, n_opened, n_opening, most_opening;
static atomic_bool gate_shut; /* opening waits until it is open, and can be cancelled */
static atomic_int fail_next;

static glia_status fake_open(glia_model **out, const glia_model_params *p, glia_err *err) {
    *out = NULL;
    int now = atomic_fetch_add(&n_opening, 1) + 1;
    if (now > atomic_load(&most_opening)) atomic_store(&most_opening, now);
    bool go = p->on_progress(0.25f, p->progress_ud);
    while (go && atomic_load(&gate_shut)) {
        usleep(500);
        go = p->on_progress(0.5f, p->progress_ud);
    }
    atomic_fetch_sub(&n_opening, 1);
    if (!go) return glia_fail(err, GLIA_EINVAL, "llama.cpp cannot load it: cancelled");
    if (atomic_exchange(&fail_next, 0)) return glia_fail(err, GLIA_EINVAL, "%s is damaged", p->path);
    *out = malloc(64);
    atomic_fetch_add(&n_open, 1);
    atomic_fetch_add(&n_opened, 1);
    return GLIA_OK;
}

static void fake_close(glia_model *m) {
    atomic_fetch_sub(&n_open, 1);
    free(m);
}

/* ------------------------------------------------------------------ a registry over real files */

static glia_catalogue *catalogue;
static char dir[64];

static int make_files(void **s) {
    (void)s;
    char command[600];
    glia_err err;
    strcpy(dir, "/tmp/glia-registry-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(command, sizeof command, "for m in a b c d; do mkdir -p %s/p/$m && cp %s %s/p/$m/$m.gguf; done", dir,
             tiny_model("llama"), dir);
    if (system(command)) return -1;
    const char *dirs[] = {dir};
    return glia_catalogue_new(&catalogue, dirs, 1, NULL, &err) ? -1 : 0;
}

static int remove_files(void **s) {
    (void)s;
    char command[96];
    glia_catalogue_free(catalogue);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static glia_registry_params usual(void) {
    return (glia_registry_params){
        .catalogue = catalogue, .jit = true, .open = fake_open, .close = fake_close, .patience_ms = 20000};
}

static glia_registry *start(const glia_registry_params *p) {
    glia_registry *r;
    glia_err err;
    atomic_store(&gate_shut, false), atomic_store(&n_opened, 0), atomic_store(&most_opening, 0);
    if (glia_registry_new(&r, p, &err)) fail_msg("%s", err.message);
    return r;
}

static void stop(glia_registry *r) {
    glia_registry_free(r);
    assert_int_equal(atomic_load(&n_open), 0); /* every model that was opened was closed */
}

static glia_watch *want(glia_registry *r, const char *name) {
    glia_watch *w;
    glia_err err;
    if (glia_registry_want(r, name, NULL, &w, &err)) fail_msg("%s", err.message);
    return w;
}

static glia_watch *load(glia_registry *r, const char *name, const glia_load_options *o) {
    glia_watch *w;
    glia_err err;
    if (glia_registry_load(r, name, o, &w, &err)) fail_msg("%s", err.message);
    return w;
}

static glia_watched end_of(glia_watch *w) {
    glia_watched x;
    assert_int_not_equal(glia_watch_wait(w, GLIA_LOAD_LOADING, 10000), GLIA_LOAD_LOADING);
    glia_watch_get(w, &x);
    return x;
}

static void ready(glia_watch *w) {
    glia_watched x = end_of(w);
    if (x.state != GLIA_LOAD_READY) fail_msg("%s", x.err.message);
    assert_non_null(x.model);
}

static void use(glia_registry *r, const char *name) {
    glia_watch *w = want(r, name);
    ready(w);
    glia_watch_free(w);
}

static size_t n_in(glia_registry *r, glia_load_state state) {
    glia_instances *l;
    size_t n = 0;
    assert_int_equal(glia_registry_list(r, &l, NULL), GLIA_OK);
    for (size_t i = 0; i < l->n; i++) n += l->items[i].state == state;
    glia_instances_free(r, l);
    return n;
}

#define WAIT_FOR(x)                                                                                                    \
    do {                                                                                                               \
        int left_ = 10000;                                                                                             \
        while (!(x) && left_--) usleep(1000);                                                                          \
        assert_true(x);                                                                                                \
    } while (0)

static glia_status hold_fails(glia_registry *r, const char *name, const char *says) {
    glia_model *m;
    glia_err err = {0};
    glia_status st = glia_registry_hold(r, name, &m, &err);
    assert_int_not_equal(st, GLIA_OK);
    assert_null(m);
    if (!strstr(err.message, says)) fail_msg("\"%s\" does not say \"%s\"", err.message, says);
    return st;
}

/* ------------------------------------------------------------------ tests */

static void a_wanted_model_is_loaded_once_and_held(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_registry *r = start(&p);
    glia_model *m;
    assert_int_equal(hold_fails(r, NULL, "name one in \"model\": \"a\""), GLIA_EUNAVAILABLE);
    assert_int_equal(hold_fails(r, "a", "not loaded"), GLIA_EMODEL);
    assert_int_equal(hold_fails(r, "zz", "no model \"zz\" here; in the model folders: \"a\""), GLIA_EMODEL);
    glia_watch *w = want(r, "a"), *again = want(r, "p/a"), *file = want(r, "a.gguf");
    ready(w), ready(again), ready(file);
    assert_int_equal(atomic_load(&n_opened), 1);
    glia_watched x;
    glia_watch_get(w, &x);
    assert_string_equal(x.id, "a");
    assert_true(x.evictable && !x.was_there);
    glia_watch_get(again, &x);
    assert_true(x.was_there);
    assert_int_equal(glia_registry_hold(r, "P/A", &m, NULL), GLIA_OK); /* any spelling */
    assert_ptr_equal(m, x.model);
    glia_registry_release(r, m);
    assert_int_equal(glia_registry_hold(r, NULL, &m, NULL), GLIA_OK);
    glia_registry_release(r, m);
    assert_int_equal(hold_fails(r, "zz", "loaded: \"a\""), GLIA_EMODEL);
    glia_watch_free(w), glia_watch_free(again), glia_watch_free(file);
    stop(r);
}

static void without_jit_only_what_was_loaded_is_served(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_watch *w;
    glia_err err = {0};
    p.jit = false;
    glia_registry *r = start(&p);
    assert_int_equal(glia_registry_want(r, "a", NULL, &w, &err), GLIA_EMODEL);
    assert_non_null(strstr(err.message, "--jit"));
    w = load(r, "a", NULL);
    ready(w);
    glia_watch_free(w);
    use(r, "a");
    assert_int_equal(glia_registry_want(r, "zz", NULL, &w, &err), GLIA_EMODEL);
    stop(r);
}

static void loads_run_one_after_the_other(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_registry *r = start(&p);
    atomic_store(&gate_shut, true);
    glia_watch *a = want(r, "a"), *b = want(r, "b"), *c = want(r, "c");
    WAIT_FOR(atomic_load(&n_opening) == 1);
    assert_int_equal(hold_fails(r, "a", "still loading"), GLIA_EUNAVAILABLE);
    atomic_store(&gate_shut, false);
    ready(a), ready(b), ready(c);
    assert_int_equal(atomic_load(&most_opening), 1);
    glia_watch_free(a), glia_watch_free(b), glia_watch_free(c);
    stop(r);
}

static void explicit_loads_reuse_or_number_instances(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_registry *r = start(&p);
    glia_model_params other = p.model, same = p.model;
    glia_err err = {0};
    glia_watch *bad;
    other.n_ctx = 64, same.n_ctx = 256, same.n_parallel = 4; /* what 0 means for this file */
    glia_load_options o = {.ttl_ms = -1, .params = &other}, named = {.ttl_ms = -1, .id = "mine"},
                      defaults = {.ttl_ms = -1, .params = &same}, more = {.ttl_ms = -1, .another = true};
    glia_watch *w[5] = {load(r, "a", NULL), load(r, "a", &defaults), load(r, "a", &o), load(r, "a", &named),
                        load(r, "a", &more)};
    static const char *const ids[] = {"a", "a", "a:2", "mine", "a:3"};
    for (int i = 0; i < 5; i++) {
        ready(w[i]);
        glia_watched x;
        glia_watch_get(w[i], &x);
        assert_string_equal(x.id, ids[i]);
        assert_int_equal(x.was_there, i == 1);
    }
    named.params = &other;
    assert_int_equal(glia_registry_load(r, "b", &named, &bad, &err), GLIA_EINVAL); /* the id is another's */
    assert_string_equal(err.param, "identifier");
    named.id = "with space";
    assert_int_equal(glia_registry_load(r, "b", &named, &bad, &err), GLIA_EINVAL);
    assert_int_equal(glia_registry_load(r, "zz", NULL, &bad, &err), GLIA_EMODEL);
    assert_int_equal(atomic_load(&n_opened), 4);
    glia_watch *by_id = load(r, "mine", NULL); /* an instance's id names its file */
    ready(by_id);
    glia_watch_free(by_id);
    for (int i = 0; i < 5; i++) glia_watch_free(w[i]);
    stop(r);
}

static void aliases_name_models(void **s) {
    (void)s;
    static const char *const good[] = {"gpt-oss-20b=b", "x=p/c"}, *const bad[] = {"x="},
                             *const twice[] = {"x=a", "x=b"};
    glia_registry_params p = usual();
    glia_registry *r;
    glia_err err;
    p.aliases = bad, p.n_aliases = 1;
    assert_int_equal(glia_registry_new(&r, &p, &err), GLIA_EINVAL);
    p.aliases = twice, p.n_aliases = 2;
    assert_int_equal(glia_registry_new(&r, &p, &err), GLIA_EINVAL);
    p.aliases = good;
    r = start(&p);
    glia_watch *w = want(r, "gpt-oss-20b");
    ready(w);
    glia_watched x;
    glia_watch_get(w, &x);
    assert_string_equal(x.id, "b");
    glia_watch_free(w);
    use(r, "x");
    assert_int_equal(n_in(r, GLIA_LOAD_READY), 2);
    stop(r);
}

static void an_idle_model_goes_after_its_time_and_a_busy_one_stays(void **s) {
    (void)s;
    glia_registry_params p = usual();
    p.jit_ttl_ms = 60;
    glia_registry *r = start(&p);
    glia_watch *held = want(r, "a"), *by_hand = load(r, "b", NULL);
    ready(held), ready(by_hand);
    glia_watch_free(by_hand);
    use(r, "c");
    WAIT_FOR(n_in(r, GLIA_LOAD_READY) == 2); /* c went; listing it in between kept it no longer */
    usleep(150000);
    assert_int_equal(n_in(r, GLIA_LOAD_READY), 2); /* a is held, b was loaded by hand */
    glia_watch_free(held);
    WAIT_FOR(n_in(r, GLIA_LOAD_READY) == 1);
    glia_watch *w; /* a request may say another time */
    glia_load_options o = {.ttl_ms = 0};
    assert_int_equal(glia_registry_want(r, "d", &o, &w, NULL), GLIA_OK);
    ready(w);
    glia_watch_free(w);
    usleep(150000);
    assert_int_equal(n_in(r, GLIA_LOAD_READY), 2);
    stop(r);
}

static void unloading_drains_or_refuses(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_registry *r = start(&p);
    glia_watch *held = load(r, "a", NULL), *gone;
    glia_err err = {0};
    glia_watched x;
    ready(held);
    assert_int_equal(glia_registry_unload(r, "a", true, NULL, &err), GLIA_EBUSY);
    assert_non_null(strstr(err.message, "in use 1 times"));
    assert_int_equal(glia_registry_unload(r, "zz", false, NULL, &err), GLIA_EMODEL);
    assert_int_equal(glia_registry_unload(r, "a", false, &gone, &err), GLIA_OK);
    assert_int_equal(glia_watch_wait(gone, GLIA_LOAD_READY, 1000), GLIA_LOAD_DRAINING);
    (void)hold_fails(r, "a", "not loaded"); /* nobody new */
    assert_int_equal(glia_watch_wait(gone, GLIA_LOAD_DRAINING, 50), GLIA_LOAD_DRAINING);
    glia_watch *again = want(r, "a"); /* waits for the old one to go, then loads */
    assert_int_equal(glia_watch_wait(again, GLIA_LOAD_LOADING, 50), GLIA_LOAD_LOADING);
    glia_watch_free(held);
    assert_int_equal(glia_watch_wait(gone, GLIA_LOAD_DRAINING, 5000), GLIA_LOAD_GONE);
    glia_watch_get(gone, &x);
    assert_int_equal(x.err.status, GLIA_OK);
    ready(again);
    assert_int_equal(atomic_load(&n_opened), 2);
    glia_watch_free(gone), glia_watch_free(again);
    stop(r);
}

static void a_load_is_cancelled_when_nobody_else_waits(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_registry *r = start(&p);
    atomic_store(&gate_shut, true);
    glia_watch *one = load(r, "a", NULL), *two = want(r, "a");
    WAIT_FOR(atomic_load(&n_opening) == 1);
    glia_watch_cancel(one); /* two waits, too */
    assert_int_equal(glia_watch_wait(one, GLIA_LOAD_LOADING, 50), GLIA_LOAD_LOADING);
    glia_watch_free(one);
    glia_watch_cancel(two);
    glia_watched x = end_of(two);
    assert_int_equal(x.state, GLIA_LOAD_GONE);
    assert_int_equal(x.err.status, GLIA_ECANCELLED);
    glia_watch_free(two);
    one = load(r, "a", NULL); /* by its id */
    WAIT_FOR(atomic_load(&n_opening) == 1);
    assert_int_equal(glia_registry_unload(r, "a", false, NULL, NULL), GLIA_OK);
    x = end_of(one);
    assert_int_equal(x.err.status, GLIA_ECANCELLED);
    glia_watch_free(one);
    one = load(r, "b", NULL); /* one that waits for its turn */
    WAIT_FOR(atomic_load(&n_opening) == 1);
    two = load(r, "c", NULL);
    glia_watch_cancel(two);
    x = end_of(two);
    assert_int_equal(x.err.status, GLIA_ECANCELLED);
    glia_watch_free(two);
    atomic_store(&gate_shut, false);
    ready(one);
    glia_watch_free(one);
    stop(r);
}

static void a_failed_load_says_why_and_can_be_tried_again(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_registry *r = start(&p);
    atomic_store(&fail_next, 1);
    glia_watch *w = want(r, "a");
    glia_watched x = end_of(w);
    assert_int_equal(x.state, GLIA_LOAD_GONE);
    assert_non_null(strstr(x.err.message, "is damaged"));
    glia_watch_free(w);
    use(r, "a");
    stop(r);
}

static void room_is_made_by_unloading_the_least_recently_used(void **s) {
    (void)s;
    glia_registry_params p = usual();
    p.max_loaded = 2;
    glia_registry *r = start(&p);
    use(r, "a");
    usleep(5000);
    use(r, "b");
    usleep(5000);
    use(r, "a");
    use(r, "c"); /* b goes */
    (void)hold_fails(r, "b", "not loaded");
    glia_model *m;
    assert_int_equal(glia_registry_hold(r, "a", &m, NULL), GLIA_OK);
    use(r, "d"); /* c goes: a is held */
    (void)hold_fails(r, "c", "not loaded");
    glia_registry_release(r, m);
    stop(r);
}

static void what_was_loaded_by_hand_or_is_held_is_never_evicted(void **s) {
    (void)s;
    glia_registry_params p = usual();
    p.max_loaded = 1, p.patience_ms = 200;
    glia_registry *r = start(&p);
    glia_watch *w = load(r, "a", NULL);
    ready(w);
    glia_watch_free(w);
    w = want(r, "b");
    glia_watched x = end_of(w);
    assert_int_equal(x.err.status, GLIA_EBUSY);
    assert_non_null(strstr(x.err.message, "\"a\"; unload one first"));
    glia_watch_free(w);
    assert_int_equal(glia_registry_unload(r, "a", false, NULL, NULL), GLIA_OK);
    WAIT_FOR(n_in(r, GLIA_LOAD_READY) + n_in(r, GLIA_LOAD_DRAINING) == 0);
    glia_watch *held = want(r, "b");
    ready(held);
    w = want(r, "c"); /* b is in use: patience, then a clear answer */
    x = end_of(w);
    assert_int_equal(x.err.status, GLIA_EBUSY);
    assert_non_null(strstr(x.err.message, "try again later"));
    glia_watch_free(w);
    glia_watch_free(held);
    stop(r);
}

static void a_load_waits_for_who_is_busy(void **s) {
    (void)s;
    glia_registry_params p = usual();
    p.max_loaded = 1;
    glia_registry *r = start(&p);
    glia_watch *held = want(r, "b");
    ready(held);
    glia_watch *w = want(r, "c");
    assert_int_equal(glia_watch_wait(w, GLIA_LOAD_LOADING, 50), GLIA_LOAD_LOADING);
    glia_watch_free(held);
    ready(w);
    glia_watch_free(w);
    stop(r);
}

static void the_budget_counts_estimates(void **s) {
    (void)s;
    glia_registry_params p = usual();
    glia_footprint one, large;
    glia_registry *r = start(&p);
    assert_int_equal(glia_registry_estimate(r, "a", NULL, &one, NULL), GLIA_OK);
    assert_true(one.total > MIB && one.total == one.weights + one.cache + one.compute);
    glia_model_params wide = p.model;
    wide.n_parallel = 64;
    assert_int_equal(glia_registry_estimate(r, "a", &wide, &large, NULL), GLIA_OK);
    assert_int_equal(large.cache, 16 * one.cache);
    stop(r);
    p.budget = one.total * 2 + one.total / 2;
    r = start(&p);
    use(r, "a"), use(r, "b"), use(r, "c");
    assert_int_equal(n_in(r, GLIA_LOAD_READY), 2);
    glia_load_options o = {.ttl_ms = -1, .params = &wide};
    glia_watch *w = load(r, "d", &o); /* more than the whole budget: refused without unloading anybody */
    glia_watched x = end_of(w);
    assert_int_equal(x.err.status, GLIA_ENOMEM);
    assert_non_null(strstr(x.err.message, "--memory-budget"));
    assert_int_equal(n_in(r, GLIA_LOAD_READY), 2);
    glia_watch_free(w);
    stop(r);
}

static void the_registry_may_end_at_any_moment(void **s) {
    (void)s;
    glia_registry_params p = usual();
    for (int i = 0; i < 20; i++) {
        glia_registry *r = start(&p);
        atomic_store(&gate_shut, i % 2);
        glia_watch *a = want(r, "a"), *b = want(r, "b");
        usleep((unsigned)i * 100);
        glia_watch_free(a), glia_watch_free(b);
        stop(r);
    }
}

static void without_memory_a_load_is_an_error_and_nothing_leaks(void **s) {
    (void)s;
    glia_registry_params p = usual();
    for (size_t n = 1; n < 300; n++) {
        glia_registry *r = start(&p);
        glia_watch *w = NULL;
        glia_err err = {0};
        const glia_models *files;
        assert_int_equal(glia_catalogue_get(catalogue, 60000, &files, NULL), GLIA_OK); /* not looked through below */
        glia_fault_arm(n);
        glia_status st = glia_registry_want(r, "a", NULL, &w, &err);
        bool fired = glia_fault_fired();
        glia_fault_arm(0);
        glia_models_unref(files);
        if (fired) assert_int_equal(st, GLIA_ENOMEM);
        else assert_int_equal(st, GLIA_OK);
        assert_int_equal(st == GLIA_OK, w != NULL);
        if (w) ready(w);
        glia_watch_free(w);
        stop(r);
        if (!fired) return;
    }
    fail();
}

/* Many threads want, use, load and unload for a while; watched by ASan and TSan builds. */
typedef struct crowd {
    glia_registry *r;
    atomic_bool done;
} crowd;

static void *one_of_the_crowd(void *arg) {
    crowd *c = arg;
    unsigned seed = (unsigned)(uintptr_t)pthread_self();
    while (!atomic_load(&c->done)) {
        static const char *const names[] = {"a", "b", "c", "d"};
        const char *name = names[rand_r(&seed) % 4];
        glia_watch *w;
        glia_model *m;
        int what = rand_r(&seed) % 8;
        if (what < 5) {
            if (glia_registry_want(c->r, name, NULL, &w, NULL)) continue;
            (void)glia_watch_wait(w, GLIA_LOAD_LOADING, what);
            if (!glia_registry_hold(c->r, name, &m, NULL)) glia_registry_release(c->r, m);
            if (what == 4) glia_watch_cancel(w);
            glia_watch_free(w);
        } else if (what == 5) {
            (void)glia_registry_unload(c->r, name, rand_r(&seed) % 2, NULL, NULL);
        } else if (what == 6) {
            glia_instances *l;
            if (!glia_registry_list(c->r, &l, NULL)) glia_instances_free(c->r, l);
        } else if (!glia_registry_hold(c->r, name, &m, NULL)) {
            usleep(200);
            glia_registry_release(c->r, m);
        }
    }
    return NULL;
}

static void a_crowd_leaves_nothing_behind(void **s) {
    (void)s;
    glia_registry_params p = usual();
    p.max_loaded = 2, p.jit_ttl_ms = 3, p.patience_ms = 20;
    crowd c = {.r = start(&p)};
    pthread_t t[6];
    for (int i = 0; i < 6; i++) assert_int_equal(pthread_create(&t[i], NULL, one_of_the_crowd, &c), 0);
    usleep(700000);
    atomic_store(&c.done, true);
    for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
    assert_true(atomic_load(&n_open) <= 2);
    stop(c.r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wanted_model_is_loaded_once_and_held),
        cmocka_unit_test(without_jit_only_what_was_loaded_is_served),
        cmocka_unit_test(loads_run_one_after_the_other),
        cmocka_unit_test(explicit_loads_reuse_or_number_instances),
        cmocka_unit_test(aliases_name_models),
        cmocka_unit_test(an_idle_model_goes_after_its_time_and_a_busy_one_stays),
        cmocka_unit_test(unloading_drains_or_refuses),
        cmocka_unit_test(a_load_is_cancelled_when_nobody_else_waits),
        cmocka_unit_test(a_failed_load_says_why_and_can_be_tried_again),
        cmocka_unit_test(room_is_made_by_unloading_the_least_recently_used),
        cmocka_unit_test(what_was_loaded_by_hand_or_is_held_is_never_evicted),
        cmocka_unit_test(a_load_waits_for_who_is_busy),
        cmocka_unit_test(the_budget_counts_estimates),
        cmocka_unit_test(the_registry_may_end_at_any_moment),
        cmocka_unit_test(without_memory_a_load_is_an_error_and_nothing_leaks),
        cmocka_unit_test(a_crowd_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
