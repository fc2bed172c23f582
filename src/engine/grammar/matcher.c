/* engine/grammar/matcher.c — see matcher.h.
 *
 *   item  (pos, node): within the call `node` of a rule, the symbol at pos comes next
 *   node  a rule called at one place of the text; edges: where to go on when it is done, and in which call
 *
 * A level is what may come after one character: the items whose next symbol is a character (others are worked off).
 * All calls of one rule at one place are one node.  A call in last position hands on its caller's edges instead of its
 * own (older callers at once, those of the same level when the level is sealed), so that right recursion adds nothing. */
#include "engine/grammar/matcher.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

enum {
    MAX_NODES = 1 << 20,
    MAX_EDGES = 1 << 21,
    MAX_ITEMS = 1 << 20,
    ONE_STEP = 40 * 1000 * 1000, /* units of work for one token: a fraction of a second */
    PER_TOKEN = 4 * 1000 * 1000, /* what every token may cost on average, … */
    AT_FIRST = 150 * 1000 * 1000 /* … beyond this */
};
#define NONE UINT32_MAX

typedef struct item {
    uint32_t pos, node;
} item;

typedef struct edge {
    uint32_t pos, node, next;
} edge;

typedef struct node {
    uint32_t level, edges;
    uint32_t seen; /* by which node's sealing */
    bool done;     /* completed without a character: later callers go on at once */
} node;

/* One place in the text.  Items lie in m->items. */
typedef struct place {
    uint32_t first, n;                  /* items */
    uint32_t partial, least;            /* bits of a cut character so far; smallest code point of its length */
    uint32_t n_nodes, n_edges, n_items; /* marks: what there is up to here */
    uint8_t missing;                    /* bytes of a cut character still to come */
    bool accepts;
} place;

struct glia_matcher {
    const glia_grammar *g;
    node *nodes;
    edge *edges;
    item *items, *todo;
    uint32_t n_nodes, n_edges, n_items, n_todo, cap_nodes, cap_edges, cap_items, cap_todo;
    uint32_t *called, *called_at; /* [n_rules] the node of a rule at level called_at */
    uint32_t *set;                /* hash of the todo list: index + 1 */
    uint32_t *set_level, set_size;
    uint32_t level;
    place *path;        /* [GLIA_MATCH_BYTES + 1]; [0] is where the text stands */
    size_t depth, dead; /* tried: path[0..depth]; the first `dead` bytes do not fit (SIZE_MAX: they do) */
    int64_t budget, step;
    const char *why;
    bool no_memory;
};

/* ------------------------------------------------------------------ memory */

static bool give_up(glia_matcher *m, const char *why, bool no_memory) {
    if (!m->why) m->why = why, m->no_memory = no_memory;
    return false;
}

static bool grow(glia_matcher *m, void **p, uint32_t *cap, uint32_t n, uint32_t max, size_t size) {
    if (n < *cap) return true;
    if (n >= max) return give_up(m, "the grammar is too ambiguous for this text", false);
    uint32_t wanted = *cap ? *cap * 2 : 256;
    void *more = glia_realloc(*p, wanted * size);
    if (!more) return give_up(m, "out of memory for the grammar", true);
    *p = more, *cap = wanted;
    return true;
}

static bool pay(glia_matcher *m, int64_t work) {
    m->budget -= work, m->step -= work;
    if (m->budget >= 0 && m->step >= 0) return true;
    return give_up(m, "the grammar needs too much work: make it simpler", false);
}

/* ------------------------------------------------------------------ one level */

static uint32_t hash(item i) { return (i.pos * 2654435761u) ^ (i.node * 2246822519u); }

static bool rehash(glia_matcher *m) {
    uint32_t size = m->set_size ? m->set_size * 2 : 256;
    uint32_t *set = glia_calloc(size, sizeof *set), *level = glia_calloc(size, sizeof *level);
    if (!set || !level) {
        glia_free(set), glia_free(level);
        return give_up(m, "out of memory for the grammar", true);
    }
    for (uint32_t k = 0; k < m->n_todo; k++) {
        uint32_t at = hash(m->todo[k]) & (size - 1);
        while (set[at]) at = (at + 1) & (size - 1);
        set[at] = k + 1, level[at] = m->level;
    }
    glia_free(m->set), glia_free(m->set_level);
    m->set = set, m->set_level = level, m->set_size = size;
    return true;
}

static bool add_item(glia_matcher *m, uint32_t pos, uint32_t in) {
    item i = {pos, in};
    if (!pay(m, 1) || (m->n_todo * 2 >= m->set_size && !rehash(m))) return false;
    uint32_t at = hash(i) & (m->set_size - 1);
    for (; m->set_level[at] == m->level && m->set[at]; at = (at + 1) & (m->set_size - 1)) {
        const item *have = &m->todo[m->set[at] - 1];
        if (have->pos == pos && have->node == in) return true;
    }
    if (!grow(m, (void **)&m->todo, &m->cap_todo, m->n_todo, MAX_ITEMS, sizeof *m->todo)) return false;
    m->todo[m->n_todo++] = i;
    m->set[at] = m->n_todo, m->set_level[at] = m->level;
    return true;
}

static bool add_edge(glia_matcher *m, uint32_t to, uint32_t pos, uint32_t in) {
    for (uint32_t e = m->nodes[to].edges; e != NONE; e = m->edges[e].next) {
        if (m->edges[e].pos == pos && m->edges[e].node == in) return pay(m, 1);
        if (!pay(m, 1)) return false;
    }
    if (!grow(m, (void **)&m->edges, &m->cap_edges, m->n_edges, MAX_EDGES, sizeof *m->edges)) return false;
    m->edges[m->n_edges] = (edge){pos, in, m->nodes[to].edges};
    m->nodes[to].edges = m->n_edges++;
    return !m->nodes[to].done || add_item(m, pos, in);
}

/* The node of a rule at this level; made with its alternatives when it is the first call. */
static bool call(glia_matcher *m, uint32_t rule, uint32_t *out_node) {
    if (m->called_at[rule] == m->level) {
        *out_node = m->called[rule];
        return true;
    }
    if (!grow(m, (void **)&m->nodes, &m->cap_nodes, m->n_nodes, MAX_NODES, sizeof *m->nodes)) return false;
    uint32_t id = m->n_nodes++;
    m->nodes[id] = (node){.level = m->level, .edges = NONE, .seen = NONE};
    m->called[rule] = id, m->called_at[rule] = m->level;
    *out_node = id;
    const glia_span *alts = &m->g->rules[rule];
    for (uint32_t a = alts->first; a < alts->first + alts->n; a++) {
        if (!add_item(m, m->g->alts[a], id)) return false;
    }
    return true;
}

static bool complete(glia_matcher *m, uint32_t in) {
    if (m->nodes[in].level == m->level) m->nodes[in].done = true;
    for (uint32_t e = m->nodes[in].edges; e != NONE; e = m->edges[e].next) {
        if (!add_item(m, m->edges[e].pos, m->edges[e].node)) return false;
    }
    return true;
}

static bool predict(glia_matcher *m, item i, uint32_t rule) {
    uint32_t to;
    if (!call(m, rule, &to)) return false;
    bool last = m->g->syms[i.pos + 1].kind == GLIA_SYM_END;
    if (!last || m->nodes[i.node].level == m->level) return add_edge(m, to, i.pos + 1, i.node);
    for (uint32_t e = m->nodes[i.node].edges; e != NONE; e = m->edges[e].next) {
        if (!add_edge(m, to, m->edges[e].pos, m->edges[e].node)) return false;
    }
    return true;
}

/* Replace edges that only hand on (their place is the end of a rule called at this level) by what they lead to. */
static bool seal_node(glia_matcher *m, uint32_t id) {
    uint32_t before = NONE, at = m->nodes[id].edges;
    m->nodes[id].seen = id;
    while (at != NONE) {
        edge e = m->edges[at];
        if (!pay(m, 1)) return false;
        if (m->g->syms[e.pos].kind != GLIA_SYM_END) {
            before = at, at = e.next;
            continue;
        }
        if (before == NONE) m->nodes[id].edges = e.next;
        else m->edges[before].next = e.next;
        if (m->nodes[e.node].seen != id) { /* each caller once: unit cycles end here */
            m->nodes[e.node].seen = id;
            for (uint32_t f = m->nodes[e.node].edges; f != NONE; f = m->edges[f].next) {
                if (!add_edge(m, id, m->edges[f].pos, m->edges[f].node)) return false;
            }
        }
        before = NONE, at = m->nodes[id].edges; /* new ones stand in front */
    }
    return true;
}

/* Work off m->todo; what waits for a character becomes the items of *p. */
static bool close_level(glia_matcher *m, place *p) {
    uint32_t first_node = m->n_nodes;
    p->first = m->n_items, p->accepts = false;
    for (uint32_t k = 0; k < m->n_todo; k++) {
        item i = m->todo[k];
        glia_sym s = m->g->syms[i.pos];
        bool ok = true;
        switch ((glia_sym_kind)s.kind) {
        case GLIA_SYM_CHAR:
        case GLIA_SYM_CLASS:
            ok = grow(m, (void **)&m->items, &m->cap_items, m->n_items, MAX_ITEMS, sizeof *m->items);
            if (ok) m->items[m->n_items++] = i;
            break;
        case GLIA_SYM_RULE: ok = predict(m, i, s.value); break;
        case GLIA_SYM_END: ok = complete(m, i.node); break;
        case GLIA_SYM_ACCEPT: p->accepts = true; break;
        }
        if (!ok) return false;
    }
    for (uint32_t id = first_node; id < m->n_nodes; id++) {
        if (!seal_node(m, id)) return false;
    }
    p->n = m->n_items - p->first;
    p->n_nodes = m->n_nodes, p->n_edges = m->n_edges, p->n_items = m->n_items;
    return true;
}

static void open_level(glia_matcher *m) { m->level++, m->n_todo = 0; }

/* ------------------------------------------------------------------ characters and bytes */

static glia_match read_character(glia_matcher *m, const place *from, uint32_t c, place *to) {
    *to = (place){0};
    open_level(m);
    for (uint32_t k = 0; k < from->n; k++) {
        item i = m->items[from->first + k];
        if (!pay(m, 1)) return GLIA_MATCH_FAILED;
        if (glia_sym_takes(m->g, m->g->syms[i.pos], c) && !add_item(m, i.pos + 1, i.node)) return GLIA_MATCH_FAILED;
    }
    if (!m->n_todo) return GLIA_MATCH_NO;
    return close_level(m, to) ? GLIA_MATCH_YES : GLIA_MATCH_FAILED;
}

/* A character that is not whole yet: can any that begins so follow? */
static glia_match read_part(glia_matcher *m, const place *from, uint32_t bits, uint32_t least, uint8_t missing,
                            place *to) {
    uint32_t lo = bits << (6 * missing), hi = lo | ((1u << (6 * missing)) - 1);
    if (lo < least) lo = least;
    if (hi > 0x10ffff) hi = 0x10ffff;
    *to = *from;
    to->partial = bits, to->least = least, to->missing = missing;
    to->n_nodes = m->n_nodes, to->n_edges = m->n_edges, to->n_items = m->n_items;
    if (lo > hi) return GLIA_MATCH_NO;
    for (uint32_t k = 0; k < from->n; k++) {
        if (!pay(m, 1)) return GLIA_MATCH_FAILED;
        if (glia_sym_meets(m->g, m->g->syms[m->items[from->first + k].pos], lo, hi)) return GLIA_MATCH_YES;
    }
    return GLIA_MATCH_NO;
}

static glia_match read_byte(glia_matcher *m, const place *from, unsigned char b, place *to) {
    if (from->missing) {
        if ((b & 0xc0) != 0x80) return GLIA_MATCH_NO;
        uint32_t bits = from->partial << 6 | (b & 0x3f);
        if (from->missing > 1) return read_part(m, from, bits, from->least, (uint8_t)(from->missing - 1), to);
        if (bits < from->least || bits > 0x10ffff || (bits >= 0xd800 && bits <= 0xdfff)) return GLIA_MATCH_NO;
        return read_character(m, from, bits, to);
    }
    if (b < 0x80) return read_character(m, from, b, to);
    if (b < 0xc2 || b > 0xf4) return GLIA_MATCH_NO;
    if (b < 0xe0) return read_part(m, from, b & 0x1f, 0x80, 1, to);
    if (b < 0xf0) return read_part(m, from, b & 0x0f, 0x800, 2, to);
    return read_part(m, from, b & 0x07, 0x10000, 3, to);
}

/* ------------------------------------------------------------------ trying and reading */

static void back_to(glia_matcher *m, size_t depth) {
    const place *p = &m->path[depth];
    m->depth = depth;
    m->n_nodes = p->n_nodes, m->n_edges = p->n_edges, m->n_items = p->n_items;
}

void glia_matcher_try_begin(glia_matcher *m) {
    m->step = ONE_STEP;
    m->dead = SIZE_MAX;
    back_to(m, 0);
}

void glia_matcher_try_end(glia_matcher *m) { back_to(m, 0); }

glia_match glia_matcher_try(glia_matcher *m, const char *bytes, size_t n, size_t shared) {
    if (m->why) return GLIA_MATCH_FAILED;
    if (shared >= m->dead) return GLIA_MATCH_NO;
    m->dead = SIZE_MAX;
    if (shared < m->depth) back_to(m, shared);
    if (n > GLIA_MATCH_BYTES) return GLIA_MATCH_NO; /* the next one shares what was read of this: nothing new */
    while (m->depth < n) {
        glia_match r = read_byte(m, &m->path[m->depth], (unsigned char)bytes[m->depth], &m->path[m->depth + 1]);
        if (r == GLIA_MATCH_NO) {
            m->dead = m->depth + 1;
            back_to(m, m->depth);
        }
        if (r != GLIA_MATCH_YES) return r;
        m->depth++;
    }
    return GLIA_MATCH_YES;
}

glia_match glia_matcher_read(glia_matcher *m, const char *bytes, size_t n) {
    while (n) {
        size_t now = n < GLIA_MATCH_BYTES ? n : GLIA_MATCH_BYTES;
        glia_matcher_try_begin(m);
        glia_match r = glia_matcher_try(m, bytes, now, 0);
        if (r != GLIA_MATCH_YES) {
            glia_matcher_try_end(m);
            return r;
        }
        place p = m->path[m->depth]; /* keep the calls, forget the items of the places between */
        memmove(m->items, m->items + p.first, p.n * sizeof *m->items);
        p.first = 0, p.n_items = m->n_items = p.n;
        m->path[0] = p, m->depth = 0;
        bytes += now, n -= now;
    }
    m->budget += PER_TOKEN;
    return GLIA_MATCH_YES;
}

bool glia_matcher_may_end(const glia_matcher *m) { return m->path[0].accepts && !m->path[0].missing; }
bool glia_matcher_must_end(const glia_matcher *m) { return glia_matcher_may_end(m) && !m->path[0].n; }
const char *glia_matcher_why(const glia_matcher *m) { return m->why ? m->why : ""; }
bool glia_matcher_no_memory(const glia_matcher *m) { return m->no_memory; }

/* ------------------------------------------------------------------ life */

glia_status glia_matcher_new(glia_matcher **out_m, const glia_grammar *g, glia_err *err) {
    glia_matcher *m = *out_m = glia_calloc(1, sizeof *m);
    if (!m) return glia_fail(err, GLIA_ENOMEM, "out of memory for the grammar");
    m->g = g, m->budget = AT_FIRST, m->step = ONE_STEP;
    m->called = glia_calloc(g->n_rules + 1, sizeof *m->called);
    m->called_at = glia_calloc(g->n_rules + 1, sizeof *m->called_at);
    m->path = glia_calloc(GLIA_MATCH_BYTES + 1, sizeof *m->path);
    uint32_t first;
    bool ok = m->called && m->called_at && m->path &&
              grow(m, (void **)&m->nodes, &m->cap_nodes, 0, MAX_NODES, sizeof *m->nodes);
    if (ok) {
        m->nodes[m->n_nodes++] =
            (node){.edges = NONE, .seen = NONE}; /* what calls the root: nothing goes on behind it */
        open_level(m);
        ok = call(m, g->root, &first) && add_edge(m, first, g->accept, 0) && close_level(m, &m->path[0]);
    }
    if (ok) {
        *out_m = m;
        return GLIA_OK;
    }
    glia_status st = m->why && !m->no_memory ? glia_fail_at(err, GLIA_EINVAL, "grammar", "%s", m->why)
                                             : glia_fail(err, GLIA_ENOMEM, "out of memory for the grammar");
    glia_matcher_free(m);
    *out_m = NULL;
    return st;
}

void glia_matcher_free(glia_matcher *m) {
    if (!m) return;
    glia_free(m->nodes), glia_free(m->edges), glia_free(m->items), glia_free(m->todo);
    glia_free(m->called), glia_free(m->called_at), glia_free(m->set), glia_free(m->set_level), glia_free(m->path);
    glia_free(m);
}
