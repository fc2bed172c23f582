/* cli/cli.h — the verbs of the program and what they share: options, finding and loading a model, a running server,
 * signals.  Main thread, except the signal thread. */
#ifndef GLIA_CLI_CLI_H
#define GLIA_CLI_CLI_H
#include "api/app.h"
#include "cli/flags.h"
#include "glia.h"

/* Exit statuses of the program. */
enum { EXIT_FINE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* Verbs: argv[0] is the first argument after the verb.  They return an exit status. */
typedef struct cli_verb {
    const char *name;
    int (*run)(int argc, char **argv);
} cli_verb;
extern const cli_verb cli_verbs[]; /* ended by a row without name: verbs.c */
int cli_serve(int argc, char **argv);
int cli_demo(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_models(int argc, char **argv);
int cli_harvest(int argc, char **argv);
int cli_runs(int argc, char **argv);
int cli_sweep(int argc, char **argv);
int cli_version(int argc, char **argv);
int cli_openapi(int argc, char **argv);
int cli_completion(int argc, char **argv);
int cli_help(int argc, char **argv);

/* -- options.c: what serve and demo take */
typedef struct cli_options {
    const char *model, *draft, *id, *port_file, *config, *key_file, *assets, *store;
    flag_list lora, listen, api_keys, data_dirs, model_dirs, aliases, mirrors;
    int32_t port;    /* -1: not given */
    int32_t grace_s; /* how long replies under way may go on once the server is told to stop */
    int32_t queue, stall_s, n_parallel, n_ctx, n_gpu_layers, n_threads, n_batch;
    int flash, kv_type, speculate, log_level, log_format; /* indices of choices */
    int32_t ttl_s, max_loaded;
    size_t memory_limit, capture_bytes, memory_budget, prompt_cache, store_limit;
    bool json, no_atlas_cache, no_hooks, jit, no_jit;
} cli_options;

enum { CLI_N_FLAGS = 48 };
void cli_options_init(cli_options *o);
/* Fill table (CLI_N_FLAGS rows) to write into o; returns the number of rows.  Model rows only, or serving rows too. */
size_t cli_options_flags(cli_options *o, bool serving, flag *table);
void cli_options_model(const cli_options *o, const char *path, glia_model_params *p);
void cli_options_log(const cli_options *o);

/* -- find.c */
/* A path, or an id in the model folder → a path (malloc'ed).  Prints what is wrong to stderr and answers NULL. */
char *cli_find_model(const char *name);
char *cli_find_model_in(const flag_list *dirs, const char *name); /* dirs: none: the default ones */
bool cli_any_model(const cli_options *o); /* there is a model in the folders, or folders are named */
/* The catalogue of these folders, none: the default ones.  Prints what is wrong and answers NULL. */
glia_catalogue *cli_catalogue(const flag_list *dirs);

/* -- load.c */
/* Load with progress on a terminal, and stop when a signal came.  Prints errors. */
glia_model *cli_load(const cli_options *o, const char *path, glia_status *st);

/* -- signals.c */
/* Before any other thread: SIGINT and SIGTERM are from then on waited for by a thread of their own.  The first asks to
 * stop, the second ends the process at once. */
bool cli_signals_start(void);
bool cli_stop_asked(void);
void cli_wait_for_stop(void);

/* -- server.c */
typedef struct cli_server {
    glia_app app;
    glia_http *http;
} cli_server;
/* Listens where o says, with its keys and limits; no model yet. */
bool cli_server_start(cli_server *s, const cli_options *o);
/* Load the model at path under the id that o or its file name gives, with progress on a terminal; stops when a signal
 * came.  Prints errors. */
glia_status cli_server_load(cli_server *s, const cli_options *o, const char *path);
/* Replies under way may go on for grace_ms, then they are cancelled. */
void cli_server_stop(cli_server *s, unsigned grace_ms);

/* -- keys.c */
/* Keys of --api-key (which may do everything) and of --api-key-file, one a line with what it may do; *out (its strings
 * too) is to be freed with cli_keys_free.  Prints what is wrong. */
bool cli_keys_read(const cli_options *o, glia_http_key **out, size_t *n);
void cli_keys_free(glia_http_key *keys, size_t n);

bool cli_print_error(const glia_err *err); /* "glia: …" on stderr; false, for `return` */
bool cli_utf8(void);                       /* whether the terminal's locale takes UTF-8 */

#endif
