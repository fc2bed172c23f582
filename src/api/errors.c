/* api/errors.c — the one shape of every error body.  Any thread. */
#include "api/app.h"
#include "api/json.h"

char *glia_api_error_body(const glia_err *err, size_t *n, const char **content_type) {
    glia_buf b = {0};
    *content_type = "application/json";
    glia_buf_adds(&b, "{\"error\":{\"message\":");
    glia_json_add_cstr(&b, err->message);
    glia_buf_addf(&b, ",\"type\":\"%s\",\"param\":", glia_status_type(err->status));
    glia_json_add_cstr(&b, err->param[0] ? err->param : NULL);
    glia_buf_addf(&b, ",\"code\":\"%s\"}}\n", glia_status_code(err->status));
    return glia_buf_take(&b, n);
}
