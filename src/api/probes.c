/* api/probes.c — POST /v1/analyze/probe: linear probes on texts, on a stored run, or on rows that are sent.  Its task's
 * thread. */
#include "analysis/probe.h"
#include "api/encode.h"
#include "api/handlers.h"
#include "api/prompt.h"
#include "api/store.h"
#include "api/study.h"
#include "api/tensor.h"
#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "lab/pool.h"
#include "tap/names.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXTS = 4096, DEFAULT_ROWS = 512 };

typedef struct probing {
    glia_study *s;
    glia_model *m; /* held: texts only */
    glia_model_info info;
    glia_point point;
    int32_t *layers;
    size_t n_layers;
    size_t max_rows;
    glia_probe_params p;
    /* rows, the same labels for every layer */
    float **rows; /* [n_layers] of [n, width]; borrowed from pool, or owned */
    bool own_rows;
    glia_pool *pool;
    size_t n, width, n_groups;
    double *y;
    size_t *group;
    glia_text *texts;
    size_t n_texts;
    double *label; /* [n_texts] */
} probing;

static void probing_clear(probing *z) {
    for (size_t l = 0; z->own_rows && z->rows && l < z->n_layers; l++) glia_free(z->rows[l]);
    for (size_t i = 0; z->texts && i < z->n_texts; i++) glia_free((void *)(uintptr_t)z->texts[i].tokens);
    if (z->own_rows) glia_free(z->rows);
    glia_pool_free(z->pool);
    glia_free(z->y), glia_free(z->group), glia_free(z->texts), glia_free(z->label), glia_free(z->layers);
    glia_app_release(z->s->app, z->m);
}

static bool go_on(void *ud) {
    const probing *z = ud;
    return !glia_task_cancelled(z->s->task);
}
static bool on_pool(void *ud, double fraction) {
    const probing *z = ud;
    return glia_study_tell(z->s, 0.5 * fraction);
}

/* ------------------------------------------------------------------ where: component and layers */

static glia_status read_place(probing *z, glia_err *err) {
    const char *name = "residual";
    glia_hook_target t;
    glia_status st = glia_json_str(z->s->root, "", "component", &name, err);
    if (st) return st;
    glia_hook_spec spec = {.has_layer = true, .layer = 0, .component = name, .output = true};
    if ((st = glia_names_resolve(&spec, z->info.n_layer > 0 ? z->info.n_layer : 1, z->info.arch, &t, err))) {
        if (err) (void)snprintf(err->param, sizeof err->param, "component");
        return st;
    }
    z->point = t.point[0];
    return GLIA_OK;
}

/* "layers": a list, or "layer": one; absent: all of the model's. */
static glia_status read_layers(probing *z, glia_err *err) {
    glia_study *s = z->s;
    int64_t one = 0;
    bool given = false;
    s->info = z->info;
    glia_status st =
        glia_json_int(s->root, "", "layer", -(int64_t)z->info.n_layer, (int64_t)z->info.n_layer - 1, &one, &given, err);
    if (st || (st = glia_study_layers(s, "layers", err))) return st;
    z->n_layers = given ? 1 : s->layers ? s->n_layers : glia_point_has_layer(z->point) ? (size_t)z->info.n_layer : 1;
    if (!(z->layers = glia_malloc(z->n_layers * sizeof *z->layers)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for layers");
    for (size_t i = 0; i < z->n_layers; i++)
        z->layers[i] = given ? (int32_t)(one < 0 ? one + z->info.n_layer : one) : s->layers ? s->layers[i] : (int32_t)i;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ texts */

static glia_status read_example(probing *z, yyjson_val *v, size_t i, glia_err *err) {
    char path[48], at[64];
    (void)snprintf(path, sizeof path, "examples[%zu]", i);
    (void)snprintf(at, sizeof at, "%s.text", path);
    glia_text *t = &z->texts[z->n_texts];
    yyjson_val *text = glia_json_get(v, "text"), *label = glia_json_get(v, "label");
    int32_t *ids = NULL;
    glia_status st;
    bool number = yyjson_is_num(label) && isfinite(yyjson_get_num(label));
    if (!yyjson_is_bool(label) && !number)
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be {\"text\": …, \"label\": a number, true or false}",
                            path);
    z->label[z->n_texts] = number ? yyjson_get_num(label) : yyjson_get_bool(label);
    if (yyjson_is_str(text))
        st =
            glia_prompt_text(z->m, yyjson_get_str(text), yyjson_get_len(text), at, true, true, &ids, &t->n_tokens, err);
    else if (yyjson_is_arr(text)) st = glia_prompt_ids(z->m, text, at, &ids, &t->n_tokens, err);
    else return glia_fail_at(err, GLIA_EINVAL, at, "%s must be a text or a list of token ids", at);
    t->tokens = ids;
    z->n_texts++;
    return !st && !t->n_tokens ? glia_fail_at(err, GLIA_EINVAL, at, "%s is empty", at) : st;
}

static glia_status from_texts(probing *z, yyjson_val *list, glia_err *err) {
    const char *pooling = "last", *id = NULL;
    size_t n = yyjson_arr_size(list);
    glia_status st;
    if ((st = glia_json_str(z->s->root, "", "model", &id, err))) return st;
    if ((st = glia_app_find(z->s->app, id, &z->m, err))) return st;
    glia_model_get_info(z->m, &z->info);
    if ((st = read_place(z, err)) || (st = read_layers(z, err))) return st;
    if ((st = glia_json_str(z->s->root, "", "pooling", &pooling, err))) return st;
    bool mean = !strcmp(pooling, "mean"), all = !strcmp(pooling, "all");
    if (!mean && !all && strcmp(pooling, "last") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "pooling", "pooling must be last, mean or all, not \"%.40s\"", pooling);
    if (!n || n > MAX_TEXTS)
        return glia_fail_at(err, GLIA_EINVAL, "examples", "examples: 1 to %d texts", (int)MAX_TEXTS);
    z->texts = glia_calloc(n, sizeof *z->texts), z->label = glia_malloc(n * sizeof *z->label);
    if (!z->texts || !z->label) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu texts", n);
    for (size_t i = 0; i < n; i++) {
        if ((st = read_example(z, yyjson_arr_get(list, i), i, err))) return st;
    }
    glia_pool_params p = {
        z->texts, n, z->point, z->layers, z->n_layers, mean ? GLIA_PICK_MEAN : all ? GLIA_PICK_ALL : GLIA_PICK_LAST,
        on_pool,  z};
    if ((st = glia_pool_run(&z->pool, z->m, &p, err))) return st;
    z->rows = z->pool->rows, z->n = z->pool->n_rows, z->width = z->pool->width, z->n_groups = n;
    z->y = glia_malloc((z->n + 1) * sizeof *z->y), z->group = glia_malloc((z->n + 1) * sizeof *z->group);
    if (!z->y || !z->group) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows", z->n);
    for (size_t i = 0; i < z->n; i++) z->group[i] = z->pool->text[i], z->y[i] = z->label[z->pool->text[i]];
    return GLIA_OK;
}

/* ------------------------------------------------------------------ labels beside rows */

static glia_status read_labels(probing *z, glia_err *err) {
    yyjson_val *list = glia_json_get(z->s->root, "labels"), *groups = glia_json_get(z->s->root, "groups");
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) != z->n) {
        return glia_fail_at(err, GLIA_EINVAL, "labels", "labels must be a list of %zu numbers, one for each row", z->n);
    }
    for (size_t i = 0; i < z->n; i++) {
        yyjson_val *v = yyjson_arr_get(list, i);
        if (!yyjson_is_num(v) && !yyjson_is_bool(v))
            return glia_fail_at(err, GLIA_EINVAL, "labels", "labels[%zu] must be a number", i);
        z->y[i] = yyjson_is_bool(v) ? yyjson_get_bool(v) : yyjson_get_num(v);
    }
    if (!groups) return GLIA_OK;
    if (!yyjson_is_arr(groups) || yyjson_arr_size(groups) != z->n)
        return glia_fail_at(err, GLIA_EINVAL, "groups", "groups must be a list of %zu numbers, one for each row", z->n);
    z->n_groups = 0;
    for (size_t i = 0; i < z->n; i++) {
        int64_t x;
        if (!glia_json_whole(yyjson_arr_get(groups, i), &x) || x < 0 || (uint64_t)x >= z->n)
            return glia_fail_at(err, GLIA_EINVAL, "groups", "groups[%zu] must be a number from 0 to %zu", i, z->n - 1);
        z->group[i] = (size_t)x;
        if (z->group[i] >= z->n_groups) z->n_groups = z->group[i] + 1;
    }
    return GLIA_OK;
}

static glia_status make_room(probing *z, size_t n, glia_err *err) {
    z->n = n, z->own_rows = true;
    z->rows = glia_calloc(z->n_layers, sizeof *z->rows);
    z->y = glia_malloc((n + 1) * sizeof *z->y), z->group = glia_malloc((n + 1) * sizeof *z->group);
    if (!z->rows || !z->y || !z->group) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows", n);
    for (size_t i = 0; i < n; i++) z->group[i] = i;
    z->n_groups = n;
    return GLIA_OK;
}

static glia_status from_rows(probing *z, yyjson_val *v, glia_err *err) {
    glia_matrix m;
    glia_status st = glia_json_matrix(v, "activations", &m, err);
    if (st) return st;
    z->n_layers = 1, z->width = m.n_columns;
    if (!(z->layers = glia_calloc(1, sizeof *z->layers))) st = glia_fail(err, GLIA_ENOMEM, "no memory");
    if (!st) st = make_room(z, m.n_rows, err);
    if (st) {
        glia_free(m.data);
        return st;
    }
    z->layers[0] = -1, z->rows[0] = m.data;
    return read_labels(z, err);
}

/* ------------------------------------------------------------------ a stored run */

/* 1 for rows of these tokens. */
static glia_status label_by_token(probing *z, yyjson_val *list, const glia_run_label *labels, glia_err *err) {
    for (size_t k = 0; k < yyjson_arr_size(list); k++) {
        int64_t x;
        if (!glia_json_whole(yyjson_arr_get(list, k), &x))
            return glia_fail_at(err, GLIA_EINVAL, "positive_tokens", "positive_tokens must be token ids");
        for (size_t i = 0; i < z->n; i++) z->y[i] = labels[i].token_id == x ? 1 : z->y[i];
    }
    return GLIA_OK;
}

/* Rows of one document stay together; those of a request (without one) are each by themselves. */
static void group_by_document(probing *z, const glia_run_label *labels) {
    z->n_groups = 0;
    for (size_t i = 0; i < z->n; i++) {
        bool same = i && labels[i].document >= 0 && labels[i].document == labels[i - 1].document; /* documents rise */
        z->n_groups += !same;
        z->group[i] = z->n_groups - 1;
    }
}

static glia_status read_run(probing *z, glia_run *run, glia_err *err) {
    yyjson_val *positive = glia_json_get(z->s->root, "positive_tokens");
    const glia_run_tensor *first = glia_run_find_point(run, z->point, z->layers[0]);
    glia_run_label *labels = NULL;
    glia_status st = GLIA_OK;
    if (!first)
        return glia_fail_at(err, GLIA_EHOOK, "layers", "the run holds no rows of %s of layer %d",
                            glia_point_name(z->point), (int)z->layers[0]);
    size_t n = first->rows > z->max_rows ? z->max_rows : (size_t)first->rows;
    z->width = (size_t)first->width;
    if ((st = make_room(z, n, err))) return st;
    for (size_t l = 0; l < z->n_layers && !st; l++) {
        const glia_run_tensor *t = glia_run_find_point(run, z->point, z->layers[l]);
        if (!t || t->width != first->width || t->rows != first->rows) {
            st = glia_fail_at(err, GLIA_EHOOK, "layers", "the run holds other rows of %s of layer %d than of layer %d",
                              glia_point_name(z->point), (int)z->layers[l], (int)z->layers[0]);
        } else if (!(z->rows[l] = glia_malloc((n * z->width + 1) * sizeof **z->rows))) {
            st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows", n);
        } else {
            st = glia_run_read(run, t, 0, n, z->rows[l], err);
        }
    }
    if (!st && !(labels = glia_malloc((n + 1) * sizeof *labels)))
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows", n);
    if (!st) st = glia_run_labels(run, first, 0, n, labels, err);
    if (!st) {
        group_by_document(z, labels);
        memset(z->y, 0, n * sizeof *z->y);
        st = yyjson_is_arr(positive) ? label_by_token(z, positive, labels, err) : read_labels(z, err);
    }
    glia_free(labels);
    return st;
}

static glia_status from_run(probing *z, glia_err *err) {
    const char *id = NULL;
    glia_runs *runs;
    glia_run *run;
    glia_status st = glia_json_str(z->s->root, "", "run", &id, err);
    if (st || (st = glia_store_runs(z->s->app->store, &runs, err))) return st;
    if ((st = glia_run_open(&run, runs, id, err))) {
        if (err) (void)snprintf(err->param, sizeof err->param, "run");
        return st;
    }
    for (size_t i = 0; i < glia_run_n_tensors(run); i++) { /* as many layers as it knows */
        int32_t layer = glia_run_tensor_at(run, i)->layer;
        if (layer >= z->info.n_layer) z->info.n_layer = layer + 1;
    }
    st = read_place(z, err);
    bool named = glia_json_get(z->s->root, "layer") || glia_json_get(z->s->root, "layers");
    if (!st && named) st = read_layers(z, err);
    if (!st && !named) { /* all layers that it holds */
        z->layers = glia_malloc(((size_t)z->info.n_layer + 1) * sizeof *z->layers);
        if (!z->layers) st = glia_fail(err, GLIA_ENOMEM, "no memory for layers");
        for (int32_t l = 0; !st && l < z->info.n_layer; l++) {
            if (glia_run_find_point(run, z->point, l)) z->layers[z->n_layers++] = l;
        }
        if (!st && !z->n_layers)
            st = glia_fail_at(err, GLIA_EHOOK, "component", "the run holds no rows of %s", glia_point_name(z->point));
    }
    if (!st) st = read_run(z, run, err);
    glia_run_close(run);
    return st;
}

/* ------------------------------------------------------------------ fitting and answering */

static void add_real(glia_buf *b, const char *key, double x) {
    glia_buf_addf(b, ",\"%s\":", key);
    glia_json_add_real(b, x);
}

static void add_direction(glia_buf *b, const double *x, size_t n, bool base64) {
    glia_buf_adds(b, ",\"direction\":");
    if (base64) {
        glia_buf_addf(b, "{\"shape\":[%zu],\"dtype\":\"float32\",\"data\":\"", n);
        for (size_t i = 0; i < n; i += 3) { /* whole groups of 3 bytes */
            float part[3];
            uint8_t bytes[12];
            size_t k = n - i < 3 ? n - i : 3;
            for (size_t j = 0; j < k; j++) part[j] = (float)x[i + j];
            glia_pack_le(bytes, part, k, GLIA_F32);
            glia_base64_add(b, bytes, 4 * k);
        }
        glia_buf_adds(b, "\"}");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        glia_buf_adds(b, i ? "," : "[");
        glia_json_add_real(b, x[i]);
    }
    glia_buf_adds(b, "]");
}

static glia_status fit_layer(probing *z, size_t l, bool base64, glia_buf *b, glia_err *err) {
    glia_span span;
    glia_probe probe = {0};
    glia_status st = glia_span_make(&span, z->rows[l], z->n, z->width, err);
    if (st) return st;
    if (!span.r) st = glia_fail(err, GLIA_EINVAL, "all rows are the same: there is nothing to read");
    if (!st) st = glia_probe_fit(&probe, &span, z->y, z->group, z->n_groups, &z->p, err);
    glia_span_clear(&span);
    if (st) return st;
    glia_buf_addf(b, "%s{\"layer\":", l ? "," : "");
    if (z->layers[l] < 0) glia_buf_adds(b, "null");
    else glia_buf_addf(b, "%d", (int)z->layers[l]);
    add_real(b, probe.binary ? "held_out_accuracy" : "held_out_r2", probe.score);
    add_real(b, "held_out_auc", probe.auc);
    add_real(b, "majority", probe.majority);
    add_real(b, "permuted_mean", probe.null_mean);
    add_real(b, "permuted_95", probe.null_high);
    add_real(b, "p_value", probe.p);
    add_real(b, "bias", probe.bias);
    add_direction(b, probe.direction, z->width, base64);
    glia_buf_adds(b, "}");
    glia_probe_clear(&probe);
    return glia_study_tell(z->s, 0.5 + 0.5 * (double)(l + 1) / (double)z->n_layers)
               ? GLIA_OK
               : glia_fail(err, GLIA_ECANCELLED, "cancelled");
}

static glia_status read_params(probing *z, bool *base64, glia_err *err) {
    yyjson_val *root = z->s->root;
    const char *method = "logistic", *encoding = "list";
    int64_t folds = 5, perm = 99, seed = 0, rows = DEFAULT_ROWS;
    glia_status st;
    z->p = (glia_probe_params){.l2 = 1, .go_on = go_on, .ud = z};
    if ((st = glia_json_str(root, "", "method", &method, err))) return st;
    if (strcmp(method, "logistic") != 0 && strcmp(method, "ridge") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "method", "method must be logistic or ridge, not \"%.40s\"", method);
    z->p.kind = strcmp(method, "ridge") ? GLIA_PROBE_LOGISTIC : GLIA_PROBE_RIDGE;
    if ((st = glia_json_str(root, "", "encoding", &encoding, err))) return st;
    *base64 = !strcmp(encoding, "base64");
    if (!*base64 && strcmp(encoding, "list") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "encoding", "encoding must be list or base64");
    if ((st = glia_json_num(root, "", "l2", 1e-9, 1e9, &z->p.l2, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "folds", 2, 100, &folds, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "permutations", 0, 10000, &perm, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "seed", 0, INT64_MAX, &seed, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "max_rows", 4, GLIA_SPAN_MAX_ROWS, &rows, NULL, err))) return st;
    z->p.n_folds = (size_t)folds, z->p.n_perm = (size_t)perm, z->p.seed = (uint64_t)seed, z->max_rows = (size_t)rows;
    return GLIA_OK;
}

static glia_status probe_work(glia_study *s, glia_buf *b, glia_err *err) {
    probing z = {.s = s};
    bool base64;
    yyjson_val *texts = glia_json_get(s->root, "examples"), *rows = glia_json_get(s->root, "activations");
    glia_status st = read_params(&z, &base64, err);
    if (st) goto done;
    if (texts) st = from_texts(&z, texts, err);
    else if (rows) st = from_rows(&z, rows, err);
    else if (glia_json_get(s->root, "run")) st = from_run(&z, err);
    else
        st = glia_fail_at(err, GLIA_EINVAL, "examples",
                          "give examples [{\"text\", \"label\"}], or run (a stored one), or activations, with labels");
    if (st) goto done;
    if (z.n > GLIA_SPAN_MAX_ROWS) {
        st = glia_fail_at(err, GLIA_ETOOLARGE, texts ? "examples" : "activations", "%zu rows, at most %d are taken",
                          z.n, (int)GLIA_SPAN_MAX_ROWS);
        goto done;
    }
    glia_buf_addf(
        b, "{\"success\":true,\"method\":\"%s\",\"point\":", z.p.kind == GLIA_PROBE_RIDGE ? "ridge" : "logistic");
    glia_json_add_cstr(b, rows && !texts ? NULL : glia_point_name(z.point));
    glia_buf_addf(b, ",\"rows\":%zu,\"groups\":%zu,\"folds\":%zu,\"permutations\":%zu,\"layers\":[", z.n, z.n_groups,
                  z.p.n_folds, z.p.n_perm);
    for (size_t l = 0; l < z.n_layers && !st; l++) st = fit_layer(&z, l, base64, b, err);
    glia_buf_adds(b, "],\"execution_time_ms\":");
    glia_json_add_num(b, glia_study_ms(s));
    glia_buf_adds(b, "}\n");
done:
    probing_clear(&z);
    return st;
}

void glia_on_analyze_probe(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"probe", "linear probes", false, probe_work};
    glia_study_serve(ud, rq, &route);
}
