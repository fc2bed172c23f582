/* models/header.c — see header.h. */
#include "models/header.h"
#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "base/utf8.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WINDOW = 64 << 10, MAX_KEYS = 1 << 16, MAX_TENSORS = 1 << 20, MAX_NAME = 1 << 16, MAX_DIMS = 4 };

/* ------------------------------------------------------------------ bytes */

typedef struct source {
    const char *name;
    int fd;                 /* -1: memory only */
    const unsigned char *p; /* n bytes of the file, from offset from on */
    size_t n;
    uint64_t from, at, size; /* at: of the next byte; size: of the whole file */
    unsigned char *window;
    glia_err *err;
} source;

static glia_status damaged(source *s, const char *what) {
    return glia_fail(s->err, GLIA_EINVAL, "%s is a damaged GGUF file: %s at byte %llu; fetch it again", s->name, what,
                     (unsigned long long)s->at);
}

static glia_status fill(source *s) {
    if (s->at >= s->from && s->at < s->from + s->n) return GLIA_OK;
    if (s->fd < 0) return damaged(s, "it ends");
    ssize_t n = glia_io_pread(s->fd, s->window, WINDOW, (off_t)s->at);
    if (n < 0) return glia_fail(s->err, GLIA_EIO, "cannot read %s: %s", s->name, strerror(errno));
    if (!n) return damaged(s, "it ends");
    s->p = s->window, s->n = (size_t)n, s->from = s->at;
    return GLIA_OK;
}

static glia_status take(source *s, void *out, size_t n) {
    for (unsigned char *o = out; n;) {
        glia_status st = fill(s);
        if (st) return st;
        size_t off = (size_t)(s->at - s->from), k = s->n - off < n ? s->n - off : n;
        memcpy(o, s->p + off, k);
        o += k, s->at += k, n -= k;
    }
    return GLIA_OK;
}

static glia_status skip(source *s, uint64_t n) {
    if (n > s->size - s->at) return damaged(s, "something longer than the file begins");
    s->at += n;
    return GLIA_OK;
}

static glia_status take_uint(source *s, size_t n, uint64_t *out) {
    unsigned char b[8] = {0};
    glia_status st = take(s, b, n);
    *out = 0;
    for (size_t i = 0; i < n; i++) *out |= (uint64_t)b[i] << (8 * i);
    return st;
}

/* A label: its first cap - 1 bytes as one line of UTF-8; the rest is skipped. */
static glia_status take_text(source *s, char *out, size_t cap) {
    uint64_t n;
    glia_status st = take_uint(s, 8, &n);
    if (st) return st;
    if (n > s->size - s->at) return damaged(s, "a string longer than the file begins");
    size_t k = n < cap - 1 ? (size_t)n : cap - 1;
    if ((st = take(s, out, k))) return st;
    for (size_t i = 0; i < k; i++) {
        if ((unsigned char)out[i] < 0x20 || out[i] == 0x7f) out[i] = ' ';
    }
    size_t whole = k;
    while (whole && !glia_utf8_valid(out, whole)) whole--;
    out[whole] = 0;
    return skip(s, n - k);
}

/* ------------------------------------------------------------------ values */

/* Types of values: bytes of the fixed ones. */
enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_N_TYPES
};
static const unsigned char value_bytes[GGUF_N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static bool is_whole_number(uint64_t type) {
    return type <= GGUF_I32 || type == GGUF_U64 || type == GGUF_I64 || type == GGUF_BOOL;
}
static bool is_signed(uint64_t type) {
    return type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
}

/* A whole number that counts something: negative ones are damage. */
static glia_status take_count(source *s, uint64_t type, uint64_t *out) {
    glia_status st = take_uint(s, value_bytes[type], out);
    if (st || !is_signed(type)) return st;
    return *out >> (8u * value_bytes[type] - 1) ? damaged(s, "a negative count ends") : GLIA_OK;
}

static glia_status skip_value(source *s, uint64_t type);

static glia_status skip_array(source *s, uint64_t type, uint64_t n) {
    if (type >= GGUF_N_TYPES || type == GGUF_ARRAY) return damaged(s, "an array of an unknown type begins");
    if (value_bytes[type]) {
        if (n > (s->size - s->at) / value_bytes[type]) return damaged(s, "an array longer than the file begins");
        return skip(s, n * value_bytes[type]);
    }
    if (n > (s->size - s->at) / 8) return damaged(s, "an array longer than the file begins");
    glia_status st = GLIA_OK;
    for (uint64_t i = 0; i < n && !st; i++) st = skip_value(s, type);
    return st;
}

static glia_status take_array_head(source *s, uint64_t *type, uint64_t *n) {
    glia_status st = take_uint(s, 4, type);
    return st ? st : take_uint(s, 8, n);
}

static glia_status skip_value(source *s, uint64_t type) {
    uint64_t n, inner;
    glia_status st;
    if (type >= GGUF_N_TYPES) return damaged(s, "a value of an unknown type begins");
    if (type == GGUF_STRING) return (st = take_uint(s, 8, &n)) ? st : skip(s, n);
    if (type == GGUF_ARRAY) return (st = take_array_head(s, &inner, &n)) ? st : skip_array(s, inner, n);
    return skip(s, value_bytes[type]);
}

/* ------------------------------------------------------------------ keys */

#define FIELD(f) offsetof(glia_gguf, f)
/* Keys behind "<architecture>.".  An array of numbers (one per layer) is summed into n_kv_heads alone. */
static const struct {
    const char *key;
    size_t field;
} arch_counts[] = {
    {"block_count", FIELD(n_layer)},
    {"embedding_length", FIELD(n_embd)},
    {"feed_forward_length", FIELD(n_ff)},
    {"context_length", FIELD(n_ctx_train)},
    {"vocab_size", FIELD(n_vocab)},
    {"expert_count", FIELD(n_expert)},
    {"expert_used_count", FIELD(n_expert_used)},
    {"attention.head_count", FIELD(n_head)},
    {"attention.sliding_window", FIELD(sliding_window)},
    {"attention.key_length", FIELD(key_length)},
    {"attention.value_length", FIELD(value_length)},
    {"ssm.inner_size", FIELD(ssm_inner)},
    {"ssm.state_size", FIELD(ssm_state)},
    {"ssm.conv_kernel", FIELD(ssm_conv)},
    {"ssm.group_count", FIELD(ssm_groups)},
    {"wkv.head_size", FIELD(wkv_head)},
    {"shortconv.l_cache", FIELD(short_conv)},
};
static const struct {
    const char *key;
    size_t field, cap;
} texts[] = {
    {"general.architecture", FIELD(arch), sizeof((glia_gguf *)0)->arch},
    {"general.name", FIELD(name), sizeof((glia_gguf *)0)->name},
    {"general.type", FIELD(type), sizeof((glia_gguf *)0)->type},
    {"general.size_label", FIELD(size_label), sizeof((glia_gguf *)0)->size_label},
};

typedef struct reading {
    source s;
    glia_gguf *g;
    uint64_t kv_heads; /* the one number; UINT64_MAX: none, or per layer */
    bool vocab_given;
} reading;

static uint64_t *count_at(glia_gguf *g, size_t field) { return (uint64_t *)(void *)((char *)g + field); }

/* The largest of an array, one number a layer; *sum and *zeros over all of them. */
static glia_status take_per_layer(source *s, uint64_t *largest, uint64_t *sum, uint64_t *zeros) {
    uint64_t type, n, v;
    glia_status st = take_array_head(s, &type, &n);
    *largest = *sum = *zeros = 0;
    if (st) return st;
    if (!is_whole_number(type) || type >= GGUF_N_TYPES) return skip_array(s, type, n);
    if (n > 1 << 16) return damaged(s, "a list of more than 65536 layers begins");
    for (uint64_t i = 0; i < n; i++) {
        if ((st = take_count(s, type, &v))) return st;
        if (v > UINT32_MAX) return damaged(s, "a count beyond all models ends");
        if (v > *largest) *largest = v;
        *sum += v, *zeros += !v;
    }
    return GLIA_OK;
}

static glia_status take_number(source *s, uint64_t type, uint64_t *out) {
    uint64_t sum, zeros;
    if (type == GGUF_ARRAY) return take_per_layer(s, out, &sum, &zeros);
    if (!is_whole_number(type)) return skip_value(s, type);
    return take_count(s, type, out);
}

static glia_status take_kv_heads(reading *r, uint64_t type) {
    uint64_t largest;
    if (type == GGUF_ARRAY) return take_per_layer(&r->s, &largest, &r->g->n_kv_heads, &r->g->n_no_kv);
    return take_number(&r->s, type, &r->kv_heads);
}

/* The chat template is only searched for words; windows overlap so that none is cut. */
static glia_status take_template(reading *r) {
    static const char *const words[] = {"tools", "enable_thinking"};
    char part[4096 + 32];
    size_t kept = 0;
    uint64_t n;
    glia_status st = take_uint(&r->s, 8, &n);
    if (st) return st;
    if (n > r->s.size - r->s.at) return damaged(&r->s, "a string longer than the file begins");
    r->g->chat_template = n > 0;
    while (n) {
        size_t k = n < 4096 ? (size_t)n : 4096;
        if ((st = take(&r->s, part + kept, k))) return st;
        if (memmem(part, kept + k, words[0], strlen(words[0]))) r->g->template_tools = true;
        if (memmem(part, kept + k, words[1], strlen(words[1]))) r->g->template_thinking = true;
        size_t all = kept + k, keep = all < 31 ? all : 31;
        memmove(part, part + all - keep, keep);
        kept = keep, n -= k;
    }
    return GLIA_OK;
}

static glia_status take_tokens(reading *r, uint64_t type) {
    uint64_t inner, n;
    if (type != GGUF_ARRAY) return skip_value(&r->s, type);
    glia_status st = take_array_head(&r->s, &inner, &n);
    if (!st) st = skip_array(&r->s, inner, n);
    if (!st && !r->vocab_given) r->g->n_vocab = n;
    return st;
}

static glia_status take_value(reading *r, const char *key, uint64_t type) {
    source *s = &r->s;
    glia_gguf *g = r->g;
    glia_status st;
    if (type == GGUF_STRING) {
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            if (!strcmp(key, texts[i].key)) return take_text(s, (char *)g + texts[i].field, texts[i].cap);
        }
        if (!strcmp(key, "tokenizer.chat_template")) return take_template(r);
        return skip_value(s, type);
    }
    if (!strcmp(key, "general.file_type")) {
        uint64_t v = UINT64_MAX;
        st = take_number(s, type, &v);
        g->file_type = v <= INT32_MAX ? (int64_t)v : -1;
        return st;
    }
    if (!strcmp(key, "split.no")) return take_number(s, type, &g->split_no);
    if (!strcmp(key, "split.count")) return take_number(s, type, &g->split_count);
    if (!strcmp(key, "tokenizer.ggml.tokens")) return take_tokens(r, type);
    const char *dot = strchr(key, '.');
    if (!dot) return skip_value(s, type);
    if (!strcmp(dot + 1, "attention.head_count_kv")) return take_kv_heads(r, type);
    if (!strcmp(dot + 1, "pooling_type")) {
        uint64_t v = 0;
        st = take_number(s, type, &v);
        g->pooling = v > 0;
        return st;
    }
    for (size_t i = 0; i < sizeof arch_counts / sizeof *arch_counts; i++) {
        if (strcmp(dot + 1, arch_counts[i].key) != 0) continue;
        if (arch_counts[i].field == FIELD(n_vocab)) r->vocab_given = true;
        return take_number(s, type, count_at(g, arch_counts[i].field));
    }
    return skip_value(s, type);
}

static glia_status take_pairs(reading *r, uint64_t n) {
    char key[160];
    for (uint64_t i = 0; i < n; i++) {
        uint64_t type;
        glia_status st = take_text(&r->s, key, sizeof key);
        if (!st) st = take_uint(&r->s, 4, &type);
        if (!st) st = take_value(r, key, type);
        if (st) return st;
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ tensors */

/* ggml's types: numbers in a block, bytes of a block (ggml/src/ggml.c, type_traits; test_header.c compares them). */
static const struct {
    uint16_t numbers, bytes;
} types[] = {
    [0] = {1, 4},      [1] = {1, 2},      [2] = {32, 18},   [3] = {32, 20},    [6] = {32, 22},    [7] = {32, 24},
    [8] = {32, 34},    [9] = {32, 36},    [10] = {256, 84}, [11] = {256, 110}, [12] = {256, 144}, [13] = {256, 176},
    [14] = {256, 210}, [15] = {256, 292}, [16] = {256, 66}, [17] = {256, 74},  [18] = {256, 98},  [19] = {256, 50},
    [20] = {32, 18},   [21] = {256, 110}, [22] = {256, 82}, [23] = {256, 136}, [24] = {1, 1},     [25] = {1, 2},
    [26] = {1, 4},     [27] = {1, 8},     [28] = {1, 8},    [29] = {256, 56},  [30] = {1, 2},     [34] = {256, 54},
    [35] = {256, 66},  [39] = {32, 17},   [40] = {64, 36},  [41] = {128, 18},  [42] = {64, 18},
};
enum { N_TYPES = sizeof types / sizeof *types };

uint64_t glia_gguf_type_bytes(uint32_t type, uint64_t n) {
    if (type >= N_TYPES || !types[type].numbers) return 0;
    uint64_t blocks = n / types[type].numbers + (n % types[type].numbers != 0);
    return blocks > UINT64_MAX / types[type].bytes ? UINT64_MAX : blocks * types[type].bytes;
}

static glia_status take_tensor(source *s, uint64_t *n, uint32_t *type, uint64_t *offset) {
    uint64_t n_name, n_dims, v;
    glia_status st;
    if ((st = take_uint(s, 8, &n_name))) return st;
    if (n_name > MAX_NAME) return damaged(s, "a tensor with an endless name begins");
    if ((st = skip(s, n_name)) || (st = take_uint(s, 4, &n_dims))) return st;
    if (n_dims > MAX_DIMS) return damaged(s, "a tensor of more than four dimensions begins");
    *n = 1;
    for (uint64_t i = 0; i < n_dims; i++) {
        if ((st = take_uint(s, 8, &v))) return st;
        if (v && *n > (UINT64_C(1) << 60) / v) return damaged(s, "a tensor beyond all memory begins");
        *n *= v;
    }
    if ((st = take_uint(s, 4, &v))) return st;
    *type = (uint32_t)v;
    return take_uint(s, 8, offset);
}

static glia_status take_tensors(reading *r) {
    glia_gguf *g = r->g;
    uint64_t end = 0, of_type[N_TYPES] = {0};
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        uint64_t n = 0, offset = 0;
        uint32_t type = 0;
        glia_status st = take_tensor(&r->s, &n, &type, &offset);
        if (st) return st;
        uint64_t bytes = glia_gguf_type_bytes(type, n);
        if (offset > UINT64_MAX / 4 || bytes > UINT64_MAX / 4) return damaged(&r->s, "a tensor outside the file ends");
        g->n_params += n, g->tensor_bytes += bytes;
        if (g->tensor_bytes > UINT64_MAX / 4 || g->n_params > UINT64_MAX / 4)
            return damaged(&r->s, "a tensor beyond all memory ends");
        if (offset + bytes > end) end = offset + bytes;
        if (type < N_TYPES) of_type[type] += bytes;
    }
    for (uint32_t t = 1; t < N_TYPES; t++) {
        if (of_type[t] > of_type[g->main_type]) g->main_type = t;
    }
    /* where the weights begin depends on general.alignment; less than it says is never enough */
    g->data_offset = r->s.at;
    if (end > r->s.size - r->s.at) {
        return glia_fail(r->s.err, GLIA_EINVAL,
                         "%s is truncated: its tensors need %llu bytes, the file has %llu; fetch it again", r->s.name,
                         (unsigned long long)(r->s.at + end), (unsigned long long)r->s.size);
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ the whole header */

static glia_status read_all(reading *r) {
    glia_gguf *g = r->g;
    source *s = &r->s;
    uint64_t magic = 0, version, n_pairs;
    glia_status st = s->size < 4 ? GLIA_EINVAL : take_uint(s, 4, &magic);
    if (st == GLIA_EIO) return st;
    if (st || magic != 0x46554747) {
        return glia_fail(s->err, GLIA_EINVAL, "%s is not a GGUF file: convert the model with llama.cpp's converter",
                         s->name);
    }
    if ((st = take_uint(s, 4, &version))) return st;
    if (!(version & 0xffff) && version) {
        return glia_fail(s->err, GLIA_EINVAL, "%s is written for big-endian machines: convert it for this one",
                         s->name);
    }
    if (version != 2 && version != 3) {
        return glia_fail(s->err, GLIA_EINVAL, "%s is GGUF version %llu; versions 2 and 3 are read: convert it anew",
                         s->name, (unsigned long long)version);
    }
    g->version = (uint32_t)version;
    if ((st = take_uint(s, 8, &g->n_tensors)) || (st = take_uint(s, 8, &n_pairs))) return st;
    if (n_pairs > MAX_KEYS || g->n_tensors > MAX_TENSORS) return damaged(s, "a list longer than any model's begins");
    if ((st = take_pairs(r, n_pairs)) || (st = take_tensors(r))) return st;
    for (size_t i = 0; i < sizeof arch_counts / sizeof *arch_counts; i++) {
        if (*count_at(g, arch_counts[i].field) > UINT32_MAX) return damaged(s, "a count beyond all models is read");
    }
    if (g->split_count > 100000 || g->split_no > 100000)
        return damaged(s, "a count of parts beyond all models is read");
    if (!g->n_kv_heads && !g->n_no_kv) {
        uint64_t heads = r->kv_heads != UINT64_MAX ? r->kv_heads : g->n_head;
        if (heads > UINT32_MAX) return damaged(s, "a count beyond all models is read");
        g->n_kv_heads = heads * g->n_layer;
    }
    return GLIA_OK;
}

static glia_status run(reading *r, glia_gguf *out) {
    *out = (glia_gguf){.file_type = -1, .split_count = 1};
    r->g = out, r->kv_heads = UINT64_MAX;
    return read_all(r);
}

glia_status glia_gguf_parse(glia_gguf *out, const void *p, size_t n, uint64_t file_bytes, const char *name,
                            glia_err *err) {
    reading r = {.s = {.name = name, .fd = -1, .p = p, .n = n, .size = file_bytes, .err = err}};
    return run(&r, out);
}

glia_status glia_gguf_read(glia_gguf *out, const char *path, glia_err *err) {
    struct stat sb;
    reading r = {.s = {.name = path, .err = err}};
    *out = (glia_gguf){0};
    r.s.fd = glia_io_open(path, O_RDONLY, 0);
    if (r.s.fd < 0) {
        return glia_fail(err, errno == ENOENT ? GLIA_ENOTFOUND : GLIA_EIO, "cannot open %s: %s", path, strerror(errno));
    }
    glia_status st = GLIA_OK;
    if (fstat(r.s.fd, &sb) || !S_ISREG(sb.st_mode)) st = glia_fail(err, GLIA_EINVAL, "%s is not a file", path);
    else if (!(r.s.window = glia_malloc(WINDOW))) st = glia_fail(err, GLIA_ENOMEM, "out of memory reading %s", path);
    else r.s.size = (uint64_t)sb.st_size, st = run(&r, out);
    glia_free(r.s.window);
    (void)close(r.s.fd);
    return st;
}

/* ------------------------------------------------------------------ what it means */

const char *glia_gguf_quant(const glia_gguf *g) {
    static const char *const of_file[] = {
        /* llama.h, llama_ftype */
        [0] = "F32",     [1] = "F16",     [2] = "Q4_0",     [3] = "Q4_1",    [7] = "Q8_0",     [8] = "Q5_0",
        [9] = "Q5_1",    [10] = "Q2_K",   [11] = "Q3_K_S",  [12] = "Q3_K_M", [13] = "Q3_K_L",  [14] = "Q4_K_S",
        [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M",  [18] = "Q6_K",   [19] = "IQ2_XXS", [20] = "IQ2_XS",
        [21] = "Q2_K_S", [22] = "IQ3_XS", [23] = "IQ3_XXS", [24] = "IQ1_S",  [25] = "IQ4_NL",  [26] = "IQ3_S",
        [27] = "IQ3_M",  [28] = "IQ2_S",  [29] = "IQ2_M",   [30] = "IQ4_XS", [31] = "IQ1_M",   [32] = "BF16",
        [36] = "TQ1_0",  [37] = "TQ2_0",  [38] = "MXFP4",   [39] = "NVFP4",  [40] = "Q1_0",    [41] = "Q2_0"};
    static const char *const of_type[N_TYPES] = {
        [0] = "F32",     [1] = "F16",    [2] = "Q4_0",     [3] = "Q4_1",    [6] = "Q5_0",     [7] = "Q5_1",
        [8] = "Q8_0",    [9] = "Q8_1",   [10] = "Q2_K",    [11] = "Q3_K",   [12] = "Q4_K",    [13] = "Q5_K",
        [14] = "Q6_K",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S",
        [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS", [24] = "I8",      [28] = "F64",
        [29] = "IQ1_M",  [30] = "BF16",  [34] = "TQ1_0",   [35] = "TQ2_0",  [39] = "MXFP4",   [40] = "NVFP4",
        [41] = "Q1_0",   [42] = "Q2_0"};
    enum { N_FILE = sizeof of_file / sizeof *of_file };
    const char *name = NULL;
    if (g->file_type >= 0 && g->file_type < N_FILE) name = of_file[g->file_type];
    if (!name && g->n_tensors && g->main_type < N_TYPES) name = of_type[g->main_type];
    return name ? name : "unknown";
}

bool glia_gguf_is_embedding(const glia_gguf *g) {
    static const char *const archs[] = {
        "bert",        "nomic-bert", "nomic-bert-moe", "jina-bert-v2",    "jina-bert-v3",
        "modern-bert", "neo-bert",   "eurobert",       "gemma-embedding", "t5encoder"};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        if (!strcmp(g->arch, archs[i])) return true;
    }
    return g->pooling;
}

bool glia_gguf_is_mmproj(const glia_gguf *g) { return !strcmp(g->arch, "clip") || !strcmp(g->type, "mmproj"); }

void glia_gguf_size_text(const glia_gguf *g, uint64_t n_params, char out[32]) {
    if (g->size_label[0]) (void)snprintf(out, 32, "%s", g->size_label);
    else if (n_params >= 9950000000u) (void)snprintf(out, 32, "%.0fB", (double)n_params / 1e9);
    else if (n_params >= 999500000u) (void)snprintf(out, 32, "%.1fB", (double)n_params / 1e9);
    else if (n_params >= 999500u) (void)snprintf(out, 32, "%.0fM", (double)n_params / 1e6);
    else (void)snprintf(out, 32, "%.0fK", (double)n_params / 1e3);
}
