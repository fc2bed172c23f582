/* api/peek.c — see peek.h. */
#include "api/peek.h"
#include <string.h>

typedef struct cursor {
    const char *p, *end;
} cursor;

static void skip_space(cursor *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t')) c->p++;
}

/* Behind the string that begins here; its inside is [*from, *to). */
static bool skip_string(cursor *c, const char **from, const char **to) {
    *from = ++c->p;
    while (c->p < c->end && *c->p != '"') c->p += *c->p == '\\' && c->p + 1 < c->end ? 2 : 1;
    if (c->p >= c->end) return false;
    *to = c->p++;
    return true;
}

/* Behind the value that begins here: brackets are counted, strings jumped over. */
static bool skip_value(cursor *c) {
    const char *from, *to;
    size_t depth = 0;
    skip_space(c);
    do {
        if (c->p >= c->end) return false;
        char k = *c->p;
        if (k == '"') {
            if (!skip_string(c, &from, &to)) return false;
            continue;
        }
        if (!depth && (k == ',' || k == '}' || k == ']')) return true;
        if (k == '{' || k == '[') depth++;
        if (k == '}' || k == ']') depth--;
        c->p++;
        if (!depth && (k == '}' || k == ']')) return true;
    } while (depth || (c->p < c->end && *c->p != ',' && *c->p != '}'));
    return true;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \uXXXX below 0x80, or the one-letter forms; anything else is in no model's name. */
static bool unescape(const char **p, const char *to, char *out) {
    static const char from[] = "\"\\/bfnrt", is[] = "\"\\/\b\f\n\r\t";
    const char *at = *p + 1 < to ? strchr(from, (*p)[1]) : NULL;
    if (at && *at) {
        *out = is[at - from];
        *p += 2;
        return true;
    }
    if (to - *p < 6 || (*p)[1] != 'u') return false;
    int v = 0;
    for (int i = 2; i < 6; i++) {
        int h = hex((*p)[i]);
        if (h < 0) return false;
        v = v * 16 + h;
    }
    *out = (char)v;
    *p += 6;
    return v > 0 && v < 0x80;
}

static glia_peeked copy_string(const char *from, const char *to, char *out, size_t cap) {
    size_t n = 0;
    while (from < to) {
        if (n + 1 >= cap) return GLIA_PEEK_NONE;
        if (*from == '\\') {
            if (!unescape(&from, to, &out[n])) return GLIA_PEEK_NONE;
            n++;
        } else {
            out[n++] = *from++;
        }
    }
    out[n] = 0;
    return GLIA_PEEK_STRING;
}

glia_peeked glia_json_peek(const char *body, size_t n, const char *key, char *out, size_t cap) {
    cursor c = {body, body + n};
    size_t n_key = strlen(key);
    skip_space(&c);
    if (c.p >= c.end || *c.p++ != '{') return GLIA_PEEK_NONE;
    for (;;) {
        const char *from, *to;
        skip_space(&c);
        if (c.p >= c.end || *c.p != '"' || !skip_string(&c, &from, &to)) return GLIA_PEEK_NONE;
        bool mine = (size_t)(to - from) == n_key && !memcmp(from, key, n_key);
        skip_space(&c);
        if (c.p >= c.end || *c.p++ != ':') return GLIA_PEEK_NONE;
        skip_space(&c);
        const char *value = c.p;
        if (mine && c.p < c.end && *c.p == '"')
            return skip_string(&c, &from, &to) ? copy_string(from, to, out, cap) : GLIA_PEEK_NONE;
        if (!skip_value(&c)) return GLIA_PEEK_NONE;
        if (mine) {
            size_t k = (size_t)(c.p - value) < cap - 1 ? (size_t)(c.p - value) : cap - 1;
            memcpy(out, value, k);
            while (k && (out[k - 1] == ' ' || out[k - 1] == '\n' || out[k - 1] == '\r' || out[k - 1] == '\t')) k--;
            out[k] = 0;
            return GLIA_PEEK_OTHER;
        }
        skip_space(&c);
        if (c.p >= c.end || *c.p++ != ',') return GLIA_PEEK_NONE;
    }
}
