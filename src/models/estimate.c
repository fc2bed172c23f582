/* models/estimate.c — see estimate.h.
 *
 * The formulas follow what llama.cpp allocates (llama-kv-cache, llama-memory-recurrent, the scheduler's largest graph);
 * tests/unit/test_estimate.c compares them with what it says it took. */
#include "models/estimate.h"
#include <stdio.h>
#include <unistd.h>

typedef struct sizes {
    double ctx, slots, batch; /* resolved as glia_model_open does */
} sizes;

static sizes resolve(const glia_gguf *g, const glia_model_params *p) {
    uint64_t trained = g->n_ctx_train && g->n_ctx_train < 4096 ? g->n_ctx_train : 4096;
    return (sizes){.ctx = p->n_ctx > 0 ? p->n_ctx : (double)trained,
                   .slots = p->n_parallel > 0 ? p->n_parallel : 4,
                   .batch = p->n_batch > 0 ? p->n_batch : 512};
}

/* llama.cpp keeps the cells of a slot in multiples of 256. */
static double cells(const sizes *z) { return (double)(((uint64_t)z->ctx + 255) / 256 * 256) * z->slots; }

static double cache_bytes(const glia_gguf *g, const glia_model_params *p, const sizes *z) {
    double per_head = g->n_head ? (double)g->n_embd / (double)g->n_head : 0;
    double k = g->key_length ? (double)g->key_length : per_head,
           v = g->value_length ? (double)g->value_length : per_head;
    return (double)g->n_kv_heads * (k + v) * glia_kv_bytes(p->kv_type) * cells(z);
}

/* State-space, RWKV and short-convolution layers keep a state of fixed size for each slot, as f32. */
static double state_bytes(const glia_gguf *g, const sizes *z) {
    double layers = g->n_no_kv ? (double)g->n_no_kv : (double)g->n_layer, per_layer = 0;
    double inner = (double)g->ssm_inner, state = (double)g->ssm_state;
    if (g->ssm_inner) {
        double conv = g->ssm_conv ? (double)g->ssm_conv - 1 : 3;
        per_layer += conv * (inner + 2 * (double)g->ssm_groups * state) + inner * state;
    }
    if (g->wkv_head) per_layer += (double)g->n_embd * ((double)g->wkv_head + 2);
    if (g->short_conv) per_layer += (double)g->n_embd * (double)(g->short_conv - 1);
    return per_layer * layers * 4 * z->slots;
}

/* Logits of a whole pass, or hidden rows with their widest branch and (without flash attention) the scores of all heads,
 * whichever is more; and the mask. */
static double compute_bytes(const glia_gguf *g, const glia_model_params *p, const sizes *z) {
    double experts = g->n_expert_used ? (double)g->n_expert_used : 1, per_slot = cells(z) / z->slots;
    double ff = g->n_ff > 2 * g->ssm_inner ? (double)g->n_ff : 2 * (double)g->ssm_inner;
    double logits = z->batch * (double)g->n_vocab * 4;
    double rows = z->batch * (6 * (double)g->n_embd + 3 * ff * experts) * 4;
    if (p->flash == GLIA_FLASH_OFF && g->n_kv_heads) rows += z->batch * per_slot * (double)g->n_head * 4;
    double mask = g->n_kv_heads ? z->batch * per_slot * 4 : 0;
    return (logits > rows ? logits : rows) + z->batch * 2 * (double)g->n_embd * 4 + mask;
}

static uint64_t whole(double bytes) { return bytes < 9e18 ? (uint64_t)bytes : UINT64_MAX / 4; }

void glia_estimate(const glia_gguf *g, uint64_t weight_bytes, const glia_model_params *p, glia_footprint *out) {
    sizes z = resolve(g, p);
    out->weights = weight_bytes < UINT64_MAX / 4 ? weight_bytes : UINT64_MAX / 4;
    out->cache = whole(cache_bytes(g, p, &z) + state_bytes(g, &z));
    out->compute = whole(compute_bytes(g, p, &z));
    out->total = out->weights + out->cache + out->compute;
}

/* ------------------------------------------------------------------ this machine */

static bool read_number(const char *path, uint64_t *out) {
    unsigned long long v;
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%llu", &v) == 1;
    if (f) (void)fclose(f);
    if (ok) *out = v;
    return ok;
}

/* Pages of files that the group may drop: the weights of mapped models are among them. */
static uint64_t group_file_pages(void) {
    unsigned long long v = 0;
    char line[128];
    FILE *f = fopen("/sys/fs/cgroup/memory.stat", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "file %llu", &v) == 1) break;
    }
    if (f) (void)fclose(f);
    return v;
}

/* The limit of this process's control group less what it has taken (cgroup v2, as containers see it). */
static uint64_t group_room(void) {
    uint64_t max, now;
    if (!read_number("/sys/fs/cgroup/memory.max", &max) || !read_number("/sys/fs/cgroup/memory.current", &now))
        return UINT64_MAX;
    uint64_t files = group_file_pages();
    now = now > files ? now - files : 0;
    return max > now ? max - now : 0;
}

uint64_t glia_memory_available(void) {
    uint64_t free_bytes = UINT64_MAX, room = group_room();
    FILE *f = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long long v;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemAvailable: %llu kB", &v) == 1) free_bytes = (uint64_t)v * 1024;
    }
    if (f) (void)fclose(f);
#ifdef _SC_PHYS_PAGES
    if (free_bytes == UINT64_MAX) {
        long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
        if (pages > 0 && size > 0) free_bytes = (uint64_t)pages * (uint64_t)size;
    }
#endif
    return free_bytes < room ? free_bytes : room;
}
