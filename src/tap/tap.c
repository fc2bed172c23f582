/* tap/tap.c — arm, answer the scheduler, disarm.  Engine thread only.  See tap.h for states and invariants. */
#include "run.h"
#include "base/mem.h"
#include "ggml.h"
#include <stdio.h>
#include <string.h>

void glia_tap_refuse(glia_tap *t, bool *flag, const char *why) {
    if (!*flag) (void)snprintf(t->why, sizeof t->why, "%s", why);
    *flag = true;
}

glia_tap *glia_tap_new(void) { return glia_calloc(1, sizeof(glia_tap)); }

bool glia_tap_set_atlas(glia_tap *t, const glia_atlas *at, bool windows, int32_t n_threads) {
    t->at = at;
    if (!(t->deriver = glia_deriver_new(n_threads))) return false;
    bool any = false;
    for (int32_t il = 0; at && at->attn && il < at->n_layer; il++) any |= at->attn[il].node >= 0;
    if (!any) return true;
    t->cells = glia_cells_new(at);
    t->attention = glia_attention_new(n_threads, windows);
    return t->cells && t->attention;
}

void glia_tap_set_staging(glia_tap *t, glia_staging *s) {
    if (!t) return;
    glia_staging_free(t->staging);
    t->staging = s;
}
const glia_staging *glia_tap_staging(const glia_tap *t) { return t->staging; }

void glia_tap_free(glia_tap *t) {
    if (!t) return;
    glia_staging_free(t->staging);
    glia_cells_free(t->cells);
    glia_attention_free(t->attention);
    glia_deriver_free(t->deriver);
    glia_free(t->from);
    glia_free(t->made);
    glia_edit_room_clear(&t->editing);
    glia_free(t->head);
    glia_free(t->edit_head);
    glia_free(t->ask);
    glia_free(t->out_row);
    glia_free(t->cell);
    glia_free(t->scratch);
    glia_free(t->row);
    glia_free(t);
}

void glia_tap_begin(glia_tap *t, const glia_tap_row *rows, int32_t n_rows) {
    if (t->cells) glia_cells_begin(t->cells, rows, n_rows);
}
void glia_tap_end(glia_tap *t, bool ran) {
    if (t->cells) glia_cells_end(t->cells, ran);
}
void glia_tap_cut(glia_tap *t, int32_t seq, int32_t from) {
    if (t->cells) glia_cells_cut(t->cells, seq, from);
}
void glia_tap_lose(glia_tap *t, int32_t seq) {
    if (t->cells) glia_cells_lose(t->cells, seq);
}
bool glia_tap_knows_cells(const glia_tap *t, int32_t seq) { return t->cells && glia_cells_known(t->cells, seq); }

static bool room(glia_tap *t) {
    if (t->n_alloc < t->at->n_nodes) {
        glia_free(t->head);
        glia_free(t->edit_head);
        glia_free(t->ask);
        t->head = glia_malloc((size_t)t->at->n_nodes * sizeof *t->head);
        t->edit_head = glia_malloc((size_t)t->at->n_nodes * sizeof *t->edit_head);
        t->ask = glia_malloc((size_t)t->at->n_nodes);
        t->n_alloc = t->head && t->edit_head && t->ask ? t->at->n_nodes : 0;
        if (!t->n_alloc) return false;
    }
    if (t->n_out_alloc < t->n_rows) {
        glia_free(t->out_row);
        glia_free(t->cell);
        t->out_row = glia_malloc((size_t)t->n_rows * sizeof *t->out_row);
        t->cell = glia_malloc((size_t)t->n_rows * sizeof *t->cell);
        t->n_out_alloc = t->out_row && t->cell ? t->n_rows : 0;
        if (!t->n_out_alloc) return false;
    }
    return true;
}

/* Empty the sums of earlier runs and make room for one row of each want that is reduced. */
static bool prepare_reductions(glia_tap *t) {
    size_t n = 0;
    for (int32_t i = 0; i < t->n_wants; i++) {
        const glia_tap_want *w = &t->wants[i];
        if (w->sums) glia_sums_reset(w->sums);
        if (w->reduce && (size_t)w->reduce->in_width > n) n = (size_t)w->reduce->in_width;
    }
    if (n <= t->n_row) return true;
    glia_free(t->row);
    t->row = glia_malloc(n * sizeof *t->row);
    t->n_row = t->row ? n : 0;
    return t->row != NULL;
}

const char *glia_tap_refuses_edit(const glia_place *pl) {
    if (!pl || pl->grade != GLIA_GRADE_PROVEN) return "only points graded proven can be changed";
    if (pl->derived) return "it is computed from other points: change those";
    if (pl->integers) return "it holds whole numbers (choices), not values";
    if (pl->read_before) return "this model reads its memory before it is complete";
    return NULL;
}

static void arm_edits(glia_tap *t) {
    memset(t->edit_head, 0xff, (size_t)t->at->n_nodes * sizeof *t->edit_head);
    for (int32_t i = t->n_edits - 1; i >= 0; i--) {
        glia_tap_edit *e = &t->edits[i];
        const glia_place *pl = glia_atlas_place(t->at, e->point, e->layer);
        const char *why = glia_tap_refuses_edit(pl);
        if (why) {
            glia_tap_refuse(t, &t->unproven, why);
            return;
        }
        if (pl->row_kind == GLIA_ROWS_OUTPUTS && t->n_outputs) t->ask[t->at->out_node] |= ASK_CANARY;
        int32_t node = pl->node;
        bool attention = e->point == GLIA_POINT_ATTN_SCORES || e->point == GLIA_POINT_ATTN_PROBS;
        if (attention && !t->attention) {
            glia_tap_refuse(t, &t->unproven, "no attention is known in this graph");
            return;
        }
        if (e->point == GLIA_POINT_ATTN_SCORES && t->at->attn[e->layer].logits >= 0) { /* settled behind the softmax */
            node = t->at->attn[e->layer].logits;
            t->ask[node] |= ASK_EDITED_ATTENTION;
        }
        e->next = t->edit_head[node];
        t->edit_head[node] = i;
        t->ask[pl->node] |= attention ? ASK_EDITED_ATTENTION : ASK_EDITED;
    }
}

void glia_tap_arm(glia_tap *t, const glia_tap_row *rows, int32_t n_rows, glia_tap_want *wants, int32_t n_wants,
                  glia_tap_edit *edits, int32_t n_edits) {
    t->rows = rows, t->n_rows = n_rows, t->wants = wants, t->n_wants = n_wants, t->n_outputs = 0;
    t->edits = edits, t->n_edits = n_edits;
    t->node = -1, t->n_runs = 0, t->proven = 0;
    t->strange = t->unproven = t->nomem = t->ended = false;
    t->sched = NULL, t->opening = NULL, t->logits = (glia_tap_logits){0};
    t->why[0] = 0;
    for (int32_t i = 0; i < n_rows; i++) t->n_outputs += rows[i].output;
    t->armed = true;
    if (t->staging) glia_staging_begin(t->staging);
    if (!t->at || t->at->refused) {
        glia_tap_refuse(t, &t->unproven, t->at ? t->at->refused : "no map of this model's graph");
        return;
    }
    if (!room(t) || !prepare_reductions(t)) {
        t->nomem = true;
        return;
    }
    memset(t->head, 0xff, (size_t)t->at->n_nodes * sizeof *t->head);
    memset(t->ask, 0, (size_t)t->at->n_nodes);
    for (int32_t i = 0, o = 0; i < n_rows; i++) t->out_row[i] = rows[i].output ? o++ : -1;
    t->ask[t->at->token_node] |= ASK_CANARY;
    if (t->at->pos_node >= 0) t->ask[t->at->pos_node] |= ASK_CANARY;
    if (t->at->cell_node >= 0) t->ask[t->at->cell_node] |= ASK_CANARY;
    if (t->attention) glia_attention_begin(t->attention);
    arm_edits(t);
    for (int32_t w = n_wants - 1; w >= 0; w--) {
        const glia_place *pl = glia_atlas_place(t->at, wants[w].point, wants[w].layer);
        wants[w].n_copied = 0, wants[w].refused = NULL;
        if (!pl || pl->grade < GLIA_GRADE_STRUCTURAL) {
            glia_tap_refuse(t, &t->unproven, "a wanted point is absent in this graph");
            return;
        }
        if (pl->derived && !wants[w].derive) {
            glia_tap_refuse(t, &t->unproven, "a wanted point cannot be computed");
            return;
        }
        if (pl->row_kind == GLIA_ROWS_OUTPUTS && t->n_outputs) t->ask[t->at->out_node] |= ASK_CANARY;
        wants[w].next = t->head[pl->node];
        t->head[pl->node] = w;
        t->ask[pl->node] |= ASK_WANTED;
        if (wants[w].point == GLIA_POINT_ATTN_SCORES && t->at->attn[wants[w].layer].logits >= 0) {
            t->ask[t->at->attn[wants[w].layer].logits] |= ASK_LOGITS;
        }
    }
}

/* ------------------------------------------------------------------ the callback */

static bool same_node(const glia_signature *s, const struct ggml_tensor *x) {
    return s->op == (int32_t)x->op && !strcmp(s->name, x->name);
}

bool glia_tap_on_node(struct ggml_tensor *node, bool ask, void *ud) {
    glia_tap *t = ud;
    if (ask && t->cells) glia_cells_on_ask(t->cells, node);
    if (!t->armed) return !ask; /* nothing wanted: false when asked; never false when fetching */
    if (!ask) {
        if (t->staging) glia_staging_fetched(t->staging);
        glia_tap_restore_logits(t);
        if (t->strange || t->unproven || t->nomem) return true;
        if (t->ask[t->node] & ASK_CANARY) glia_tap_prove(t, node);
        if (t->ask[t->node] & ASK_EDITED_ATTENTION) glia_tap_change_attention(t, node);
        if (t->ask[t->node] & ASK_EDITED) glia_tap_change(t, node);
        if (t->ask[t->node] & ASK_LOGITS) glia_tap_capture_attention(t, node, true);
        if (t->ask[t->node] & ASK_WANTED) glia_tap_capture(t, node);
        t->ended = glia_tap_ends_here(t, node);
        return !t->ended;
    }
    if (t->strange || t->unproven || t->nomem) return false;
    if (t->ended || t->node + 1 >= t->at->n_nodes) { /* the last run is over: a second graph begins */
        t->node = -1, t->proven = 0, t->ended = false;
        glia_tap_refuse(t, &t->unproven, "one forward pass ran as several graphs");
        return false;
    }
    if (++t->node == 0) t->opening = node;
    if (!same_node(&t->at->sig[t->node], node)) {
        glia_tap_refuse(t, &t->strange, "llama.cpp ran another graph than the one that was mapped at load");
        return false;
    }
    if (t->node + 1 == t->at->n_nodes) t->n_runs++;
    if (t->logits.n && t->node == t->at->logits_node) glia_tap_trim_logits(t, node);
    if (!t->ask[t->node]) return t->logits.node != NULL;
    if (t->staging && glia_tap_keeps_order(t, node)) glia_staging_do_not_wait(t->staging, node);
    return true;
}

void glia_tap_state_moved(glia_tap *t, int32_t before, int32_t after) {
    if (!t->armed || !t->at || t->at->pos_proof != GLIA_POS_STATE || !t->n_rows) return;
    bool same = before == t->rows[0].pos - 1 && after == t->rows[t->n_rows - 1].pos;
    for (int32_t i = 1; i < t->n_rows; i++) {
        same &= t->rows[i].seq == t->rows[0].seq && t->rows[i].pos == t->rows[i - 1].pos + 1;
    }
    if (same) t->proven |= PROVEN_POSITIONS;
    else glia_tap_refuse(t, &t->unproven, "the model's state stands at another position than planned");
}

glia_tap_result glia_tap_disarm(glia_tap *t, char why[160]) {
    t->armed = false;
    glia_tap_restore_logits(t);                   /* of a pass that was given up in between */
    if (t->staging) glia_staging_end(t->staging); /* every row has arrived, or is not on its way any more */
    if (!t->nomem && !t->strange && !t->unproven) {
        if (t->n_runs != (t->ended ? 0 : 1)) glia_tap_refuse(t, &t->strange, "the graph ended early");
        unsigned need = PROVEN_TOKENS | PROVEN_POSITIONS | (t->at->cell_node >= 0 ? (unsigned)PROVEN_SEQUENCES : 0u);
        if (!t->strange && (t->proven & need) != need) {
            glia_tap_refuse(t, &t->unproven, "token ids, positions or sequences were not read back");
        }
        for (int32_t i = 0; i < t->n_wants && !t->unproven; i++) {
            const glia_tap_want *w = &t->wants[i];
            int32_t n = w->n_rows;
            if (w->optional && w->refused) continue;
            if (w->mask) {
                n = 0;
                for (int32_t r = 0; r < w->n_rows; r++) n += w->mask[r];
            }
            if (w->n_copied != n) glia_tap_refuse(t, &t->unproven, "a wanted row was not computed");
        }
    }
    memcpy(why, t->why, sizeof t->why);
    return t->nomem      ? GLIA_TAP_NOMEM
           : t->strange  ? GLIA_TAP_NEW_TOPOLOGY
           : t->unproven ? GLIA_TAP_UNPROVEN
                         : GLIA_TAP_OK;
}
