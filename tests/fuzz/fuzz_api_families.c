/* Any bytes as a body of Anthropic's messages, OpenAI's responses and LM Studio's chat: translated without an engine.
 * What is accepted must be a chat that the inner checks accept, and what is refused must say why. */
#include "api/history.h"
#include "api/job.h"
#include "api/prompt.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void check(bool ok) {
    if (!ok) abort();
}

static void fuzz_face(glia_app *app, const glia_face *face, yyjson_val *root) {
    glia_buf out = {0}, messages = {0};
    glia_err err = {0};
    yyjson_doc *doc = NULL;
    glia_job *j = glia_job_new(app, face);
    if (!j) return;
    if (!face->read(j, root, &out, &err)) {
        check(!glia_json_parse_object(&doc, &root, out.p, out.n, &err) || err.message[0]);
        if (doc) (void)glia_messages_normalise(root, &messages, &err);
    } else {
        check(err.status && err.message[0]);
        glia_job_fix_param(j, &err);
        check(err.message[0]);
    }
    yyjson_doc_free(doc);
    glia_buf_clear(&out);
    glia_buf_clear(&messages);
    glia_job_free(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static glia_app app; /* no model, no registry: reading asks for neither */
    yyjson_doc *doc;
    yyjson_val *root;
    glia_err err = {0};
    if (glia_json_parse_object(&doc, &root, (const char *)data, size, &err)) return 0;
    if (!app.history) {
        glia_buf kept = {0}, items = {0};
        app.history = glia_history_new(4, 1 << 20);
        glia_buf_adds(&kept, "{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"}");
        if (app.history) glia_history_put(app.history, "resp_1", &kept, &items, "{}", 2);
        glia_buf_clear(&kept);
    }
    fuzz_face(&app, &glia_messages, root);
    fuzz_face(&app, &glia_responses, root);
    fuzz_face(&app, &glia_lms_v1_chat, root);
    yyjson_doc_free(doc);
    return 0;
}
