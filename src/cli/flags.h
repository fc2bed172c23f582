/* cli/flags.h — options from one table: command line, environment, configuration file; the help text made of it.
 *
 * A row "--cache-type" is also the variable GLIA_CACHE_TYPE and the line "cache-type = q8_0" of a configuration file.
 * Whoever comes first wins: command line, then environment, then file.  Main thread only. */
#ifndef GLIA_CLI_FLAGS_H
#define GLIA_CLI_FLAGS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLAG_LIST_MAX = 16, FLAGS_MAX = 64 };

typedef struct flag_list {
    const char *items[FLAG_LIST_MAX];
    size_t n;
} flag_list;

typedef enum flag_kind {
    FLAG_SWITCH, /* bool; in environment and file: yes, no */
    FLAG_TEXT,   /* const char * */
    FLAG_LIST,   /* flag_list; may be repeated; in the environment separated by commas */
    FLAG_INT,    /* int32_t from min to max */
    FLAG_SIZE,   /* size_t bytes: 512M, 16G, 1.5G */
    FLAG_CHOICE  /* int: index into choices */
} flag_kind;

typedef struct flag {
    const char *name; /* with the dashes */
    flag_kind kind;
    void *out;
    const char *value; /* what the help calls its value, NULL for switches */
    const char *doc;
    int32_t min, max;
    const char *const *choices; /* ended by NULL */
} flag;

/* Take flags ("--name value", "--name=value") out of argv; the rest is left in positional.
 * False: a message was printed to stderr (the nearest flag for an unknown one).  "--help" sets *help. */
bool flags_parse(const flag *table, size_t n, int argc, char **argv, flag_list *positional, bool *help);
/* The same, and what the command line leaves open is taken from the environment, then from the file that --config or
 * GLIA_CONFIG names, else from the first default file that exists (flags_config_path).  Values stay until the program ends. */
bool flags_parse_all(const flag *table, size_t n, int argc, char **argv, flag_list *positional, bool *help);
/* $XDG_CONFIG_HOME/glia/serve.conf (~/.config/glia/serve.conf), /etc/glia/serve.conf: NULL when there is none. */
const char *flags_config_path(char *out, size_t cap);

void flags_print(const flag *table, size_t n);
/* "GLIA_CACHE_TYPE" of "--cache-type" */
void flag_variable(const flag *f, char *out, size_t cap);

/* The next flags_parse of this program hands its table to fn, prints nothing and answers false: a verb's table is known
 * inside the verb alone.  For completion scripts and the page of options. */
void flags_describe_next(void (*fn)(void *ud, const flag *table, size_t n), void *ud);

#endif
