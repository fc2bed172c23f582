/* engine/worker.c — the engine thread's loop: continuous batching over slots, capture, sampling.
 *
 * Owns llama_context, tap, batch and slots of one model.  Engine thread only.  Knows no HTTP, no JSON.
 *
 *   slot:  IDLE ──admit──► PREFILL ──last prompt chunk──► DECODE ──stop, length──► IDLE
 *            ▲                └───────── cancel, error ──────┴──────────────────────┘
 *
 * Each turn: admit requests, drop cancelled ones, run every decoding slot's next token and then one chunk of prompt,
 * hand out rows and draw tokens after each pass.  A slot whose client is slow stays out.
 * What holds between turns: slot.tokens[0 .. n_past) is exactly what lies in the KV cache for its sequence. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/atlas_cache.h"
#include "engine/collect.h"
#include "engine/model.h"
#include "engine/sampler.h"
#include "engine/text.h"
#include "tap/proof.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef enum slot_state { SLOT_IDLE, SLOT_PREFILL, SLOT_DECODE } slot_state;

typedef struct slot {
    int32_t id; /* = sequence id in the KV cache */
    slot_state state;
    glia_request *req; /* the engine's reference */

    int32_t *tokens; /* [n_ctx] what lies in the cache: prompt, then generated tokens that were fed back */
    int32_t n_past;

    int32_t next_token;  /* drawn, not yet fed */
    int32_t n_generated; /* drawn tokens */
    int32_t n_cached;
    glia_sampler *sampler;
    glia_constrainer *constrainer; /* NULL: any text */
    glia_text text;

    glia_node *frames;     /* of the pass being captured; pushed when the pass is whole */
    int32_t *rows_want;    /* [n_hooks] rows of `frames` per hook */
    int32_t *rows_have;    /* [n_hooks] of these, already there */
    uint8_t **edit_masks;  /* [n_edits] prompt rows changed, NULL: all */
    int32_t n_clean;       /* of what lies in the cache, so much was computed without any edit */
    uint8_t **masks;       /* [n_hooks] prompt rows wanted, NULL: all */
    glia_collect *collect; /* rows that become one over several passes; NULL: none */

    int32_t row0, n_rows; /* its rows in the batch of this turn; n_rows 0: not in it */
    int32_t draw_row;     /* batch row to draw from, -1: none */
    uint64_t last_used;
    double start_ms, prompt_end_ms;
} slot;

struct glia_worker {
    glia_model *m;
    struct llama_context *ctx;
    llama_memory_t mem;
    glia_tap *tap;
    glia_derive lens, *heads_out; /* how derived points are made; heads_out: [n_layer] */
    slot *slots;
    int32_t n_slots, n_batch, n_outputs_max;
    bool one_at_a_time; /* recurrent state: a pass with hooks holds one sequence */
    bool cuts_prefix;   /* a cached sequence may be cut and continued anywhere, not only at its end */

    struct llama_batch batch;
    glia_tap_row *rows; /* [n_batch] mirror of the batch for the tap */
    glia_tap_want *wants;
    int32_t n_wants, n_wants_alloc;
    glia_tap_edit *edits;
    int32_t n_edits, n_edits_alloc;
    llama_token_data *scratch; /* [n_vocab] */
    uint64_t clock;
    int32_t turn;
    bool was_aborted;
    char broken[160]; /* llama.cpp failed an assertion: nothing is computed any more; "" while it is well */
    atomic_bool stopping;
    glia_buf out; /* text on its way out, reused */
};

/* ------------------------------------------------------------------ setting up */

/* Runs on compute threads between nodes: must be cheap and only read. */
static bool on_abort(void *ud) {
    glia_worker *w = ud;
    if (atomic_load_explicit(&w->stopping, memory_order_relaxed)) return true;
    if (w->was_aborted) return false; /* never twice in a row: the others must get on */
    bool leaves = false;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const slot *s = &w->slots[i];
        if (!s->n_rows || !s->req) continue;
        bool cancelled = glia_request_is_cancelled(s->req);
        if (!cancelled && w->one_at_a_time) return false; /* its state could not be taken back to before this pass */
        leaves |= cancelled;
    }
    return leaves;
}

/* A graph of n tokens per slot as plain data.  Recurrent models are mapped as one sequence, like their passes with hooks,
 * because their nodes split rows by sequence; where llama.cpp cannot build that, as many as there are slots. */
static glia_status read_graph(const glia_worker *w, uint32_t n, uint32_t n_out, glia_graph **out, glia_err *err) {
    uint32_t slots = (uint32_t)w->n_slots;
    struct ggml_cgraph *gf = glia_bridge_graph(w->ctx, n * slots, w->one_at_a_time ? 1 : slots, n_out);
    if (!gf && w->one_at_a_time) gf = glia_bridge_graph(w->ctx, n * slots, slots, n_out);
    *out = NULL;
    return gf ? glia_graph_read(out, gf, err)
              : glia_fail(err, GLIA_EINTERNAL, "llama.cpp could not build the model's graph");
}

/* Two sizes of one topology, so that row axes show; small, since nothing is run.  A third, of generated tokens, must be
 * the same topology: where it is not, hooks on them will be refused, and the log says so now. */
static glia_status make_atlas(glia_worker *w, glia_err *err) {
    bool many = w->n_slots > 16; /* not more than a real batch */
    glia_graph *a = NULL, *b = NULL, *one = NULL;
    glia_status st = read_graph(w, many ? 2 : 7, 3, &a, err);
    if (!st) st = read_graph(w, many ? 3 : 11, 5, &b, err);
    if (!st) st = glia_atlas_build(&w->m->atlas, a, b, w->m->info.n_layer, err);
    /* n_seqs sequences of one token each: with one sequence llama.cpp cannot build it over every stream of the cache */
    struct ggml_cgraph *gf = st ? NULL : glia_bridge_graph(w->ctx, (uint32_t)w->n_slots, (uint32_t)w->n_slots, 1);
    if (gf && !glia_graph_read(&one, gf, NULL) && !glia_atlas_fits(w->m->atlas, one)) {
        glia_log(GLIA_LOG_WARN, "generated tokens run another graph than prompts: hooks on them will be refused");
    }
    glia_graph_free(a);
    glia_graph_free(b);
    glia_graph_free(one);
    return st;
}

/* llama_decode, and the tap told of it: of the cells it fills, and where the state of the batch's first sequence stood
 * and stands. */
static int32_t decode(glia_worker *w) {
    llama_seq_id seq = w->rows[0].seq;
    int32_t before = w->one_at_a_time ? llama_memory_seq_pos_max(w->mem, seq) : -1;
    glia_tap_begin(w->tap, w->rows, w->batch.n_tokens);
    const char *why = "";
    int32_t rc = w->broken[0] ? -1 : glia_bridge_decode(w->ctx, &w->batch, &why);
    if (why[0]) (void)snprintf(w->broken, sizeof w->broken, "%s", why);
    glia_tap_end(w->tap, rc == 0);
    if (w->one_at_a_time) glia_tap_state_moved(w->tap, before, llama_memory_seq_pos_max(w->mem, seq));
    return rc;
}

/* Positions from, from + 1, … leave the cache.  False: this model's state cannot be cut there; nothing was taken out. */
static bool cut(glia_worker *w, int32_t seq, int32_t from) {
    if (!llama_memory_seq_rm(w->mem, seq, from > 0 ? from : -1, -1)) return false;
    glia_tap_cut(w->tap, seq, from);
    return true;
}

static bool is_by_position(glia_point p) { return p == GLIA_POINT_ATTN_SCORES || p == GLIA_POINT_ATTN_PROBS; }

/* Floats per row of place i in the dry run. */
static size_t dry_width(const glia_atlas *at, size_t i) {
    const glia_place *pl = &at->place[i];
    bool columns = is_by_position((glia_point)(i / (size_t)at->n_layer));
    return columns ? (size_t)pl->n_heads * GLIA_PROOF_TOKENS : (size_t)pl->width;
}

/* Weights of the derived points; those whose weights the file does not give are absent. */
static bool find_weights(glia_worker *w) {
    glia_atlas *at = w->m->atlas;
    glia_weights *file = w->m->weights;
    int32_t n_embd = w->m->info.n_embd;
    const glia_lens *l = &at->lens;
    if (!(w->heads_out = glia_calloc((size_t)at->n_layer, sizeof *w->heads_out))) return false;
    w->lens = (glia_derive){.point = GLIA_POINT_LENS_IN, .eps = l->eps, .centred = l->centred, .n_embd = n_embd};
    bool lens =
        l->known &&
        (!l->weight[0] || (glia_weights_map(file, l->weight, &w->lens.weight) && w->lens.weight.ne0 == n_embd)) &&
        (!l->bias[0] || (glia_weights_map(file, l->bias, &w->lens.bias) && w->lens.bias.ne0 == n_embd));
    for (int32_t il = 0; il < at->n_layer; il++) {
        const glia_place *pl = glia_atlas_place(at, GLIA_POINT_ATTN_HEAD_OUT, il);
        const glia_place *res = glia_atlas_place(at, GLIA_POINT_LENS_IN, il);
        if (res->derived && (!lens || res->width != n_embd)) {
            glia_atlas_refuse_point(at, GLIA_POINT_LENS_IN, il,
                                    "the weights of the final norm cannot be read from the file");
        }
        if (!pl->derived) continue;
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%d.attn_output.weight", il);
        const glia_place *z = glia_atlas_place(at, pl->base, il);
        glia_derive *d = &w->heads_out[il];
        *d = (glia_derive){.point = GLIA_POINT_ATTN_HEAD_OUT, .n_embd = pl->head_dim, .head_dim = z->head_dim};
        bool found =
            glia_weights_map(file, name, &d->weight) && d->weight.ne0 == z->width && d->weight.ne1 == pl->head_dim;
        (void)snprintf(name, sizeof name, "blk.%d.attn_output.scale", il);
        if (found && at->attn[il].scaled)
            found = glia_weights_map(file, name, &d->scale) && (d->scale.ne0 == 1 || d->scale.ne0 == pl->head_dim);
        if (!found) {
            glia_atlas_refuse_point(at, GLIA_POINT_ATTN_HEAD_OUT, il,
                                    "the output projection cannot be read from the file");
        }
    }
    return true;
}

/* How rows of a point are made; NULL: they are read. */
static const glia_derive *derivation(const glia_worker *w, glia_point p, int32_t layer) {
    return p == GLIA_POINT_LENS_IN ? &w->lens : p == GLIA_POINT_ATTN_HEAD_OUT ? &w->heads_out[layer] : NULL;
}

/* One pass over a few tokens with every point captured: raises grades from structural to proven, or refuses.  What
 * cannot be run or held in memory stays structural.  True: it ran and was judged. */
static bool prove_atlas(glia_worker *w) {
    enum { N = GLIA_PROOF_TOKENS };
    glia_atlas *at = w->m->atlas;
    size_t n_places = (size_t)GLIA_N_POINTS * (size_t)at->n_layer, n_wants = 0, n_floats = 0, n_products = 0;
    const float **rows = (const float **)glia_calloc(n_places, sizeof *rows);
    glia_tap_want *wants = glia_calloc(n_places, sizeof *wants);
    for (size_t i = 0; i < n_places; i++) n_floats += dry_width(at, i) * N;
    float *data = glia_malloc(n_floats * sizeof *data), *dst = data;
    bool judged = false;
    if (!rows || !wants || !data) goto done;
    for (int32_t i = 0; i < N; i++) {
        w->rows[i] = (glia_tap_row){.token = glia_proof_token(i, w->m->info.n_vocab), .pos = i, .output = true};
        w->batch.token[i] = w->rows[i].token, w->batch.pos[i] = i, w->batch.logits[i] = true;
        w->batch.n_seq_id[i] = 1, w->batch.seq_id[i][0] = 0;
    }
    w->batch.n_tokens = N;
    for (size_t i = 0; i < n_places; i++) {
        const glia_place *pl = &at->place[i];
        if (pl->grade != GLIA_GRADE_STRUCTURAL) continue;
        glia_point point = (glia_point)(i / (size_t)at->n_layer);
        if (point == GLIA_POINT_ATTN_HEAD_OUT) { /* whole projections in float32: only as far as load time allows */
            n_products += (size_t)pl->width * (size_t)w->heads_out[i % (size_t)at->n_layer].head_dim;
            if (n_products > (size_t)1 << 25) continue;
        }
        wants[n_wants++] = (glia_tap_want){.point = point,
                                           .layer = (int32_t)(i % (size_t)at->n_layer),
                                           .n_rows = N,
                                           .out_width = (int32_t)dry_width(at, i),
                                           .n_cols = is_by_position(point) ? N : 0,
                                           .optional = is_by_position(point),
                                           .derive = derivation(w, point, (int32_t)(i % (size_t)at->n_layer)),
                                           .dst = dst};
        rows[i] = dst;
        dst += dry_width(at, i) * N;
    }
    char why[160];
    glia_tap_arm(w->tap, w->rows, N, wants, (int32_t)n_wants, NULL, 0);
    int32_t rc = decode(w);
    glia_tap_result tapped = glia_tap_disarm(w->tap, why);
    for (size_t i = 0; i < n_wants; i++) {
        if (!wants[i].refused) continue;
        rows[(size_t)wants[i].point * (size_t)at->n_layer + (size_t)wants[i].layer] = NULL;
        glia_atlas_refuse_point(at, wants[i].point, wants[i].layer, wants[i].refused);
    }
    if (tapped == GLIA_TAP_NEW_TOPOLOGY) { /* it would be so in every request */
        glia_atlas_refuse(
            at, "this model's graph changes with the pass, so that no row can be proven; try --flash-attn off");
    } else if (rc || tapped != GLIA_TAP_OK) {
        glia_log(GLIA_LOG_WARN, "points stay unproven: %s", rc ? "the dry run failed" : why);
    } else {
        glia_proof_check(at, rows, llama_get_logits(w->ctx));
        judged = true;
    }
    llama_memory_clear(w->mem, true);
    glia_tap_cut(w->tap, 0, 0);
done:
    w->batch.n_tokens = 0;
    glia_free((void *)rows);
    glia_free(wants);
    glia_free(data);
    return judged;
}

static struct llama_context_params context_params(const glia_model *m, glia_worker *w) {
    const glia_model_params *p = &m->params;
    struct llama_context_params c = llama_context_default_params();
    c.n_ctx = (uint32_t)p->n_ctx * (uint32_t)p->n_parallel;
    c.n_batch = c.n_ubatch = (uint32_t)p->n_batch; /* one decode = one graph, so that rows can be proven */
    c.n_seq_max = (uint32_t)p->n_parallel;
    c.n_outputs_max = 0;
    c.n_threads = c.n_threads_batch = p->n_threads;
    c.flash_attn_type = p->flash == GLIA_FLASH_ON    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                        : p->flash == GLIA_FLASH_OFF ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                     : LLAMA_FLASH_ATTN_TYPE_AUTO;
    c.type_k = c.type_v = p->kv_type == GLIA_KV_F32    ? GGML_TYPE_F32
                          : p->kv_type == GLIA_KV_Q8_0 ? GGML_TYPE_Q8_0
                                                       : GGML_TYPE_F16;
    c.kv_unified = false; /* a stream per slot: attention reads only the cells of the slots in the pass */
    c.no_perf = true;
    c.cb_eval = glia_tap_on_node, c.cb_eval_user_data = w->tap;
    c.abort_callback = on_abort, c.abort_callback_data = w;
    return c;
}

glia_status glia_worker_new(glia_worker **out, glia_model *m, glia_err *err) {
    glia_status st = GLIA_ENOMEM;
    glia_worker *w = *out = NULL;
    glia_err hook_err = {0};
    if (!(w = glia_calloc(1, sizeof *w))) goto done;
    w->m = m, w->n_slots = m->params.n_parallel, w->n_batch = m->params.n_batch;
    w->slots = glia_calloc((size_t)w->n_slots, sizeof *w->slots);
    w->rows = glia_calloc((size_t)w->n_batch, sizeof *w->rows);
    w->scratch = glia_malloc((size_t)m->info.n_vocab * sizeof *w->scratch);
    w->tap = glia_tap_new();
    if (!w->slots || !w->rows || !w->scratch || !w->tap) goto done;
    for (int32_t i = 0; i < w->n_slots; i++) {
        w->slots[i].id = i;
        w->slots[i].tokens = glia_malloc((size_t)m->params.n_ctx * sizeof *w->slots[i].tokens);
        if (!w->slots[i].tokens) goto done;
    }
    const char *why;
    struct llama_context_params cp = context_params(m, w);
    w->ctx = glia_bridge_context(m->lm, &cp, &why);
    if (!w->ctx) {
        st = why[0] ? glia_fail(err, GLIA_EINVAL, "llama.cpp cannot make a context: %s", why)
                    : glia_fail(err, GLIA_ENOMEM,
                                "no memory for a context of %d × %d tokens: use a smaller --ctx or --parallel",
                                m->params.n_parallel, m->params.n_ctx);
        goto done;
    }
    w->mem = llama_get_memory(w->ctx);
    if (!w->mem) {
        st = glia_fail(err, GLIA_EINVAL, "%s generates no text: it has no KV cache (an encoder or embedding model)",
                       m->path);
        goto done;
    }
    w->batch = llama_batch_init(w->n_batch, 0, 1);
    if (!w->batch.token) goto done;
    w->n_outputs_max = w->n_batch;
    w->one_at_a_time = llama_model_is_recurrent(m->lm) || llama_model_is_hybrid(m->lm);
    /* llama.cpp hands cells that fell out of a sliding window to other sequences: a cut sequence may have holes */
    w->cuts_prefix = !w->one_at_a_time && llama_model_n_swa(m->lm) == 0;
    double began = glia_now_ms();
    st = make_atlas(w, &hook_err);
    if (st == GLIA_ENOMEM) goto done;
    if (st) glia_log(GLIA_LOG_WARN, "no hooks: %s", hook_err.message);
    for (int32_t il = 0; m->atlas && m->atlas->attn && il < m->atlas->n_layer; il++) {
        m->info.flash_attention |= m->atlas->attn[il].flash; /* read from the graph: auto decides while it is built */
    }
    m->info.hooks_refused = !m->atlas ? "this model's graph could not be mapped" : m->atlas->refused;
    if (!glia_tap_set_atlas(w->tap, m->atlas, llama_model_n_swa(m->lm) > 0, m->params.n_threads)) {
        st = GLIA_ENOMEM;
        goto done;
    }
    double mapped = glia_now_ms();
    if (!m->info.hooks_refused) {
        glia_atlas_cache cache;
        if (!find_weights(w)) {
            st = GLIA_ENOMEM;
            goto done;
        }
        glia_atlas_cache_init(&cache, m);
        if (!glia_atlas_cache_load(&cache, m->atlas) && prove_atlas(w)) glia_atlas_cache_store(&cache, m->atlas);
        if (w->broken[0]) {
            st = glia_fail(err, GLIA_EINVAL, "llama.cpp cannot run this model: %s", w->broken);
            goto done;
        }
    }
    glia_log(GLIA_LOG_DEBUG, "atlas: mapped in %.1f ms, proven in %.1f ms", mapped - began, glia_now_ms() - mapped);
    if (m->atlas) m->info.hooks_refused = m->atlas->refused;
    st = GLIA_OK;
    *out = w, w = NULL;
done:
    if (st == GLIA_ENOMEM && err && !err->message[0]) glia_fail(err, st, "out of memory for the engine");
    glia_worker_free(w);
    return st;
}

void glia_worker_free(glia_worker *w) {
    if (!w) return;
    if (w->batch.token) llama_batch_free(w->batch);
    if (w->ctx) llama_free(w->ctx);
    for (int32_t i = 0; w->slots && i < w->n_slots; i++) glia_free(w->slots[i].tokens);
    glia_tap_free(w->tap);
    glia_free(w->heads_out);
    glia_buf_clear(&w->out);
    glia_free(w->slots);
    glia_free(w->rows);
    glia_free(w->wants);
    glia_free(w->edits);
    glia_free(w->scratch);
    glia_free(w);
}

/* ------------------------------------------------------------------ the end of a request */

static void slot_release(slot *s) {
    for (size_t h = 0; s->masks && h < s->req->n_hooks; h++) glia_free(s->masks[h]);
    glia_free((void *)s->masks);
    for (size_t i = 0; s->edit_masks && i < s->req->n_edits; i++) glia_free(s->edit_masks[i]);
    glia_free((void *)s->edit_masks);
    s->edit_masks = NULL;
    glia_free(s->rows_want);
    glia_free(s->rows_have);
    glia_node_free(s->frames);
    glia_collect_free(s->collect);
    glia_sampler_free(s->sampler);
    glia_constrainer_free(s->constrainer);
    s->constrainer = NULL;
    glia_text_clear(&s->text);
    glia_lease_unref(s->req->lease); /* its events keep theirs */
    s->req->lease = NULL;
    glia_request_unref(s->req);
    s->masks = NULL, s->rows_want = s->rows_have = NULL, s->frames = NULL, s->collect = NULL;
    s->sampler = NULL, s->req = NULL;
    s->state = SLOT_IDLE, s->n_rows = 0, s->draw_row = -1;
}

static void slot_fail(slot *s, glia_status st, const char *message) {
    glia_err e;
    glia_fail(&e, st, "%s", message);
    glia_request_push_error(s->req, &e);
    slot_release(s);
}

/* Hand out the rows that were gathered over the phase that has just ended.  False: the slot has failed. */
static bool push_collected(slot *s, uint32_t ended) {
    glia_err err;
    glia_node *node;
    if (glia_collect_finish(s->collect, ended, s->tokens, s->n_past, &node, &err)) {
        slot_fail(s, err.status, err.message);
        return false;
    }
    if (node) glia_request_push(s->req, node);
    return true;
}

static void tally(atomic_uint_fast64_t *t, int32_t n) {
    atomic_fetch_add_explicit(t, (uint64_t)n, memory_order_relaxed);
}

static void slot_finish(glia_worker *w, slot *s, glia_finish finish, const char *stop) {
    if (!push_collected(s, GLIA_PHASE_GENERATED)) return;
    double now = glia_now_ms();
    glia_usage u = {.n_prompt = s->req->n_prompt,
                    .n_cached = s->n_cached,
                    .n_generated = s->n_generated,
                    .queue_ms = s->start_ms - s->req->submitted_ms,
                    .prompt_ms = s->prompt_end_ms - s->start_ms,
                    .generate_ms = now - s->prompt_end_ms};
    w->out.n = 0, w->out.failed = false;
    glia_text_finish(&s->text, &w->out);
    if (w->out.failed) slot_fail(s, GLIA_ENOMEM, "out of memory at the end of the answer");
    else {
        tally(&w->m->tally.finished, 1);
        glia_request_push_done(s->req, finish, stop, w->out.p, w->out.n, &u);
        slot_release(s);
    }
}

/* ------------------------------------------------------------------ admitting */

static int32_t common_prefix(const slot *s, const glia_request *r) {
    int32_t n = s->n_past < r->n_prompt ? s->n_past : r->n_prompt, i = 0;
    if (n > s->n_clean) n = s->n_clean;
    while (i < n && s->tokens[i] == r->prompt[i]) i++;
    return i;
}

/* How much of a cached prefix this request may use: never the last prompt token (its logits are needed), never a
 * position whose activation a hook wants or an edit changes (it would be swallowed). */
static int32_t usable_prefix(const glia_worker *w, const slot *s, const glia_request *r) {
    if (r->no_cache) return 0;
    int32_t n = common_prefix(s, r);
    if (n > r->n_prompt - 1) n = r->n_prompt - 1;
    if (n > r->first_wanted) n = r->first_wanted;
    if (n > r->first_edited) n = r->first_edited;
    if (r->wants_columns && !glia_tap_knows_cells(w->tap, s->id)) return 0;
    return n == s->n_past || w->cuts_prefix ? n : 0;
}

static void forget(glia_worker *w, slot *s, int32_t keep) {
    if (keep < s->n_past && !cut(w, s->id, keep)) {
        (void)cut(w, s->id, 0);
        keep = 0;
    }
    if (keep < s->n_past) s->n_past = keep;
}

/* Which rows of the prompt a hook takes or an edit changes, as a mask.  *mask NULL: all of them, or none. */
static bool mask_rows(const glia_rhook *k, int32_t n_prompt, uint8_t **mask) {
    *mask = NULL;
    if (k->n_prompt_rows == n_prompt || !k->n_prompt_rows) return true;
    if (!(*mask = glia_calloc((size_t)n_prompt, 1))) return false;
    for (int32_t i = 0; i < n_prompt; i++) (*mask)[i] = glia_rhook_wants(k, GLIA_PHASE_PROMPT, i);
    return true;
}

static bool prepare_edits(slot *s) {
    const glia_request *r = s->req;
    s->n_clean = r->first_edited;
    if (!r->n_edits) return true;
    if (!(s->edit_masks = (uint8_t **)glia_calloc(r->n_edits, sizeof *s->edit_masks))) return false;
    for (size_t i = 0; i < r->n_edits; i++) {
        if (!mask_rows(&r->edits[i].where, r->n_prompt, &s->edit_masks[i])) return false;
    }
    return true;
}

static bool prepare_capture(slot *s) {
    const glia_request *r = s->req;
    if (!r->n_hooks) return true;
    s->rows_want = glia_calloc(r->n_hooks, sizeof *s->rows_want);
    s->rows_have = glia_calloc(r->n_hooks, sizeof *s->rows_have);
    s->masks = (uint8_t **)glia_calloc(r->n_hooks, sizeof *s->masks);
    if (!s->rows_want || !s->rows_have || !s->masks || !glia_collect_new(&s->collect, r)) return false;
    bool any = false;
    for (size_t h = 0; h < r->n_hooks; h++) {
        const glia_rhook *k = &r->hooks[h];
        s->rows_want[h] = k->over_rows ? 0 : k->n_prompt_rows; /* what becomes one row needs no frame of the pass */
        any |= s->rows_want[h] > 0;
        if (!mask_rows(k, r->n_prompt, &s->masks[h])) return false;
    }
    return !any || (s->frames = glia_node_frames(r, GLIA_PHASE_PROMPT, s->rows_want, 0));
}

static void admit(glia_worker *w, slot *s, glia_request *r) {
    glia_err err;
    s->req = r, s->state = SLOT_PREFILL;
    s->n_generated = 0, s->draw_row = -1, s->n_rows = 0;
    s->start_ms = s->prompt_end_ms = glia_now_ms();
    s->last_used = ++w->clock;
    s->text.stop = (const char *const *)r->stop, s->text.n_stop = r->n_stop;
    forget(w, s, usable_prefix(w, s, r));
    s->n_cached = s->n_past;
    tally(&w->m->tally.requests, 1);
    tally(&w->m->tally.cached_tokens, s->n_cached);
    if (!prepare_edits(s) || !prepare_capture(s)) {
        slot_fail(s, GLIA_ENOMEM, "out of memory for the activations asked for");
        return;
    }
    if (glia_sampler_new(&s->sampler, &r->sampling, w->m->lm, &err) ||
        glia_constrainer_new(&s->constrainer, r->rules, &err)) {
        slot_fail(s, err.status, err.message);
        return;
    }
    for (int32_t i = 0; i < r->n_prompt; i++) glia_sampler_accept(s->sampler, r->prompt[i]);
}

/* Slots are worth more beside busy ones: neighbours share a pass. */
static int busy_neighbours(const glia_worker *w, int32_t i) {
    return (i > 0 && w->slots[i - 1].state != SLOT_IDLE) + (i + 1 < w->n_slots && w->slots[i + 1].state != SLOT_IDLE);
}

/* The idle slot that saves this request the most work; else one beside busy ones; else the longest unused one. */
static slot *best_slot(glia_worker *w, const glia_request *r) {
    slot *best = NULL;
    int32_t best_n = -1;
    int best_near = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        slot *s = &w->slots[i];
        if (s->state != SLOT_IDLE) continue;
        int32_t n = usable_prefix(w, s, r);
        int near = busy_neighbours(w, i);
        if (n > best_n ||
            (n == best_n && (near > best_near || (near == best_near && s->last_used < best->last_used)))) {
            best = s, best_n = n, best_near = near;
        }
    }
    return best;
}

/* ------------------------------------------------------------------ what waits */

static void start_waiting(const glia_worker *w, glia_request *r) {
    if (r->waits_since > 0) return;
    r->waits_since = glia_now_ms();
    glia_capture_memory_wait(w->m->memory, 1);
}

/* Memory for the activations of a request that could have a slot now.  EBUSY: it stays where it is. */
static glia_status lease(const glia_worker *w, glia_request *r) {
    if (!r->n_hooks) return GLIA_OK;
    glia_status st = glia_lease_take(&r->lease, w->m->memory, r->peak_bytes);
    if (st != GLIA_EBUSY || r->waits_since > 0) return st;
    start_waiting(w, r);
    return glia_lease_take(&r->lease, w->m->memory, r->peak_bytes); /* what was returned before it was counted */
}

static bool waited_too_long(const glia_worker *w, const glia_request *r) {
    return r->waits_since > 0 && glia_now_ms() - r->waits_since >= (double)w->m->params.capture_wait_ms;
}

/* What becomes of the first request in the inbox of which something can become; called with its lock held.
 * OK: *s is its slot.  ECANCELLED, EBUSY, ENOMEM: it ends so.  NULL: all wait.  Who waits for memory lets those pass
 * that need none, but nobody who does. */
static glia_request **next_request(glia_worker *w, bool go_on, glia_request **before, slot **s, glia_status *st) {
    bool memory_waits = false;
    *before = NULL, *s = NULL;
    for (glia_request **at = &w->m->inbox->first; *at; *before = *at, at = &(*at)->next) {
        glia_request *r = *at;
        *st = glia_request_is_cancelled(r) ? GLIA_ECANCELLED : waited_too_long(w, r) ? GLIA_EBUSY : GLIA_OK;
        if (*st) return at;
        if (!go_on || !(*s = best_slot(w, r))) continue;
        if (memory_waits && r->n_hooks) {
            start_waiting(w, r);
            continue;
        }
        if ((*st = lease(w, r)) != GLIA_EBUSY) return at;
        memory_waits = true;
    }
    return NULL;
}

static void end_waiting(glia_worker *w, glia_request *r, glia_status st) {
    glia_err e;
    glia_capture_usage u;
    glia_capture_memory_read(w->m->memory, &u);
    if (st == GLIA_EBUSY) {
        glia_fail_at(&e, st, "activation_hooks",
                     "%.1f MiB of activations did not become free within %d s: others hold %.1f of %.1f MiB; try again "
                     "later, or ask for fewer layers, positions or heads",
                     (double)r->peak_bytes / 1048576, w->m->params.capture_wait_ms / 1000, (double)u.leased / 1048576,
                     (double)u.limit / 1048576);
    } else if (st == GLIA_ENOMEM) {
        glia_fail(&e, st, "out of memory for a request");
    } else {
        glia_fail(&e, st, "cancelled before it began");
    }
    glia_request_push_error(r, &e);
    glia_request_unref(r);
}

/* Sleep until something stirs or a request has waited for memory long enough; the inbox's lock is held. */
static void sleep_for_inbox(const glia_worker *w) {
    glia_inbox *b = w->m->inbox;
    double first = 0;
    for (const glia_request *r = b->first; r; r = r->next) {
        if (r->waits_since > 0 && (first <= 0 || r->waits_since < first)) first = r->waits_since;
    }
    if (first <= 0) {
        pthread_cond_wait(&b->wake, &b->lock);
        return;
    }
    double until = first + (double)w->m->params.capture_wait_ms;
    if (glia_now_ms() >= until) {
        b->stirred = true;
        return;
    }
    struct timespec ts = {.tv_sec = (time_t)(until / 1e3)};
    ts.tv_nsec = (long)((until - (double)ts.tv_sec * 1e3) * 1e6);
    if (pthread_cond_timedwait(&b->wake, &b->lock, &ts) == ETIMEDOUT) b->stirred = true;
}

/* Take what waits.  Blocks while there is nothing to do.  False: stop. */
static bool take_requests(glia_worker *w, bool idle) {
    glia_inbox *b = w->m->inbox;
    pthread_mutex_lock(&b->lock);
    while (idle && !b->stirred && !b->stopped) sleep_for_inbox(w);
    b->stirred = false;
    for (;;) {
        slot *s;
        glia_status st;
        glia_request *before, **at = next_request(w, !b->stopped, &before, &s, &st);
        if (!at) break;
        glia_request *r = *at;
        if (b->last == r) b->last = before; /* before the lock is let go: submit appends behind it */
        *at = r->next, r->next = NULL;
        b->n_waiting--;
        pthread_mutex_unlock(&b->lock); /* submit must never wait for the engine's work */
        if (r->waits_since > 0) glia_capture_memory_wait(w->m->memory, -1);
        r->waits_since = 0;
        if (st) end_waiting(w, r, st);
        else admit(w, s, r);
        pthread_mutex_lock(&b->lock); /* the list may have grown: look again from its head */
    }
    bool go_on = !b->stopped;
    pthread_mutex_unlock(&b->lock);
    return go_on;
}

/* ------------------------------------------------------------------ one batch */

static void add_row(glia_worker *w, const slot *s, int32_t token, int32_t pos, bool output) {
    int32_t i = w->batch.n_tokens++;
    w->batch.token[i] = token, w->batch.pos[i] = pos;
    w->batch.n_seq_id[i] = 1, w->batch.seq_id[i][0] = s->id;
    w->batch.logits[i] = output;
    w->rows[i] = (glia_tap_row){.token = token, .pos = pos, .seq = s->id, .output = output};
}

/* Must this token be an output because a hook wants its row behind the last layer's trimming? */
static bool hook_needs_output(const slot *s, uint32_t phase, int32_t pos) {
    for (size_t h = 0; h < s->req->n_hooks; h++) {
        if (s->req->hooks[h].outputs && glia_rhook_wants(&s->req->hooks[h], phase, pos)) return true;
    }
    return false;
}

static void add_decode(glia_worker *w, slot *s) {
    s->row0 = s->draw_row = w->batch.n_tokens, s->n_rows = 1;
    add_row(w, s, s->next_token, s->n_past, true);
}

static void add_prefill(glia_worker *w, slot *s, int32_t most) {
    const glia_request *r = s->req;
    int32_t left = r->n_prompt - s->n_past, n = left < most ? left : most;
    s->row0 = w->batch.n_tokens, s->n_rows = n, s->draw_row = -1;
    for (int32_t i = 0; i < n; i++) {
        int32_t pos = s->n_past + i;
        bool last = pos == r->n_prompt - 1;
        bool output = last || r->prompt_logprobs || hook_needs_output(s, GLIA_PHASE_PROMPT, pos);
        add_row(w, s, r->prompt[pos], pos, output);
        if (last) s->draw_row = w->batch.n_tokens - 1;
    }
}

/* One batch: n tokens of each of the slots first..last.  With a cache stream per slot llama.cpp runs neighbouring
 * sequences with equally many tokens as one graph, rows in this order; any other batch it would split. */
static void fill_batch(glia_worker *w, int32_t first, int32_t last, int32_t n) {
    w->batch.n_tokens = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        slot *s = &w->slots[i];
        s->n_rows = 0, s->draw_row = -1;
        if (i < first || i > last) continue;
        if (s->state == SLOT_DECODE) add_decode(w, s);
        else add_prefill(w, s, n);
    }
}

static bool want(glia_worker *w, const glia_tap_want *one) {
    if (w->n_wants == w->n_wants_alloc) {
        int32_t n = w->n_wants_alloc ? w->n_wants_alloc * 2 : 64;
        glia_tap_want *p = glia_realloc(w->wants, (size_t)n * sizeof *p);
        if (!p) return false;
        w->wants = p, w->n_wants_alloc = n;
    }
    w->wants[w->n_wants++] = *one;
    return true;
}

/* Writable pointers into the frames of a node that was not pushed yet. */
static float *frame_data(const glia_frame *f) { return (float *)(uintptr_t)f->data; }
static int32_t *frame_positions(const glia_frame *f) { return (int32_t *)(uintptr_t)f->positions; }
static int32_t *frame_tokens(const glia_frame *f) { return (int32_t *)(uintptr_t)f->token_ids; }

static int32_t *frame_indices(const glia_frame *f) { return (int32_t *)(uintptr_t)f->indices; }

/* What hook h of this slot asks of the tap in this pass, but for where the rows go. */
static glia_tap_want want_of(const glia_worker *w, const slot *s, size_t h) {
    const glia_rhook *k = &s->req->hooks[h];
    return (glia_tap_want){.point = k->point,
                           .layer = k->layer,
                           .row0 = s->row0,
                           .n_rows = s->n_rows,
                           .mask = s->state == SLOT_PREFILL && s->masks[h] ? s->masks[h] + s->n_past : NULL,
                           .heads = k->heads,
                           .n_heads = k->heads ? k->n_heads : 0,
                           .out_width = k->width,
                           .derive = derivation(w, k->point, k->layer),
                           .reduce = k->reduced ? &k->reduction : NULL};
}

/* Ask the tap for the rows of this slot that become one over several passes.  False: out of memory. */
static bool want_sums(glia_worker *w, slot *s) {
    uint32_t phase = s->state == SLOT_DECODE ? GLIA_PHASE_GENERATED : GLIA_PHASE_PROMPT;
    glia_collect_begin(s->collect);
    for (size_t h = 0; s->collect && h < s->req->n_hooks; h++) {
        const glia_rhook *k = &s->req->hooks[h];
        if (!k->over_rows || !(k->phases & phase) || !glia_rhook_count(k, s->n_past, s->n_past + s->n_rows)) continue;
        glia_tap_want one = want_of(w, s, h);
        one.sums = glia_collect_sums(s->collect, h);
        if (!want(w, &one)) return false;
    }
    return true;
}

static bool add_edit(glia_worker *w, const glia_tap_edit *one) {
    if (w->n_edits == w->n_edits_alloc) {
        int32_t n = w->n_edits_alloc ? w->n_edits_alloc * 2 : 64;
        glia_tap_edit *p = glia_realloc(w->edits, (size_t)n * sizeof *p);
        if (!p) return false;
        w->edits = p, w->n_edits_alloc = n;
    }
    w->edits[w->n_edits++] = *one;
    return true;
}

/* Have the tap change this slot's rows of the batch.  False: out of memory. */
static bool edit_rows(glia_worker *w, const slot *s) {
    uint32_t phase = s->state == SLOT_DECODE ? GLIA_PHASE_GENERATED : GLIA_PHASE_PROMPT;
    for (size_t i = 0; i < s->req->n_edits; i++) {
        const glia_redit *e = &s->req->edits[i];
        const glia_rhook *k = &e->where;
        if (!(k->phases & phase) || !glia_rhook_count(k, s->n_past, s->n_past + s->n_rows)) continue;
        const uint8_t *mask = phase == GLIA_PHASE_PROMPT ? s->edit_masks[i] : NULL;
        const glia_tap_edit one = {.point = k->point,
                                   .layer = k->layer,
                                   .row0 = s->row0,
                                   .n_rows = s->n_rows,
                                   .mask = mask ? mask + s->n_past : NULL,
                                   .first = glia_rhook_count(k, 0, s->n_past),
                                   .heads = k->heads,
                                   .n_heads = k->heads ? k->n_heads : 0,
                                   .channels = k->reduction.channels,
                                   .n_channels = k->reduction.n_channels,
                                   .rule = &e->rule};
        if (!add_edit(w, &one)) return false;
    }
    return true;
}

/* Ask the tap for this slot's rows of the batch.  False: out of memory. */
static bool want_rows(glia_worker *w, slot *s) {
    const glia_request *r = s->req;
    if (!r->n_hooks) return true;
    if (!want_sums(w, s)) return false;
    if (s->state == SLOT_DECODE) {
        bool any = false;
        for (size_t h = 0; h < r->n_hooks; h++) {
            s->rows_want[h] = !r->hooks[h].over_rows && glia_rhook_wants(&r->hooks[h], GLIA_PHASE_GENERATED, s->n_past);
            s->rows_have[h] = 0;
            any |= s->rows_want[h] > 0;
        }
        glia_node_free(s->frames);
        s->frames = NULL;
        if (any && !(s->frames = glia_node_frames(r, GLIA_PHASE_GENERATED, s->rows_want, s->n_past))) return false;
    }
    if (!s->frames) return true;
    const glia_frame *f = glia_node_event(s->frames)->u.activations.frames;
    for (size_t h = 0; h < r->n_hooks; h++) {
        if (!s->rows_want[h]) continue;
        glia_tap_want one = want_of(w, s, h);
        int32_t have = s->rows_have[h], n = 0;
        for (int32_t i = 0; i < s->n_rows; i++) {
            if (one.mask && !one.mask[i]) continue;
            frame_positions(f)[have + n] = w->rows[s->row0 + i].pos;
            frame_tokens(f)[have + n] = w->rows[s->row0 + i].token;
            n++;
        }
        one.out_width = f->width, one.n_cols = f->n_cols;
        size_t at = (size_t)have * (size_t)one.out_width;
        one.dst = frame_data(f) + at;
        if (f->indices) one.indices = frame_indices(f) + at;
        if (n && !want(w, &one)) return false;
        f++;
    }
    return true;
}

static void count_rows(slot *s) {
    for (size_t h = 0; s->frames && h < s->req->n_hooks; h++) {
        if (!s->rows_want[h]) continue;
        if (s->state == SLOT_DECODE || !s->masks[h]) {
            s->rows_have[h] += s->n_rows;
        } else {
            for (int32_t i = 0; i < s->n_rows; i++) s->rows_have[h] += s->masks[h][s->n_past + i];
        }
    }
}

/* ------------------------------------------------------------------ after a pass */

static void push_frames(slot *s) {
    if (!s->frames) return;
    glia_request_push(s->req, s->frames);
    s->frames = NULL;
}

/* Bytes of a token; the result lies in buf or in *big (freed by the caller).  -1: out of memory. */
static int32_t piece(const glia_worker *w, int32_t token, bool special, char *buf, int32_t cap, char **big) {
    *big = NULL;
    int32_t n = llama_token_to_piece(w->m->vocab, token, buf, cap, 0, special);
    if (n >= 0) return n;
    if (!(*big = glia_malloc((size_t)-n))) return -1;
    return llama_token_to_piece(w->m->vocab, token, *big, -n, 0, special);
}

/* No token was drawn: the constraint is at its end, or it failed. */
static void end_constrained(glia_worker *w, slot *s, int32_t why) {
    glia_err e = {0};
    if (why == GLIA_DRAW_END) {
        slot_finish(w, s, GLIA_FINISH_STOP, NULL);
        return;
    }
    if (!glia_constrainer_why(s->constrainer, &e))
        glia_fail_at(&e, GLIA_EINVAL, "grammar",
                     "no token of this model can continue the answer as its grammar demands");
    glia_request_push_error(s->req, &e);
    slot_release(s);
}

static void draw(glia_worker *w, slot *s) {
    const glia_request *r = s->req;
    const float *logits = llama_get_logits_ith(w->ctx, s->draw_row);
    if (!logits) {
        slot_fail(s, GLIA_EINTERNAL, "llama.cpp answered no logits");
        return;
    }
    int32_t id = glia_sampler_draw(s->sampler, s->constrainer, logits, w->scratch);
    if (id < 0 || (s->constrainer && glia_constrainer_accept(s->constrainer, id) != GLIA_MATCH_YES)) {
        end_constrained(w, s, id);
        return;
    }
    glia_sampler_accept(s->sampler, id);
    bool eog = llama_vocab_is_eog(w->m->vocab, id) && !r->sampling.ignore_eos;
    int32_t index = s->n_generated++, hit = -1;
    tally(&w->m->tally.generated_tokens, 1);
    w->out.n = 0, w->out.failed = false;
    if (!eog) {
        char small[128], *big;
        int32_t n = piece(w, id, glia_rules_keeps(r->rules, id), small, sizeof small, &big);
        if (n > 0) hit = glia_text_add(&s->text, big ? big : small, (size_t)n, &w->out);
        glia_free(big);
        if (n < 0) w->out.failed = true;
    }
    int32_t n_top = r->sampling.n_logprobs > 0 ? r->sampling.n_logprobs : 0;
    if (n_top > w->m->info.n_vocab) n_top = w->m->info.n_vocab;
    glia_node *node = w->out.failed || s->text.held.failed
                          ? NULL
                          : glia_node_token(id, index, w->out.p ? w->out.p : "", w->out.n, n_top);
    if (!node) {
        slot_fail(s, GLIA_ENOMEM, "out of memory for a token");
        return;
    }
    glia_event *ev = glia_node_event(node);
    ev->u.token.is_eog = eog;
    if (r->sampling.n_logprobs >= 0) {
        ev->u.token.logprob = glia_logprobs(logits, w->m->info.n_vocab, id, glia_node_top(node), n_top);
    }
    glia_request_push(s->req, node);
    if (eog) slot_finish(w, s, GLIA_FINISH_STOP, NULL);
    else if (hit >= 0) slot_finish(w, s, GLIA_FINISH_STOP_STRING, r->stop[hit]);
    else if (s->n_generated >= r->max_tokens) slot_finish(w, s, GLIA_FINISH_LENGTH, NULL);
    else s->next_token = id;
}

/* The log-probability of every prompt token, given those before it: from this pass's rows.  False: out of memory. */
static bool push_prompt_logprobs(glia_worker *w, const slot *s, int32_t pos0) {
    const glia_request *r = s->req;
    int32_t n_vocab = w->m->info.n_vocab, n_top = r->sampling.n_logprobs;
    if (n_top > n_vocab) n_top = n_vocab;
    for (int32_t i = 0; i < s->n_rows && pos0 + i + 1 < r->n_prompt; i++) {
        int32_t id = r->prompt[pos0 + i + 1];
        const float *logits = llama_get_logits_ith(w->ctx, s->row0 + i);
        glia_node *node = logits ? glia_node_prompt_token(id, pos0 + i + 1, n_top) : NULL;
        if (!node) return false;
        glia_node_event(node)->u.token.logprob = glia_logprobs(logits, n_vocab, id, glia_node_top(node), n_top);
        glia_request_push(s->req, node);
    }
    return true;
}

static void advance(glia_worker *w, slot *s) {
    for (int32_t i = 0; i < s->n_rows; i++) s->tokens[s->n_past + i] = w->rows[s->row0 + i].token;
    count_rows(s);
    glia_collect_keep(s->collect, s->state == SLOT_DECODE ? GLIA_PHASE_GENERATED : GLIA_PHASE_PROMPT);
    s->n_past += s->n_rows;
    s->last_used = ++w->clock;
    if (s->state == SLOT_PREFILL) {
        tally(&w->m->tally.prompt_tokens, s->n_rows);
        if (s->req->prompt_logprobs && !push_prompt_logprobs(w, s, s->n_past - s->n_rows)) {
            slot_fail(s, GLIA_ENOMEM, "out of memory for the prompt's log-probabilities");
            return;
        }
        if (s->req->want_progress) glia_request_push_progress(s->req, s->n_past, s->req->n_prompt);
        if (s->n_past < s->req->n_prompt) return;
        s->state = SLOT_DECODE;
        s->prompt_end_ms = glia_now_ms();
    }
    push_frames(s);
    if (s->n_past == s->req->n_prompt && !push_collected(s, GLIA_PHASE_PROMPT)) return; /* the prompt is whole */
    if (s->req->max_tokens == 0) slot_finish(w, s, GLIA_FINISH_LENGTH, NULL);
    else draw(w, s);
}

/* Take the batch's tokens out of the cache again. */
static void undo(glia_worker *w) {
    for (int32_t i = 0; i < w->n_slots; i++) {
        slot *s = &w->slots[i];
        if (!s->n_rows) continue;
        if (cut(w, s->id, s->n_past)) continue;
        /* state that cannot be rolled back: such a pass is only aborted when nobody in it goes on */
        (void)cut(w, s->id, 0);
        s->n_past = 0;
        slot_fail(s, GLIA_ECANCELLED, atomic_load(&w->stopping) ? "the model was closed" : "cancelled");
    }
}

static void fail_batch(glia_worker *w, bool hooked_only, glia_status st, const char *why) {
    for (int32_t i = 0; i < w->n_slots; i++) {
        slot *s = &w->slots[i];
        if (s->n_rows && (!hooked_only || s->req->n_hooks || s->req->n_edits)) {
            (void)cut(w, s->id, 0); /* what lies in the cache is unknown now */
            s->n_past = 0;
            slot_fail(s, st, why);
        }
    }
}

/* llama_decode with the tap armed when some hook wants rows.  0: done, 2: aborted, its rows are not in the cache; else
 * failed.  *tapped says whether the rows may be believed.  A graph that was not mapped and proven at load is refused: no
 * dry run can be made over the caches of running requests. */
static int32_t run_batch(glia_worker *w, glia_tap_result *tapped, char why[160]) {
    *tapped = GLIA_TAP_OK;
    if (!w->n_wants && !w->n_edits) return decode(w);
    glia_tap_arm(w->tap, w->rows, w->batch.n_tokens, w->wants, w->n_wants, w->edits, w->n_edits);
    int32_t rc = decode(w);
    *tapped = glia_tap_disarm(w->tap, why);
    return rc;
}

/* Run the batch and hand out what came of it. */
static void pass(glia_worker *w) {
    char why[160] = "";
    glia_tap_result tapped;
    w->n_wants = w->n_edits = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        slot *s = &w->slots[i];
        if (s->n_rows &&
            (!edit_rows(w, s) || !want_rows(w, s))) { /* nothing has run yet: the others come again next turn */
            fail_batch(w, true, GLIA_ENOMEM, "out of memory for activations");
            return;
        }
    }
    int32_t rc = run_batch(w, &tapped, why);
    if (rc == 2) { /* someone left: the others run again without it */
        undo(w);
        w->was_aborted = true;
        return;
    }
    w->was_aborted = false;
    tally(&w->m->tally.passes, rc == 0);
    if (rc) {
        glia_log(GLIA_LOG_ERROR, "llama_decode answered %d%s%s", rc, w->broken[0] ? ": " : "", w->broken);
        fail_batch(w, false, GLIA_EINTERNAL,
                   rc == 1        ? "the KV cache has no room"
                   : w->broken[0] ? "llama.cpp cannot run this model (see the server's log)"
                                  : "the forward pass failed");
        return;
    }
    if (tapped == GLIA_TAP_NOMEM) fail_batch(w, true, GLIA_ENOMEM, "out of memory for activations");
    else if (tapped != GLIA_TAP_OK) fail_batch(w, !w->n_edits, GLIA_EUNPROVEN, why); /* edits may have hit any row */
    for (int32_t i = 0; i < w->n_slots; i++) {
        if (w->slots[i].n_rows) advance(w, &w->slots[i]);
    }
}

static bool drop_cancelled(glia_worker *w) {
    bool any = false;
    for (int32_t i = 0; i < w->n_slots; i++) {
        slot *s = &w->slots[i];
        if (!s->req || !glia_request_is_cancelled(s->req)) continue;
        slot_fail(s, GLIA_ECANCELLED, "cancelled");
        any = true;
    }
    return any;
}

static bool is_ready(glia_worker *w, int32_t i, slot_state state) {
    const slot *s = &w->slots[i];
    return i < w->n_slots && s->state == state && !glia_request_is_cancelled(s->req) && !glia_request_is_full(s->req);
}

/* The next token of every decoding slot, in as few passes as neighbours allow.  A prompt that lies between two of them
 * gives one token too, so that they stay one pass. */
static bool decode_passes(glia_worker *w, bool alone) {
    bool any = false;
    for (int32_t i = 0; i < w->n_slots; i++) {
        if (!is_ready(w, i, SLOT_DECODE)) continue;
        int32_t last = i;
        for (int32_t k = i + 1; !alone && k < w->n_slots && k - i < w->n_batch; k++) {
            if (is_ready(w, k, SLOT_DECODE)) last = k;
            else if (!is_ready(w, k, SLOT_PREFILL)) break;
        }
        fill_batch(w, i, last, 1);
        pass(w);
        any = true;
        i = last;
    }
    return any;
}

/* Prompt tokens that this slot would take into one pass. */
static int32_t next_chunk(const slot *s) {
    int32_t left = s->req->n_prompt - s->n_past;
    return left < s->req->prompt_chunk ? left : s->req->prompt_chunk;
}

/* One chunk of prompt: of one slot, or equally much of neighbours that all have a prompt to read. */
static bool prefill_pass(glia_worker *w, bool alone) {
    int32_t first = 0, n = 0;
    while (n < w->n_slots && !is_ready(w, first = (w->turn + n) % w->n_slots, SLOT_PREFILL)) n++;
    if (n == w->n_slots) return false;
    int32_t last = first, least = next_chunk(&w->slots[first]);
    while (!alone && last + 1 < w->n_slots && is_ready(w, last + 1, SLOT_PREFILL)) {
        int32_t chunk = next_chunk(&w->slots[last + 1]), k = last + 2 - first;
        int32_t each = chunk < least ? chunk : least;
        /* no neighbour that would make the pass smaller */
        if (k * (each < w->n_batch / k ? each : w->n_batch / k) <=
            (last + 1 - first) * (least < w->n_batch ? least : w->n_batch))
            break;
        least = each, last++;
    }
    int32_t k = last + 1 - first, most = w->n_batch / k;
    fill_batch(w, first, last, least < most ? least : most);
    w->turn = (last + 1) % w->n_slots;
    pass(w);
    return true;
}

static bool turn(glia_worker *w) {
    bool hooks = false;
    int n_busy = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const glia_request *r = w->slots[i].req;
        hooks |= r && (r->n_hooks || r->n_edits);
        n_busy += r != NULL;
    }
    atomic_store_explicit(&w->m->tally.n_busy, n_busy, memory_order_relaxed);
    bool alone = hooks && w->one_at_a_time;
    bool any = decode_passes(w, alone);
    return prefill_pass(w, alone) || any;
}

void glia_worker_run(glia_worker *w) {
    bool idle = true;
    while (take_requests(w, idle)) {
        bool freed = drop_cancelled(w);
        bool worked = turn(w);
        /* nothing to do, or every client is slow: sleep until something stirs, unless a slot just became free */
        idle = !worked && !freed;
    }
    glia_err e;
    glia_fail(&e, GLIA_ECANCELLED, "the model was closed");
    for (int32_t i = 0; i < w->n_slots; i++) {
        if (w->slots[i].req) slot_fail(&w->slots[i], GLIA_ECANCELLED, e.message);
    }
    glia_inbox *b = w->m->inbox;
    pthread_mutex_lock(&b->lock);
    glia_request *r = b->first;
    b->first = b->last = NULL, b->n_waiting = 0;
    pthread_mutex_unlock(&b->lock);
    while (r) {
        glia_request *next = r->next;
        if (r->waits_since > 0) glia_capture_memory_wait(w->m->memory, -1);
        glia_request_push_error(r, &e);
        glia_request_unref(r);
        r = next;
    }
}

void glia_worker_stop(glia_worker *w) { atomic_store(&w->stopping, true); }
