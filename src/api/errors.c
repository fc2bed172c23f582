/* api/errors.c — error bodies.  Any thread. */
#include "api/errors.h"
#include "api/job.h"
#include <string.h>

static const char *anthropic_type(const glia_err *err) {
    switch (glia_status_http(err->status)) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return glia_status_http(err->status) < 500 ? "invalid_request_error" : "api_error";
    }
}

static void add_anthropic(glia_buf *b, const glia_err *err) {
    glia_buf_addf(b, "\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(err));
    glia_json_add_cstr(b, err->message);
    glia_buf_adds(b, ",\"param\":");
    glia_json_add_cstr(b, err->param[0] ? err->param : NULL);
    glia_buf_addf(b, ",\"code\":\"%s\"}", glia_status_code(err->status));
}

static void add_lms(glia_buf *b, const glia_err *err) {
    bool ours = glia_status_http(err->status) >= 500;
    const char *code = glia_status_code(err->status);
    if (err->status == GLIA_EINVAL && strstr(err->message, " is missing")) code = "missing_required_parameter";
    if (err->status == GLIA_EINVAL && !strncmp(err->message, "unrecognized key", 16)) code = "unrecognized_keys";
    glia_buf_addf(b, "\"error\":{\"type\":\"%s\",\"message\":",
                  err->status == GLIA_EMODEL ? "model_not_found"
                  : !strcmp(err->param, "job_id") && err->status == GLIA_ENOTFOUND ? "job_not_found"
                  : ours                     ? "internal_error"
                                             : "invalid_request");
    glia_json_add_cstr(b, err->message);
    glia_buf_addf(b, ",\"code\":\"%s\"", code);
    if (err->param[0]) {
        glia_buf_adds(b, ",\"param\":");
        glia_json_add_cstr(b, err->param);
    }
    glia_buf_adds(b, "}");
}

void glia_add_shaped_error(glia_buf *b, const glia_err *err, glia_error_shape shape) {
    switch (shape) {
    case GLIA_ERRORS_OPENAI: glia_add_error(b, err); break;
    case GLIA_ERRORS_ANTHROPIC: add_anthropic(b, err); break;
    case GLIA_ERRORS_LMS: add_lms(b, err); break;
    }
}

/* Whose clients ask there. */
static glia_error_shape shape_of(const glia_http_request *rq) {
    const char *path = rq ? glia_http_path(rq) : NULL;
    if (!path) return GLIA_ERRORS_OPENAI;
    if (!strncmp(path, "/v1/messages", 12)) return GLIA_ERRORS_ANTHROPIC;
    static const char *const lms[] = {"/api/v1/chat",          "/api/v1/models",          "/api/v1/models/load",
                                      "/api/v1/models/unload", "/api/v1/models/estimate", "/api/v1/models/download"};
    for (size_t i = 0; i < sizeof lms / sizeof *lms; i++) {
        if (!strcmp(path, lms[i])) return GLIA_ERRORS_LMS;
    }
    return !strncmp(path, "/api/v1/models/download/", 24) ? GLIA_ERRORS_LMS : GLIA_ERRORS_OPENAI;
}

char *glia_api_error_body(const glia_http_request *rq, const glia_err *err, size_t *n, const char **content_type) {
    glia_buf b = {0};
    *content_type = "application/json";
    glia_buf_adds(&b, "{");
    glia_add_shaped_error(&b, err, shape_of(rq));
    glia_buf_adds(&b, "}\n");
    return glia_buf_take(&b, n);
}
