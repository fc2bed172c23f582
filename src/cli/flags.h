/* cli/flags.h — command line flags from a table: parsing, and the help text made of it.  Main thread only. */
#ifndef GLIA_CLI_FLAGS_H
#define GLIA_CLI_FLAGS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLAG_LIST_MAX = 16 };

typedef struct flag_list {
    const char *items[FLAG_LIST_MAX];
    size_t n;
} flag_list;

typedef enum flag_kind {
    FLAG_SWITCH, /* bool */
    FLAG_TEXT,   /* const char * */
    FLAG_LIST,   /* flag_list; may be repeated */
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
void flags_print(const flag *table, size_t n);

#endif
