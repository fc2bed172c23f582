/* cli/main.c — finds the verb and runs it.
 * SPDX-License-Identifier: MIT */
#include "cli/cli.h"
#include "tap/names.h"
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { MAX_VERBS = 32 };

int main(int argc, char **argv) {
    (void)setlocale(LC_CTYPE, ""); /* numbers stay as in C */
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        (void)cli_help(0, NULL);
        return argc < 2 ? EXIT_USAGE : EXIT_FINE;
    }
    if (!strcmp(argv[1], "--version")) return cli_version(0, NULL);
    const char *names[MAX_VERBS];
    size_t n = 0;
    for (const cli_verb *v = cli_verbs; v->name; v++) {
        if (!strcmp(argv[1], v->name)) return v->run(argc - 2, argv + 2);
        if (n < MAX_VERBS) names[n++] = v->name;
    }
    char hint[128];
    glia_nearest(argv[1], names, n, hint, sizeof hint);
    fprintf(stderr, "glia: unknown command \"%s\"; the nearest are %s (glia --help)\n", argv[1], hint);
    return EXIT_USAGE;
}
