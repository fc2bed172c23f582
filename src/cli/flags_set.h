/* cli/flags_set.h — what the sources of options share (flags.c, config.c).  Main thread only. */
#ifndef GLIA_CLI_FLAGS_SET_H
#define GLIA_CLI_FLAGS_SET_H
#include "cli/flags.h"

const flag *flag_find(const flag *table, size_t n, const char *name, size_t n_name); /* name with its dashes */
/* Check text and put it where the row says; text stays borrowed.  label: how the user wrote it, for messages. */
bool flag_set(const flag *f, const char *text, const char *label);
/* The command line; given: [FLAGS_MAX], which rows it set. */
bool flags_take(const flag *table, size_t n, int argc, char **argv, flag_list *positional, bool *help, bool *given);

#endif
