/* harvest/lines.c — see lines.h. */
#include "harvest/lines.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "yyjson.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

typedef enum kind { KIND_UNKNOWN, KIND_TEXT, KIND_JSON } kind;

struct glia_lines {
    const glia_model *m;
    glia_model_info info;
    FILE *f;
    char *path;
    kind kind;
    int32_t window;
    uint64_t size, at; /* bytes; size 0: unknown */
    int64_t line;      /* of the file, from 1, empty ones counted */
    glia_buf text;     /* the line under way */
    glia_sha256 *hash; /* of all lines so far */
    /* the document under way */
    int64_t document; /* -1: none yet */
    int32_t *tokens;
    size_t n_tokens;
    size_t next; /* first token of the next piece; n_tokens: all handed out */
};

void glia_piece_clear(glia_piece *p) {
    glia_free(p->tokens);
    *p = (glia_piece){0};
}

static kind kind_of(const char *path) {
    const char *dot = strrchr(path, '.');
    if (!strcmp(path, "-")) return KIND_UNKNOWN;
    return dot && (!strcasecmp(dot, ".jsonl") || !strcasecmp(dot, ".json") || !strcasecmp(dot, ".ndjson")) ? KIND_JSON
                                                                                                           : KIND_TEXT;
}

glia_status glia_lines_open(glia_lines **out, const char *path, const glia_model *m, int32_t window, glia_err *err) {
    glia_status st = GLIA_OK;
    struct stat info;
    *out = NULL;
    glia_lines *l = glia_calloc(1, sizeof *l);
    if (!l) return glia_fail(err, GLIA_ENOMEM, "out of memory for the data");
    l->m = m, l->kind = kind_of(path), l->window = window, l->document = -1;
    glia_model_get_info(m, &l->info);
    bool input = !strcmp(path, "-");
    l->f = input ? stdin : fopen(path, "rbe");
    if (!l->f || (!input && fstat(fileno(l->f), &info))) {
        st = glia_fail(err, GLIA_EIO, "cannot open the data %s: %s", path, strerror(errno));
    } else if (!input && S_ISDIR(info.st_mode)) {
        st = glia_fail(err, GLIA_EINVAL, "the data %s is a folder: name a .txt or .jsonl file", path);
    } else if (!(l->path = glia_strdup(input ? "standard input" : path)) || !(l->hash = glia_sha256_new())) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for the data");
    } else {
        if (!input && S_ISREG(info.st_mode)) l->size = (uint64_t)info.st_size;
        *out = l, l = NULL;
    }
    glia_lines_close(l);
    return st;
}

void glia_lines_close(glia_lines *l) {
    if (!l) return;
    if (l->f && l->f != stdin) (void)fclose(l->f);
    glia_sha256_free(l->hash);
    glia_buf_clear(&l->text);
    glia_free(l->path);
    glia_free(l->tokens);
    glia_free(l);
}

/* ------------------------------------------------------------------ lines */

static glia_status bad_line(const glia_lines *l, glia_err *err, const char *what) {
    return glia_fail(err, GLIA_EINVAL, "%s, line %lld: %s", l->path, (long long)l->line, what);
}

/* One line without its end into l->text; *end: there is none. */
static glia_status read_line(glia_lines *l, bool *end, glia_err *err) {
    int c = 0;
    l->text.n = 0, l->line++;
    for (;;) {
        if (!glia_buf_reserve(&l->text, 4096)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a line");
        size_t room = l->text.n + 4096;
        while (l->text.n < room && (c = getc_unlocked(l->f)) != EOF && c != '\n') l->text.p[l->text.n++] = (char)c;
        if (l->text.n < room) break;
        if (l->text.n > GLIA_LINE_MAX) return bad_line(l, err, "longer than 64 MiB");
    }
    if (ferror(l->f)) return glia_fail(err, GLIA_EIO, "cannot read %s: %s", l->path, strerror(errno));
    l->at += l->text.n + (c == '\n');
    *end = c == EOF && !l->text.n;
    if (l->text.n && l->text.p[l->text.n - 1] == '\r') l->text.n--;
    l->text.p[l->text.n] = 0;
    if (!glia_sha256_add(l->hash, l->text.p, l->text.n) || !glia_sha256_add(l->hash, "\n", 1)) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
    }
    return GLIA_OK;
}

static bool is_blank(const glia_buf *b) {
    for (size_t i = 0; i < b->n; i++) {
        if (!strchr(" \t\v\f\r", b->p[i])) return false;
    }
    return true;
}

/* The next line that holds a document; *end: none is left. */
static glia_status next_document(glia_lines *l, bool *end, glia_err *err) {
    glia_status st;
    do {
        if ((st = read_line(l, end, err)) || *end) return st;
    } while (is_blank(&l->text));
    if (l->kind == KIND_UNKNOWN) l->kind = l->text.p[strspn(l->text.p, " \t")] == '{' ? KIND_JSON : KIND_TEXT;
    l->document++;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ documents */

static glia_status take_ids(glia_lines *l, yyjson_val *list, glia_err *err) {
    size_t i, n = yyjson_arr_size(list);
    yyjson_val *v;
    if (!n) return bad_line(l, err, "\"tokens\" must be a list of at least one token id");
    if (!(l->tokens = glia_malloc(n * sizeof *l->tokens)))
        return glia_fail(err, GLIA_ENOMEM, "out of memory for tokens");
    yyjson_arr_foreach(list, i, n, v) {
        if (!yyjson_is_uint(v) || yyjson_get_uint(v) >= (uint64_t)l->info.n_vocab) {
            return bad_line(l, err, "\"tokens\" holds something that is no token id of this model");
        }
        l->tokens[i] = (int32_t)yyjson_get_uint(v);
    }
    l->n_tokens = n;
    return GLIA_OK;
}

static glia_status check_messages(const glia_lines *l, yyjson_val *messages, glia_err *err) {
    size_t i, n;
    yyjson_val *m;
    if (!yyjson_arr_size(messages)) return bad_line(l, err, "\"messages\" must be a list of messages");
    yyjson_arr_foreach(messages, i, n, m) {
        if (!yyjson_is_str(yyjson_obj_get(m, "role")) || !yyjson_is_str(yyjson_obj_get(m, "content"))) {
            return bad_line(l, err, "each of \"messages\" needs a role and a content, both strings");
        }
    }
    return GLIA_OK;
}

static glia_status take_chat(glia_lines *l, yyjson_val *messages, glia_err *err) {
    size_t n_json = 0, n_text;
    char *text = NULL;
    bool special;
    glia_err why;
    glia_status st = check_messages(l, messages, err);
    if (st) return st;
    char *json = yyjson_val_write(messages, 0, &n_json);
    if (!json) return glia_fail(err, GLIA_ENOMEM, "out of memory for a chat");
    st = glia_model_chat_prompt(l->m, json, n_json, &text, &n_text, &special, &why);
    if (!st) st = glia_model_tokenize(l->m, text, n_text, special, true, &l->tokens, &l->n_tokens, &why);
    if (st) st = st == GLIA_ENOMEM ? glia_fail(err, st, "%s", why.message) : bad_line(l, err, why.message);
    free(json);
    glia_free(text);
    return st;
}

static glia_status take_text(glia_lines *l, const char *s, size_t n, glia_err *err) {
    if (!glia_utf8_valid(s, n)) return bad_line(l, err, "not UTF-8");
    glia_status st = glia_model_tokenize(l->m, s, n, true, false, &l->tokens, &l->n_tokens, err);
    return st == GLIA_EINVAL ? bad_line(l, err, "cannot be tokenised") : st;
}

static glia_status take_json(glia_lines *l, glia_err *err) {
    yyjson_read_err why;
    yyjson_doc *doc = yyjson_read_opts(l->text.p, l->text.n, 0, NULL, &why);
    yyjson_val *root = yyjson_doc_get_root(doc), *text = yyjson_obj_get(root, "text");
    yyjson_val *ids = yyjson_obj_get(root, "tokens"), *messages = yyjson_obj_get(root, "messages");
    glia_status st;
    if (!doc && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) st = glia_fail(err, GLIA_ENOMEM, "out of memory");
    else if (!doc) st = bad_line(l, err, "not JSON");
    else if ((text != NULL) + (ids != NULL) + (messages != NULL) != 1)
        st = bad_line(l, err, "an object with one of \"text\", \"tokens\" or \"messages\" is expected");
    else if (ids) st = take_ids(l, ids, err);
    else if (messages) st = take_chat(l, messages, err);
    else if (!yyjson_is_str(text)) st = bad_line(l, err, "\"text\" must be a string");
    else st = take_text(l, yyjson_get_str(text), yyjson_get_len(text), err);
    yyjson_doc_free(doc);
    return st;
}

static glia_status read_document(glia_lines *l, bool *end, glia_err *err) {
    glia_free(l->tokens);
    l->tokens = NULL, l->n_tokens = l->next = 0;
    glia_status st = next_document(l, end, err);
    if (st || *end) return st;
    if (l->kind == KIND_JSON) return take_json(l, err);
    return take_text(l, l->text.p, l->text.n, err);
}

glia_status glia_lines_seek(glia_lines *l, int64_t document, int32_t offset, const char *read, glia_err *err) {
    bool end = false;
    char now[GLIA_SHA256_HEX];
    glia_status st = GLIA_OK;
    int64_t last = offset ? document : document - 1; /* the document that the cursor is in or behind */
    while (!st && !end && l->document < last) {
        st = l->document + 1 == last && offset ? read_document(l, &end, err) : next_document(l, &end, err);
    }
    if (st) return st;
    if (!glia_sha256_hex(l->hash, now)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
    if (end || (last >= 0 && strcmp(now, read) != 0) || (size_t)offset > l->n_tokens) {
        return glia_fail(err, GLIA_EINVAL,
                         "%s is not the data that this harvest began with (its first %lld documents differ): give it "
                         "back, or another folder",
                         l->path, (long long)last + 1);
    }
    l->next = (size_t)offset;
    return GLIA_OK;
}

glia_status glia_lines_next(glia_lines *l, glia_piece *p, glia_err *err) {
    bool end = false;
    *p = (glia_piece){0};
    while (l->next == l->n_tokens) { /* a document may have no tokens at all */
        glia_status st = read_document(l, &end, err);
        if (st || end) return st;
    }
    size_t left = l->n_tokens - l->next, n = left < (size_t)l->window ? left : (size_t)l->window;
    p->tokens = glia_memdup(l->tokens + l->next, n * sizeof *l->tokens);
    if (!p->tokens || !glia_sha256_hex(l->hash, p->read)) {
        glia_piece_clear(p);
        return glia_fail(err, GLIA_ENOMEM, "out of memory for tokens");
    }
    p->document = l->document, p->offset = (int32_t)l->next, p->n = (int32_t)n;
    l->next += n;
    p->ends = l->next == l->n_tokens;
    return GLIA_OK;
}

double glia_lines_fraction(const glia_lines *l) { return l->size ? (double)l->at / (double)l->size : -1; }
