/* api/schema.c — see schema.h.  One rule per schema; `$ref` is a rule that several use, so cycles are recursion. */
#include "api/schema.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 96, MAX_REFS = 256 };
static const int64_t limit = 100000000000000000; /* 10^17: larger ones are never written */

typedef struct schema {
    yyjson_val *root;
    const char *name, *path; /* of its rules; of the schema in the request */
    glia_buf *out;
    glia_err *err;
    bool relaxed;
    size_t n_rules, n_nodes;
    struct {
        yyjson_val *target;
        size_t rule;
    } refs[MAX_REFS];
    size_t n_refs;
} schema;

static glia_status value(schema *s, yyjson_val *v, const char *path, size_t rule);

/* ------------------------------------------------------------------ writing */

void glia_gbnf_literal(glia_buf *b, const char *text, size_t n) {
    glia_buf_adds(b, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') glia_buf_addf(b, "\\%c", c);
        else if (c < 0x20 || c == 0x7f) glia_buf_addf(b, "\\x%02X", c);
        else glia_buf_add(b, text + i, 1);
    }
    glia_buf_adds(b, "\"");
}

void glia_schema_basics(glia_buf *b) {
    glia_buf_adds(
        b, "ws ::= \"\" | \" \" | \"\\n\" [ \\t]{0,20}\n"
           "hex ::= [0-9a-fA-F]\n"
           "char ::= [^\"\\\\\\x00-\\x1f\\x7f] | \"\\\\\" ([\"\\\\/bfnrt] | \"u\" ([0-9a-cA-CefEF] hex hex hex | "
           "[dD] [0-7] hex hex))\n"
           "string ::= \"\\\"\" char* \"\\\"\"\n"
           "integer ::= \"-\"? (\"0\" | [1-9] [0-9]{0,15})\n"
           "number ::= integer (\".\" [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?\n"
           "boolean ::= \"true\" | \"false\"\n"
           "null ::= \"null\"\n"
           "array ::= \"[\" ws (any (ws \",\" ws any)* ws)? \"]\"\n"
           "object ::= \"{\" ws (string ws \":\" ws any (ws \",\" ws string ws \":\" ws any)* ws)? \"}\"\n"
           "any ::= object | array | string | number | boolean | null\n");
}

static void begin(schema *s, size_t rule) { glia_buf_addf(s->out, "%s-%zu ::= ", s->name, rule); }

static size_t new_rule(schema *s) { return s->n_rules++; }

/* A JSON value as it stands in the answer. */
static glia_status add_constant(schema *s, yyjson_val *v, const char *path) {
    size_t n;
    char *text = yyjson_val_write(v, 0, &n);
    if (!text) return glia_fail(s->err, GLIA_ENOMEM, "no memory for %s", path);
    glia_gbnf_literal(s->out, text, n);
    free(text);
    return GLIA_OK;
}

static glia_status refuse(schema *s, const char *path, const char *key, const char *why) {
    char param[PATH];
    glia_json_join(param, sizeof param, path, key);
    return glia_fail_at(s->err, GLIA_EINVAL, param, "%s: %s", param, why);
}

static void join(char out[PATH], const char *path, const char *key) { glia_json_join(out, PATH, path, key); }

/* ------------------------------------------------------------------ keywords */

static bool is_annotation(const char *key) {
    static const char *const names[] = {"title",          "description", "default",  "examples",  "example",
                                        "$schema",        "$id",         "$comment", "$defs",     "definitions",
                                        "$anchor",        "deprecated",  "readOnly", "writeOnly", "contentMediaType",
                                        "contentEncoding"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(key, names[i])) return true;
    }
    return !strncmp(key, "x-", 2);
}

static bool is_one_of(const char *key, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(key, names[i])) return true;
    }
    return false;
}

static glia_status check_keywords(schema *s, yyjson_val *v, const char *path) {
    static const char *const known[] = {"type",
                                        "enum",
                                        "const",
                                        "$ref",
                                        "anyOf",
                                        "oneOf",
                                        "allOf",
                                        "properties",
                                        "required",
                                        "additionalProperties",
                                        "items",
                                        "prefixItems",
                                        "minItems",
                                        "maxItems",
                                        "minLength",
                                        "maxLength",
                                        "pattern",
                                        "format",
                                        "minimum",
                                        "maximum",
                                        "exclusiveMinimum",
                                        "exclusiveMaximum",
                                        "multipleOf",
                                        "uniqueItems",
                                        "minProperties",
                                        "maxProperties"};
    yyjson_obj_iter it;
    yyjson_val *key;
    if (s->relaxed) return GLIA_OK;
    for (yyjson_obj_iter_init(v, &it); (key = yyjson_obj_iter_next(&it));) {
        const char *name = yyjson_get_str(key);
        if (is_annotation(name) || is_one_of(name, known, sizeof known / sizeof *known)) continue;
        return refuse(s, path, name, "this keyword cannot be enforced: leave it out");
    }
    return GLIA_OK;
}

/* Only annotations beside `key` (and one other). */
static glia_status stands_alone(schema *s, yyjson_val *v, const char *path, const char *key, const char *also) {
    yyjson_obj_iter it;
    yyjson_val *k;
    if (s->relaxed) return GLIA_OK;
    for (yyjson_obj_iter_init(v, &it); (k = yyjson_obj_iter_next(&it));) {
        const char *name = yyjson_get_str(k);
        if (!strcmp(name, key) || !strcmp(name, also) || is_annotation(name)) continue;
        return refuse(s, path, name, "cannot be enforced together with $ref, anyOf, oneOf, allOf, enum or const");
    }
    return GLIA_OK;
}

static glia_status count_of(schema *s, yyjson_val *v, const char *path, const char *key, int64_t *out, bool *given) {
    return glia_json_int(v, path, key, 0, GLIA_SCHEMA_REPEAT, out, given, s->err);
}

/* Least and most of something; *most is -1 without a limit. */
static glia_status counts(schema *s, yyjson_val *v, const char *path, const char *least_key, const char *most_key,
                          int64_t *least, int64_t *most) {
    bool given;
    *least = 0, *most = -1;
    glia_status st = count_of(s, v, path, least_key, least, &given);
    if (st) return st;
    int64_t wide;
    yyjson_val *upper = glia_json_get(v, most_key);
    if (s->relaxed && glia_json_whole(upper, &wide) && wide > GLIA_SCHEMA_REPEAT) return GLIA_OK; /* as good as none */
    if ((st = count_of(s, v, path, most_key, most, &given))) return st;
    if (*most >= 0 && *most < *least) return refuse(s, path, most_key, "is below its least: nothing can match");
    return GLIA_OK;
}

/* ------------------------------------------------------------------ strings */

static const struct {
    const char *name, *gbnf;
} formats[] = {
    {"date", "[0-9]{4} \"-\" (\"0\" [1-9] | \"1\" [0-2]) \"-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" [0-8])"},
    {"time",
     "([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,6})? (\"Z\" | [-+] ([01] [0-9] | "
     "\"2\" [0-3]) \":\" [0-5] [0-9])"},
    {"date-time",
     "[0-9]{4} \"-\" (\"0\" [1-9] | \"1\" [0-2]) \"-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" [0-8]) \"T\" ([01] [0-9] "
     "| \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,6})? (\"Z\" | [-+] ([01] [0-9] | \"2\" "
     "[0-3]) \":\" [0-5] [0-9])"},
    {"duration", "\"P\" ([0-9]{1,4} \"D\" | \"T\" [0-9]{1,4} [HMS] | [0-9]{1,4} \"W\" | [0-9]{1,4} [YM])"},
    {"uuid", "hex{8} \"-\" hex{4} \"-\" hex{4} \"-\" hex{4} \"-\" hex{12}"},
    {"email",
     "[a-zA-Z0-9] [a-zA-Z0-9_+-]{0,40} (\".\" [a-zA-Z0-9_+-]{1,20}){0,3} \"@\" ([a-zA-Z0-9] [a-zA-Z0-9-]{0,20} "
     "[a-zA-Z0-9] \".\"){1,3} [a-zA-Z]{2,10}"},
    {"hostname", "([a-zA-Z0-9] ([a-zA-Z0-9-]{0,40} [a-zA-Z0-9])? \".\"){0,4} [a-zA-Z]{1,20}"},
    {"ipv4",
     "((\"25\" [0-5] | \"2\" [0-4] [0-9] | \"1\" [0-9] [0-9] | [1-9]? [0-9]) \".\"){3} (\"25\" [0-5] | \"2\" [0-4] [0-9] "
     "| \"1\" [0-9] [0-9] | [1-9]? [0-9])"},
};

static bool known_format(const char *name) {
    for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++) {
        if (!strcmp(formats[i].name, name)) return true;
    }
    return false;
}

static glia_status string(schema *s, yyjson_val *v, const char *path) {
    const char *format = NULL;
    int64_t least, most;
    glia_status st = glia_json_str(v, path, "format", &format, s->err);
    if (st || (st = counts(s, v, path, "minLength", "maxLength", &least, &most))) return st;
    yyjson_val *pattern = glia_json_get(v, "pattern");
    bool lengths = least > 0 || most >= 0;
    if (pattern && !yyjson_is_str(pattern)) return refuse(s, path, "pattern", "must be a string");
    if (s->relaxed && (pattern || format)) { /* the first that can be said */
        glia_buf trial = {0};
        glia_err why;
        if (pattern && lengths) pattern = NULL;
        if (pattern && glia_pattern_gbnf(yyjson_get_str(pattern), yyjson_get_len(pattern), path, &trial, &why))
            pattern = NULL;
        glia_buf_clear(&trial);
        if (pattern || lengths || !known_format(format)) format = NULL;
    }
    if ((pattern != NULL) + (format != NULL) + lengths > 1)
        return refuse(s, path, pattern ? "pattern" : "format",
                      "only one of pattern, format and lengths can be enforced");
    if (pattern) {
        char at[PATH];
        join(at, path, "pattern");
        glia_buf_adds(s->out, "\"\\\"\" ");
        if ((st = glia_pattern_gbnf(yyjson_get_str(pattern), yyjson_get_len(pattern), at, s->out, s->err))) return st;
        glia_buf_adds(s->out, " \"\\\"\"");
        return GLIA_OK;
    }
    if (format) {
        for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
            if (strcmp(formats[i].name, format) != 0) continue;
            glia_buf_addf(s->out, "\"\\\"\" %s \"\\\"\"", formats[i].gbnf);
            return GLIA_OK;
        }
        return refuse(s, path, "format", "this format cannot be enforced: use pattern, or leave it out");
    }
    if (!lengths) glia_buf_adds(s->out, "string");
    else if (most < 0) glia_buf_addf(s->out, "\"\\\"\" char{%lld,} \"\\\"\"", (long long)least);
    else glia_buf_addf(s->out, "\"\\\"\" char{%lld,%lld} \"\\\"\"", (long long)least, (long long)most);
    return GLIA_OK;
}

/* ------------------------------------------------------------------ numbers */

static void digits(glia_buf *b, size_t n) {
    if (n) glia_buf_addf(b, " [0-9]{%zu}", n);
}

static void digit_range(glia_buf *b, char from, char to) {
    if (from == to) glia_buf_addf(b, "\"%c\"", from);
    else glia_buf_addf(b, "[%c-%c]", from, to);
}

/* Digit strings of n digits from x (all ≥) or up to y (all ≤); NULL: no bound on that side. */
static void same_length(glia_buf *b, const char *x, const char *y, size_t n) {
    bool low = x && strspn(x, "0") < n, high = y && strspn(y, "9") < n;
    if (!n) {
        glia_buf_adds(b, "\"\"");
    } else if (!low && !high) {
        glia_buf_addf(b, "[0-9]{%zu}", n);
    } else if (x && y && x[0] == y[0]) {
        glia_buf_addf(b, "\"%c\" (", x[0]);
        same_length(b, x + 1, y + 1, n - 1);
        glia_buf_adds(b, ")");
    } else {
        char lo = low ? x[0] : '0', hi = high ? y[0] : '9';
        bool more = false;
        if (low) {
            glia_buf_addf(b, "\"%c\" (", lo++);
            same_length(b, x + 1, NULL, n - 1);
            glia_buf_adds(b, ")");
            more = true;
        }
        if (high) {
            glia_buf_addf(b, "%s\"%c\" (", more ? " | " : "", hi--);
            same_length(b, NULL, y + 1, n - 1);
            glia_buf_adds(b, ")");
            more = true;
        }
        if (lo <= hi) {
            if (more) glia_buf_adds(b, " | ");
            digit_range(b, lo, hi);
            digits(b, n - 1);
        }
    }
}

/* Whole numbers lo..hi, both ≥ 0, without leading zeros. */
static void natural_range(glia_buf *b, int64_t lo, int64_t hi) {
    char x[24], y[24];
    glia_buf_adds(b, "(");
    for (bool more = false; lo <= hi; more = true) {
        int n = snprintf(x, sizeof x, "%lld", (long long)lo);
        int64_t last = 9; /* of this many digits */
        for (int i = 1; i < n; i++) last = last * 10 + 9;
        if (last > hi) last = hi;
        (void)snprintf(y, sizeof y, "%lld", (long long)last);
        if (more) glia_buf_adds(b, " | ");
        same_length(b, x, y, (size_t)n);
        lo = last + 1;
    }
    glia_buf_adds(b, ")");
}

static void integer_range(glia_buf *b, int64_t lo, int64_t hi) {
    glia_buf_adds(b, "(");
    if (lo < 0) {
        int64_t top = hi < 0 ? hi : -1;
        glia_buf_adds(b, "\"-\" ");
        natural_range(b, -top, -lo);
        if (hi >= 0) glia_buf_adds(b, " | ");
    }
    if (hi >= 0) natural_range(b, lo > 0 ? lo : 0, hi);
    glia_buf_adds(b, ")");
}

typedef struct bounds {
    int64_t lo, hi;
    bool open_lo, open_hi, given; /* open: the bound itself is out */
} bounds;

static glia_status one_bound(schema *s, yyjson_val *v, const char *path, const char *key, bool whole, int64_t *out,
                             bool *given) {
    yyjson_val *x = glia_json_get(v, key);
    *given = x != NULL;
    if (!x) return GLIA_OK;
    if (!yyjson_is_num(x)) return refuse(s, path, key, "must be a number");
    double d = yyjson_get_num(x), most = (double)limit;
    bool least = strstr(key, "inimum") != NULL;
    if (least ? d > most : d < -most) return refuse(s, path, key, "is too large to be enforced");
    if (d != floor(d) && !whole && s->relaxed) *given = false;
    if (!*given) return GLIA_OK;
    if (d != floor(d) && !whole) return refuse(s, path, key, "only whole bounds can be enforced");
    if (d != floor(d)) d = least ? floor(d) : ceil(d); /* an integer above 1.5 is one above 1, exclusively */
    if (fabs(d) >= most) *out = d < 0 ? -limit : limit;
    else *out = yyjson_is_sint(x) || yyjson_is_uint(x) ? yyjson_get_sint(x) : (int64_t)d;
    return GLIA_OK;
}

static glia_status read_bounds(schema *s, yyjson_val *v, const char *path, bool whole, bounds *b) {
    int64_t x = 0;
    bool given;
    glia_status st;
    *b = (bounds){.lo = -limit, .hi = limit};
    static const char *const keys[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};
    for (int i = 0; i < 4; i++) {
        if ((st = one_bound(s, v, path, keys[i], whole, &x, &given))) return st;
        if (!given) continue;
        double exact = yyjson_get_num(glia_json_get(v, keys[i]));
        bool open = i % 2 || exact != floor(exact); /* rounded outwards: the whole number itself is out */
        b->given = true;
        if (i < 2 && (x > b->lo || (x == b->lo && open))) b->lo = x, b->open_lo = open;
        if (i >= 2 && (x < b->hi || (x == b->hi && open))) b->hi = x, b->open_hi = open;
    }
    if (whole) {
        if (b->open_lo) b->lo++;
        if (b->open_hi) b->hi--;
        b->open_lo = b->open_hi = false;
    }
    if (b->lo > b->hi || (b->lo == b->hi && (b->open_lo || b->open_hi)))
        return refuse(s, path, glia_json_get(v, "minimum") ? "minimum" : "exclusiveMinimum",
                      "nothing lies within the bounds");
    return GLIA_OK;
}

/* Real numbers between lo and hi, both ≥ 0, in decimals. */
static void real_range(glia_buf *b, int64_t lo, bool open_lo, int64_t hi, bool open_hi) {
    int64_t from = open_lo ? lo + 1 : lo;
    bool more = false;
    glia_buf_adds(b, "(");
    if (from <= hi - 1) {
        natural_range(b, from, hi - 1);
        glia_buf_adds(b, " (\".\" [0-9]{1,16})?");
        more = true;
    }
    if (open_lo && lo < hi) { /* lo and a fraction that is not zero */
        glia_buf_addf(b, "%s\"%lld.\" \"0\"{0,15} [1-9] [0-9]{0,15}", more ? " | " : "", (long long)lo);
        more = true;
    }
    if (!open_hi) glia_buf_addf(b, "%s\"%lld\" (\".\" \"0\"{1,16})?", more ? " | " : "", (long long)hi);
    glia_buf_adds(b, ")");
}

static glia_status number(schema *s, yyjson_val *v, const char *path, bool whole) {
    bounds b;
    glia_status st = read_bounds(s, v, path, whole, &b);
    if (st) return st;
    yyjson_val *step = glia_json_get(v, "multipleOf");
    if (step && !s->relaxed && !(whole && yyjson_is_num(step) && yyjson_get_num(step) == 1))
        return refuse(s, path, "multipleOf", "cannot be enforced: leave it out");
    if (!b.given) {
        glia_buf_adds(s->out, whole ? "integer" : "number");
        return GLIA_OK;
    }
    if (whole) {
        integer_range(s->out, b.lo, b.hi);
        return GLIA_OK;
    }
    bool below = b.lo < 0;
    glia_buf_adds(s->out, "(");
    if (below) { /* mirrored; zero is left to the other side where there is one */
        glia_buf_adds(s->out, "\"-\" ");
        if (b.hi > 0) real_range(s->out, 0, true, -b.lo, b.open_lo);
        else real_range(s->out, -b.hi, b.open_hi, -b.lo, b.open_lo);
    }
    if (b.hi > 0) {
        if (below) glia_buf_adds(s->out, " | ");
        real_range(s->out, below ? 0 : b.lo, !below && b.open_lo, b.hi, b.open_hi);
    } else if (!below) {
        glia_buf_adds(s->out, "\"0\" (\".\" \"0\"{1,16})?");
    }
    glia_buf_adds(s->out, ")");
    return GLIA_OK;
}

/* ------------------------------------------------------------------ arrays and objects: rules of their own first */

static glia_status child(schema *s, yyjson_val *v, const char *path, const char *key, size_t *rule) {
    char at[PATH];
    join(at, path, key);
    *rule = new_rule(s);
    return value(s, v, at, *rule);
}

static glia_status array(schema *s, yyjson_val *v, const char *path, size_t rule) {
    yyjson_val *items = glia_json_get(v, "items"), *tuple = glia_json_get(v, "prefixItems"), *item;
    int64_t least, most;
    size_t of = SIZE_MAX, n = 0, first[256];
    bool unique = false;
    glia_status st = counts(s, v, path, "minItems", "maxItems", &least, &most);
    if (st || (st = glia_json_bool(v, path, "uniqueItems", &unique, NULL, s->err))) return st;
    if (unique && !s->relaxed) return refuse(s, path, "uniqueItems", "cannot be enforced: leave it out");
    if (yyjson_is_arr(items)) tuple = items, items = NULL;
    if (s->relaxed && tuple && (least || most >= 0 || items)) tuple = items = NULL;
    if (tuple && !yyjson_is_arr(tuple)) return refuse(s, path, "prefixItems", "must be a list of schemas");
    yyjson_arr_iter it;
    for (yyjson_arr_iter_init(tuple, &it); tuple && (item = yyjson_arr_iter_next(&it)); n++) {
        char key[32];
        if (n == 256) return refuse(s, path, "prefixItems", "more than 256 items");
        (void)snprintf(key, sizeof key, "prefixItems[%zu]", n);
        if ((st = child(s, item, path, key, &first[n]))) return st;
    }
    if (tuple && ((least > (int64_t)n && !items) || (most >= 0 && most < (int64_t)n) || items))
        return refuse(s, path, items ? "items" : "minItems",
                      "beside prefixItems only their own number can be enforced");
    if (items && (st = child(s, items, path, "items", &of))) return st;
    char one[80] = "any";
    if (of != SIZE_MAX) (void)snprintf(one, sizeof one, "%s-%zu", s->name, of);
    begin(s, rule);
    glia_buf_adds(s->out, "\"[\" ws ");
    if (tuple) {
        for (size_t i = 0; i < n; i++) glia_buf_addf(s->out, "%s%s-%zu ", i ? "ws \",\" ws " : "", s->name, first[i]);
        glia_buf_adds(s->out, "ws \"]\"\n");
    } else if (most == 0) {
        glia_buf_adds(s->out, "\"]\"\n");
    } else {
        if (!least) glia_buf_adds(s->out, "(");
        glia_buf_addf(s->out, "%s (ws \",\" ws %s){%lld,", one, one, (long long)(least ? least - 1 : 0));
        if (most > 0) glia_buf_addf(s->out, "%lld", (long long)(most - 1));
        glia_buf_addf(s->out, "} ws%s \"]\"\n", least ? "" : ")?");
    }
    return GLIA_OK;
}

static bool listed(yyjson_val *required, const char *key, size_t n) {
    yyjson_arr_iter it;
    yyjson_val *v;
    for (yyjson_arr_iter_init(required, &it); required && (v = yyjson_arr_iter_next(&it));) {
        if (yyjson_equals_strn(v, key, n)) return true;
    }
    return false;
}

/* Any keys: a map from strings to one schema. */
static glia_status map(schema *s, yyjson_val *v, yyjson_val *of, const char *path, size_t rule) {
    int64_t least, most;
    size_t value_rule = SIZE_MAX;
    glia_status st = counts(s, v, path, "minProperties", "maxProperties", &least, &most);
    if (st) return st;
    if (of && yyjson_is_obj(of) && (st = child(s, of, path, "additionalProperties", &value_rule))) return st;
    char one[120] = "string ws \":\" ws any";
    if (value_rule != SIZE_MAX) (void)snprintf(one, sizeof one, "string ws \":\" ws %s-%zu", s->name, value_rule);
    begin(s, rule);
    glia_buf_adds(s->out, "\"{\" ws ");
    if (most == 0 || yyjson_is_false(of)) {
        if (least) return refuse(s, path, "minProperties", "no property is allowed");
        glia_buf_adds(s->out, "\"}\"\n");
        return GLIA_OK;
    }
    if (least > 1 && !s->relaxed)
        return refuse(s, path, "minProperties", "more than one cannot be enforced: keys may repeat");
    glia_buf_addf(s->out, "%s%s (ws \",\" ws %s){0,", least ? "" : "(", one, one);
    if (most > 0) glia_buf_addf(s->out, "%lld", (long long)(most - 1));
    glia_buf_addf(s->out, "} ws%s \"}\"\n", least ? "" : ")?");
    return GLIA_OK;
}

/* Rules for what may follow from property i on: with nothing written yet (f), behind another one (m). */
static void property_rules(schema *s, size_t rule, size_t i, yyjson_val *key, size_t of, bool required) {
    size_t n;
    char *text = yyjson_val_write(key, 0, &n);
    if (!text) {
        s->out->failed = true;
        return;
    }
    for (int more = 0; more < 2; more++) {
        const char *kind = more ? "m" : "f";
        glia_buf_addf(s->out, "%s-%zu-%s%zu ::= %s", s->name, rule, kind, i, more ? "ws \",\" ws " : "");
        glia_gbnf_literal(s->out, text, n);
        glia_buf_addf(s->out, " ws \":\" ws %s-%zu %s-%zu-m%zu", s->name, of, s->name, rule, i + 1);
        if (!required) glia_buf_addf(s->out, " | %s-%zu-%s%zu", s->name, rule, kind, i + 1);
        glia_buf_adds(s->out, "\n");
    }
    free(text);
}

static glia_status object(schema *s, yyjson_val *v, const char *path, size_t rule) {
    yyjson_val *properties = glia_json_get(v, "properties"), *required = glia_json_get(v, "required"),
               *more = glia_json_get(v, "additionalProperties"), *key;
    glia_status st;
    if (properties && !yyjson_is_obj(properties)) return refuse(s, path, "properties", "must be an object");
    if (required && !yyjson_is_arr(required)) return refuse(s, path, "required", "must be a list of names");
    if (more && !yyjson_is_obj(more) && !yyjson_is_bool(more))
        return refuse(s, path, "additionalProperties", "must be true, false or a schema");
    size_t n = properties ? yyjson_obj_size(properties) : 0, n_required = 0, i = 0;
    yyjson_arr_iter names;
    for (yyjson_arr_iter_init(required, &names); required && (key = yyjson_arr_iter_next(&names)); n_required++) {
        if (!yyjson_is_str(key)) return refuse(s, path, "required", "must be a list of names");
        if (!s->relaxed && !yyjson_obj_getn(properties, yyjson_get_str(key), yyjson_get_len(key)))
            return refuse(s, path, "required", "names a property that is not listed in properties");
    }
    if (!n) return map(s, v, more, path, rule);
    int64_t least, most;
    if ((st = counts(s, v, path, "minProperties", "maxProperties", &least, &most))) return st;
    if (!s->relaxed && (least > (int64_t)n_required || (most >= 0 && most < (int64_t)n)))
        return refuse(s, path, least > (int64_t)n_required ? "minProperties" : "maxProperties",
                      "cannot be enforced beside properties: leave it out");
    yyjson_obj_iter it;
    for (yyjson_obj_iter_init(properties, &it); (key = yyjson_obj_iter_next(&it)); i++) {
        char at[PATH], name[PATH];
        size_t of;
        join(at, path, "properties");
        (void)snprintf(name, sizeof name, "%.60s", yyjson_get_str(key));
        if ((st = child(s, yyjson_obj_iter_get_val(key), at, name, &of))) return st;
        property_rules(s, rule, i, key, of, listed(required, yyjson_get_str(key), yyjson_get_len(key)));
    }
    glia_buf_addf(s->out, "%s-%zu-f%zu ::= \"\"\n%s-%zu-m%zu ::= \"\"\n", s->name, rule, n, s->name, rule, n);
    begin(s, rule);
    glia_buf_addf(s->out, "\"{\" ws %s-%zu-f0 ws \"}\"\n", s->name, rule);
    return GLIA_OK;
}

/* ------------------------------------------------------------------ choices */

static bool has_type(yyjson_val *v, const char *type) {
    if (!strcmp(type, "number")) return yyjson_is_num(v);
    if (!strcmp(type, "integer"))
        return yyjson_is_int(v) || (yyjson_is_real(v) && yyjson_get_real(v) == floor(yyjson_get_real(v)));
    if (!strcmp(type, "string")) return yyjson_is_str(v);
    if (!strcmp(type, "boolean")) return yyjson_is_bool(v);
    if (!strcmp(type, "null")) return yyjson_is_null(v);
    if (!strcmp(type, "array")) return yyjson_is_arr(v);
    return yyjson_is_obj(v);
}

static bool type_allows(yyjson_val *type, yyjson_val *v) {
    yyjson_arr_iter it;
    yyjson_val *t;
    if (!type) return true;
    if (yyjson_is_str(type)) return has_type(v, yyjson_get_str(type));
    for (yyjson_arr_iter_init(type, &it); (t = yyjson_arr_iter_next(&it));) {
        if (yyjson_is_str(t) && has_type(v, yyjson_get_str(t))) return true;
    }
    return false;
}

static glia_status constants(schema *s, yyjson_val *v, yyjson_val *list, const char *path, size_t rule) {
    yyjson_val *type = glia_json_get(v, "type"), *one;
    yyjson_arr_iter it;
    size_t n = 0;
    glia_status st;
    begin(s, rule);
    for (yyjson_arr_iter_init(list, &it); (one = yyjson_arr_iter_next(&it));) {
        if (!type_allows(type, one)) continue;
        if (++s->n_nodes > GLIA_SCHEMA_NODES) return refuse(s, path, "enum", "the schema has too many parts");
        if (n++) glia_buf_adds(s->out, " | ");
        if ((st = add_constant(s, one, path))) return st;
    }
    glia_buf_adds(s->out, "\n");
    return n ? GLIA_OK : refuse(s, path, "enum", "no value is left: nothing can match");
}

static glia_status union_of(schema *s, yyjson_val *list, const char *path, const char *key, size_t rule) {
    yyjson_arr_iter it;
    yyjson_val *one;
    size_t n = 0, first = s->n_rules, total = yyjson_arr_size(list);
    if (!yyjson_is_arr(list) || !total) return refuse(s, path, key, "must be a list of at least one schema");
    if (total > 1000) return refuse(s, path, key, "has more than 1000 alternatives");
    s->n_rules += total; /* neighbours, so that they need not be remembered */
    for (yyjson_arr_iter_init(list, &it); (one = yyjson_arr_iter_next(&it)); n++) {
        char at[PATH], name[48];
        (void)snprintf(name, sizeof name, "%s[%zu]", key, n);
        join(at, path, name);
        glia_status st = value(s, one, at, first + n);
        if (st) return st;
    }
    begin(s, rule);
    for (size_t i = 0; i < n; i++) glia_buf_addf(s->out, "%s%s-%zu", i ? " | " : "", s->name, first + i);
    glia_buf_adds(s->out, "\n");
    return GLIA_OK;
}

/* JSON pointer within the schema: "#/$defs/x". */
static yyjson_val *resolve(schema *s, const char *ref) {
    if (ref[0] != '#') return NULL;
    if (!ref[1]) return s->root;
    return yyjson_ptr_get(s->root, ref + 1);
}

static glia_status reference(schema *s, yyjson_val *v, const char *path, size_t rule) {
    const char *ref = NULL;
    glia_status st = glia_json_str(v, path, "$ref", &ref, s->err);
    if (st) return st;
    yyjson_val *target = resolve(s, ref);
    if (!target) return refuse(s, path, "$ref", "does not lead to a part of this schema");
    size_t i = 0;
    while (i < s->n_refs && s->refs[i].target != target) i++;
    bool known = i < s->n_refs;
    if (!known) {
        if (s->n_refs == MAX_REFS) return refuse(s, path, "$ref", "the schema has more than 256 definitions");
        s->refs[s->n_refs].target = target, s->refs[s->n_refs++].rule = new_rule(s);
    }
    size_t to = s->refs[i].rule;
    char at[PATH];
    (void)snprintf(at, sizeof at, "%s%s", s->path, ref);
    if (!known && (st = value(s, target, at, to))) return st;
    begin(s, rule);
    glia_buf_addf(s->out, "%s-%zu\n", s->name, to);
    return GLIA_OK;
}

static const char *implied_type(yyjson_val *v) {
    static const struct {
        const char *key, *type;
    } rows[] = {{"properties", "object"},       {"additionalProperties", "object"},
                {"required", "object"},         {"minProperties", "object"},
                {"maxProperties", "object"},    {"items", "array"},
                {"prefixItems", "array"},       {"minItems", "array"},
                {"maxItems", "array"},          {"uniqueItems", "array"},
                {"pattern", "string"},          {"minLength", "string"},
                {"maxLength", "string"},        {"format", "string"},
                {"minimum", "number"},          {"maximum", "number"},
                {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"},
                {"multipleOf", "number"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (glia_json_get(v, rows[i].key)) return rows[i].type;
    }
    return NULL;
}

static glia_status of_type(schema *s, yyjson_val *v, const char *type, const char *path, size_t rule) {
    if (!strcmp(type, "object")) return object(s, v, path, rule);
    if (!strcmp(type, "array")) return array(s, v, path, rule);
    glia_status st = GLIA_OK;
    begin(s, rule);
    if (!strcmp(type, "string")) st = string(s, v, path);
    else if (!strcmp(type, "integer")) st = number(s, v, path, true);
    else if (!strcmp(type, "number")) st = number(s, v, path, false);
    else if (!strcmp(type, "boolean") || !strcmp(type, "null") || !strcmp(type, "any")) glia_buf_adds(s->out, type);
    else return refuse(s, path, "type", "must be object, array, string, number, integer, boolean or null");
    glia_buf_adds(s->out, "\n");
    return st;
}

static glia_status of_types(schema *s, yyjson_val *v, yyjson_val *types, const char *path, size_t rule) {
    yyjson_arr_iter it;
    yyjson_val *type;
    size_t n = 0, first = s->n_rules, total = yyjson_arr_size(types);
    if (!total || total > 7) return refuse(s, path, "type", "must be a type or a list of types");
    s->n_rules += total;
    for (yyjson_arr_iter_init(types, &it); (type = yyjson_arr_iter_next(&it)); n++) {
        if (!yyjson_is_str(type)) return refuse(s, path, "type", "must be a type or a list of types");
        glia_status st = of_type(s, v, yyjson_get_str(type), path, first + n);
        if (st) return st;
    }
    begin(s, rule);
    for (size_t i = 0; i < n; i++) glia_buf_addf(s->out, "%s%s-%zu", i ? " | " : "", s->name, first + i);
    glia_buf_adds(s->out, "\n");
    return GLIA_OK;
}

/* Write the rule (and those it needs) of one schema. */
static glia_status value(schema *s, yyjson_val *v, const char *path, size_t rule) {
    glia_status st;
    if (++s->n_nodes > GLIA_SCHEMA_NODES || s->out->n > GLIA_SCHEMA_BYTES)
        return refuse(s, path, "", "the schema is too large to be enforced");
    if (yyjson_is_true(v)) return of_type(s, v, "any", path, rule);
    if (yyjson_is_false(v)) return refuse(s, path, "", "false allows nothing");
    if (!yyjson_is_obj(v)) return refuse(s, path, "", "must be a schema: an object");
    if ((st = check_keywords(s, v, path))) return st;
    static const char *const choices[] = {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"};
    for (int i = 0; i < 6; i++) {
        yyjson_val *c = yyjson_obj_get(v, choices[i]);
        if (!c) continue;
        if ((st = stands_alone(s, v, path, choices[i], i == 1 || i == 2 ? "type" : ""))) return st;
        if (i == 0) return reference(s, v, path, rule);
        if (i == 1) {
            begin(s, rule);
            if (!type_allows(glia_json_get(v, "type"), c)) return refuse(s, path, "const", "is not of its type");
            st = add_constant(s, c, path);
            glia_buf_adds(s->out, "\n");
            return st;
        }
        if (i == 2)
            return yyjson_is_arr(c) ? constants(s, v, c, path, rule) : refuse(s, path, "enum", "must be a list");
        if (i == 5 && yyjson_arr_size(c) != 1 && s->relaxed) continue;
        if (i == 5 && yyjson_arr_size(c) != 1)
            return refuse(s, path, "allOf", "several schemas at once cannot be enforced: write them as one");
        return union_of(s, c, path, choices[i], rule);
    }
    yyjson_val *type = glia_json_get(v, "type");
    if (yyjson_is_arr(type)) return of_types(s, v, type, path, rule);
    if (type && !yyjson_is_str(type)) return refuse(s, path, "type", "must be a type or a list of types");
    const char *name = type ? yyjson_get_str(type) : implied_type(v);
    return of_type(s, v, name ? name : "any", path, rule);
}

glia_status glia_schema_rule(yyjson_val *v, const char *name, const char *path, bool relaxed, glia_buf *gbnf,
                             glia_err *err) {
    schema *s = glia_calloc(1, sizeof *s);
    if (!s) return glia_fail(err, GLIA_ENOMEM, "no memory for %s", path);
    s->root = v, s->name = name, s->path = path, s->out = gbnf, s->err = err;
    s->relaxed = relaxed;
    glia_buf_addf(gbnf, "%s ::= %s-0\n", name, name);
    glia_status st = value(s, v, path, new_rule(s));
    glia_free(s);
    if (!st && gbnf->failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for %s", path);
    return st;
}

glia_status glia_schema_grammar(yyjson_val *v, const char *path, glia_buf *gbnf, glia_err *err) {
    glia_schema_basics(gbnf);
    return glia_schema_rule(v, "root", path, false, gbnf, err);
}
