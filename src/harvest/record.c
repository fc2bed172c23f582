/* harvest/record.c — see record.h. */
#include "harvest/record.h"
#include "base/err.h"
#include "base/mem.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const glia_st_dtype dtypes[] = {[GLIA_F32] = GLIA_ST_F32, [GLIA_F16] = GLIA_ST_F16, [GLIA_BF16] = GLIA_ST_BF16};

glia_status glia_harvest_record(const glia_manifest *m, glia_run_state state, glia_run_writer *w, glia_err *err) {
    size_t n_tensors = m->statistics_only ? 0 : m->n_tensors;
    glia_run_about about = {.state = state, .tokens = m->tokens, .rows = m->statistics_only ? 0 : m->rows};
    glia_run_file *files = glia_calloc(m->n_shards, sizeof *files);
    glia_run_tensor *tensors = glia_calloc(n_tensors, sizeof *tensors);
    glia_status st = GLIA_OK;
    if (!files || !tensors) st = glia_fail(err, GLIA_ENOMEM, "out of memory for the catalogue");
    (void)snprintf(about.model, sizeof about.model, "%s", m->model.id);
    (void)snprintf(about.model_sha256, sizeof about.model_sha256, "%s", m->model.sha256);
    for (size_t i = 0; i < m->n_shards && !st; i++) {
        files[i].bytes = m->shards[i].bytes, files[i].rows = m->shards[i].rows;
        (void)snprintf(files[i].name, sizeof files[i].name, "%s", m->shards[i].file);
        memcpy(files[i].sha256, m->shards[i].sha256, sizeof files[i].sha256);
    }
    for (size_t i = 0; i < n_tensors && !st; i++) {
        const glia_tensor_info *t = &m->tensors[i];
        tensors[i] = (glia_run_tensor){.name = t->name,
                                       .point = t->point,
                                       .layer = t->layer,
                                       .grade = t->grade,
                                       .reduce = m->projection.n ? GLIA_REDUCE_PROJECT : GLIA_REDUCE_NONE,
                                       .dtype = dtypes[m->dtype],
                                       .rows = m->rows,
                                       .width = t->width,
                                       .n_heads = t->n_heads,
                                       .head_dim = t->n_heads ? t->width / t->n_heads : 0,
                                       .phase = GLIA_PHASE_PROMPT};
    }
    if (!st) st = glia_run_record(w, &about, files, m->n_shards, tensors, n_tensors, err);
    glia_free(files);
    glia_free(tensors);
    return st;
}

glia_status glia_harvest_find(glia_runs *s, const char *folder, glia_run_about *out, glia_err *err) {
    glia_run_about *list;
    size_t n, i = 0;
    glia_status st = glia_runs_list(s, GLIA_RUN_HARVEST, NULL, 0, &list, &n, err);
    if (st) return st;
    while (i < n && strcmp(list[i].folder, folder) != 0) i++;
    if (i < n) *out = list[i];
    else st = glia_fail(err, GLIA_ENOTFOUND, "no run lies in %.200s", folder);
    glia_free(list);
    return st;
}

/* A new run for the folder, or the one that it is already. */
static glia_status take_up(glia_runs *s, glia_run_about *about, glia_run_writer **w, glia_err *err) {
    glia_run_about known;
    glia_status st = glia_harvest_find(s, about->folder, &known, err);
    if (st == GLIA_ENOTFOUND) return glia_run_begin(w, s, about, err);
    return st ? st : glia_run_resume(w, s, known.id, about, err);
}

glia_status glia_harvest_add(glia_runs *s, const char *folder, glia_run_about *about, glia_err *err) {
    char full[PATH_MAX], path[PATH_MAX + 16], id[GLIA_RUN_ID];
    glia_manifest m;
    glia_run_writer *w = NULL;
    *about = (glia_run_about){.kind = GLIA_RUN_HARVEST};
    if (!realpath(folder, full))
        return glia_fail(err, GLIA_ENOTFOUND, "there is no folder %.200s: %s", folder, strerror(errno));
    if (strlen(full) >= sizeof about->folder) return glia_fail(err, GLIA_EINVAL, "the path %.60s… is too long", full);
    (void)snprintf(path, sizeof path, "%s/manifest.json", full);
    glia_status st = glia_manifest_read(&m, path, err);
    if (st) return st;
    memcpy(about->folder, full, strlen(full) + 1);
    (void)snprintf(about->model, sizeof about->model, "%s", m.model.id);
    st = take_up(s, about, &w, err);
    if (!st) st = glia_harvest_record(&m, m.complete ? GLIA_RUN_SEALED : GLIA_RUN_STOPPED, w, err);
    glia_run_writer_free(w);
    glia_manifest_clear(&m);
    if (!st) {
        memcpy(id, about->id, sizeof id);
        st = glia_runs_find(s, id, about, err);
    }
    return st;
}
