/* tap/verdict.c — see verdict.h. */
#include "verdict.h"
#include <string.h>

static const char magic[8] = {'G', 'L', 'I', 'A', 'P', 'R', 'V', '1'};
enum { AT_KEY = 8, AT_MAP = 40, AT_COUNT = 48, AT_GRADES = 52 };

/* FNV-1a, 64 bit (Fowler, Noll, Vo; RFC 9923) */
static uint64_t fnv(uint64_t h, const void *p, size_t n) {
    const unsigned char *s = p;
    for (size_t i = 0; i < n; i++) h = (h ^ s[i]) * 0x100000001b3u;
    return h;
}
#define FNV_START 0xcbf29ce484222325u

static size_t n_places(const glia_atlas *at) { return (size_t)GLIA_N_POINTS * (size_t)at->n_layer; }

/* Everything that the proof depended on, field by field: padding has no say. */
uint64_t glia_verdict_map(const glia_atlas *at) {
    uint64_t h = FNV_START;
#define ADD(x) h = fnv(h, &(x), sizeof(x))
    ADD(at->n_nodes), ADD(at->n_layer), ADD(at->token_node), ADD(at->pos_node), ADD(at->cell_node), ADD(at->out_node);
    int32_t proof = (int32_t)at->pos_proof;
    ADD(proof);
    for (int32_t i = 0; i < at->n_nodes; i++) {
        ADD(at->sig[i].op);
        h = fnv(h, at->sig[i].name, strlen(at->sig[i].name) + 1);
    }
    for (size_t i = 0; i < n_places(at); i++) {
        const glia_place *p = &at->place[i];
        bool there = p->grade >= GLIA_GRADE_AMBIGUOUS; /* the grade itself is the verdict */
        ADD(there), ADD(p->node), ADD(p->width), ADD(p->node_width), ADD(p->column), ADD(p->n_heads), ADD(p->head_dim);
        ADD(p->row_axis), ADD(p->row_kind), ADD(p->integers), ADD(p->more_terms), ADD(p->by_row), ADD(p->eps);
    }
    for (int32_t i = 0; i < at->n_layer; i++) {
        const glia_attn_rule *r = &at->rule[i];
        const glia_attn *a = &at->attn[i];
        ADD(r->known), ADD(r->capped), ADD(r->sinks), ADD(r->inner), ADD(r->outer), ADD(r->max_bias);
        ADD(a->node), ADD(a->logits), ADD(a->cache), ADD(a->flash);
    }
#undef ADD
    return h;
}

static void add_number(glia_buf *b, uint64_t v, int bytes) {
    unsigned char s[8];
    for (int i = 0; i < bytes; i++) s[i] = (unsigned char)(v >> (8 * i));
    glia_buf_add(b, s, (size_t)bytes);
}

static uint64_t number(const unsigned char *s, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)s[i] << (8 * i);
    return v;
}

/* Did the proof leave a reason here?  A place that never was there has the map's own. */
static bool told(const glia_place *p) {
    return p->grade == GLIA_GRADE_AMBIGUOUS || (p->grade == GLIA_GRADE_ABSENT && p->by_proof);
}

void glia_verdict_write(const glia_atlas *at, const unsigned char key[GLIA_VERDICT_KEY], uint64_t map, glia_buf *b) {
    size_t start = b->n, n = n_places(at);
    uint32_t n_reasons = 0;
    glia_buf_add(b, magic, sizeof magic);
    glia_buf_add(b, key, GLIA_VERDICT_KEY);
    add_number(b, map, 8);
    add_number(b, n, 4);
    for (size_t i = 0; i < n; i++) {
        add_number(b, (uint64_t)at->place[i].grade, 1);
        n_reasons += told(&at->place[i]);
    }
    add_number(b, n_reasons, 4);
    for (size_t i = 0; i < n; i++) {
        if (!told(&at->place[i])) continue;
        size_t len = strlen(at->place[i].reason);
        add_number(b, i, 4);
        add_number(b, len, 1);
        glia_buf_add(b, at->place[i].reason, len);
    }
    if (!b->failed) add_number(b, fnv(FNV_START, b->p + start, b->n - start), 8);
}

/* Is this grade a refusal by the proof, of a place that the map has? */
static bool refused(const glia_atlas *at, size_t i, unsigned char grade) {
    return at->place[i].grade >= GLIA_GRADE_AMBIGUOUS && grade <= GLIA_GRADE_AMBIGUOUS;
}

/* Reasons from s to end: exactly one for every refused place, in order; written into at only when `take`. */
static bool read_reasons(glia_atlas *at, const unsigned char *grades, const unsigned char *s, const unsigned char *end,
                         bool take) {
    size_t n = n_places(at), left = 0;
    for (size_t i = 0; i < n; i++) left += refused(at, i, grades[i]);
    if (end - s < 4 || number(s, 4) != left) return false;
    s += 4;
    for (size_t i = 0; i < n; i++) {
        glia_place *p = &at->place[i];
        if (!refused(at, i, grades[i])) {
            if (take) p->grade = (glia_grade)grades[i];
            continue;
        }
        if (end - s < 5 || number(s, 4) != i) return false;
        size_t len = s[4];
        s += 5;
        if (!len || len >= sizeof p->reason || (size_t)(end - s) < len) return false;
        for (size_t k = 0; k < len; k++) {
            if (s[k] < ' ' || s[k] > '~') return false; /* the reasons are plain English */
        }
        if (take) {
            if (grades[i] == GLIA_GRADE_ABSENT) *p = (glia_place){.node = -1, .by_proof = true};
            p->grade = (glia_grade)grades[i];
            memcpy(p->reason, s, len), p->reason[len] = 0;
        }
        s += len;
    }
    return s == end;
}

bool glia_verdict_apply(glia_atlas *at, const unsigned char key[GLIA_VERDICT_KEY], const void *bytes, size_t size) {
    const unsigned char *s = bytes;
    size_t n = n_places(at);
    if (size < AT_GRADES + n + 4 + 8 || memcmp(s, magic, sizeof magic) != 0) return false;
    if (memcmp(s + AT_KEY, key, GLIA_VERDICT_KEY) != 0 || number(s + AT_COUNT, 4) != n) return false;
    if (number(s + size - 8, 8) != fnv(FNV_START, s, size - 8) || number(s + AT_MAP, 8) != glia_verdict_map(at))
        return false;
    const unsigned char *grades = s + AT_GRADES, *reasons = grades + n, *end = s + size - 8;
    for (size_t i = 0; i < n; i++) { /* nothing appears by a proof */
        if (grades[i] > GLIA_GRADE_PROVEN || (!at->place[i].grade && grades[i])) return false;
    }
    return read_reasons(at, grades, reasons, end, false) && read_reasons(at, grades, reasons, end, true);
}
