/* tap/graph.c — reads a ggml graph into plain data.  Any thread.  The graph must not change meanwhile. */
#include "graph.h"
#include "base/err.h"
#include "base/mem.h"
#include "ggml.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* pointer → index, open addressing; value ≥ 0 node, < 0 leaf */
typedef struct ptrmap {
    const void **key;
    int32_t *val;
    size_t mask;
} ptrmap;

static size_t slot_of(const ptrmap *m, const void *p) {
    size_t h = (size_t)((uintptr_t)p >> 4) * (size_t)0x9e3779b97f4a7c15u;
    size_t i = (h >> 20) & m->mask;
    while (m->key[i] && m->key[i] != p) i = (i + 1) & m->mask;
    return i;
}

void glia_graph_bare_name(char out[64], const char *name) {
    const char *a = strchr(name, '#');
    const char *b = a ? strrchr(name, '#') : NULL;
    bool wrapped = a && b > a && b[1];
    for (const char *c = b ? b + 1 : ""; wrapped && *c; c++) wrapped = isdigit((unsigned char)*c) != 0;
    int n = wrapped ? (int)(b - a - 1) : (int)strnlen(name, 63);
    (void)snprintf(out, 64, "%.*s", n, wrapped ? a + 1 : name);
}

/* Between backends the scheduler gives a consumer a copy of its source, named BACKEND#source#k and looking like an input.
 * The node it is a copy of: the last one before `end` with that name and shape; -1: it is a copy of a real leaf. */
static int32_t copied_node(const glia_graph *g, int32_t end, const struct ggml_tensor *copy) {
    char bare[64];
    glia_graph_bare_name(bare, copy->name);
    if (!strcmp(bare, copy->name)) return -1;
    for (int32_t i = end - 1; i >= 0; i--) {
        if (!strcmp(g->nodes[i].name, bare) && !memcmp(g->nodes[i].ne, copy->ne, sizeof copy->ne)) return i;
    }
    return -1;
}

static void read_leaf(glia_gleaf *l, const struct ggml_tensor *t) {
    int n = 0, layer = -1;
    memcpy(l->ne, t->ne, sizeof l->ne);
    glia_graph_bare_name(l->name, t->name);
    l->layer = -1, l->part = l->name;
    if (sscanf(l->name, "blk.%9d.%n", &layer, &n) == 1 && n > 0) {
        l->layer = layer, l->part = l->name + n;
    } else if (sscanf(l->name, "cache_k_l%9d%n", &layer, &n) == 1 && n && !l->name[n]) {
        l->layer = layer, l->part = "cache_k";
    } else if (sscanf(l->name, "cache_v_l%9d%n", &layer, &n) == 1 && n && !l->name[n]) {
        l->layer = layer, l->part = "cache_v";
    }
}

static bool lists_uses(glia_graph *g) {
    g->use_start = glia_calloc((size_t)g->n_nodes + 1, sizeof *g->use_start);
    if (!g->use_start) return false;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        for (int32_t k = 0; k < g->nodes[i].n_src; k++) {
            if (g->nodes[i].src[k] >= 0) g->use_start[g->nodes[i].src[k] + 1]++;
        }
    }
    for (int32_t i = 0; i < g->n_nodes; i++) g->use_start[i + 1] += g->use_start[i];
    g->uses = glia_calloc((size_t)g->use_start[g->n_nodes] + 1, sizeof *g->uses);
    int32_t *fill = glia_calloc((size_t)g->n_nodes + 1, sizeof *fill);
    if (g->uses && fill) {
        for (int32_t i = 0; i < g->n_nodes; i++) {
            for (int32_t k = 0; k < g->nodes[i].n_src; k++) {
                int32_t s = g->nodes[i].src[k];
                if (s >= 0) g->uses[g->use_start[s] + fill[s]++] = i;
            }
        }
    }
    glia_free(fill);
    return g->uses && fill;
}

glia_status glia_graph_read(glia_graph **out, struct ggml_cgraph *gf, glia_err *err) {
    glia_status st = GLIA_ENOMEM;
    ptrmap m = {0};
    glia_graph *g = NULL;
    *out = NULL;
    int n = ggml_graph_n_nodes(gf);
    size_t cap = 1024;
    while (cap < (size_t)n * 8) cap *= 2; /* nodes and at most a few leaves each */
    m.mask = cap - 1;
    m.key = glia_calloc(cap, sizeof *m.key);
    m.val = glia_calloc(cap, sizeof *m.val);
    g = glia_calloc(1, sizeof *g);
    if (!m.key || !m.val || !g) goto done;
    g->nodes = glia_calloc((size_t)n, sizeof *g->nodes);
    g->leafs = glia_calloc(cap, sizeof *g->leafs);
    if (!g->nodes || !g->leafs) goto done;
    g->n_nodes = n;

    for (int i = 0; i < n; i++) {
        const struct ggml_tensor *t = ggml_graph_node(gf, i);
        size_t s = slot_of(&m, t);
        m.key[s] = t, m.val[s] = i;
    }
    for (int i = 0; i < n; i++) {
        const struct ggml_tensor *t = ggml_graph_node(gf, i);
        glia_gnode *d = &g->nodes[i];
        d->op = (int32_t)t->op, d->type = (int32_t)t->type, d->view_of = GLIA_GRAPH_NO_SRC;
        memcpy(d->ne, t->ne, sizeof d->ne);
        memcpy(d->param, t->op_params, sizeof d->param);
        memcpy(d->name, t->name, sizeof d->name - 1);
        for (int k = -1; k < GGML_MAX_SRC && k < GLIA_GRAPH_MAX_SRC; k++) {
            const struct ggml_tensor *src = k < 0 ? t->view_src : t->src[k];
            int32_t ref = GLIA_GRAPH_NO_SRC;
            if (src) {
                size_t s = slot_of(&m, src);
                int32_t original = m.key[s] ? -1 : copied_node(g, i, src);
                if (original >= 0) {
                    m.key[s] = src, m.val[s] = original;
                } else if (!m.key[s]) {
                    if ((size_t)(g->n_leafs + n) * 2 > cap) {
                        st = glia_fail(err, GLIA_EINTERNAL, "graph has more inputs than expected");
                        goto done;
                    }
                    read_leaf(&g->leafs[g->n_leafs], src);
                    m.key[s] = src, m.val[s] = ~g->n_leafs;
                    g->n_leafs++;
                }
                ref = m.val[s];
            }
            if (k < 0) {
                d->view_of = ref;
            } else {
                d->src[k] = ref;
                if (src) d->n_src = k + 1;
            }
        }
        d->slice = t->op == GGML_OP_VIEW && t->src[0] && ggml_nelements(t) != ggml_nelements(t->src[0]);
    }
    if (!lists_uses(g)) goto done;
    *out = g, g = NULL, st = GLIA_OK;
done:
    if (st == GLIA_ENOMEM) glia_fail(err, st, "out of memory reading the model's graph");
    glia_free(m.key);
    glia_free(m.val);
    glia_graph_free(g);
    return st;
}

void glia_graph_free(glia_graph *g) {
    if (!g) return;
    glia_free(g->nodes);
    glia_free(g->leafs);
    glia_free(g->use_start);
    glia_free(g->uses);
    glia_free(g);
}
