/* api/errors.c — the shape of every error body.  Any thread. */
#include "api/job.h"

char *glia_api_error_body(const glia_http_request *rq, const glia_err *err, size_t *n, const char **content_type) {
    (void)rq;
    glia_buf b = {0};
    *content_type = "application/json";
    glia_buf_adds(&b, "{");
    glia_add_error(&b, err);
    glia_buf_adds(&b, "}\n");
    return glia_buf_take(&b, n);
}
