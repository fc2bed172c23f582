/* api/job.c — life of a generation request: parse, submit, pull, end. */
#include "api/job.h"
#include "api/keep.h"
#include "api/prompt.h"
#include "api/registered.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { DEFAULT_MAX_REPLY = 1 << 30, AT_ONCE = 256 << 10 };

/* ------------------------------------------------------------------ generator */

static void clear_choice(const glia_job *j, glia_choice *c) {
    if (c->rq) glia_request_on_event(c->rq, NULL, NULL); /* before the waker goes */
    glia_request_free(c->rq);
    glia_event **events = (glia_event **)(void *)c->events.p;
    for (size_t i = 0; i < c->events.n / sizeof *events; i++) glia_event_free(events[i]);
    glia_buf_clear(&c->events);
    for (size_t i = 0; c->entries && i < j->acts.n_keys; i++) glia_buf_clear(&c->entries[i]);
    for (size_t i = 0; c->rows && i < j->acts.n; i++) glia_act_rows_clear(&c->rows[i]);
    glia_free(c->entries);
    glia_free(c->rows);
    for (int i = 0; i < 4; i++) glia_buf_clear(&c->logprobs[i]);
    glia_buf_clear(&c->text);
    glia_buf_clear(&c->stop);
    glia_buf_clear(&c->ends);
    glia_answer_clear(&c->answer);
}

void glia_job_free(glia_job *j) {
    if (!j || glia_keep_abandon(j)) return;
    glia_keep_free(j);
    glia_event_free(j->ev);
    for (size_t i = 0; j->choices && i < j->n_choices; i++) clear_choice(j, &j->choices[i]);
    glia_sources_free(j->sources); /* before the waker goes */
    if (j->waker) glia_http_waker_release(j->waker);
    for (size_t i = 0; j->prompts && i < j->n_prompts; i++) {
        glia_free(j->prompts[i].tokens);
        glia_buf_clear(&j->prompts[i].text);
    }
    glia_free(j->choices);
    glia_free(j->prompts);
    glia_free(j->body.text);
    glia_buf_clear(&j->out);
    glia_binary_clear(j);
    glia_gen_clear(&j->gen);
    glia_tools_clear(&j->tools);
    glia_chat_free(j->chat);
    glia_acts_clear(&j->acts);
    glia_turn_clear(&j->turn);
    glia_app_release(j->app, j->model);
    glia_free(j);
}

static void job_free(void *self) { glia_job_free(self); }

static void cancel_all(const glia_job *j) {
    glia_sources_cancel(j->sources);
    for (size_t i = 0; i < j->n_choices; i++) {
        if (j->choices[i].rq) glia_request_cancel(j->choices[i].rq);
    }
}

static void job_gone(void *self) { cancel_all(self); }

static int reply_error(glia_http_request *rq, const glia_err *err) {
    (void)glia_http_reply_error(rq, err);
    return GLIA_HTTP_END;
}

static int reply_no_memory(glia_http_request *rq) {
    glia_err err;
    (void)glia_fail(&err, GLIA_ENOMEM, "no memory for the reply: ask for fewer activations, or stream them");
    return reply_error(rq, &err);
}

/* Called again when the run is written. */
static int reply_stored(glia_job *j, glia_http_request *rq) {
    glia_err err;
    bool done;
    char *body;
    size_t n;
    if (glia_keep_run(j, &done, &body, &n, &err)) return reply_error(rq, &err);
    if (!done) return GLIA_HTTP_WAIT;
    (void)glia_http_reply_take(rq, 200, "application/json", body, n);
    return GLIA_HTTP_END;
}

/* The file is the client's from here on: it maps it, and the memory ends with its last mapping. */
static int reply_memory(glia_job *j, glia_http_request *rq, char *json) {
    char text[96];
    glia_err err;
    int fd;
    uint64_t bytes;
    if (glia_whole_memory(j, json, &fd, &bytes, &err)) return reply_error(rq, &err);
    int n = snprintf(text, sizeof text, "{\"object\":\"memory\",\"format\":\"safetensors\",\"bytes\":%llu}\n",
                     (unsigned long long)bytes);
    if (!glia_http_reply_fd(rq, 200, "application/vnd.glia.memory", text, (size_t)n, fd)) return GLIA_HTTP_END;
    (void)glia_fail(&err, GLIA_ENOMEM, "no memory for the reply");
    return reply_error(rq, &err);
}

/* Small bodies in one piece; of larger ones the numbers become text while they are sent. */
static int reply_body(glia_job *j, glia_http_request *rq) {
    glia_body *w = &j->body;
    bool file = j->wire == GLIA_WIRE_SAFETENSORS;
    const char *type = file ? "application/vnd.safetensors" : "application/json";
    uint64_t bytes = 0;
    j->out.n = 0;
    if (!file && !w->split) {
        char *text = w->text;
        w->text = NULL;
        (void)glia_http_reply_take(rq, 200, type, text, w->n_text);
        return GLIA_HTTP_END;
    }
    if (file) glia_whole_file_begin(j, w->text, &j->out, &bytes);
    while (!j->ended && !j->out.failed && j->out.n < AT_ONCE) glia_whole_fill(j);
    if (j->out.failed) return reply_no_memory(rq);
    if (!j->ended) {
        glia_status st = file ? glia_http_stream_sized(rq, 200, type, bytes) : glia_http_stream(rq, 200, type);
        return st ? GLIA_HTTP_ABORT : 1;
    }
    size_t n;
    char *all = glia_buf_take(&j->out, &n);
    (void)glia_http_reply_take(rq, 200, type, all, n);
    return GLIA_HTTP_END;
}

static int reply_whole(glia_job *j, glia_http_request *rq) {
    glia_err why;
    for (size_t i = 0; i < j->n_choices; i++) {
        if (glia_answer_whole(j, &j->choices[i], &why)) return reply_error(rq, &why);
    }
    if (j->keep) return reply_stored(j, rq);
    char *text = j->face->whole(j, &j->body.n_text);
    if (!text) return reply_no_memory(rq);
    if (j->wire == GLIA_WIRE_MEMORY) return reply_memory(j, rq, text);
    j->body.text = text;
    return reply_body(j, rq);
}

/* Where the message quotes the old name, too. */
static void rename_param(glia_err *err, const char *name) {
    glia_err old = *err;
    const char *at = old.param[0] ? strstr(old.message, old.param) : NULL;
    (void)snprintf(err->param, sizeof err->param, "%s", name);
    if (at) {
        (void)snprintf(err->message, sizeof err->message, "%.*s%s%s", (int)(at - old.message), old.message, err->param,
                       at + strlen(old.param));
    }
}

/* The engine's names for what is wrong → the request's → those of its family. */
void glia_job_fix_param(const glia_job *j, glia_err *err) {
    char name[256];
    if (!err) return;
    glia_acts_fix_param(&j->acts, err);
    if (!strcmp(err->param, "grammar") && j->gen.grammar_field)
        (void)snprintf(err->param, sizeof err->param, "%s", j->gen.grammar_field);
    if (!j->face->read) return;
    char *inner = strstr(err->param, "].function");
    if (inner && !strncmp(err->param, "tools[", 6)) { /* tools are flat everywhere else */
        (void)snprintf(name, sizeof name, "%.*s]%s", (int)(inner - err->param), err->param, inner + 10);
        rename_param(err, name);
    }
    for (size_t i = 0; j->face->names && j->face->names[i][0]; i++) {
        const char *from = j->face->names[i][0], *at = strstr(err->param, from);
        bool whole_name = at && strchr(".[", at[strlen(from)]); /* or at its end */
        if (!whole_name || (at != err->param && from[0] != '.')) continue;
        (void)snprintf(name, sizeof name, "%.*s%s%s", (int)(at - err->param), err->param, j->face->names[i][1],
                       at + strlen(from));
        rename_param(err, name);
        return;
    }
}

/* Take what a choice has for us.  False: the job is over, with *err. */
static bool drain_choice(glia_job *j, glia_choice *c, glia_err *err) {
    for (glia_event *ev; !c->ended && (ev = glia_request_next(c->rq, 0));) {
        if (ev->kind == GLIA_EVENT_ERROR) {
            *err = ev->u.error;
            glia_job_fix_param(j, err);
            glia_event_free(ev);
            return false;
        }
        if (ev->kind == GLIA_EVENT_DONE) {
            c->ended = true, c->finish = ev->u.done.finish, c->usage = ev->u.done.usage;
            if (ev->u.done.stop) glia_buf_adds(&c->stop, ev->u.done.stop);
            j->n_ended++;
        }
        if (glia_whole_add(j, c, ev, err)) return false;
    }
    return true;
}

static int start_whole(glia_job *j, glia_http_request *rq) {
    glia_err err;
    if (glia_keep_started(j)) return reply_stored(j, rq);
    for (size_t i = 0; i < j->n_choices; i++) {
        if (drain_choice(j, &j->choices[i], &err)) continue;
        cancel_all(j);
        return reply_error(rq, &err);
    }
    return j->n_ended == j->n_choices ? reply_whole(j, rq) : GLIA_HTTP_WAIT;
}

/* The status line waits for the first event, so that a request that fails at once gets a proper error. */
static int start_stream(glia_job *j, glia_http_request *rq) {
    for (size_t i = 0; i < j->n_choices && !j->ev; i++) {
        j->current = &j->choices[i];
        j->ev = glia_request_next(j->current->rq, 0);
    }
    if (!j->ev) return GLIA_HTTP_WAIT;
    if (j->ev->kind == GLIA_EVENT_ERROR) {
        glia_job_fix_param(j, &j->ev->u.error);
        cancel_all(j);
        return reply_error(rq, &j->ev->u.error);
    }
    (void)glia_http_header_add(rq, "Cache-Control", "no-cache");
    (void)glia_http_header_add(rq, "X-Accel-Buffering", "no");
    return glia_http_stream(rq, 200, glia_stream_type(j)) ? GLIA_HTTP_ABORT : 1;
}

static glia_status submit_choices(glia_job *j, glia_err *err);

static int job_start(void *self, glia_http_request *rq) {
    glia_job *j = self;
    if (j->sources) {
        glia_err err;
        bool done;
        glia_status st = glia_sources_take(j->sources, &done, &err);
        if (!st && !done) return GLIA_HTTP_WAIT;
        if (!st) {
            glia_sources_free(j->sources);
            j->sources = NULL;
            st = submit_choices(j, &err);
        }
        if (st) {
            cancel_all(j);
            return reply_error(rq, &err);
        }
    }
    return glia_wire_is_whole(j->wire) ? start_whole(j, rq) : start_stream(j, rq);
}

static ssize_t job_read(void *self, char *out, size_t max) {
    glia_job *j = self;
    size_t n = 0;
    while (n < max) {
        size_t left = j->out.n - j->out_at;
        if (left) {
            size_t take = left < max - n ? left : max - n;
            memcpy(out + n, j->out.p + j->out_at, take);
            j->out_at += take, n += take;
            continue;
        }
        j->out.n = j->out_at = 0;
        if (j->ended) break;
        if (glia_wire_is_whole(j->wire)) glia_whole_fill(j);
        else if (!glia_stream_fill(j)) break;
        if (j->out.failed) return GLIA_HTTP_ABORT;
    }
    if (n) return (ssize_t)n;
    return j->ended ? GLIA_HTTP_END : GLIA_HTTP_WAIT;
}

static const glia_http_generator generator = {job_start, job_read, job_gone, job_free};

/* ------------------------------------------------------------------ making one */

static void make_id(char *out, size_t cap, const glia_face *face) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    unsigned char random[48];
    size_t n_random = face->hex ? 48 : 22, n = (size_t)snprintf(out, cap, "%s", face->id_prefix);
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) memset(random, 7, sizeof random);
    for (size_t i = 0; i < n_random && n + 1 < cap; i++) out[n++] = letters[random[i] % (face->hex ? 16 : 36)];
    out[n] = 0;
}

static bool is_chat(const glia_job *j) { return j->face->kind == GLIA_API_CHAT; }

static glia_status parse_echo(glia_job *j, yyjson_val *root, glia_err *err) {
    if (is_chat(j)) return GLIA_OK;
    glia_status st = glia_json_bool(root, "", "echo", &j->echo, NULL, err);
    if (st || !j->echo || j->gen.sampling.n_logprobs < 0 || !j->gen.stream) return st;
    return glia_fail_at(err, GLIA_EINVAL, "echo", "echo together with logprobs needs a reply in one piece: no stream");
}

static glia_status check_length(const glia_job *j, const glia_prompt *p, glia_err *err) {
    const char *param = is_chat(j) ? "messages" : "prompt";
    size_t n_ctx = (size_t)j->info.n_ctx;
    if (p->n > n_ctx || (p->n == n_ctx && j->gen.max_tokens != 0)) {
        return glia_fail_at(err, GLIA_ECONTEXT, param, "the prompt has %zu tokens, the context of this model holds %zu",
                            p->n, n_ctx);
    }
    return GLIA_OK; /* whether max_tokens fits behind it is the engine's to say */
}

static void add_stops(glia_job *j, const char *const *stop, size_t n) {
    for (size_t i = 0; i < n && j->n_stop < sizeof j->stop / sizeof *j->stop; i++) j->stop[j->n_stop++] = stop[i];
}

/* The prompt of a chat, and what its answer must look like: the client's grammar, else that of the tools. */
static glia_status plan_chat(glia_job *j, yyjson_val *root, glia_prompt *p, glia_err *err) {
    bool own, structured = j->gen.grammar.n > 0;
    glia_status st = glia_prompt_plan(j->model, root, structured, &j->tools, &own, &j->chat, &p->tokens, &p->n, err);
    if (st) return st;
    static const char *const trigger[] = {"<tool_call>"};
    bool offered = j->tools.n && j->tools.choice != GLIA_TOOLS_NONE, required = j->tools.choice == GLIA_TOOLS_REQUIRED;
    if (!structured && own && offered) {
        j->reads = GLIA_READS_OWN, j->constrained = true;
        j->constraint = (glia_constraint){.grammar = j->tools.gbnf.p,
                                          .n_grammar = j->tools.gbnf.n,
                                          .triggers = trigger,
                                          .n_triggers = required ? 0 : 1};
        j->gen.grammar_field = "tools";
    } else if (!structured && j->chat->parses) {
        j->reads = GLIA_READS_CHAT;
        j->constrained = j->chat->constrained, j->constraint = j->chat->constraint;
        j->gen.grammar_field = "tools";
        add_stops(j, j->chat->stop, j->chat->n_stop);
        if (offered && required && !j->constraint.grammar)
            return glia_fail_at(err, GLIA_EINVAL, "tool_choice",
                                "this model's template gives no way to demand a call: use "
                                "\"auto\"");
    }
    return GLIA_OK;
}

static glia_status parse_prompts(glia_job *j, yyjson_val *root, glia_err *err) {
    j->n_prompts = is_chat(j) ? 1 : glia_prompt_count(root);
    if (j->n_prompts > GLIA_MAX_CHOICES) {
        return glia_fail_at(err, GLIA_EINVAL, "prompt", "prompt: %zu prompts, at most %d in one request", j->n_prompts,
                            (int)GLIA_MAX_CHOICES);
    }
    if (!(j->prompts = glia_calloc(j->n_prompts, sizeof *j->prompts)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for the prompts");
    for (size_t i = 0; i < j->n_prompts; i++) {
        glia_prompt *p = &j->prompts[i];
        glia_status st =
            is_chat(j) ? plan_chat(j, root, p, err)
                       : glia_prompt_completion(j->model, root, i, &p->tokens, &p->n, j->echo ? &p->text : NULL, err);
        if (st || (st = check_length(j, p, err))) return st;
    }
    return GLIA_OK;
}

static glia_status make_choices(glia_job *j, glia_err *err) {
    size_t n = j->n_prompts * (size_t)j->gen.n;
    if (n > GLIA_MAX_CHOICES) {
        return glia_fail_at(err, GLIA_EINVAL, "n", "n = %d for each of %zu prompts: at most %d answers in one request",
                            (int)j->gen.n, j->n_prompts, (int)GLIA_MAX_CHOICES);
    }
    if (!(j->choices = glia_calloc(n, sizeof *j->choices))) return glia_fail(err, GLIA_ENOMEM, "no memory for n");
    j->n_choices = n;
    j->acts.with_choice = n > 1;
    for (size_t i = 0; i < n; i++) {
        j->choices[i].index = (int32_t)i;
        j->choices[i].prompt = i / (size_t)j->gen.n;
    }
    return GLIA_OK;
}

/* The request's own hooks, and those that are registered with the model unless the key may not use hooks. */
static glia_status parse_hooks(glia_job *j, yyjson_val *root, glia_err *err) {
    yyjson_doc *doc = NULL;
    bool use = true;
    glia_status st = glia_json_bool(root, "", "registered_hooks", &use, NULL, err);
    if (!st && use && j->may_hook && j->app->registered)
        st = glia_registered_get(j->app->registered, j->info.id, &doc, NULL, err);
    if (!st) {
        st = glia_acts_parse(&j->acts, root, doc ? yyjson_doc_get_root(doc) : NULL, j->typed, j->info.n_layer,
                             j->info.arch, err);
    }
    yyjson_doc_free(doc);
    return st;
}

static glia_status parse_body(glia_job *j, yyjson_val *root, glia_err *err) {
    const char *model = NULL;
    glia_status st;
    if ((st = glia_json_str(root, "", "model", &model, err))) return st;
    if ((st = glia_app_find(j->app, model, &j->model, err))) return st;
    glia_model_get_info(j->model, &j->info);
    if (j->info.encoder)
        return glia_fail_at(err, GLIA_EINVAL, "model", "%.120s makes vectors only: use /v1/embeddings", j->info.id);
    if ((st = glia_gen_parse(&j->gen, root, j->face->kind, j->info.n_vocab, err))) return st;
    if ((st = glia_gen_bind(&j->gen, root, j->model, err))) return st;
    if ((st = parse_hooks(j, root, err))) return st;
    j->acts.app = j->app;
    if ((st = glia_edits_parse(&j->acts, root, j->info.n_layer, j->info.arch, err))) return st;
    if (j->gen.stream && j->acts.format.merge) {
        return glia_fail_at(err, GLIA_EINVAL, "activation_format.merge",
                            "activation_format.merge needs a reply in one piece: leave it out, or stream out");
    }
    if ((st = parse_echo(j, root, err))) return st;
    add_stops(j, (const char *const *)j->gen.stop, j->gen.n_stop);
    if ((st = parse_prompts(j, root, err))) return st;
    if (j->face->check && (st = j->face->check(j, err))) return st;
    return make_choices(j, err);
}

/* Families other than OpenAI's completions are translated first, into *doc: it is borrowed until the job is submitted. */
static glia_status read_body(glia_job *j, yyjson_val *root, yyjson_doc **doc, glia_err *err) {
    glia_buf chat = {0};
    if (!j->face->read) return parse_body(j, root, err);
    glia_status st = j->face->read(j, root, &chat, err);
    if (!st && chat.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the request");
    if (!st) st = glia_json_parse_object(doc, &root, chat.p, chat.n, err);
    if (!st && (st = parse_body(j, root, err))) glia_job_fix_param(j, err);
    glia_buf_clear(&chat);
    return st;
}

/* ------------------------------------------------------------------ submitting */

/* Whether `Accept` names this type with a weight above zero; wildcards do not count. */
static bool accepts(glia_http_request *rq, const char *type) {
    const char *accept = glia_http_header(rq, "Accept");
    return accept && strcasestr(accept, type);
}

/* Numbering only helps when the second stream is the first one over again. */
static glia_status check_frames(const glia_job *j, glia_err *err) {
    const glia_act_format *f = &j->acts.format;
    bool frames = j->wire == GLIA_WIRE_FRAMES;
    if (f->zstd && !frames) {
        return glia_fail_at(err, GLIA_EINVAL, "activation_format.compression",
                            "activation_format.compression needs stream and Accept: application/vnd.glia.frames");
    }
    if (!f->first) return GLIA_OK;
    if (!frames || j->n_choices > 1 || (j->gen.sampling.temperature > 0 && j->gen.sampling.seed == GLIA_SEED_RANDOM)) {
        return glia_fail_at(err, GLIA_EINVAL, "activation_format.first_frame",
                            "activation_format.first_frame needs Accept: application/vnd.glia.frames, one choice, and "
                            "the seed (or temperature 0) of the stream that it goes on with");
    }
    return GLIA_OK;
}

static glia_status choose_wire(glia_job *j, glia_http_request *rq, glia_err *err) {
    glia_status st;
    if (!j->gen.stream) {
        bool memory = j->acts.n && accepts(rq, "application/vnd.glia.memory");
        bool file = j->acts.n && accepts(rq, "application/vnd.safetensors");
        if (memory && !file && !glia_http_takes_fd(rq))
            return glia_fail_at(err, GLIA_EINVAL, "Accept",
                                "memory is handed over on a Unix socket: connect to the server's --listen unix:PATH");
        j->wire = memory && glia_http_takes_fd(rq) ? GLIA_WIRE_MEMORY : file ? GLIA_WIRE_SAFETENSORS : GLIA_WIRE_WHOLE;
    } else if (accepts(rq, "application/vnd.glia.frames")) {
        j->wire = GLIA_WIRE_FRAMES;
    } else {
        j->wire = j->typed && !accepts(rq, "text/event-stream") ? GLIA_WIRE_NDJSON : GLIA_WIRE_SSE;
    }
    if (j->wire == GLIA_WIRE_FRAMES) j->typed = true, j->acts.format.encoding = GLIA_ENC_RAW;
    if (j->wire == GLIA_WIRE_SAFETENSORS || j->wire == GLIA_WIRE_MEMORY)
        j->acts.format.merge = true, j->acts.format.encoding = GLIA_ENC_TENSOR;
    if ((st = glia_keep_plan(j, err))) return st;
    return check_frames(j, err);
}

static void fill_params(const glia_job *j, const glia_choice *c, glia_request_params *p) {
    const glia_prompt *prompt = &j->prompts[c->prompt];
    glia_request_params_init(p);
    p->prompt = prompt->tokens, p->n_prompt = prompt->n;
    p->max_tokens = j->gen.max_tokens;
    p->sampling = j->gen.sampling;
    /* answers of one seed differ, and each can be had again */
    if (p->sampling.seed != GLIA_SEED_RANDOM) p->sampling.seed = (p->sampling.seed + (uint32_t)c->index) % UINT32_MAX;
    p->stop = j->stop, p->n_stop = j->n_stop;
    p->hooks = j->acts.hooks, p->n_hooks = j->acts.n;
    p->edits = j->acts.edits, p->n_edits = j->acts.n_edits;
    if (j->constrained) p->constraint = &j->constraint;
    p->no_cache = j->gen.no_cache;
    p->speculate = j->gen.speculate, p->guess_most = j->gen.guess_most, p->priority = j->gen.priority;
    p->adapters = j->gen.adapters, p->n_adapters = j->gen.n_adapters;
    p->predicted = j->gen.predicted, p->n_predicted = j->gen.n_predicted;
    p->prompt_logprobs = j->echo && j->gen.sampling.n_logprobs >= 0;
    p->whole_reply = glia_wire_is_whole(j->wire);
    p->want_progress = j->face->progress && !p->whole_reply;
}

static glia_status check_reply_size(const glia_job *j, glia_err *err) {
    uint64_t bytes, sum = 0, max = j->app->max_reply ? j->app->max_reply : DEFAULT_MAX_REPLY;
    if ((!glia_wire_is_whole(j->wire) && !j->keep) || !j->acts.n) return GLIA_OK;
    for (size_t i = 0; i < j->n_choices; i++) {
        glia_request_params p;
        fill_params(j, &j->choices[i], &p);
        glia_status st = glia_request_capture_bytes(j->model, &p, &bytes, err);
        if (st) return st;
        sum += glia_acts_reply_bytes(&j->acts, bytes);
    }
    if (sum <= max) return GLIA_OK;
    return glia_fail_at(err, GLIA_ETOOLARGE, "activation_hooks",
                        "these activations would make a reply of %llu MiB, more than %llu: set stream or max_tokens, "
                        "encoding base64, or ask for fewer rows",
                        (unsigned long long)(sum >> 20), (unsigned long long)(max >> 20));
}

static void wake_request(void *ud) { glia_http_waker_wake(ud); }

static glia_status submit(glia_job *j, glia_err *err) {
    glia_status st = check_reply_size(j, err);
    if (st) glia_job_fix_param(j, err);
    if (j->gen.grammar.n) {
        j->constrained = true;
        j->constraint = (glia_constraint){.grammar = j->gen.grammar.p, .n_grammar = j->gen.grammar.n};
    }
    if (!st && j->acts.n_sources && j->n_prompts > 1) {
        st = glia_fail_at(err, GLIA_EINVAL, "interventions",
                          "interventions with a source need one prompt: send the prompts one by one");
    }
    if (!st) {
        st = glia_sources_start(&j->sources, &j->acts, j->model, j->prompts->tokens, j->prompts->n, j->wake, j->wake_ud,
                                err);
    }
    return st || j->sources ? st : submit_choices(j, err);
}

static glia_status submit_choices(glia_job *j, glia_err *err) {
    glia_status st = GLIA_OK;
    for (size_t i = 0; i < j->n_choices && !st; i++) {
        glia_request_params p;
        fill_params(j, &j->choices[i], &p);
        st = glia_request_submit(&j->choices[i].rq, j->model, &p, err);
        if (!st) glia_request_on_event(j->choices[i].rq, j->wake, j->wake_ud);
    }
    if (st) glia_job_fix_param(j, err);
    return st;
}

/* Hooks and edits may stand in any body; not every key may use them. */
static glia_status check_scopes(const glia_job *j, const glia_http_request *rq, glia_err *err) {
    uint32_t scopes = glia_http_scopes(rq);
    if (j->acts.n && !(scopes & GLIA_SCOPE_HOOKS))
        return glia_fail_at(err, GLIA_EFORBIDDEN, "activation_hooks", "this API key lacks the scope hooks");
    if (j->acts.n_edits && !(scopes & GLIA_SCOPE_EDIT))
        return glia_fail_at(err, GLIA_EFORBIDDEN, "interventions", "this API key lacks the scope edit");
    return GLIA_OK;
}

glia_job *glia_job_new(glia_app *app, const glia_face *face) {
    glia_job *j = glia_calloc(1, sizeof *j);
    if (!j) return NULL;
    j->app = app, j->face = face;
    j->created = (int64_t)time(NULL);
    make_id(j->id, sizeof j->id, face);
    return j;
}

void glia_job_serve(glia_app *app, glia_http_request *rq, const glia_face *face, bool with_activations) {
    glia_err err;
    glia_status st;
    yyjson_doc *doc = NULL, *translated = NULL;
    yyjson_val *root;
    size_t n;
    const char *body = glia_http_body(rq, &n);
    glia_job *j = glia_job_new(app, face);
    if (!j) {
        st = glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
        goto done;
    }
    j->typed = with_activations, j->load_seconds = glia_http_note(rq);
    j->may_hook = (glia_http_scopes(rq) & GLIA_SCOPE_HOOKS) != 0;
    if ((st = glia_json_parse_object(&doc, &root, body, n, &err))) goto done;
    if ((st = read_body(j, root, &translated, &err))) goto done;
    if (!face->read && (st = glia_keep_parse(j, root, &err))) goto done; /* other families keep conversations */
    if ((st = check_scopes(j, rq, &err))) goto done;
    if ((st = choose_wire(j, rq, &err))) goto done;
    j->waker = glia_http_waker_get(rq);
    j->wake = wake_request, j->wake_ud = j->waker;
    if (j->keep) j->keep_waker = glia_http_waker_get(rq);
    if ((st = submit(j, &err))) goto done;
    (void)glia_http_defer(rq, &generator, j); /* owns j from here on, also on failure */
    j = NULL;
done:
    yyjson_doc_free(translated);
    yyjson_doc_free(doc);
    if (st) (void)glia_http_reply_error(rq, &err);
    glia_job_free(j);
}

glia_status glia_job_begin(glia_job **out, glia_app *app, const glia_face *face, yyjson_val *root, void *owner,
                           void (*wake)(void *ud), void *ud, glia_err *err) {
    glia_job *j = *out = glia_job_new(app, face);
    if (!j) return glia_fail(err, GLIA_ENOMEM, "no memory for the request");
    j->wire = GLIA_WIRE_NDJSON, j->owner = owner, j->wake = wake, j->wake_ud = ud;
    glia_status st = parse_body(j, root, err);
    if (!st) st = submit(j, err);
    if (!st) return GLIA_OK;
    glia_job_free(j);
    *out = NULL;
    return st;
}

void glia_job_cancel(glia_job *j) { cancel_all(j); }

glia_usage glia_job_usage(const glia_job *j) {
    glia_usage sum = {0};
    size_t counted = SIZE_MAX;
    for (size_t i = 0; i < j->n_choices; i++) {
        const glia_usage *u = &j->choices[i].usage;
        if (j->choices[i].prompt != counted) sum.n_prompt += u->n_prompt, sum.n_cached += u->n_cached;
        counted = j->choices[i].prompt;
        sum.n_generated += u->n_generated, sum.n_guessed += u->n_guessed, sum.n_right += u->n_right;
        if (u->queue_ms > sum.queue_ms) sum.queue_ms = u->queue_ms;
        if (u->prompt_ms > sum.prompt_ms) sum.prompt_ms = u->prompt_ms;
        if (u->generate_ms > sum.generate_ms) sum.generate_ms = u->generate_ms;
    }
    return sum;
}
