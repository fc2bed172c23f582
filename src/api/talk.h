/* api/talk.h — what the families other than OpenAI's completions share when they read a request: a conversation written as
 * OpenAI messages, and fields handed on.  Any thread; pure. */
#ifndef GLIA_API_TALK_H
#define GLIA_API_TALK_H
#include "api/json.h"

/* Writes messages, joined by commas.  What other families say in several items (text, reasoning, calls) becomes one
 * message of the assistant.  Failures show in out. */
typedef struct glia_talk {
    glia_buf *out;
    bool preface;   /* all that out holds is one message of the system, written here */
    bool answering; /* a message of the assistant is being gathered */
    glia_buf text, thought, calls;
} glia_talk;

/* Any role but assistant and tool.  What the system says before anything else becomes one message: many templates take
 * only one. */
void glia_talk_say(glia_talk *t, const char *role, const char *text, size_t n);
void glia_talk_answer(glia_talk *t, const char *text, size_t n); /* more text of the assistant's message */
void glia_talk_think(glia_talk *t, const char *text, size_t n);
void glia_talk_call(glia_talk *t, const char *id, const char *name, const char *args);
void glia_talk_result(glia_talk *t, const char *id, const char *text, size_t n);
void glia_talk_flush(glia_talk *t); /* the assistant's message is whole */
void glia_talk_end(glia_talk *t);   /* flush, and free */

/* Text of a string, or of a list of parts of the given types joined by newlines.  EINVAL names the part. */
glia_status glia_talk_text(yyjson_val *content, const char *path, const char *const *types, glia_buf *out,
                           glia_err *err);

/* ,"to":value as it stands; nothing when it is absent. */
void glia_talk_pass(glia_buf *out, yyjson_val *root, const char *from, const char *to);
/* ,"tools":[…] and what "choice" makes of tool_choice, each of a family's own form: tool writes one, path names it. */
glia_status glia_talk_tools(yyjson_val *root,
                            glia_status (*tool)(yyjson_val *tool, const char *path, glia_buf *out, glia_err *err),
                            glia_status (*choice)(yyjson_val *choice, glia_buf *out, glia_err *err), glia_buf *out,
                            glia_err *err);
/* What every family may say beside its own fields: model, the sampling table, hooks, interventions, … */
void glia_talk_pass_common(glia_buf *out, yyjson_val *root);
bool glia_talk_is_common(const char *key);
/* EINVAL: the object has a key that is neither in the list (ended by NULL) nor, when common, one of these. */
glia_status glia_talk_only(yyjson_val *obj, const char *path, const char *const *keys, bool common, glia_err *err);

#endif
