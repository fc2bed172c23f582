/* tap/derive.c — see derive.h. */
#include "derive.h"
#include "base/mem.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include <math.h>
#include <string.h>

enum { BUF_WEIGHT, BUF_BIAS, BUF_SCALE, BUF_GRAPH, BUF_WORK, N_BUFS };

struct glia_deriver {
    int32_t n_threads;
    struct {
        char *p;
        size_t n;
    } buf[N_BUFS];
};

glia_deriver *glia_deriver_new(int32_t n_threads) {
    glia_deriver *d = glia_calloc(1, sizeof *d);
    if (d) d->n_threads = n_threads > 0 ? n_threads : 1;
    return d;
}

void glia_deriver_free(glia_deriver *d) {
    if (!d) return;
    for (int i = 0; i < N_BUFS; i++) glia_free(d->buf[i].p);
    glia_free(d);
}

static char *room(glia_deriver *d, int which, size_t n) {
    if (d->buf[which].n < n) {
        glia_free(d->buf[which].p);
        d->buf[which].p = glia_malloc(n);
        d->buf[which].n = d->buf[which].p ? n : 0;
    }
    return d->buf[which].p;
}

bool glia_derive_reads(int32_t type) {
    return type == GGML_TYPE_F32 ||
           (type >= 0 && type < GGML_TYPE_COUNT && ggml_get_type_traits((enum ggml_type)type)->to_float);
}

/* The whole weight as floats: where it lies, or dequantized into a buffer. */
static const float *floats(glia_deriver *d, int which, const glia_weight *w) {
    if (w->type == GGML_TYPE_F32) return w->data;
    const struct ggml_type_traits *t = ggml_get_type_traits((enum ggml_type)w->type);
    float *out = (float *)(void *)room(d, which, (size_t)(w->ne0 * w->ne1) * sizeof *out);
    size_t row = ggml_row_size((enum ggml_type)w->type, w->ne0);
    for (int64_t i = 0; out && i < w->ne1; i++) {
        t->to_float((const char *)w->data + (size_t)i * row, out + i * w->ne0, w->ne0);
    }
    return out;
}

/* ------------------------------------------------------------------ the final norm */

/* RMSNorm (Zhang & Sennrich, arXiv:1910.07467) or LayerNorm (Ba et al., arXiv:1607.06450), sums in double as ggml has them. */
static bool lens(glia_deriver *d, const glia_derive *how, const float *in, int32_t n_rows, float *out) {
    const float *w = how->weight.data ? floats(d, BUF_WEIGHT, &how->weight) : NULL;
    const float *b = how->bias.data ? floats(d, BUF_BIAS, &how->bias) : NULL;
    if ((how->weight.data && !w) || (how->bias.data && !b)) return false;
    for (int32_t r = 0; r < n_rows; r++, in += how->n_embd, out += how->n_embd) {
        double mean = 0, ss = 0;
        for (int32_t i = 0; how->centred && i < how->n_embd; i++) mean += (double)in[i];
        mean /= how->n_embd;
        for (int32_t i = 0; i < how->n_embd; i++) ss += ((double)in[i] - mean) * ((double)in[i] - mean);
        double scale = 1 / sqrt(ss / how->n_embd + (double)how->eps);
        for (int32_t i = 0; i < how->n_embd; i++) {
            float x = (float)(((double)in[i] - mean) * scale);
            out[i] = (w ? x * w[i] : x) + (b ? b[i] : 0);
        }
    }
    return true;
}

/* ------------------------------------------------------------------ one head's part of the output projection */

static struct ggml_tensor *matrix(struct ggml_context *g, int64_t n0, int64_t n1, size_t nb1, const float *p) {
    struct ggml_tensor *t = ggml_new_tensor_2d(g, GGML_TYPE_F32, n0, n1);
    t->nb[1] = nb1, t->nb[2] = t->nb[3] = nb1 * (size_t)n1;
    t->data = (void *)(uintptr_t)p;
    return t;
}

static bool heads_out(glia_deriver *d, const glia_derive *how, const float *in, int32_t n_rows, const int32_t *heads,
                      int32_t n_heads, float *out) {
    const float *w = floats(d, BUF_WEIGHT, &how->weight);
    size_t hd = (size_t)how->head_dim, ne = (size_t)how->n_embd, n_nodes = 4 * (size_t)n_heads + 8;
    size_t bytes = n_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false) + 4096;
    char *mem = room(d, BUF_GRAPH, bytes);
    if (!w || !mem) return false;
    struct ggml_context *g =
        ggml_init((struct ggml_init_params){.mem_size = bytes, .mem_buffer = mem, .no_alloc = true});
    if (!g) return false;
    struct ggml_cgraph *gf = ggml_new_graph_custom(g, n_nodes, false);
    for (int32_t k = 0; k < n_heads; k++) {
        size_t h = (size_t)(heads ? heads[k] : k);
        struct ggml_tensor *wo =
            matrix(g, how->head_dim, how->n_embd, (size_t)how->weight.ne0 * sizeof(float), w + h * hd);
        struct ggml_tensor *z =
            matrix(g, how->head_dim, n_rows, (size_t)n_heads * hd * sizeof(float), in + (size_t)k * hd);
        struct ggml_tensor *y = ggml_mul_mat(g, wo, z);
        y->nb[1] = (size_t)n_heads * ne * sizeof(float), y->nb[2] = y->nb[3] = y->nb[1] * (size_t)n_rows;
        y->data = out + (size_t)k * ne;
        ggml_build_forward_expand(gf, y);
    }
    int threads = (double)n_rows * (double)hd * (double)ne * n_heads > 1e6 ? d->n_threads : 1;
    struct ggml_cplan plan = ggml_graph_plan(gf, threads, NULL);
    plan.work_data = (uint8_t *)room(d, BUF_WORK, plan.work_size + 64);
    bool ok = plan.work_data && ggml_graph_compute(gf, &plan) == GGML_STATUS_SUCCESS;
    ggml_free(g);
    const float *scale = ok && how->scale.data ? floats(d, BUF_SCALE, &how->scale) : NULL;
    for (size_t i = 0; scale && i < (size_t)n_rows * (size_t)n_heads * ne; i++) {
        out[i] *= how->scale.ne0 == 1 ? scale[0] : scale[i % ne];
    }
    return ok && (scale || !how->scale.data);
}

bool glia_derive_rows(glia_deriver *d, const glia_derive *how, const float *in, int32_t n_rows, const int32_t *heads,
                      int32_t n_heads, float *out) {
    if (how->point == GLIA_POINT_LENS_IN) return lens(d, how, in, n_rows, out);
    return heads_out(d, how, in, n_rows, heads, n_heads, out);
}
