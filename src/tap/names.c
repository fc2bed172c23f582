/* tap/names.c — tables of names and the rules that combine them.  Pure; any thread; knows neither JSON nor llama. */
#include "tap/names.h"
#include "base/err.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ------------------------------------------------------------------ tables */

/* One side of a module: a point, or the reason why it cannot be had. */
typedef struct slot {
    int point; /* -1: refused */
    const char *why;
} slot;
#define P(id)                                                                                                          \
    { GLIA_POINT_##id, NULL }
#define NO(why)                                                                                                        \
    { -1, why }

#define WHY_SOON "is not available yet"
#define WHY_NONE "has no such side"
#define WHY_IDS  "takes token ids, which are not activations: every entry carries them as token_ids"
#define WHY_Q    "may differ from the queries used: q/k norms, clamps and GGUF's channel order; ask for component \"q\""
#define WHY_K    "may differ from the keys used: q/k norms, clamps and GGUF's channel order; ask for component \"k\""
#define WHY_V    "may differ from the values used (value norms, clamps); ask for component \"value\""
#define WHY_QKV  "is q, k and value in one tensor: ask for these components one by one"
#define WHY_UNSCALED                                                                                                   \
    "is scaled in this architecture; ask for component \"embeddings\" (unscaled) or \"resid_pre\" of layer 0"
#define WHY_NORMALIZED "is taken before the norm's weight; ask for \"attn_in\", \"mlp_in\" or \"final_norm\" (after it)"
#define WHY_TL_MLP_IN                                                                                                  \
    "means the input of the norm there; ask for \"resid_mid\" (before the norm) or \"mlp_in\" (after it)"
#define WHY_TL_ATTN_IN  "means one copy of the residual per head there; ask for \"resid_pre\""
#define WHY_NO_PRE_NORM "does not exist in this architecture: its blocks have no norm there; ask for \"resid_pre\""

/* Names whose meaning hangs on the architecture. */
typedef enum special { PLAIN, POST_ATTN_NORM, PRE_ATTN_NORM, HF_EMBED, TL_EMBED, TL_ATTN_OUT, TL_MLP_OUT } special;

typedef enum family { F_NONE, F_BLOCK, F_ATTN, F_MLP, F_NORM, F_EMBED, F_FINAL, F_HEAD } family;

typedef struct module {
    const char *path; /* after the block's prefix, or whole for those outside the blocks */
    family family;
    slot out, in;
    special special;
} module;

/* Inside a block, after "model.layers.N." and its like. */
static const module in_block[] = {
    {"", F_BLOCK, P(RESID_POST), P(RESID_PRE), PLAIN},
    /* attention */
    {"self_attn", F_ATTN, P(ATTN_OUT), P(ATTN_IN), PLAIN},
    {"attn", F_ATTN, P(ATTN_OUT), P(ATTN_IN), PLAIN},
    {"attention", F_ATTN, P(ATTN_OUT), P(ATTN_IN), PLAIN},
    {"self_attention", F_ATTN, P(ATTN_OUT), P(ATTN_IN), PLAIN},
    {"self_attn.o_proj", F_ATTN, P(ATTN_OUT), P(Z), PLAIN},
    {"self_attn.out_proj", F_ATTN, P(ATTN_OUT), P(Z), PLAIN},
    {"self_attn.dense", F_ATTN, P(ATTN_OUT), P(Z), PLAIN},
    {"attn.c_proj", F_ATTN, P(ATTN_OUT), P(Z), PLAIN},
    {"attn.out_proj", F_ATTN, P(ATTN_OUT), P(Z), PLAIN},
    {"attention.dense", F_ATTN, P(ATTN_OUT), P(Z), PLAIN},
    {"self_attention.dense", F_ATTN, P(ATTN_OUT), P(Z), PLAIN},
    {"self_attn.q_proj", F_ATTN, NO(WHY_Q), P(ATTN_IN), PLAIN},
    {"self_attn.k_proj", F_ATTN, NO(WHY_K), P(ATTN_IN), PLAIN},
    {"self_attn.v_proj", F_ATTN, NO(WHY_V), P(ATTN_IN), PLAIN},
    {"attn.c_attn", F_ATTN, NO(WHY_QKV), P(ATTN_IN), PLAIN},
    {"self_attn.qkv_proj", F_ATTN, NO(WHY_QKV), P(ATTN_IN), PLAIN},
    {"attention.query_key_value", F_ATTN, NO(WHY_QKV), P(ATTN_IN), PLAIN},
    {"self_attention.query_key_value", F_ATTN, NO(WHY_QKV), P(ATTN_IN), PLAIN},
    /* MLP */
    {"mlp", F_MLP, P(MLP_OUT), P(MLP_IN), PLAIN},
    {"feed_forward", F_MLP, P(MLP_OUT), P(MLP_IN), PLAIN},
    {"block_sparse_moe", F_MLP, P(MLP_OUT), P(MLP_IN), PLAIN},
    {"mlp.down_proj", F_MLP, P(MLP_OUT), P(MLP_ACT), PLAIN},
    {"mlp.c_proj", F_MLP, P(MLP_OUT), P(MLP_ACT), PLAIN},
    {"mlp.dense_4h_to_h", F_MLP, P(MLP_OUT), P(MLP_ACT), PLAIN},
    {"mlp.fc2", F_MLP, P(MLP_OUT), P(MLP_ACT), PLAIN},
    {"mlp.gate_proj", F_MLP, P(MLP_PRE), P(MLP_IN), PLAIN},
    {"mlp.up_proj", F_MLP, P(MLP_LINEAR), P(MLP_IN), PLAIN},
    {"mlp.gate_up_proj", F_MLP, NO(WHY_SOON), P(MLP_IN), PLAIN},
    {"mlp.c_fc", F_MLP, P(MLP_PRE), P(MLP_IN), PLAIN},
    {"mlp.dense_h_to_4h", F_MLP, P(MLP_PRE), P(MLP_IN), PLAIN},
    {"mlp.fc1", F_MLP, P(MLP_PRE), P(MLP_IN), PLAIN},
    {"mlp.act_fn", F_MLP, NO(WHY_SOON), P(MLP_PRE), PLAIN},
    {"mlp.act", F_MLP, NO(WHY_SOON), P(MLP_PRE), PLAIN},
    /* norms */
    {"input_layernorm", F_NORM, P(ATTN_IN), P(RESID_PRE), PRE_ATTN_NORM},
    {"ln_1", F_NORM, P(ATTN_IN), P(RESID_PRE), PLAIN},
    {"post_attention_layernorm", F_NORM, P(MLP_IN), P(RESID_MID), POST_ATTN_NORM},
    {"ln_2", F_NORM, P(MLP_IN), P(RESID_MID), PLAIN},
    {"pre_feedforward_layernorm", F_NORM, P(MLP_IN), P(RESID_MID), PLAIN},
    {"post_feedforward_layernorm", F_NORM, P(MLP_OUT_POST), P(MLP_OUT), PLAIN},
    /* TransformerLens; its hook_attn_out and hook_mlp_out are what is added to the stream */
    {"hook_resid_pre", F_BLOCK, P(RESID_PRE), NO(WHY_NONE), PLAIN},
    {"hook_resid_mid", F_BLOCK, P(RESID_MID), NO(WHY_NONE), PLAIN},
    {"hook_resid_post", F_BLOCK, P(RESID_POST), NO(WHY_NONE), PLAIN},
    {"hook_attn_out", F_ATTN, P(ATTN_OUT), NO(WHY_NONE), TL_ATTN_OUT},
    {"hook_mlp_out", F_MLP, P(MLP_OUT), NO(WHY_NONE), TL_MLP_OUT},
    {"attn.hook_q", F_ATTN, P(Q), NO(WHY_NONE), PLAIN},
    {"attn.hook_k", F_ATTN, P(K), NO(WHY_NONE), PLAIN},
    {"attn.hook_v", F_ATTN, P(VALUE), NO(WHY_NONE), PLAIN},
    {"attn.hook_z", F_ATTN, P(Z), NO(WHY_NONE), PLAIN},
    {"mlp.hook_post", F_MLP, P(MLP_ACT), NO(WHY_NONE), PLAIN},
    {"attn.hook_rot_q", F_ATTN, P(Q_ROT), NO(WHY_NONE), PLAIN},
    {"attn.hook_rot_k", F_ATTN, P(K_ROT), NO(WHY_NONE), PLAIN},
    {"attn.hook_attn_scores", F_ATTN, NO(WHY_SOON), NO(WHY_NONE), PLAIN},
    {"attn.hook_pattern", F_ATTN, NO(WHY_SOON), NO(WHY_NONE), PLAIN},
    {"attn.hook_result", F_ATTN, NO(WHY_SOON), NO(WHY_NONE), PLAIN},
    {"mlp.hook_pre", F_MLP, P(MLP_PRE), NO(WHY_NONE), PLAIN},
    {"mlp.hook_pre_linear", F_MLP, P(MLP_LINEAR), NO(WHY_NONE), PLAIN},
    {"hook_mlp_in", F_MLP, NO(WHY_TL_MLP_IN), NO(WHY_NONE), PLAIN},
    {"hook_attn_in", F_ATTN, NO(WHY_TL_ATTN_IN), NO(WHY_NONE), PLAIN},
    {"ln1.hook_normalized", F_NORM, NO(WHY_NORMALIZED), NO(WHY_NONE), PLAIN},
    {"ln2.hook_normalized", F_NORM, NO(WHY_NORMALIZED), NO(WHY_NONE), PLAIN},
    {"ln1.hook_scale", F_NORM, NO(WHY_SOON), NO(WHY_NONE), PLAIN},
    {"ln2.hook_scale", F_NORM, NO(WHY_SOON), NO(WHY_NONE), PLAIN},
};

static const module outside[] = {
    {"model.embed_tokens", F_EMBED, P(EMBEDDINGS), NO(WHY_IDS), HF_EMBED},
    {"embed_tokens", F_EMBED, P(EMBEDDINGS), NO(WHY_IDS), HF_EMBED},
    {"transformer.wte", F_EMBED, P(EMBEDDINGS), NO(WHY_IDS), PLAIN},
    {"wte", F_EMBED, P(EMBEDDINGS), NO(WHY_IDS), PLAIN},
    {"gpt_neox.embed_in", F_EMBED, P(EMBEDDINGS), NO(WHY_IDS), PLAIN},
    {"hook_embed", F_EMBED, P(EMBEDDINGS), NO(WHY_IDS), TL_EMBED},
    {"hook_pos_embed", F_EMBED, NO(WHY_SOON), NO(WHY_NONE), PLAIN},
    {"transformer.wpe", F_EMBED, NO(WHY_SOON), NO(WHY_NONE), PLAIN},
    {"model.norm", F_FINAL, P(FINAL_NORM), P(RESID_POST), PLAIN},
    {"model.final_layernorm", F_FINAL, P(FINAL_NORM), P(RESID_POST), PLAIN},
    {"transformer.ln_f", F_FINAL, P(FINAL_NORM), P(RESID_POST), PLAIN},
    {"ln_f", F_FINAL, P(FINAL_NORM), P(RESID_POST), PLAIN},
    {"gpt_neox.final_layer_norm", F_FINAL, P(FINAL_NORM), P(RESID_POST), PLAIN},
    {"ln_final.hook_normalized", F_FINAL, NO(WHY_NORMALIZED), NO(WHY_NONE), PLAIN},
    {"lm_head", F_HEAD, P(LM_HEAD), P(FINAL_NORM), PLAIN},
    {"embed_out", F_HEAD, P(LM_HEAD), P(FINAL_NORM), PLAIN},
};

/* NeuroScope's vocabulary, without a module or on a block. */
static const module components[] = {
    {"residual", F_BLOCK, P(RESID_POST), P(RESID_PRE), PLAIN},
    {"attention", F_ATTN, P(ATTN_OUT), P(ATTN_IN), PLAIN},
    {"mlp", F_MLP, P(MLP_OUT), P(MLP_IN), PLAIN},
    {"embedding", F_EMBED, P(EMBEDDINGS), NO(WHY_IDS), PLAIN},
    {"layernorm", F_NORM, P(ATTN_IN), P(RESID_PRE), PRE_ATTN_NORM},
    {"query", F_ATTN, P(Q), NO(WHY_NONE), PLAIN},
    {"key", F_ATTN, P(K), NO(WHY_NONE), PLAIN},
    {"value", F_ATTN, P(VALUE), NO(WHY_NONE), PLAIN},
    {"attention_scores", F_ATTN, NO(WHY_SOON), NO(WHY_SOON), PLAIN},
    {"attention_pattern", F_ATTN, NO(WHY_SOON), NO(WHY_SOON), PLAIN},
    {"moe", F_MLP, NO(WHY_SOON), NO(WHY_SOON), PLAIN},
    {"expert", F_MLP, NO(WHY_SOON), NO(WHY_SOON), PLAIN},
};

/* What stands before the number of the block.  Longer ones first where one is the end of another. */
static const char *const block_prefixes[] = {
    "model.language_model.layers.",
    "language_model.model.layers.",
    "model.decoder.layers.",
    "gpt_neox.layers.",
    "transformer.blocks.",
    "transformer.layers.",
    "model.layers.",
    "transformer.h.",
    "layers.",
    "layer.",
    "blocks.",
    "block.",
    "blk.",
    "h.",
};

static const char *const path_templates[] = {
    "model.layers.N",
    "model.layers.N.self_attn",
    "model.layers.N.self_attn.o_proj",
    "model.layers.N.mlp",
    "model.layers.N.mlp.down_proj",
    "model.layers.N.input_layernorm",
    "model.layers.N.post_attention_layernorm",
    "transformer.h.N",
    "transformer.h.N.attn",
    "transformer.h.N.mlp",
    "transformer.h.N.ln_1",
    "transformer.h.N.ln_2",
    "blocks.N.hook_resid_pre",
    "blocks.N.hook_resid_mid",
    "blocks.N.hook_resid_post",
    "blocks.N.hook_attn_out",
    "blocks.N.hook_mlp_out",
    "blocks.N.attn.hook_q",
    "blocks.N.attn.hook_z",
    "blocks.N.mlp.hook_post",
    "resid_pre.N",
    "attn_out.N",
    "mlp_out.N",
    "resid_mid.N",
    "resid_post.N",
    "model.embed_tokens",
    "transformer.wte",
    "model.norm",
    "transformer.ln_f",
    "lm_head",
    "hook_embed",
    "embeddings",
    "final_norm",
};

/* Architectures (llama.cpp's names) in which a name means something else.  Source: the reference implementations of
 * the blocks; spec "sandwich norms" and "no pre-norms". */
static const char *const sandwich[] = {"gemma2", "gemma3", "gemma3n", "gemma4", "olmo2", "exaone4", "afmoe", NULL};
static const char *const post_norm_only[] = {"olmo2", "exaone4", NULL};
static const char *const scaled_inside[] = {"gemma3", "gemma3n", "gemma4", NULL};
static const char *const scaled_tl[] = {"gemma",   "gemma2",  "gemma3", "gemma3n", "gemma4",
                                        "minicpm", "granite", "grok",   NULL};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ------------------------------------------------------------------ nearest names */

enum { WORD_MAX = 63, N_NEAREST = 3 };

/* Levenshtein distance, letter case ignored; both cut to WORD_MAX. */
static unsigned distance(const char *a, const char *b) {
    size_t na = strnlen(a, WORD_MAX), nb = strnlen(b, WORD_MAX);
    unsigned row[WORD_MAX + 1];
    for (size_t j = 0; j <= nb; j++) row[j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned up = row[j];
            unsigned best = diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = up;
        }
    }
    return row[nb];
}

/* Order for "did you mean": edits, but a candidate that contains the word (or the reverse) comes first. */
static unsigned farness(const char *word, const char *candidate) {
    unsigned d = 2 * distance(word, candidate);
    if (strlen(word) >= 3 && (strcasestr(candidate, word) || strcasestr(word, candidate))) d /= 2;
    return d;
}

static size_t nearest(const char *word, const char *const *list, size_t n, const char *best[N_NEAREST]) {
    unsigned far[N_NEAREST];
    size_t n_best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!list[i][0]) continue;
        unsigned d = farness(word, list[i]);
        size_t at = n_best;
        while (at > 0 && d < far[at - 1]) at--;
        if (at >= N_NEAREST) continue;
        if (n_best < N_NEAREST) n_best++;
        for (size_t j = n_best - 1; j > at; j--) best[j] = best[j - 1], far[j] = far[j - 1];
        best[at] = list[i], far[at] = d;
    }
    return n_best;
}

static void join(const char *const *words, size_t n, const char *before, char *out, size_t cap) {
    size_t at = 0;
    if (cap) out[0] = 0;
    for (size_t i = 0; i < n && at < cap; i++) {
        int w = snprintf(out + at, cap - at, "%s\"%s%s\"", !i ? "" : i + 1 == n ? " or " : ", ", before, words[i]);
        if (w < 0) return;
        at += (size_t)w;
    }
}

void glia_nearest(const char *word, const char *const *list, size_t n, char *out, size_t cap) {
    const char *best[N_NEAREST];
    join(best, nearest(word, list, n, best), "", out, cap);
}

/* ------------------------------------------------------------------ parsing */

/* A parsed path: a module or a point by its own name, and maybe a layer. */
typedef struct place {
    bool given;
    const module *module;
    int point; /* ≥ 0: named itself */
    bool has_layer, all_layers;
    int64_t layer;
    const char *field, *text; /* where it stood, for errors */
} place;

static bool in_list(const char *arch, const char *const *list) {
    for (; arch && *list; list++) {
        if (!strcmp(arch, *list)) return true;
    }
    return false;
}

static const module *find_module(const module *table, size_t n, const char *path) {
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(table[i].path, path)) return &table[i];
    }
    return NULL;
}

/* "12" or "*" at s; *rest is what follows.  False: neither. */
static bool parse_index(const char *s, place *p, const char **rest) {
    if (s[0] == '*') {
        p->all_layers = p->has_layer = true;
        *rest = s + 1;
        return true;
    }
    if (!isdigit((unsigned char)s[0])) return false;
    char *end;
    p->layer = strtoll(s, &end, 10); /* saturates: out of range in any case */
    p->has_layer = true;
    *rest = end;
    return true;
}

static glia_status unknown_in_block(const place *p, const char *suffix, size_t n_before, glia_err *err) {
    const char *list[COUNT(in_block) + GLIA_N_POINTS], *best[N_NEAREST];
    size_t n = 0;
    for (size_t i = 0; i < COUNT(in_block); i++) list[n++] = in_block[i].path;
    for (int i = 0; i < GLIA_N_POINTS; i++) {
        if (glia_point_has_layer((glia_point)i)) list[n++] = glia_point_name((glia_point)i);
    }
    size_t n_best = nearest(suffix, list, n, best);
    char before[64], hint[256];
    (void)snprintf(before, sizeof before, "%.*s", (int)n_before, p->text);
    join(best, n_best, before, hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, p->field, "unknown name \"%.80s\"; the nearest are %s", p->text, hint);
}

static glia_status unknown_path(const place *p, glia_err *err) {
    char generic[128], number[16] = "0";
    size_t at = 0, i = 0;
    while (p->text[i] && at + 1 < sizeof generic) { /* digits → N, to compare with the templates */
        size_t n = strspn(p->text + i, "0123456789");
        if (n) {
            (void)snprintf(number, sizeof number, "%.*s", (int)(n < 9 ? n : 9), p->text + i);
            generic[at++] = 'N', i += n;
        } else {
            generic[at++] = p->text[i++];
        }
    }
    generic[at] = 0;
    const char *best[N_NEAREST];
    size_t n_best = nearest(generic, path_templates, COUNT(path_templates), best);
    char named[N_NEAREST][96], hint[320];
    const char *words[N_NEAREST];
    for (size_t k = 0; k < n_best; k++) {
        const char *n = strchr(best[k], 'N');
        if (n) (void)snprintf(named[k], sizeof named[k], "%.*s%s%s", (int)(n - best[k]), best[k], number, n + 1);
        else (void)snprintf(named[k], sizeof named[k], "%s", best[k]);
        words[k] = named[k];
    }
    join(words, n_best, "", hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, p->field, "unknown name \"%.80s\"; the nearest are %s", p->text, hint);
}

/* "model.layers.5.self_attn" and its like.  *done: the prefix was one of ours. */
static glia_status parse_block_path(place *p, bool *done, glia_err *err) {
    for (size_t i = 0; i < COUNT(block_prefixes); i++) {
        size_t n = strlen(block_prefixes[i]);
        const char *rest;
        if (strncmp(p->text, block_prefixes[i], n) != 0 || !parse_index(p->text + n, p, &rest)) continue;
        if (*rest && *rest != '.') continue;
        *done = true;
        const char *suffix = *rest ? rest + 1 : rest;
        glia_point point;
        if ((p->module = find_module(in_block, COUNT(in_block), suffix)) && (*suffix || !*rest)) return GLIA_OK;
        if (glia_point_from_name(suffix, &point) && glia_point_has_layer(point)) {
            p->point = (int)point;
            return GLIA_OK;
        }
        return unknown_in_block(p, suffix, (size_t)(rest - p->text) + 1, err);
    }
    return GLIA_OK;
}

/* "resid_post" or "resid_post.5". */
static bool parse_point_path(place *p) {
    char stem[32];
    const char *dot = strchr(p->text, '.'), *rest = "";
    size_t n = dot ? (size_t)(dot - p->text) : strlen(p->text);
    if (n >= sizeof stem) return false;
    memcpy(stem, p->text, n);
    stem[n] = 0;
    glia_point point;
    if (!glia_point_from_name(stem, &point)) return false;
    if (dot && (!parse_index(dot + 1, p, &rest) || *rest)) return false;
    p->point = (int)point;
    return true;
}

static glia_status parse_path(const char *text, const char *field, place *p, glia_err *err) {
    *p = (place){.given = true, .point = -1, .field = field, .text = text};
    bool done = false;
    glia_status st = parse_block_path(p, &done, err);
    if (st || done) return st;
    if (parse_point_path(p)) return GLIA_OK;
    *p = (place){.given = true, .point = -1, .field = field, .text = text};
    if ((p->module = find_module(outside, COUNT(outside), text))) return GLIA_OK;
    return unknown_path(p, err);
}

/* "layer" as text: a path, digits (maybe negative) or "*". */
static glia_status parse_layer_text(const char *text, place *p, glia_err *err) {
    *p = (place){.given = true, .point = -1, .field = "layer", .text = text};
    const char *digits = text[0] == '-' ? text + 1 : text, *rest;
    if (parse_index(digits, p, &rest) && !*rest && !(p->all_layers && digits != text)) {
        if (digits != text) p->layer = -p->layer;
        return GLIA_OK;
    }
    return parse_path(text, "layer", p, err);
}

/* ------------------------------------------------------------------ combining */

/* What the component field says. */
typedef struct part {
    const module *module; /* NULL: none given, or a point */
    int point;            /* ≥ 0 */
} part;

static family point_family(glia_point p) {
    switch (p) {
    case GLIA_POINT_EMBEDDINGS: return F_EMBED;
    case GLIA_POINT_FINAL_NORM: return F_FINAL;
    case GLIA_POINT_LM_HEAD: return F_HEAD;
    case GLIA_POINT_RESID_PRE:
    case GLIA_POINT_RESID_MID:
    case GLIA_POINT_RESID_POST: return F_BLOCK;
    case GLIA_POINT_MLP_IN:
    case GLIA_POINT_MLP_PRE:
    case GLIA_POINT_MLP_LINEAR:
    case GLIA_POINT_MLP_ACT:
    case GLIA_POINT_MLP_OUT:
    case GLIA_POINT_MLP_OUT_POST: return F_MLP;
    default: return F_ATTN;
    }
}

static glia_status parse_component(const char *text, part *c, glia_err *err) {
    *c = (part){NULL, -1};
    if (!text) return GLIA_OK;
    glia_point point;
    /* "value" is both a point and NeuroScope's word for it: the same tensor */
    if (glia_point_from_name(text, &point)) {
        c->point = (int)point;
        return GLIA_OK;
    }
    if ((c->module = find_module(components, COUNT(components), text))) return GLIA_OK;
    if (*text && (c->module = find_module(in_block, COUNT(in_block), text))) return GLIA_OK;
    const char *list[GLIA_N_POINTS + COUNT(components)];
    size_t n = 0;
    for (int i = 0; i < GLIA_N_POINTS; i++) list[n++] = glia_point_name((glia_point)i);
    for (size_t i = 0; i < COUNT(components); i++) {
        if (strcmp(components[i].path, "value") != 0) list[n++] = components[i].path;
    }
    char hint[160];
    glia_nearest(text, list, n, hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, "component", "unknown component \"%.80s\"; the nearest are %s", text, hint);
}

/* The tensor of one side, after what the architecture changes. */
static slot side_of(const module *m, bool input, const char *arch) {
    static const slot attn_out_post = P(ATTN_OUT_POST), attn_out = P(ATTN_OUT), mlp_out_post = P(MLP_OUT_POST);
    static const slot no_pre_norm = NO(WHY_NO_PRE_NORM), unscaled = NO(WHY_UNSCALED);
    switch (m->special) {
    case POST_ATTN_NORM:
        if (in_list(arch, sandwich)) return input ? attn_out : attn_out_post;
        break;
    case PRE_ATTN_NORM:
        if (in_list(arch, post_norm_only)) return no_pre_norm;
        break;
    case HF_EMBED:
        if (!input && in_list(arch, scaled_inside)) return unscaled;
        break;
    case TL_EMBED:
        if (!input && in_list(arch, scaled_tl)) return unscaled;
        break;
    case TL_ATTN_OUT:
        if (!input && in_list(arch, sandwich)) return attn_out_post;
        break;
    case TL_MLP_OUT:
        if (!input && in_list(arch, sandwich)) return mlp_out_post;
        break;
    case PLAIN: break;
    }
    return input ? m->in : m->out;
}

static glia_status mismatch(const place *at, const char *component, glia_err *err) {
    return glia_fail_at(
        err, GLIA_EINVAL, "component",
        "component \"%.60s\" is not part of \"%.80s\"; name the block itself, e.g. \"model.layers.%lld\"", component,
        at->text, (long long)(at->has_layer && !at->all_layers ? at->layer : 5));
}

/* A module with a general word for its kind ("attention" of ".self_attn.o_proj") is that module; a word that says
 * more (query, key, value, a TransformerLens hook) says what is meant. */
static glia_status pick_module(const place *at, const part *c, const char *component, const module **out,
                               glia_err *err) {
    const module *m = at->module, *w = c->module;
    if (!m || m->family == F_BLOCK) {
        *out = w ? w : m;
        if (m && w && w->family == F_EMBED) return mismatch(at, component, err);
        return GLIA_OK;
    }
    if (!w) {
        *out = m;
        return GLIA_OK;
    }
    bool fits = w->family == m->family || (w->family == F_NORM && m->family == F_FINAL);
    if (!fits) return mismatch(at, component, err);
    bool general = find_module(components, COUNT(components), w->path) == w && w->out.point != GLIA_POINT_Q &&
                   w->out.point != GLIA_POINT_K && w->out.point != GLIA_POINT_VALUE && w->out.point >= 0;
    *out = general ? m : w;
    return GLIA_OK;
}

static glia_status add_point(glia_hook_target *t, int point, bool input) {
    t->point[t->n_points] = (glia_point)point;
    t->is_input[t->n_points++] = input;
    return GLIA_OK;
}

static glia_status points_of_module(const glia_hook_spec *s, const module *m, const char *shown, const char *field,
                                    const char *arch, glia_hook_target *out, glia_err *err) {
    for (int input = 1; input >= 0; input--) {
        if (input ? !s->input : !s->output) continue;
        slot side = side_of(m, input, arch);
        if (side.point >= 0) {
            add_point(out, side.point, input);
            continue;
        }
        bool absent = side.why && !strcmp(side.why, WHY_NONE);
        return glia_fail_at(err, absent ? GLIA_EINVAL : GLIA_EHOOK, absent ? "capture_input" : field,
                            "the %s of \"%.80s\" %s", input ? "input" : "output", shown, side.why);
    }
    return GLIA_OK;
}

static glia_status point_itself(const glia_hook_spec *s, int point, glia_hook_target *out, glia_err *err) {
    if (s->input) {
        return glia_fail_at(err, GLIA_EINVAL, "capture_input",
                            "\"%s\" is one tensor, not a module: leave capture_input out, or name the module",
                            glia_point_name((glia_point)point));
    }
    return add_point(out, point, false);
}

static glia_status resolve_points(const glia_hook_spec *s, const place *at, const part *c, const char *arch,
                                  glia_hook_target *out, glia_err *err) {
    if (c->point >= 0) {
        family f = point_family((glia_point)c->point);
        if (at->point >= 0 && at->point != c->point) return mismatch(at, s->component, err);
        const module *m = at->module;
        if (m && m->family == F_NORM && m->out.point != c->point && m->in.point != c->point)
            return mismatch(at, s->component, err);
        if (m && m->family != F_BLOCK && m->family != F_NORM && m->family != f) return mismatch(at, s->component, err);
        if (m && m->family == F_BLOCK && !glia_point_has_layer((glia_point)c->point))
            return mismatch(at, s->component, err);
        return point_itself(s, c->point, out, err);
    }
    if (at->point >= 0) {
        if (c->module) {
            return glia_fail_at(err, GLIA_EINVAL, "component", "\"%.80s\" names a point already: leave component out",
                                at->text);
        }
        return point_itself(s, at->point, out, err);
    }
    const module *m = NULL;
    glia_status st = pick_module(at, c, s->component, &m, err);
    if (st) return st;
    if (!m) {
        return glia_fail_at(err, GLIA_EINVAL, "component",
                            "component is missing: say what of the layer, e.g. \"resid_post\" or \"residual\"");
    }
    bool from_component = m == c->module;
    return points_of_module(s, m, from_component ? s->component : at->text, from_component ? "component" : at->field,
                            arch, out, err);
}

/* ------------------------------------------------------------------ layers */

static glia_status check_layer(const place *p, int32_t n_layer, glia_hook_target *out, glia_err *err) {
    if (p->all_layers) {
        out->all_layers = true;
        out->layer = 0;
        return GLIA_OK;
    }
    int64_t layer = p->layer < 0 ? p->layer + n_layer : p->layer;
    if (p->layer < -(int64_t)n_layer || layer >= n_layer) {
        return glia_fail_at(err, GLIA_EINVAL, p->field, "layer %lld does not exist: this model has layers 0 to %d",
                            (long long)p->layer, (int)n_layer - 1);
    }
    out->layer = (int32_t)layer;
    return GLIA_OK;
}

/* Every point of the target that needs a layer gets the one of `p`; a final norm's input is the last block's output. */
static glia_status resolve_layer(const place *p, bool final_input, int32_t n_layer, glia_hook_target *out,
                                 glia_err *err) {
    bool needs = false, lacks = false;
    for (size_t i = 0; i < out->n_points; i++) {
        if (glia_point_has_layer(out->point[i])) needs = true;
        else lacks = true;
    }
    out->layer = -1;
    if (final_input && needs) {
        out->layer = n_layer - 1;
        return GLIA_OK;
    }
    if (!needs) {
        if (!p->has_layer) return GLIA_OK;
        return glia_fail_at(err, GLIA_EINVAL, p->field, "\"%s\" belongs to no layer: leave the layer out",
                            glia_point_name(out->point[0]));
    }
    if (lacks || !p->has_layer) {
        return glia_fail_at(err, GLIA_EINVAL, "layer", "layer is missing: a number from 0 to %d, or \"*\" for all",
                            (int)n_layer - 1);
    }
    return check_layer(p, n_layer, out, err);
}

/* The one path among layer, layer_name and name; a plain number may stand beside a path that says the same. */
static glia_status find_place(const glia_hook_spec *s, int32_t n_layer, place *at, glia_err *err) {
    place number = {.point = -1, .field = "layer", .text = ""};
    *at = number;
    glia_status st;
    if (s->layer_name && s->name) {
        return glia_fail_at(err, GLIA_EINVAL, "name", "give either name or layer_name, not both");
    }
    if (s->has_layer) number.given = number.has_layer = true, number.layer = s->layer;
    if (s->layer_text && (st = parse_layer_text(s->layer_text, &number, err))) return st;
    const char *path = s->layer_name ? s->layer_name : s->name;
    if (!path) {
        *at = number;
        return GLIA_OK;
    }
    if ((st = parse_path(path, s->layer_name ? "layer_name" : "name", at, err)) || !number.given) return st;
    if (number.module || number.point >= 0) {
        return glia_fail_at(err, GLIA_EINVAL, "layer", "layer and %s both hold a name: give one", at->field);
    }
    if (!at->has_layer) {
        at->has_layer = true, at->all_layers = number.all_layers, at->layer = number.layer;
        return GLIA_OK;
    }
    int64_t wanted = number.layer < 0 ? number.layer + n_layer : number.layer;
    if (number.all_layers != at->all_layers || (!at->all_layers && wanted != at->layer)) {
        return glia_fail_at(err, GLIA_EINVAL, "layer", "layer contradicts %s \"%.80s\"", at->field, path);
    }
    return GLIA_OK;
}

glia_status glia_names_resolve(const glia_hook_spec *s, int32_t n_layer, const char *arch, glia_hook_target *out,
                               glia_err *err) {
    *out = (glia_hook_target){.layer = -1};
    place at;
    part c;
    glia_status st;
    if (!s->input && !s->output) {
        return glia_fail_at(err, GLIA_EINVAL, "capture_output", "nothing to capture: both sides are switched off");
    }
    if ((st = parse_component(s->component, &c, err))) return st;
    if ((st = find_place(s, n_layer, &at, err))) return st;
    if ((st = resolve_points(s, &at, &c, arch, out, err))) return st;
    return resolve_layer(&at, at.module && at.module->family == F_FINAL, n_layer, out, err);
}
