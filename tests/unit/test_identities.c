/* tests/unit/test_identities.c — on the real SmolLM2 (quantized, Q4_1) the captured rows obey the model's own equations.
 *
 * Weights are read from the GGUF file and dequantized here, independently of the engine.  Tolerances: sums of the
 * residual stream and norms are float32 (1e-6, 1e-5).  In products with quantized weights ggml rounds the other operand
 * to 8 bits on the CPU, by at most amax/254 in each block of 32: an output may be off by the sum over its blocks of that
 * times the absolute weights, and never by more; besides, the direction of the whole row must agree (cosine). */
#include "ggml.h"
#include "gguf.h"
#include "support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOK = 12, N_GEN = 4, ROWS = N_TOK + N_GEN - 1 };

static glia_model *m;
static glia_model_info info;
static result *res;
static struct ggml_context *weights;
static struct gguf_context *file;
static float eps;

static const char *const text = "The quick brown fox jumps over the lazy dog and";

static int hook_of[GLIA_N_POINTS][64]; /* index of the hook on a point at a layer, -1: this model has none there */

static const float *at(glia_point p, int il, int t) {
    const rows *g = &res->hook[hook_of[p][glia_point_has_layer(p) ? il : 0]];
    return g->data + (size_t)t * (size_t)g->width;
}

static int setup(void **s) {
    (void)s;
    glia_err err;
    int32_t *ids;
    size_t n_ids, n = 0;
    static glia_hook hooks[1024];
    m = open_model(test_env("GLIA_TEST_MODEL"), 2, 256, 512);
    glia_model_get_info(m, &info);
    if (glia_model_tokenize(m, text, strlen(text), true, true, &ids, &n_ids, &err)) fail_msg("%s", err.message);
    if (n_ids > N_TOK) n_ids = N_TOK;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int il = 0; il < (glia_point_has_layer((glia_point)p) ? info.n_layer : 1); il++) {
            glia_point_info pi;
            assert_true(il < 64 && glia_model_point(m, (glia_point)p, il, &pi));
            hook_of[p][il] = pi.grade < GLIA_GRADE_STRUCTURAL ? -1 : (int)n;
            if (hook_of[p][il] < 0) continue;
            hooks[n++] = (glia_hook){.point = (glia_point)p, .layer = il, .phases = GLIA_PHASE_ALL};
        }
    }
    while (n_ids < N_TOK) ids[n_ids] = ids[n_ids - 1], n_ids++;
    glia_request_params rp = greedy(ids, n_ids, N_GEN);
    rp.hooks = hooks, rp.n_hooks = n;
    res = run_request(m, &rp);
    assert_int_equal(res->err.status, GLIA_OK);
    glia_free(ids);
    file =
        gguf_init_from_file(test_env("GLIA_TEST_MODEL"), (struct gguf_init_params){.no_alloc = false, .ctx = &weights});
    assert_non_null(file);
    int64_t k = gguf_find_key(file, "llama.attention.layer_norm_rms_epsilon");
    eps = gguf_get_val_f32(file, k);
    return 0;
}

static int teardown(void **s) {
    (void)s;
    result_free(res);
    glia_model_close(m);
    gguf_free(file);
    ggml_free(weights);
    return 0;
}

/* dequantized [rows, cols]; freed by the caller */
static float *weight(const char *fmt, int il, int64_t *n_in, int64_t *n_out) {
    char name[96];
    snprintf(name, sizeof name, fmt, il);
    struct ggml_tensor *t = ggml_get_tensor(weights, name);
    if (!t) fail_msg("no weight %s", name);
    size_t n = (size_t)ggml_nelements(t);
    float *w = malloc(n * sizeof *w);
    if (t->type == GGML_TYPE_F32) memcpy(w, t->data, n * sizeof *w);
    else ggml_get_type_traits(t->type)->to_float(t->data, w, (int64_t)n);
    *n_in = t->ne[0], *n_out = t->ne[1];
    return w;
}

static void check(const char *what, int il, const float *got, const float *want, size_t n, double tol) {
    double e = worst_error(got, want, n);
    if (!(e <= tol)) fail_msg("layer %d: %s off by %.3g, allowed %.3g", il, what, e, tol);
}

static void residual_stream_is_the_sum_of_its_parts(void **s) {
    (void)s;
    for (int il = 0; il < info.n_layer; il++) {
        for (int t = 0; t < ROWS; t++) {
            float sum[4096];
            for (int i = 0; i < info.n_embd; i++)
                sum[i] = at(GLIA_POINT_RESID_PRE, il, t)[i] + at(GLIA_POINT_ATTN_OUT_POST, il, t)[i];
            check("resid_mid = resid_pre + attn_out_post", il, at(GLIA_POINT_RESID_MID, il, t), sum,
                  (size_t)info.n_embd, 1e-6);
            for (int i = 0; i < info.n_embd; i++)
                sum[i] = at(GLIA_POINT_RESID_MID, il, t)[i] + at(GLIA_POINT_MLP_OUT_POST, il, t)[i];
            check("resid_post = resid_mid + mlp_out_post", il, at(GLIA_POINT_RESID_POST, il, t), sum,
                  (size_t)info.n_embd, 1e-6);
            size_t row = (size_t)info.n_embd * sizeof(float);
            if (il) assert_memory_equal(at(GLIA_POINT_RESID_PRE, il, t), at(GLIA_POINT_RESID_POST, il - 1, t), row);
            else assert_memory_equal(at(GLIA_POINT_RESID_PRE, 0, t), at(GLIA_POINT_EMBEDDINGS, 0, t), row);
        }
    }
}

static void check_norm(const char *what, int il, const char *w_name, glia_point in, int in_il, glia_point out) {
    int64_t n, one;
    float *w = weight(w_name, il, &n, &one), want[4096];
    for (int t = 0; t < ROWS; t++) {
        const float *x = at(in, in_il, t);
        double ss = 0;
        for (int64_t i = 0; i < n; i++) ss += (double)x[i] * (double)x[i];
        double scale = 1 / sqrt(ss / (double)n + (double)eps);
        for (int64_t i = 0; i < n; i++) want[i] = (float)((double)x[i] * scale * (double)w[i]);
        check(what, il, at(out, il, t), want, (size_t)n, 1e-5);
    }
    free(w);
}

static void norms_are_rms_norms_of_the_stream(void **s) {
    (void)s;
    for (int il = 0; il < info.n_layer; il++) {
        check_norm("attn_in", il, "blk.%d.attn_norm.weight", GLIA_POINT_RESID_PRE, il, GLIA_POINT_ATTN_IN);
        check_norm("mlp_in", il, "blk.%d.ffn_norm.weight", GLIA_POINT_RESID_MID, il, GLIA_POINT_MLP_IN);
    }
    check_norm("final_norm", 0, "output_norm.weight", GLIA_POINT_RESID_POST, info.n_layer - 1, GLIA_POINT_FINAL_NORM);
}

/* y = W x and how far each y may be off through the rounding of x; w [n_out, n_in] */
static void product(const float *w, int64_t n_in, int64_t n_out, const float *x, float *y, float *slack) {
    for (int64_t o = 0; o < n_out; o++) {
        double sum = 0, off = 0;
        for (int64_t b = 0; b < n_in; b += 32) {
            double amax = 0, aw = 0;
            for (int64_t i = b; i < b + 32 && i < n_in; i++) {
                sum += (double)w[o * n_in + i] * (double)x[i];
                if (fabs((double)x[i]) > amax) amax = fabs((double)x[i]);
                aw += fabs((double)w[o * n_in + i]);
            }
            off += aw * amax * (1.0 / 254 + 1.0 / 2048); /* half a step, and the step itself is stored as f16 */
        }
        y[o] = (float)sum, slack[o] = (float)off;
    }
}

static void check_within(const char *what, int il, const float *got, const float *want, const float *slack, int64_t n) {
    double gg = 0, ww = 0, gw = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= (double)slack[i])) {
            fail_msg("layer %d: %s, column %d is %g, not %g ± %g", il, what, (int)i, (double)got[i], (double)want[i],
                     (double)slack[i]);
        }
        gg += (double)got[i] * got[i], ww += (double)want[i] * want[i], gw += (double)got[i] * want[i];
    }
    if (!(gw / sqrt(gg * ww) > 0.98))
        fail_msg("layer %d: %s points elsewhere, cosine %g", il, what, gw / sqrt(gg * ww));
}

static void check_product(const char *what, int il, const char *w_name, glia_point in, glia_point out) {
    int64_t n_in, n_out;
    float *w = weight(w_name, il, &n_in, &n_out);
    float *y = malloc((size_t)n_out * sizeof *y), *slack = malloc((size_t)n_out * sizeof *slack);
    for (int t = 0; t < ROWS; t += 7) {
        product(w, n_in, n_out, at(in, il, t), y, slack);
        check_within(what, il, at(out, il, t), y, slack, n_out);
    }
    free(w), free(y), free(slack);
}

static void projections_are_the_weights_times_their_inputs(void **s) {
    (void)s;
    for (int il = 0; il < info.n_layer; il++) {
        check_product("q = Wq attn_in", il, "blk.%d.attn_q.weight", GLIA_POINT_ATTN_IN, GLIA_POINT_Q);
        check_product("k = Wk attn_in", il, "blk.%d.attn_k.weight", GLIA_POINT_ATTN_IN, GLIA_POINT_K);
        check_product("value = Wv attn_in", il, "blk.%d.attn_v.weight", GLIA_POINT_ATTN_IN, GLIA_POINT_VALUE);
        check_product("attn_out = Wo z", il, "blk.%d.attn_output.weight", GLIA_POINT_Z, GLIA_POINT_ATTN_OUT);
        check_product("mlp_out = Wdown mlp_act", il, "blk.%d.ffn_down.weight", GLIA_POINT_MLP_ACT, GLIA_POINT_MLP_OUT);
    }
    check_product("lm_head = E final_norm", 0, "token_embd.weight", GLIA_POINT_FINAL_NORM, GLIA_POINT_LM_HEAD);
}

static void mlp_activation_is_silu_gate_times_up(void **s) {
    (void)s;
    for (int il = 0; il < info.n_layer; il++) {
        int64_t n_in, n_out;
        float *g = weight("blk.%d.ffn_gate.weight", il, &n_in, &n_out),
              *u = weight("blk.%d.ffn_up.weight", il, &n_in, &n_out);
        size_t n = (size_t)n_out;
        float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b), *da = malloc(n * sizeof *da),
              *db = malloc(n * sizeof *db);
        for (int t = 0; t < ROWS; t += 7) {
            product(g, n_in, n_out, at(GLIA_POINT_MLP_IN, il, t), a, da);
            product(u, n_in, n_out, at(GLIA_POINT_MLP_IN, il, t), b, db);
            for (size_t i = 0; i < n; i++) { /* |silu'| ≤ 1.1 */
                float s = a[i] / (1 + expf(-a[i]));
                da[i] = 1.1f * da[i] * (fabsf(b[i]) + db[i]) + fabsf(s) * db[i] + 1e-6f;
                a[i] = s * b[i];
            }
            check_within("mlp_act = silu(gate) * up", il, at(GLIA_POINT_MLP_ACT, il, t), a, da, n_out);
        }
        free(da), free(db);
        free(g), free(u), free(a), free(b);
    }
}

/* Softmax over keys up to position t of q·k after RoPE (theta and pairing of the llama architecture), times values. */
static void z_is_attention_over_the_captured_q_k_and_values(void **s) {
    (void)s;
    int hd = info.n_embd / info.n_head, group = info.n_head / info.n_head_kv;
    int64_t key = gguf_find_key(file, "llama.rope.freq_base");
    double theta = key >= 0 ? (double)gguf_get_val_f32(file, key) : 10000.0;
    for (int il = 0; il < info.n_layer; il++) {
        for (int h = 0; h < info.n_head; h++) {
            for (int t = 0; t < ROWS; t += 5) {
                double p[ROWS], top = -1e30, sum = 0;
                for (int j = 0; j <= t; j++) {
                    const float *q = at(GLIA_POINT_Q, il, t) + h * hd, *k = at(GLIA_POINT_K, il, j) + h / group * hd;
                    double dot = 0;
                    for (int i = 0; i < hd; i += 2) { /* rotating both by their positions = rotating by the distance */
                        double a = (double)(t - j) * pow(theta, -(double)i / hd), c = cos(a), n = sin(a);
                        dot += ((double)q[i] * k[i] + (double)q[i + 1] * k[i + 1]) * c -
                               ((double)q[i] * k[i + 1] - (double)q[i + 1] * k[i]) * -n;
                    }
                    p[j] = dot / sqrt(hd);
                    if (p[j] > top) top = p[j];
                }
                for (int j = 0; j <= t; j++) sum += p[j] = exp(p[j] - top);
                float want[512];
                for (int i = 0; i < hd; i++) {
                    double z = 0;
                    for (int j = 0; j <= t; j++)
                        z += p[j] / sum * (double)at(GLIA_POINT_VALUE, il, j)[h / group * hd + i];
                    want[i] = (float)z;
                }
                check("z = softmax(q k) value", il, at(GLIA_POINT_Z, il, t) + h * hd, want, (size_t)hd, 1e-4);
            }
        }
    }
}

/* Computed from the file's weights in float32: no rounding of z to eight bits stands between. */
static void each_heads_output_is_its_z_times_its_columns_of_the_projection(void **s) {
    (void)s;
    int hd = info.n_embd / info.n_head;
    for (int il = 0; il < info.n_layer; il += 7) {
        int64_t n_in, n_out;
        float *w = weight("blk.%d.attn_output.weight", il, &n_in, &n_out);
        for (int t = 0; t < ROWS; t += 7) {
            for (int h = 0; h < info.n_head; h++) {
                float want[4096];
                for (int64_t o = 0; o < n_out; o++) {
                    double sum = 0;
                    for (int i = 0; i < hd; i++)
                        sum += (double)at(GLIA_POINT_Z, il, t)[h * hd + i] * (double)w[o * n_in + h * hd + i];
                    want[o] = (float)sum;
                }
                check("attn_head_out = W_O z, head by head", il, at(GLIA_POINT_ATTN_HEAD_OUT, il, t) + h * n_out, want,
                      (size_t)n_out, 1e-5);
            }
        }
        free(w);
    }
}

static void lens_in_is_the_final_norm_of_every_layer(void **s) {
    (void)s;
    for (int il = 0; il < info.n_layer; il++) {
        check_norm("lens_in", il, "output_norm.weight", GLIA_POINT_RESID_POST, il, GLIA_POINT_LENS_IN);
    }
    for (int t = 0; t < ROWS; t++) {
        check("lens_in of the last layer = final_norm", info.n_layer - 1, at(GLIA_POINT_LENS_IN, info.n_layer - 1, t),
              at(GLIA_POINT_FINAL_NORM, 0, t), (size_t)info.n_embd, 1e-6);
    }
}

static void rows_of_different_layers_and_tokens_differ(void **s) {
    (void)s; /* no identity can hold by rows that are all alike */
    for (int il = 1; il < info.n_layer; il++) {
        assert_true(worst_error(at(GLIA_POINT_RESID_POST, il, 3), at(GLIA_POINT_RESID_POST, il - 1, 3),
                                (size_t)info.n_embd) > 1e-3);
        assert_true(worst_error(at(GLIA_POINT_RESID_POST, il, 3), at(GLIA_POINT_RESID_POST, il, 4),
                                (size_t)info.n_embd) > 1e-3);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residual_stream_is_the_sum_of_its_parts),
        cmocka_unit_test(norms_are_rms_norms_of_the_stream),
        cmocka_unit_test(projections_are_the_weights_times_their_inputs),
        cmocka_unit_test(mlp_activation_is_silu_gate_times_up),
        cmocka_unit_test(z_is_attention_over_the_captured_q_k_and_values),
        cmocka_unit_test(each_heads_output_is_its_z_times_its_columns_of_the_projection),
        cmocka_unit_test(lens_in_is_the_final_norm_of_every_layer),
        cmocka_unit_test(rows_of_different_layers_and_tokens_differ),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
