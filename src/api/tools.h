/* api/tools.h — functions that a client offers to the model: what is asked, how the model is told, how it answers.
 *
 * Models whose template knows tools get them by it, and llama.cpp's common reads their answers (glia_chat).  All others
 * are told in a system message, and answer in a form of ours, which a grammar enforces and tools.c reads:
 *   <tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>
 * Any thread. */
#ifndef GLIA_API_TOOLS_H
#define GLIA_API_TOOLS_H
#include "api/json.h"

enum { GLIA_MAX_TOOLS = 128, GLIA_MAX_CALLS = 64 };

typedef enum glia_tool_choice { GLIA_TOOLS_NONE, GLIA_TOOLS_AUTO, GLIA_TOOLS_REQUIRED } glia_tool_choice;

typedef struct glia_tools {
    glia_tool_choice choice; /* a named tool: REQUIRED, and it is the only one left */
    bool parallel;
    size_t n;
    glia_buf json; /* OpenAI's list of the tools that may be called */
    glia_buf gbnf; /* of our own form: root is one call, or several */
} glia_tools;

/* Read tools, tool_choice and parallel_tool_calls.  EINVAL names the field, down to the place in a tool's schema. */
glia_status glia_tools_parse(glia_tools *t, yyjson_val *root, glia_err *err);
void glia_tools_clear(glia_tools *t);
/* What the system message says about them. */
void glia_tools_explain(const glia_tools *t, glia_buf *text);

/* One call of an answer; an answer as far as it is there. */
typedef struct glia_call {
    glia_buf name, args;
} glia_call;
typedef struct glia_answer {
    glia_buf content, reasoning;
    glia_call calls[GLIA_MAX_CALLS];
    size_t n_calls;
    bool failed; /* out of memory */
} glia_answer;

void glia_answer_clear(glia_answer *a);
/* Our own form.  partial: what could be the beginning of a call is not yet content. */
void glia_answer_read(glia_answer *a, const char *text, size_t n, bool partial);
/* What glia_chat_parse answers. */
glia_status glia_answer_read_json(glia_answer *a, const char *json, size_t n, glia_err *err);
#endif
