/* api/metrics.c — GET /metrics: counters of requests, models and memory in Prometheus' text format.  HTTP threads.
 *
 * Source: Prometheus' "Exposition formats", text format 0.0.4. */
#include "api/handlers.h"
#include "base/err.h"

static void family(glia_buf *b, const char *name, const char *type, const char *help) {
    glia_buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: backslash, quote and newline are escaped. */
static void add_value(glia_buf *b, const char *s) {
    for (; *s; s++) {
        if (*s == '\n') glia_buf_adds(b, "\\n");
        else if (*s == '"' || *s == '\\') glia_buf_add(b, (char[]){'\\', *s}, 2);
        else glia_buf_add(b, s, 1);
    }
}

static void add_route(glia_buf *b, const char *name, const glia_http_count *c) {
    glia_buf_addf(b, "%s{method=\"%s\",route=\"%s\"", name, c->route ? c->route->method : "",
                  c->route ? c->route->pattern : "");
}

static void add_replies(glia_buf *b, const glia_http_request *rq) {
    static const char *const classes[GLIA_HTTP_CLASSES] = {"2xx", "3xx", "4xx", "5xx", "none"};
    glia_http_count c;
    family(b, "glia_http_requests_total", "counter",
           "Requests by route and class of the reply; none: the client left.");
    for (size_t i = 0; glia_http_counts(rq, i, &c); i++) {
        for (size_t k = 0; k < GLIA_HTTP_CLASSES; k++) {
            if (!c.replies[k]) continue;
            add_route(b, "glia_http_requests_total", &c);
            glia_buf_addf(b, ",class=\"%s\"} %llu\n", classes[k], (unsigned long long)c.replies[k]);
        }
    }
    family(b, "glia_http_reply_bytes_total", "counter", "Bytes of reply bodies by route.");
    for (size_t i = 0; glia_http_counts(rq, i, &c); i++) {
        if (!c.within[GLIA_HTTP_BOUNDS]) continue;
        add_route(b, "glia_http_reply_bytes_total", &c);
        glia_buf_addf(b, "} %llu\n", (unsigned long long)c.bytes);
    }
}

static void add_durations(glia_buf *b, const glia_http_request *rq) {
    glia_http_count c;
    family(b, "glia_http_request_seconds", "histogram", "Time from a request's first line to the end of its reply.");
    for (size_t i = 0; glia_http_counts(rq, i, &c); i++) {
        if (!c.within[GLIA_HTTP_BOUNDS]) continue;
        for (size_t k = 0; k <= GLIA_HTTP_BOUNDS; k++) {
            add_route(b, "glia_http_request_seconds_bucket", &c);
            if (k < GLIA_HTTP_BOUNDS) glia_buf_addf(b, ",le=\"%g\"}", glia_http_count_bound(k));
            else glia_buf_adds(b, ",le=\"+Inf\"}");
            glia_buf_addf(b, " %llu\n", (unsigned long long)c.within[k]);
        }
        add_route(b, "glia_http_request_seconds_sum", &c);
        glia_buf_addf(b, "} %.6f\n", c.seconds);
        add_route(b, "glia_http_request_seconds_count", &c);
        glia_buf_addf(b, "} %llu\n", (unsigned long long)c.within[GLIA_HTTP_BOUNDS]);
    }
}

enum { N_MODEL_METRICS = 12 };
static const struct {
    const char *name, *type, *help;
} model_metrics[N_MODEL_METRICS] = {
    {"glia_model_requests_total", "counter", "Requests that got a slot."},
    {"glia_model_requests_finished_total", "counter", "Requests answered to the end."},
    {"glia_model_passes_total", "counter", "Forward passes."},
    {"glia_model_short_passes_total", "counter", "Of these, ended behind the last node that any hook needed."},
    {"glia_model_prompt_tokens_total", "counter", "Prompt tokens computed."},
    {"glia_model_cached_tokens_total", "counter", "Prompt tokens found in the KV cache."},
    {"glia_model_restored_tokens_total", "counter", "Of these, copied from another slot or from host memory."},
    {"glia_model_prompt_cache_bytes", "gauge", "Host memory that holds prompts which left their slot."},
    {"glia_model_generated_tokens_total", "counter", "Tokens generated."},
    {"glia_model_slots", "gauge", "Requests that can be computed together."},
    {"glia_model_slots_busy", "gauge", "Slots that hold a request."},
    {"glia_model_requests_waiting", "gauge", "Requests in the queue."},
};

static uint64_t model_metric(const glia_model *m, size_t k) {
    glia_activity a;
    glia_model_info info;
    glia_model_activity(m, &a);
    glia_model_get_info(m, &info);
    const uint64_t v[N_MODEL_METRICS] = {
        a.requests,        a.finished,           a.passes,           a.short_passes,
        a.prompt_tokens,   a.cached_tokens,      a.restored_tokens,  a.prompt_cache_bytes,
        a.generated_tokens, (uint64_t)info.n_parallel, (uint64_t)a.n_busy, (uint64_t)a.n_waiting};
    return v[k];
}

static void add_models(glia_buf *b, glia_app *app) {
    glia_instances *l;
    if (glia_registry_list(app->models, &l, NULL)) {
        b->failed = true;
        return;
    }
    for (size_t k = 0; k < N_MODEL_METRICS; k++) {
        family(b, model_metrics[k].name, model_metrics[k].type, model_metrics[k].help);
        for (size_t i = 0; i < l->n; i++) {
            if (!l->items[i].model) continue;
            glia_buf_addf(b, "%s{model=\"", model_metrics[k].name);
            add_value(b, l->items[i].id);
            glia_buf_addf(b, "\"} %llu\n", (unsigned long long)model_metric(l->items[i].model, k));
        }
    }
    family(b, "glia_model_loading", "gauge", "Models that are being loaded.");
    size_t n_loading = 0;
    for (size_t i = 0; i < l->n; i++) n_loading += l->items[i].state == GLIA_LOAD_LOADING;
    glia_buf_addf(b, "glia_model_loading %zu\n", n_loading);
    family(b, "glia_model_memory_bytes", "gauge", "Memory that a model was estimated to take.");
    for (size_t i = 0; i < l->n; i++) {
        glia_buf_adds(b, "glia_model_memory_bytes{model=\"");
        add_value(b, l->items[i].id);
        glia_buf_addf(b, "\"} %llu\n", (unsigned long long)l->items[i].footprint.total);
    }
    glia_instances_free(app->models, l);
}

static void add_capture(glia_buf *b, const glia_capture_memory *m) {
    glia_capture_usage u;
    glia_capture_memory_read(m, &u);
    family(b, "glia_capture_memory_bytes", "gauge", "Memory for activations of all models.");
    const struct {
        const char *kind;
        uint64_t bytes;
    } rows[] = {{"limit", u.limit}, {"leased", u.leased}, {"held", u.held}, {"peak", u.peak}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_buf_addf(b, "glia_capture_memory_bytes{kind=\"%s\"} %llu\n", rows[i].kind,
                      (unsigned long long)rows[i].bytes);
    }
    family(b, "glia_capture_waiting", "gauge", "Requests that wait for memory for activations.");
    glia_buf_addf(b, "glia_capture_waiting %d\n", (int)u.n_waiting);
}

void glia_on_metrics(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_buf b = {0};
    family(&b, "glia_build_info", "gauge", "Version of Glia and of llama.cpp.");
    glia_buf_addf(&b, "glia_build_info{version=\"%s\",llama_cpp=\"", glia_version());
    add_value(&b, glia_llama_version());
    glia_buf_adds(&b, "\"} 1\n");
    family(&b, "glia_http_requests_live", "gauge", "Requests being answered now.");
    glia_buf_addf(&b, "glia_http_requests_live %zu\n", glia_http_live(rq));
    add_replies(&b, rq);
    add_durations(&b, rq);
    add_models(&b, app);
    if (app->capture_memory) add_capture(&b, app->capture_memory);
    size_t n;
    char *body = glia_buf_take(&b, &n);
    glia_err err;
    if (body) {
        (void)glia_http_reply_take(rq, 200, "text/plain; version=0.0.4; charset=utf-8", body, n);
    } else {
        (void)glia_fail(&err, GLIA_ENOMEM, "out of memory for the metrics: try again");
        (void)glia_http_reply_error(rq, &err);
    }
}
