/* api/lms.c — what LM Studio's own interfaces say about a generation: stats, model_info, runtime.  Any thread. */
#include "api/job.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

/* LM Studio counts from the first token to the last. */
double glia_lms_rate(const glia_usage *u) {
    return u->n_generated > 1 && u->generate_ms > 0 ? (u->n_generated - 1) * 1000.0 / u->generate_ms : 0;
}

const char *glia_lms_stop_reason(const glia_job *j, const glia_choice *c) {
    if (c->finish == GLIA_FINISH_LENGTH) {
        return j->gen.max_tokens >= 0 && c->usage.n_generated >= j->gen.max_tokens ? "maxPredictedTokensReached"
                                                                                   : "contextLengthReached";
    }
    if (c->n_calls) return "toolCalls";
    return c->finish == GLIA_FINISH_STOP_STRING ? "stopStringFound" : "eosFound";
}

/* "llama 135M Q4_K - Medium" → "Q4_K_M" */
static void add_quant(glia_buf *b, const char *description) {
    static const char *const sizes[][2] = {{" - Small", "_S"}, {" - Medium", "_M"}, {" - Large", "_L"}};
    const char *at = strchr(description, ' ');
    at = at ? strchr(at + 1, ' ') : NULL;
    if (!at) {
        glia_buf_adds(b, "null");
        return;
    }
    char name[48];
    size_t n = 0;
    if (!strncmp(at, " all ", 5)) at += 4; /* "all F32" */
    for (at++; *at && *at != ' ' && n + 3 < sizeof name; at++) name[n++] = *at;
    name[n] = 0;
    for (size_t i = 0; i < 3; i++) {
        if (!strncmp(at, sizes[i][0], strlen(sizes[i][0]))) (void)snprintf(name + n, sizeof name - n, "%s", sizes[i][1]);
    }
    glia_json_add_cstr(b, name);
}

static void add_runtime(glia_buf *b) {
    struct utsname u;
    char name[128] = "llama.cpp";
    if (!uname(&u)) {
        (void)snprintf(name, sizeof name, "llama.cpp-%.32s-%.32s", u.sysname, u.machine);
        for (char *s = name; *s; s++) *s = (char)tolower((unsigned char)*s);
    }
    glia_buf_adds(b, ",\"runtime\":{\"name\":");
    glia_json_add_cstr(b, name);
    glia_buf_adds(b, ",\"version\":");
    glia_json_add_cstr(b, glia_llama_version());
    glia_buf_adds(b, ",\"supported_formats\":[\"gguf\"]}");
}

void glia_add_lms_rest(glia_buf *b, const glia_job *j) {
    glia_usage u = glia_job_usage(j);
    glia_buf_addf(b,
                  ",\"stats\":{\"tokens_per_second\":%.9g,\"time_to_first_token\":%.6f,\"generation_time\":%.6f,"
                  "\"stop_reason\":\"%s\"},\"model_info\":{\"arch\":",
                  glia_lms_rate(&u), u.prompt_ms / 1000, (u.prompt_ms + u.generate_ms) / 1000,
                  glia_lms_stop_reason(j, &j->choices[0]));
    glia_json_add_cstr(b, j->info.arch);
    glia_buf_adds(b, ",\"quant\":");
    add_quant(b, j->info.description);
    glia_buf_addf(b, ",\"format\":\"gguf\",\"context_length\":%d}", (int)j->info.n_ctx);
    add_runtime(b);
}
